"""``tde pg doctor``: is this machine, and is this cluster, fit for encryption?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from tde.cli.options import BindirOption, JsonOption, KeystoreOption, OsUserOption
from tde.console.apps import examples
from tde.console.output import VERDICT_STYLES, console, print_json

if TYPE_CHECKING:
    from tde.doctor import DoctorReport, Finding

_SHOWN = 10  # Findings of one check; a person acts on the first ones, --json has all.
OptionalPgDataOption = Annotated[
    Path | None,
    typer.Option(
        "--pgdata",
        "-D",
        metavar="DIR",
        envvar="PGDATA",
        readable=False,  # What may not be read is a finding.
        help="The data directory. Without one, only the machine and PostgreSQL are looked at.",
    ),
]
AskingUsernameOption = Annotated[
    str | None,
    typer.Option(
        "--username",
        "-U",
        metavar="NAME",
        help="Database user that asks a running server. Default: the owner of the data directory.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the application of ``tde pg``."""
    shown = examples(
        "# Before there is a cluster:",
        "tde pg doctor",
        "tde pg doctor -D /srv/pg/main",
        "tde pg doctor -D /srv/pg/main --json | jq '.findings[] | select(.verdict != \"ok\")'",
    )
    app.command(epilog=shown)(doctor)


def doctor(
    pgdata: OptionalPgDataOption = None,
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    username: AskingUsernameOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Check whether this machine and this cluster are fit for encryption, and say what to do.

    Nothing is changed and no passphrase is needed. The server may run or not.

    Exit code 0: no problem, perhaps warnings; 1: a problem, or something that could not be
    looked at; 4: no data directory.
    """
    from tde.postgres import doctor as examine, find_binaries, server_os_user

    report = examine(
        pgdata,
        None if bindir is None else find_binaries(bindir),
        os_user=server_os_user(pgdata, name=os_user),
        keystore=keystore,
        username=username,
    )
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)
    if not report.healthy:
        raise typer.Exit(1)


def _print_report(report: DoctorReport) -> None:
    """Print one line per finding, then the remedies, then the sum."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    group = None
    numbers: Counter[str] = Counter()
    totals = Counter(finding.check for finding in report.findings)
    shown: list[Finding] = []
    for finding in report.findings:
        numbers[finding.check] += 1
        if numbers[finding.check] > _SHOWN:
            if numbers[finding.check] == totals[finding.check]:
                more = totals[finding.check] - _SHOWN
                table.add_row("", Text(finding.title), f"… and {more:,} more; see --json")
            continue
        shown.append(finding)
        if finding.group is not group:
            group = finding.group
            table.add_row(Text(group.value, "bold"))
        verdict = finding.verdict.value
        table.add_row(
            Text(f"  {verdict}", VERDICT_STYLES[verdict]), Text(finding.title), Text(finding.detail)
        )
    console.print(table)
    todo = [finding for finding in shown if finding.remedy]
    if todo:
        console.print()
        console.print(_remedies(todo))
    console.print()
    console.print(_sum(report))


def _remedies(findings: list[Finding]) -> Table:
    """Return what to do, problems first; the same remedy is given once."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text("What to do", "bold"))
    for verdict in ("problem", "warning", "unknown"):
        titles: dict[str, list[str]] = {}
        for finding in findings:
            if finding.verdict.value == verdict:
                titles.setdefault(finding.remedy, []).append(finding.title)
        for remedy, named in titles.items():
            more = len(set(named)) - 1
            title = f"  {named[0]}" + (f" and {more} more" if more else "")
            table.add_row(Text(title, VERDICT_STYLES[verdict]), Text(remedy))
    return table


def _sum(report: DoctorReport) -> Text:
    counts = dict.fromkeys(VERDICT_STYLES, 0)
    for finding in report.findings:
        counts[finding.verdict.value] += 1
    parts = [
        Text(f"{number} {_plural(name, number)}", VERDICT_STYLES[name])
        for name, number in counts.items()
        if number or name == "problem"
    ]
    return Text(", ").join(parts)


def _plural(name: str, number: int) -> str:
    return f"{name}s" if name in ("warning", "problem") and number != 1 else name
