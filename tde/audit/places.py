"""The directories of an audit, and what is known of each before it is walked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tde.audit.inventory import Place, PlaceKind
from tde.errors import DataDirectoryError
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.unfinished_conversion import read_finished_control_data
from tde.postgres.facts import CLEAN_STATES
from tde.postgres.server.control import ControlData, read_major_version


def find_places(
    cluster: Cluster, archives: Sequence[Path], backups: Sequence[Path]
) -> tuple[Place, ...]:
    """Return the cluster, then the archives, then the backups.

    Raises:
        DataDirectoryError: one of the directories is not what it should be.
        ProgramError: pg_controldata failed.
    """
    major = read_major_version(cluster.data_directory)
    live = cluster.pid is not None
    control = _control(cluster, cluster.data_directory)
    pending = _replay_pending(cluster.data_directory, control, live)
    places = [Place(PlaceKind.CLUSTER, cluster.data_directory, major, control, pending, live)]
    for directory in archives:
        root = _require_directory(directory, "WAL archive")
        # A server that is not this one may be archiving, and copying takes time.
        places.append(Place(PlaceKind.ARCHIVE, root, major, control, False, True))
    places += [_backup(cluster, directory) for directory in backups]
    return tuple(places)


def _backup(cluster: Cluster, directory: Path) -> Place:
    root = _require_directory(directory, "base backup")
    if not (root / "PG_VERSION").exists():
        raise DataDirectoryError(
            f"{directory} is not a base backup in plain format",
            remedy="Unpack a backup in tar format into a directory, or name another one.",
        )
    control = _control(cluster, root)
    pending = _replay_pending(root, control, False)
    return Place(PlaceKind.BACKUP, root, read_major_version(root), control, pending, False)


def _control(cluster: Cluster, directory: Path) -> ControlData:
    # As the caller, who must be able to read all files anyway, and not as the server's user.
    return read_finished_control_data(directory, cluster.binaries, None)


def _replay_pending(directory: Path, control: ControlData, live: bool) -> bool:
    """Tell whether recovery has still to repair pages that a copy or a crash has torn."""
    if live:
        return control.state not in ("in production", *CLEAN_STATES)
    return control.state not in CLEAN_STATES or (directory / "backup_label").exists()


def _require_directory(directory: Path, what: str) -> Path:
    root = directory.absolute()
    if not root.is_dir():
        raise DataDirectoryError(
            f"there is no {what} in {directory}: it is not a directory",
            remedy="Check the path.",
        )
    return root
