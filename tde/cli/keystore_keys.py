"""``tde keystore list`` and ``tde keystore verify``: every key, and every bit of the files."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tde.cli.key_life_view import (
    age_text,
    key_document,
    life_document,
    lives_of_keys,
    say_what_is_wrong_with_the_log,
    use_text,
    without_collector,
)
from tde.cli.options import (
    ClustersOption,
    JsonOption,
    KeystoreOption,
    opens_keystore,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console, print_json
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.printable import printable

if TYPE_CHECKING:
    from tde.keystore import CheckedFile, KeyInfo, KeyLife, KeyOwner, Keystore
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
    "# Which tablespaces and WAL segments have which key?",
    "tde keystore list -k /etc/tde/main -D /srv/pg/main",
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
    clusters: ClustersOption = None,
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    source: PassphraseSource = PROMPT,
) -> None:
    """List every key: its state, its age, and whether it opens.

    With -D also which tablespaces and WAL segments of a cluster have it, and how large they are.
    Keys that are destroyed are in tde keystore history.
    """
    from tde.keystore import list_keys
    from tde.keystore.store.remedies import destroy_again

    with open_keystore(require_keystore(keystore), source) as opened, without_collector():
        keys = list_keys(opened)
        records = {key.owner: key.algorithm for key in keys}
        life_of_all, servers = lives_of_keys(opened, clusters or [], records)
    # Those that are there come first, in the order of their records; destroyed ones follow.
    pairs = list(zip(keys, life_of_all.keys, strict=False))
    if as_json:
        facts = {"path": str(opened.path), "uuid": opened.uuid.hex}
        documents = [{**_key_document(key), **key_document(life)} for key, life in pairs]
        rest = {name: value for name, value in life_document(life_of_all).items() if name != "keys"}
        print_json({**rest, **facts, "looked_at": servers, "keys": documents})
        return
    now = datetime.now(timezone.utc)
    print_columns(
        ("Key", "Ver", "Algorithm", "State", "Age"),
        [
            (
                _id(key),
                str(life.version or "?"),
                _algorithm(key),
                _state(key, life),
                "" if life.state is None else age_text(life, now),
            )
            for key, life in pairs
        ],
    )
    if clusters:
        _print_uses(life_of_all.keys)
    damaged = [key for key in keys if not key.opens]
    for key in damaged:
        _print_problem(key.problem, key.remedy, to=error_console)
    for life in life_of_all.keys:
        if life.problem:
            remedy = destroy_again(opened.path, life.key_id)
            _print_problem(life.problem, remedy, to=error_console)
    counted = f"{len(keys)} keys" if len(keys) != 1 else "1 key"
    error_console.print(f"{counted}, {len(damaged)} of which do not open" if damaged else counted)
    say_what_is_wrong_with_the_log(life_of_all)


def _id(key: KeyInfo) -> str:
    from tde.postgres.facts import BUILT_IN_TABLESPACES

    name = BUILT_IN_TABLESPACES.get(key.owner.oid)
    stem = key.owner.file_name.removesuffix(".key")
    return f"{stem} ({name})" if name else stem


def _state(key: KeyInfo, life: KeyLife) -> str:
    if not key.opens:
        return "DAMAGED"
    return "-" if life.state is None else life.state.value


def _print_uses(lives: list[KeyLife]) -> None:
    rows = [(life.key_id, use_text(use)) for life in lives for use in life.used_by]
    if rows:
        typer.echo("")
        print_columns(("Key", "Used by"), [(key, printable(text)) for key, text in rows])


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
            _tell_of_backups(opened, needed)
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


def _tell_of_backups(opened: Keystore, needed: list[NeededKeys]) -> None:
    """Tell the key log of backups of this keystore, so that none of their keys is destroyed."""
    from tde.errors import DataDirectoryError
    from tde.keystore.lifecycle.events import tell_of_place
    from tde.postgres.cluster.key_uses import system_identifier_of

    for one in needed:
        if one.keystore == opened.uuid:
            # The file may be missing in what is unpacked from a tar file only in part.
            with suppress(DataDirectoryError):
                identifier = system_identifier_of(one.directory)
                tell_of_place(opened, one.directory, identifier, is_backup=True)


def _is_damaged(directory: Path) -> bool:
    from tde.errors import KdfParametersError, KeystoreDamagedError, KeystoreVersionError
    from tde.keystore.store.layout import keys_path
    from tde.keystore.store.reading import read_document

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
