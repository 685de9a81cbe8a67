"""``tde report``: what an auditor is given, and the proof that nobody has altered it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tde.cli.options import (
    BindirOption,
    JsonOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    opens_keystore,
    require_keystore,
)
from tde.cli.pg.audit import ArchiveOption, AuditThreadsOption, BackupOption
from tde.cli.pg.doctor import AskingUsernameOption
from tde.console.apps import examples, new_app
from tde.console.output import console, error_console, print_json
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster
from tde.printable import printable

if TYPE_CHECKING:
    from tde.report import Report, ReportForm, ReportObserver, SealedReport

_EXIT_FINDINGS = 1
_ENCRYPT_IT = "Encrypt it with tde pg encrypt, or create another one with tde pg init."
_DEFAULT = "make"


class Paper(str, Enum):
    """The sizes of pages."""

    a4 = "a4"
    letter = "letter"


class _ReportGroup(TyperGroup):
    """``tde report -D DIR`` is ``tde report make -D DIR``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the default command in front of its options."""
        return super().parse_args(ctx, _with_command(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or the default one."""
        return super().resolve_command(ctx, _with_command(args))


def _with_command(args: list[str]) -> list[str]:
    is_option = bool(args) and args[0].startswith("-") and args[0] not in ("--help", "-h")
    return [_DEFAULT, *args] if is_option else args


app = new_app(
    "A sealed report for auditors: what is encrypted, how that is proven, and with which keys.",
    epilog=examples(
        "tde report -D /srv/pg/main --output report.html",
        "# In all forms, with the archive and a backup:",
        "tde report -D /srv/pg/main -o q4.pdf -o q4.html -o q4.json --archive /srv/archive "
        "--backup /srv/backup/monday",
        "# Is it as it was made?",
        "tde report verify q4.pdf --keystore /srv/tde/keystore",
    ),
)
app.info.cls = _ReportGroup

OutputOption = Annotated[
    list[Path],
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where to write it; the form is told by the suffix: .html, .pdf or .json. May be "
        "given several times.",
    ),
]
NoAuditOption = Annotated[
    bool,
    typer.Option(
        "--no-audit", help="Do not read the files: quick, and the report then proves nothing."
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace a file that is there.")]
PaperOption = Annotated[Paper, typer.Option("--paper", help="The size of the pages of a PDF.")]


@app.command(_DEFAULT)
@opens_keystore
def make(
    pgdata: PgDataOption,
    output: OutputOption,
    archive: ArchiveOption = None,
    backup: BackupOption = None,
    no_audit: NoAuditOption = False,
    force: ForceOption = False,
    paper: PaperOption = Paper.a4,
    jobs: AuditThreadsOption = None,
    username: AskingUsernameOption = None,
    keystore: KeystoreOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Make a report; the name of this command may be left out.

    The audit reads every file, so it takes as long as tde pg audit. Nothing is changed; the server
    may run. Exit code 0: everything was examined and nothing was found; 1: there are findings, or
    something was not examined. The report is written in both cases.
    """
    from tde.report.files import require_writable, write_files

    forms = {path.absolute(): _form_of(path) for path in output}
    for path in forms:
        require_writable(path, replace=force)
    cluster = find_cluster(pgdata, bindir, os_user)
    with encrypted_cluster_keystore(cluster, keystore, source, remedy=_ENCRYPT_IT) as opened:
        from tde.report import gather, seal

        with _showing_progress() as observer:
            report = gather(
                cluster,
                opened,
                archives=archive or (),
                backups=backup or (),
                with_audit=not no_audit,
                jobs=jobs,
                username=username,
                observer=observer,
            )
        files = seal(report, opened, set(forms.values()), paper=paper.value.title())
        write_files({path: files[form] for path, form in forms.items()}, replace=force)
    _print_outcome(report, list(forms))


@app.command(
    epilog=examples(
        "tde report verify q4.pdf --keystore /srv/tde/keystore",
        "# The data of a report, proven:",
        "tde report verify q4.html -k /srv/tde/keystore --json | jq .report.keys",
    )
)
@opens_keystore
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A report, in HTML, PDF or JSON.")],
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    source: PassphraseSource = PROMPT,
) -> None:
    """Prove that a report is as it was made, byte by byte.

    The keystore that has sealed it has to be named: one that a report names proves nothing. A
    rotation of the master key since does no harm. Exit code 1: it was altered, or is not proven.
    """
    from tde.report.sealing import verify as check

    # What the report says of its keystore is not looked at: whoever forges one has a keystore too.
    directory = require_keystore(keystore)
    content = file.read_bytes()
    with open_keystore(directory, source) as opened:
        found = check(content, opened)
    if as_json:
        print_json(_document(file, found))
    else:
        _print_proof(file, found)


def _form_of(path: Path) -> ReportForm:
    from tde.report.form import ReportForm

    try:
        return ReportForm(path.suffix.removeprefix(".").lower())
    except ValueError:
        raise typer.BadParameter(
            f"{path.name} ends with neither .html nor .pdf nor .json", param_hint="--output"
        ) from None


@contextmanager
def _showing_progress() -> Iterator[ReportObserver]:
    """Say on standard error what is looked at, and show the bar of the audit."""
    from tde.cli.pg.audit_view import auditing

    with auditing() as bar:

        class Observer:
            def begins(self, what: str) -> None:
                error_console.print(f"Looking at {what}", markup=False, soft_wrap=True)

            def found(self, total: int) -> None:
                bar.found(total)

            def read(self, count: int, name: str) -> None:
                bar.read(count, name)

        yield Observer()


def _print_outcome(report: Report, paths: list[Path]) -> None:
    for path in paths:
        console.print(f"Wrote {path}", markup=False, soft_wrap=True)
    for problem in report.problems:
        console.print(printable(f"Finding: {problem.what}"), markup=False, soft_wrap=True)
    for part in report.not_examined:
        text = printable(f"Not examined: {part.what}: {part.why}")
        console.print(text, markup=False, soft_wrap=True)
    problems, left_out = len(report.problems), len(report.not_examined)
    console.print(f"Findings: {problems:,}; not examined: {left_out:,}")
    if problems or left_out:
        raise typer.Exit(_EXIT_FINDINGS)


def _print_proof(file: Path, found: SealedReport) -> None:
    proof = found.proof
    console.print(f"{file} is as tde has made it", markup=False, soft_wrap=True)
    if found.data:
        data = found.data
        console.print(
            f"Report {data['id']} of {data['made']}: {data['verdict']}, "
            f"{data['server']['data_directory']}",
            markup=False,
            soft_wrap=True,
        )
    if proof.entry is not None:
        entry = proof.entry
        console.print(
            f"Entry {entry.number} of the key log tells of it: {entry.time:%Y-%m-%d %H:%M:%S} UTC, "
            f"{entry.who.get('user', '?')} on {entry.who.get('host', '?')}",
            markup=False,
            soft_wrap=True,
        )
    else:
        error_console.print(
            "The key log of this keystore does not tell of it: the keystore was restored from an "
            "older backup, its log was altered, or it could not be written. The seal is right.",
            soft_wrap=True,
        )
    if not proof.is_current:
        console.print("The master key was rotated since.")


def _document(file: Path, found: SealedReport) -> dict[str, Any]:
    entry = found.proof.entry
    return {
        "file": str(file),
        "form": found.form.value,
        "proven": True,
        "master_key_is_current": found.proof.is_current,
        "log_entry": None if entry is None else entry.number,
        "report": dict(found.data) or None,
    }
