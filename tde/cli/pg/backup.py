"""``tde pg backup`` and ``verify-backup``: sealed base backups."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn

from tde.cli.options import (
    BindirOption,
    JsonOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    opens_keystore,
    pair_of,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, print_json
from tde.console.progress import CommandProgress
from tde.console.signals import ended_as_by_ctrl_c
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster

if TYPE_CHECKING:
    from tde.backup.seal import Seal
    from tde.backup.verifying import BackupCheck
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

_OF_PLAIN = "Take backups of a plain server with PostgreSQL's own pg_basebackup."

_BACKREST_PANEL = "With --to pgbackrest"


class Form(str, Enum):
    """The values of ``--format``, which pg_basebackup defines."""

    tar = "tar"
    plain = "plain"


class Tool(str, Enum):
    """The values of ``--to``."""

    pgbackrest = "pgbackrest"


class Kind(str, Enum):
    """The values of ``--type``, which pgBackRest defines."""

    full = "full"
    diff = "diff"
    incr = "incr"


def register(app: typer.Typer) -> None:
    """Add the commands to a group."""
    app.command(
        epilog=examples(
            "tde pg backup /srv/backup/monday -D /srv/pg/main",
            "tde pg backup /srv/backup/monday -D /srv/pg/main --format plain --max-rate 50M",
            "# What has changed since then, from PostgreSQL 17 on:",
            "tde pg backup /srv/backup/tuesday -D /srv/pg/main "
            "--incremental /srv/backup/monday/backup_manifest",
            "# By pgBackRest, as archive_command calls it; DIR gets the seal:",
            "tde pg backup /srv/seals -D /srv/pg/main --to pgbackrest --type full",
        )
    )(backup)
    app.command(
        "verify-backup",
        epilog=examples(
            "tde pg verify-backup /srv/backup/monday --keystore /etc/tde/main",
            "tde pg verify-backup /srv/backup/monday -k /etc/tde/main --json | jq .problems",
            "# A backup of pgBackRest, in its repository:",
            "tde pg verify-backup /srv/pgbackrest -k /etc/tde/main "
            "--seal /srv/seals/main-20261128-030000F.seal.json",
        ),
    )(verify)


@opens_keystore
def backup(
    destination: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Where it goes: a directory, new or empty. With --to, where its seal goes.",
        ),
    ],
    pgdata: PgDataOption,
    form: Annotated[
        Form | None, typer.Option("--format", "-F", help="How it lies there. Default: tar.")
    ] = None,
    incremental: Annotated[
        Path | None,
        typer.Option(
            "--incremental",
            metavar="MANIFEST",
            help="Only what has changed since the backup that has this manifest (PostgreSQL 17).",
        ),
    ] = None,
    rate: Annotated[
        str, typer.Option("--max-rate", "-r", metavar="RATE", help="For example 50M a second.")
    ] = "",
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--tablespace-mapping",
            "-T",
            metavar="OLD=NEW",
            help="With --format plain: where the tablespace in OLD goes; may be given often.",
        ),
    ] = None,
    tool: Annotated[
        Tool | None,
        typer.Option(
            "--to",
            help="Have pgBackRest take it, into its repository.",
            rich_help_panel=_BACKREST_PANEL,
        ),
    ] = None,
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--type",
            help="Default: pgBackRest's own.",
            rich_help_panel=_BACKREST_PANEL,
        ),
    ] = None,
    stanza: Annotated[
        str,
        typer.Option(
            "--stanza",
            metavar="NAME",
            help="Default: that of archive_command.",
            rich_help_panel=_BACKREST_PANEL,
        ),
    ] = "",
    keystore: KeystoreOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Take a base backup of a running server, with its WAL, and seal it.

    The backup is ciphertext. The seal beside it (DIR.seal.json) has a code that only the keystore
    can make: tde pg verify-backup tells a backup that was altered from one that was not, and which
    keys it needs. What fails or is interrupted leaves nothing behind.

    With --to pgbackrest that one takes the backup, as archive_command calls it, and reads every
    file anew. The seal, DIR/STANZA-LABEL.seal.json, is of its list of files and of the WAL.
    """
    from tde.backup.seal import seal_path
    from tde.backup.taking import TAR, BackupOptions, take_backup

    _require_that_fits(
        tool,
        own={
            "--format": form,
            "--incremental": incremental,
            "--max-rate": rate,
            "--tablespace-mapping": mapping,
        },
        others={"--type": kind, "--stanza": stanza},
    )
    options = BackupOptions(
        TAR if form is None else form.value,
        None if incremental is None else incremental.absolute(),
        rate,
        [pair_of(text) for text in mapping or ()],
    )
    cluster = find_cluster(pgdata, bindir, os_user)
    cluster.connection_parameters()  # No passphrase is asked for when no server runs.
    target = destination.absolute()
    with (
        encrypted_cluster_keystore(
            cluster, keystore, source, remedy=_OF_PLAIN, for_server=True
        ) as opened,
        ended_as_by_ctrl_c(),
    ):
        if tool is not None:
            _take_by_backrest(cluster, opened, target, kind, stanza)
            return
        seal = take_backup(cluster, opened, target, options)
    _say(
        f"Backed up {cluster.data_directory} (PostgreSQL {seal.server_version}) to {target}",
        _sealed(seal_path(target), seal),
    )


