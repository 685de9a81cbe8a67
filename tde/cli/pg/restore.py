"""``tde pg restore``: a cluster of a sealed backup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.options import (
    BindirOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    opens_keystore,
    pair_of,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import console
from tde.console.signals import ended_as_by_ctrl_c
from tde.errors import BackupError, ClusterKeystoreError
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource

if TYPE_CHECKING:
    from tde.backup.verifying import BackupCheck


def register(app: typer.Typer) -> None:
    """Add the command to a group."""
    app.command(
        epilog=examples(
            "tde pg restore /srv/backup/monday -D /srv/pg/restored --keystore /etc/tde/main",
            "# With what has changed since then:",
            "tde pg restore /srv/backup/monday /srv/backup/tuesday -D /srv/pg/restored "
            "-k /etc/tde/main",
            "# As it was at a moment:",
            "tde pg restore /srv/backup/monday -D /srv/pg/restored -k /etc/tde/main "
            "--archive /srv/archive --target-time '2026-11-28 03:00'",
        )
    )(restore)


@opens_keystore
def restore(
    backups: Annotated[
        list[Path],
        typer.Argument(
            metavar="BACKUP...",
            help="Of tde pg backup: one; or a full one and the incremental ones after it, in their "
            "order.",
        ),
    ],
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--tablespace-mapping",
            "-T",
            metavar="OLD=NEW",
            help="Put the tablespace that was in OLD into NEW; may be given often. Default: where "
            "it was.",
        ),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option("--archive", metavar="DIR", help="Replay the WAL that is archived there."),
    ] = None,
    restore_command: Annotated[
        str,
        typer.Option(
            "--restore-command", metavar="COMMAND", help="What fetches archived WAL instead."
        ),
    ] = "",
    target_time: Annotated[
        str, typer.Option("--target-time", metavar="TIME", help="Recover until then.")
    ] = "",
    target_lsn: Annotated[
        str, typer.Option("--target-lsn", metavar="LSN", help="Recover until this position.")
    ] = "",
    target_xid: Annotated[
        str, typer.Option("--target-xid", metavar="XID", help="Recover until this transaction.")
    ] = "",
    target_name: Annotated[
        str, typer.Option("--target-name", metavar="NAME", help="Recover until this restore point.")
    ] = "",
    archives: Annotated[
        bool,
        typer.Option(
            "--archiving/--no-archiving",
            help="Archive WAL as the original does: for a server that takes its place.",
        ),
    ] = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Make a cluster of a sealed backup: verify it, check its keys, unpack it, prepare recovery.

    The server is left stopped. Nothing is made of a backup that was altered, or whose keys the
    keystore lacks. Until it takes the place of the original it archives nothing: --archiving, or
    remove archive_mode from postgresql.auto.conf.
    """
    from tde.backup.combining import require_chain
    from tde.backup.restoring import RestoreOptions, command_for, restore_backup
    from tde.backup.seal import LABEL, read_seal, seal_path
    from tde.backup.unpacking import require_places
    from tde.backup.verifying import require_keystore_of, verify_backup
    from tde.keystore import keystore_uuid
    from tde.postgres.cluster.access import find_cluster
    from tde.postgres.server.config_files import CONFIGURATION_FILE

    path = require_keystore(keystore)
    directories = [backup.absolute() for backup in backups]
    if archive is not None and restore_command:
        raise typer.BadParameter("--archive and --restore-command say the same thing: name one")
    command = restore_command if archive is None else command_for(archive.absolute())
    targets = {"time": target_time, "lsn": target_lsn, "xid": target_xid, "name": target_name}
    options = RestoreOptions(
        dict(pair_of(text) for text in mapping or ()),
        command,
        {name: value for name, value in targets.items() if value},
        archives,
    )
    for directory in directories:
        require_keystore_of(seal_path(directory), keystore_uuid(path).hex)
    cluster = find_cluster(pgdata, bindir, os_user)
    with open_keystore(path, source, for_server=True) as opened:
        key = opened.authentication_key(LABEL)
        # To read all bytes may take hours, and this no time.
        chain = [(directory, read_seal(seal_path(directory), key)) for directory in directories]
        require_chain(chain)
        require_places(*chain[-1], options.mapping)
        found = [verify_backup(directory, opened) for directory in directories]
    for directory, check in zip(directories, found, strict=True):
        _require_good(directory, check, path)
    with ended_as_by_ctrl_c():
        restore_backup(chain, cluster, path, options)
    if not (cluster.data_directory / CONFIGURATION_FILE).exists():
        console.print(
            f"The backup has no {CONFIGURATION_FILE}: Debian keeps it in /etc. Put one into "
            f"{cluster.data_directory}, with a pg_hba.conf, before it is started",
            markup=False,
            soft_wrap=True,
        )
    for line in (
        f"Restored the backup of {found[-1].seal.began} to {cluster.data_directory}",
        f"Start it: tde pg start -D {cluster.data_directory}"
        + ("" if archives else " -o '-p 5433'  (beside the original; it archives nothing)"),
    ):
        console.print(line, markup=False, soft_wrap=True)


def _require_good(directory: Path, check: BackupCheck, keystore: Path) -> None:
    if check.problems:
        raise BackupError(
            f"{directory} is not what was taken: {'; '.join(check.problems[:5])}",
            remedy="Nothing was restored. tde pg verify-backup names everything.",
        )
    if check.missing_keys:
        raise ClusterKeystoreError(
            f"the keystore {keystore} lacks keys of this backup: {', '.join(check.missing_keys)}",
            remedy="Nothing was restored. Name a copy of the keystore that has them: one of "
            f"{check.seal.ended} or later, from before they were destroyed.",
        )
