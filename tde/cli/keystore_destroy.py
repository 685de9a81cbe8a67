"""``tde keystore destroy`` and ``receipt``: crypto-erase of a key, and the proof of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tde.cli.options import (
    ClustersOption,
    JsonOption,
    KeystoreOption,
    opens_keystore,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console, print_json
from tde.errors import TdeError
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource

if TYPE_CHECKING:
    from tde.keystore import KeyLife, ReceiptCheck
    from tde.postgres.cluster.key_destruction import Place

_EXIT_FINDINGS = 1

DESTROY_EPILOG = examples(
    "# Asks for the id once more:",
    "tde keystore destroy wal.2 -k /etc/tde/main --reason 'rotated a year ago'",
    "# Archives and backups that the key log does not know are looked at when they are named:",
    "tde keystore destroy wal.2 -k /etc/tde/main --archive /srv/wal --backup /srv/backup/monday",
    "tde keystore destroy ID -k /etc/tde/main --yes ID --receipt /srv/audit/ID.json",
)
RECEIPT_EPILOG = examples("tde keystore receipt /srv/audit/ID.json -k /etc/tde/main")


@opens_keystore
def destroy(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of a key, as in list.")],
    clusters: ClustersOption = None,
    backup: Annotated[
        list[Path] | None,
        typer.Option("--backup", metavar="DIR", help="A base backup to look at as well."),
    ] = None,
    archive: Annotated[
        list[Path] | None,
        typer.Option("--archive", metavar="DIR", help="A WAL archive to look at as well."),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; for log and receipt.")
    ] = "",
    yes: Annotated[
        str | None,
        typer.Option("--yes", metavar="ID", help="Do not ask: the id of the key, in full."),
    ] = None,
    receipt: Annotated[
        Path | None,
        typer.Option(
            "--receipt",
            metavar="FILE",
            help="Where the receipt is written. Default: tde-destroyed-ID.json in this directory.",
        ),
    ] = None,
    no_cluster: Annotated[
        bool,
        typer.Option("--no-cluster", help="Say that the keystore serves no cluster any more."),
    ] = False,
    keystore: KeystoreOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Destroy a key for good: what is encrypted with it can never be read again.

    Only a later key of WAL, or the key of a tablespace with an id. Every cluster and backup that
    the key log knows is looked at, and those that are named; one that needs the key, or cannot be
    looked at, refuses it. After an interruption, and for another receipt, repeat the command.
    """
    from tde.postgres.cluster.key_destruction import (
        destroy_unneeded_key,
        find_destroyable,
        places_to_look_at,
        require_unneeded,
    )

    with open_keystore(require_keystore(keystore), source) as opened:
        found = find_destroyable(opened, key)
        file = (receipt or Path(f"tde-destroyed-{found.key_id}.json")).absolute()
        _require_writable(file)
        places = places_to_look_at(opened, clusters or (), backup or ())
        archives = [path.absolute() for path in archive or ()]
        if found.present:
            require_unneeded(opened, found.owner, places, archives, no_cluster=no_cluster)
        _confirm(found, yes, places, archives)
        made = destroy_unneeded_key(
            opened, found.owner, places, archives, reason=reason, no_cluster=no_cluster
        )
    _write(file, made)
    console.print(
        f"Destroyed {found.key_id}, entries {_numbers(made)} of the key log.\nReceipt: {file}",
        markup=False,
        soft_wrap=True,
    )
    _say_what_is_left(made)


@opens_keystore
def receipt(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A receipt of tde keystore destroy.")
    ],
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    source: PassphraseSource = PROMPT,
) -> None:
    """Verify the receipt of a destroyed key with its keystore.

    Exit code 0: it is genuine, and the key is not in this keystore. 1: it was altered, is of
    another keystore, or the key is there.
    """
    from tde.keystore import check_receipt

    with open_keystore(require_keystore(keystore), source) as opened:
        found = check_receipt(opened, file)
    if as_json:
        facts = {"file": str(file), "good": found.good, "in_log": found.in_log}
        facts["present"] = found.present
        print_json({**facts, "problems": found.problems, "receipt": dict(found.receipt)})
    else:
        _print_check(file, found)
    if not found.good or found.present:
        raise typer.Exit(_EXIT_FINDINGS)


