"""``tde keystore list`` and ``tde keystore verify``: every key, and every bit of the files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tde.cli.options import (
    JsonOption,
    KeystoreOption,
    opens_keystore,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console, print_json
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource

if TYPE_CHECKING:
    from tde.keystore import CheckedFile, KeyInfo, KeyOwner
    from tde.postgres.cluster.keystore_verification import NeededKeys

_EXIT_FINDINGS = 1

BackupOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--backup",
        metavar="DIR",
        help="Also check that the keys of this base backup or data directory are there; may be "
        "given several times.",
    ),
]

LIST_EPILOG = examples(
    "tde keystore list --keystore /etc/tde/main",
    "tde keystore list -k /etc/tde/main --json | jq '.keys[] | select(.opens | not)'",
)
VERIFY_EPILOG = examples(
    "tde keystore verify --keystore /etc/tde/main",
    "# Does it have the keys of last year's backup?",
    "tde keystore verify -k /etc/tde/main --backup /srv/backup/2025-12-31",
    "# Prove that a backup of the keystore is good:",
    "tde keystore verify -k /mnt/safe/keystore --json | jq .good",
)


@opens_keystore
def list_(
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    source: PassphraseSource = PROMPT,
) -> None:
    """List every key: what it is for, and whether it opens."""
    from tde.keystore import list_keys

    with open_keystore(require_keystore(keystore), source) as opened:
        keys = list_keys(opened)
    if as_json:
        facts = {"path": str(opened.path), "uuid": opened.uuid.hex}
        print_json({**facts, "keys": [_key_document(key) for key in keys]})
        return
    print_columns(
        ("Key of", "Algorithm", "Record", "File", "Opens"),
        [
            (
                owner_name(key.owner),
                _algorithm(key),
                f"version {key.owner.record_version}",
                f"keys/{key.owner.file_name}",
                "yes" if key.opens else "NO",
            )
            for key in keys
        ],
    )
    damaged = [key for key in keys if not key.opens]
    for key in damaged:
        _print_problem(key.problem, key.remedy, to=error_console)
    counted = f"{len(keys)} keys" if len(keys) != 1 else "1 key"
    error_console.print(f"{counted}, {len(damaged)} of which do not open" if damaged else counted)


@opens_keystore
def verify(
    keystore: KeystoreOption = None,
    backup: BackupOption = None,
    as_json: JsonOption = False,
    source: PassphraseSource = PROMPT,
) -> None:
    """Check every bit of a keystore, and that it has the keys of backups.

    Every key must open with the master key. Exit code 0: all is well; 1: something is damaged or
    missing, and is named with what to do.
    """
    from tde.postgres.cluster.keystore_verification import check_keystore_files, needed_keys

    directory = require_keystore(keystore)
    needed: list[NeededKeys] = []
    by_itself = False
    if _is_damaged(directory):
        # It does not open, so the rest can be looked at only from outside.
        files = check_keystore_files(directory, None)
        unchecked = list(backup or ())
    else:
        with open_keystore(directory, source) as opened:
            by_itself = source == PROMPT and not opened.by_hand
            files = check_keystore_files(directory, opened)
            needed = [needed_keys(path, opened) for path in backup or ()]
        unchecked = []
    good = all(file.good for file in files) and all(one.good for one in needed) and not unchecked
    if as_json:
        print_json(
            {
                "path": str(directory.resolve()),
                "good": good,
                "opened_by_itself": by_itself,
                "files": [_file_document(file) for file in files],
                "backups": [_needed_document(one) for one in needed],
            }
        )
    else:
        _print_files(directory, files)
        for one in needed:
            _print_needed(one)
        for path in unchecked:
            _print_problem(f"the keys of {path} were not looked for: the keystore does not open")
    if by_itself:
        error_console.print(
            "The keystore opened by itself, so its passphrase was not tried. To do that: "
            "--passphrase-file, --passphrase-fd or --passphrase-command",
            soft_wrap=True,
        )
    if not good:
        raise typer.Exit(_EXIT_FINDINGS)


def _is_damaged(directory: Path) -> bool:
    from tde.errors import KdfParametersError, KeystoreDamagedError, KeystoreVersionError
    from tde.keystore.store.layout import keys_path, read_document

    try:
        read_document(directory.resolve())
    except (KdfParametersError, KeystoreDamagedError, KeystoreVersionError):
        return keys_path(directory).is_dir()
    return False


def _print_files(directory: Path, files: list[CheckedFile]) -> None:
    bad = [file for file in files if not file.good]
    for file in bad:
        _print_problem(file.problem, file.remedy)
    for file in files:
        if file.unused:
            console.print(f"note: {file.file} is {file.what}", markup=False, soft_wrap=True)
    count = sum(file.what.startswith("key of") and file.good for file in files)
    tried = (
        "could not be tried: they have the right form"
        if any("only the form" in file.what for file in files)
        else "are good"
    )
    result = f"{len(bad)} files are damaged or missing" if bad else "every file is as tde wrote it"
    console.print(f"{directory}: {count} keys {tried}, {result}", markup=False, soft_wrap=True)


def _print_needed(needed: NeededKeys) -> None:
    console.print(f"\n{needed.directory}", markup=False, soft_wrap=True)
    if needed.keys:
        print_columns(
            ("Needed for", "File", "Here"),
            [
                (key.use, f"keys/{key.file}" if key.file else "", "NO" if key.problem else "yes")
                for key in needed.keys
            ],
        )
    if needed.problem:
        _print_problem(needed.problem, needed.remedy)
    for key in needed.keys:
        if key.problem:
            _print_problem(key.problem, key.remedy)
    if needed.good:
        console.print("All its keys are here.")


def _print_problem(problem: str, remedy: str = "", *, to: Console = console) -> None:
    to.print(Text.assemble(("problem: ", "bold red"), problem), soft_wrap=True)
    if remedy:
        to.print(Text.assemble(("  HINT: ", "bold cyan"), remedy), soft_wrap=True)


def print_columns(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table without frames, because thousands of rows with frames take seconds."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (titles, *rows)
    ]
    typer.echo("\n".join(lines))


def _algorithm(key: KeyInfo) -> str:
    if key.algorithm is not None:
        return key.algorithm.label
    return "not encrypted" if key.opens else "unknown"


def owner_name(owner: KeyOwner) -> str:
    """Return what people call the owner of a key."""
    from tde.postgres.facts import BUILT_IN_TABLESPACES

    name = BUILT_IN_TABLESPACES.get(owner.oid)
    return f"{owner} ({name})" if name else str(owner)


def _key_document(key: KeyInfo) -> dict[str, Any]:
    owner = key.owner
    return {
        "kind": owner.kind.name.lower(),
        "oid": owner.oid or None,
        "key_id": owner.key_id.hex if owner.key_id else None,
        "algorithm": key.algorithm.label if key.algorithm else None,
        "encrypted": key.algorithm is not None if key.opens else None,
        "record_version": owner.record_version,
        "file": f"keys/{owner.file_name}",
        "opens": key.opens,
        "problem": key.problem or None,
        "remedy": key.remedy or None,
    }


def _file_document(file: CheckedFile) -> dict[str, Any]:
    return {
        "file": str(file.file),
        "what": file.what,
        "good": file.good,
        "unused": file.unused,
        "problem": file.problem or None,
        "remedy": file.remedy or None,
    }


def _needed_document(needed: NeededKeys) -> dict[str, Any]:
    return {
        "directory": str(needed.directory),
        "good": needed.good,
        "keystore": needed.keystore.hex if needed.keystore else None,
        "scope": needed.scope.value if needed.scope else None,
        "problem": needed.problem or None,
        "remedy": needed.remedy or None,
        "keys": [
            {
                "use": key.use,
                "file": f"keys/{key.file}" if key.file else None,
                "here": not key.problem,
                "problem": key.problem or None,
                "remedy": key.remedy or None,
            }
            for key in needed.keys
        ],
    }


def register(app: typer.Typer) -> None:
    """Add the commands to those of ``tde keystore``."""
    app.command("list", epilog=LIST_EPILOG)(list_)
    app.command("verify", epilog=VERIFY_EPILOG)(verify)
