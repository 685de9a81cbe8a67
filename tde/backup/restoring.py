"""Making a cluster of a backup: keys first, then files, then what recovery needs to know."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tde.backup.combining import combine_files, require_chain
from tde.backup.seal import Seal
from tde.backup.taking import MANIFEST
from tde.backup.unpacking import place_files, require_places
from tde.errors import BackupError, DataDirectoryError
from tde.postgres.cluster.initialize import prepared_directory, remove_files
from tde.postgres.cluster.marker import read_marker
from tde.postgres.server.config_files import AUTOMATIC_FILE
from tde.postgres.server.owned_files import append_to_file, write_owned_file

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

_TARGETS = (
    "recovery_target",
    *(f"recovery_target_{name}" for name in ("time", "lsn", "xid", "name")),
)


@dataclass(frozen=True)
class RestoreOptions:
    """Where a backup goes, and how far recovery goes.

    Attributes:
        mapping: where tablespaces go, by where they were.
        restore_command: that fetches archived WAL; empty for the backup's own end.
        targets: settings of recovery_target_*, by their endings; none for the end of the archive.
        archives: whether the restored server archives WAL as the original does, on a timeline of
            its own.
    """

    mapping: Mapping[Path, Path] = field(default_factory=dict)
    restore_command: str = ""
    targets: Mapping[str, str] = field(default_factory=dict)
    archives: bool = False


def command_for(archive: Path) -> str:
    """Return the restore_command for a directory of archived segments."""
    place = str(archive).replace("%", "%%")
    return f"cp {shlex.quote(f'{place}/%f')} %p"


def restore_backup(
    chain: Sequence[tuple[Path, Seal]],
    cluster: Cluster,
    keystore: Path,
    options: RestoreOptions,
) -> None:
    """Make a cluster of a backup that was verified, left stopped.

    Args:
        chain: a full backup with its seal, and the incremental ones that follow, in their order.
        cluster: the new one; its directory is made, or empty.
        keystore: the directory of the keystore, which the cluster remembers.

    Raises:
        BackupError: a tablespace has no place, the options contradict each other, or the backups
            are no chain.
        DataDirectoryError: a directory is not empty.
        ProgramError: tar, cp or pg_combinebackup has failed; what was made is removed.
    """
    _require_sound(options)
    require_chain(chain)
    require_places(*chain[-1], options.mapping)
    directory = cluster.data_directory
    places: list[Path] = []
    with prepared_directory(directory, cluster.os_user):
        try:
            if len(chain) == 1:
                backup, seal = chain[0]
                place_files(backup, cluster, seal, options.mapping, places)
            else:
                combine_files(chain, cluster, options.mapping, places)
            _configure(cluster, options)
            marker = read_marker(directory)
            if marker is not None:
                replace(marker, keystore=keystore.resolve()).write(directory, cluster.os_user)
        except BaseException:
            for place in (*places, directory):
                remove_files(place, cluster.os_user)
            raise


def _require_sound(options: RestoreOptions) -> None:
    if len(options.targets) > 1:
        raise BackupError(
            f"recovery can end at one target, and {len(options.targets)} were given",
            remedy="Name one of --target-time, --target-lsn, --target-xid and --target-name.",
        )
    if options.targets and not options.restore_command:
        raise BackupError(
            "a target needs the WAL that leads to it",
            remedy="Name the archive with --archive, or --restore-command.",
        )
    if options.archives and not options.restore_command:
        # It would go on under the names of segments that the original has archived already.
        raise BackupError(
            "a server that archives has to begin where the archive ends",
            remedy="Name the archive with --archive, or --restore-command; or leave out "
            "--archiving.",
        )


def _configure(cluster: Cluster, options: RestoreOptions) -> None:
    """Have the server be itself: no standby of the original's, and no hand on what that has."""
    directory = cluster.data_directory
    if not (directory / AUTOMATIC_FILE).exists():
        raise DataDirectoryError(f"the backup has no {AUTOMATIC_FILE}: it is no data directory")
    for name in (MANIFEST, "standby.signal", "recovery.signal"):
        (directory / name).unlink(missing_ok=True)
    settings = {"primary_conninfo": "", "primary_slot_name": "", "recovery_min_apply_delay": "0"}
    if not options.archives:
        # A copy beside the original would write into its archive, and clean it up.
        settings |= {"archive_mode": "off", "archive_cleanup_command": ""}
        settings["recovery_end_command"] = ""
    # Those of an earlier restore may be in the backup; two targets at once are refused.
    settings |= dict.fromkeys(_TARGETS, "")
    settings["recovery_target_timeline"] = "latest"
    if options.restore_command:
        settings["restore_command"] = options.restore_command
        settings["recovery_target_action"] = "promote"
        for name, value in options.targets.items():
            # Behind the others: an empty one of another kind is refused after it.
            del settings[f"recovery_target_{name}"]
            settings[f"recovery_target_{name}"] = value
        write_owned_file(directory / "recovery.signal", "", cluster.os_user)
    lines = "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
    # What was written before may have no newline at its end.
    append_to_file(directory / AUTOMATIC_FILE, f"\n{lines}", cluster.os_user)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