def _print_check(file: Path, found: ReceiptCheck) -> None:
    told = found.receipt
    if found.present:
        error_console.print(
            f"{file}: this keystore has the key {told['key']}: it is a copy from before the "
            "destruction, or the file was put back. Destroy it here as well.",
            style="red",
            markup=False,
            soft_wrap=True,
        )
    for problem in found.problems:
        error_console.print(f"{file}: {problem}", style="red", markup=False, soft_wrap=True)
    if not found.good:
        return
    who = told.get("who") or {}
    console.print(
        f"{file} is genuine: {told['key']} ({told.get('algorithm')}) was destroyed by "
        f"{who.get('user')} on {who.get('host')}, {told['begun']} to {told['finished']}.",
        markup=False,
        soft_wrap=True,
    )
    if not found.in_log:
        error_console.print(
            "The key log of this keystore does not have the entries that it names: it is of "
            "another copy of the keystore, or the log was altered or replaced by an older one.",
            soft_wrap=True,
        )


def _require_writable(file: Path) -> None:
    """Refuse before anything is destroyed."""
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise TdeError(
            f"the receipt cannot be written to {file.parent}",
            remedy="Nothing was destroyed. Name another place with --receipt.",
        )
    if file.exists():
        raise TdeError(
            f"{file} exists already",
            remedy="Nothing was destroyed. Name another file with --receipt.",
        )


def _confirm(key: KeyLife, yes: str | None, places: list[Place], archives: list[Path]) -> None:
    assert key.owner.key_id is not None  # Others cannot be destroyed.
    wanted = {key.key_id, key.owner.key_id.hex, key.owner.file_name}
    given = yes
    if given is None:
        if not sys.stdin.isatty():
            raise TdeError(
                "a key is destroyed only when its id is typed, and there is no terminal",
                remedy=f"Nothing was destroyed. Give --yes {key.key_id}",
            )
        for looked_at in (*(place.directory for place in places), *archives):
            error_console.print(f"Not needed by {looked_at}", markup=False, soft_wrap=True)
        error_console.print(
            f"What is encrypted with {key.key_id} elsewhere, such as in archives and backups that "
            "were not named here, can never be read again.",
            markup=False,
            soft_wrap=True,
        )
        given = typer.prompt("Type the id of the key to destroy it", err=True)
    if given.strip() not in wanted:
        raise TdeError(
            "this is not the id of the key in full",
            remedy=f"Nothing was destroyed. Its id is {key.key_id}",
        )


def _write(file: Path, made: dict[str, Any]) -> None:
    from tde.keystore.lifecycle.receipt import pack_receipt

    content = pack_receipt(made)
    try:
        with file.open("xb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        # The key is gone: the receipt must not be lost with the disk that is full.
        typer.echo(json.dumps(made, indent=2))
        raise TdeError(
            f"the key is destroyed, but the receipt could not be written to {file}: "
            f"{error.strerror}",
            remedy="It stands above. Or repeat the command with another --receipt.",
        ) from error


def _numbers(made: dict[str, Any]) -> str:
    return " and ".join(str(one["number"]) for one in made["log_entries"])


def _say_what_is_left(made: dict[str, Any]) -> None:
    backups = made["known_backups_of_the_keystore"]
    if backups:
        shown = ", ".join(str(one["to"]) for one in backups[-3:])
        error_console.print(
            f"[bold yellow]{len(backups)} backups of the keystore still have the key[/], such as "
            f"{shown}. Destroy them, and make a new one: tde keystore backup.",
            soft_wrap=True,
        )


def register(app: typer.Typer) -> None:
    """Add the commands to those of ``tde keystore``."""
    app.command("destroy", epilog=DESTROY_EPILOG)(destroy)
    app.command("receipt", epilog=RECEIPT_EPILOG)(receipt)