def _require_that_fits(
    tool: Tool | None, own: Mapping[str, object], others: Mapping[str, object]
) -> None:
    for name, value in others.items() if tool is None else own.items():
        if value:
            why = "needs --to pgbackrest" if tool is None else "is not for --to pgbackrest"
            raise typer.BadParameter(f"{name} {why}")


def _take_by_backrest(
    cluster: Cluster, opened: Keystore, directory: Path, kind: Kind | None, stanza: str
) -> None:
    from tde.backup.backrest import take_backrest_backup

    made = take_backrest_backup(
        cluster, opened, directory, stanza=stanza, kind="" if kind is None else kind.value
    )
    _say(
        f"pgBackRest backed up {cluster.data_directory} (PostgreSQL {made.seal.server_version}) "
        f"as {made.backup.label} of the stanza {made.stanza}, in its repository "
        f"{made.backup.repository}",
        _sealed(made.file, made.seal),
    )


def _sealed(file: Path, seal: Seal) -> str:
    return (
        f"Sealed in {file}; it needs {len(seal.keys)} keys of the keystore {seal.keystore_uuid}: "
        "back that up too, apart from it"
    )


@opens_keystore
def verify(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The backup; if pgBackRest's, the whole repository."),
    ],
    keystore: KeystoreOption = None,
    seal: Annotated[
        Path | None,
        typer.Option("--seal", metavar="FILE", help="Its seal. Default: DIR.seal.json."),
    ] = None,
    taken_after: Annotated[
        datetime | None,
        typer.Option(
            "--taken-after",
            metavar="TIME",
            help="One that is older is a problem: an old backup in its place has a good seal, too. "
            "In UTC, as 2026-11-28T03:00:00.",
        ),
    ] = None,
    as_json: JsonOption = False,
    source: PassphraseSource = PROMPT,
) -> None:
    """Compare every byte of a backup with what was sealed, and its keys with a keystore.

    Exit code 0: it is what was taken, and the keystore has its keys; 1: it is not, or not all of it
    could be compared, or there is no seal; 5: the keystore is another one, or lacks keys.
    """
    from tde.backup.seal import seal_path
    from tde.backup.verifying import require_keystore_of, verify_backup
    from tde.keystore import keystore_uuid

    path = require_keystore(keystore)
    backup_directory = directory.absolute()
    file = seal or seal_path(backup_directory)
    require_keystore_of(file, keystore_uuid(path).hex)
    with open_keystore(path, source, for_server=True) as opened, _progress() as progress:
        task = progress.add_task("", total=None)
        found = verify_backup(
            backup_directory,
            opened,
            seal=file,
            taken_after=None if taken_after is None else taken_after.replace(tzinfo=timezone.utc),
            tell=lambda count: progress.advance(task, count),
        )
    if as_json:
        print_json(found.as_json())
    else:
        _print(backup_directory, path, found)
    if found.problems or found.not_compared:
        raise typer.Exit(1)
    if found.missing_keys:
        raise typer.Exit(5)


def _progress() -> CommandProgress:
    return CommandProgress(BarColumn(), DownloadColumn(), TransferSpeedColumn())


def _print(directory: Path, keystore: Path, found: BackupCheck) -> None:
    for problem in found.problems:
        _say(f"{directory}/{problem}")
    for name in found.missing_keys:
        _say(f"{keystore} lacks the key {name}")
    if found.problems:
        _say("This backup is NOT what was taken: do not restore it before you know why.")
    elif found.not_compared:
        _say("What was compared is what was taken. Not compared, so not proven:")
        _say(*found.not_compared)
    elif found.missing_keys:
        _say("The backup is what was taken; its data cannot be read without these keys.")
    else:
        _say(
            f"{directory} is what was taken on {found.seal.began}: {found.files} files, "
            f"{found.bytes / 1e6:,.1f} MB; {keystore} has all {len(found.seal.keys)} keys."
        )


def _say(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
