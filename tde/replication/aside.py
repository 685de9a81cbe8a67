"""A server that is made again, while what it had is kept beside: data directory and tablespaces."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import DataDirectoryError, UnsafeDirectoryError
from tde.ownership import create_directory
from tde.postgres.cluster.initialize import remove_files
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.owned_files import write_owned_file
from tde.replication.rejoining import STANDBY_SIGNAL
from tde.replication.source import Source
from tde.replication.standby import StandbyOptions, make_standby, require_free

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

_log = logging.getLogger(__name__)
# Tablespaces may be on other disks, so only what lies in the data directory itself is counted.
_SIZE = "SELECT to_json(pg_tablespace_size('pg_default') + pg_tablespace_size('pg_global'))"


def require_can_be_made_again(cluster: Cluster, source: Source, options: StandbyOptions) -> None:
    """Check before a server is stopped what would only show when another one has its place.

    Where its own tablespaces are, the place will be free: they are moved aside.

    Raises:
        DataDirectoryError: a directory cannot be moved aside, as a mount point, or there is no room
            for a second one beside it.
        ReplicationError: the other server does not let this role replicate, or a place is taken.
    """
    directory = cluster.data_directory.resolve()
    moves = _moves(directory)
    for old, new in options.mapping:
        if new.resolve() not in moves:
            require_free(old, new)
    for old, new in moves.items():
        if old.is_mount() or not os.access(old.parent, os.W_OK):
            raise DataDirectoryError(
                f"{old} cannot be moved to {new}",
                remedy="It is a mount point, or its parent cannot be written to. Make the standby "
                "in another directory instead: tde pg standby",
            )
    needed = int(source.server.ask(_SIZE))
    free = shutil.disk_usage(directory.parent).free
    if free < needed:
        raise DataDirectoryError(
            f"{directory.parent} has {free / 1e9:.1f} GB left, and the base backup takes "
            f"{needed / 1e9:.1f} GB: what the server has is kept beside it",
            remedy="Make room, or make the standby elsewhere: tde pg standby",
        )
    source.server.require_replication()


def make_again(
    cluster: Cluster, source: Source, keystore: Keystore | None, options: StandbyOptions
) -> list[Path]:
    """Make a stopped server again from a base backup; return where what it had is now.

    Where that fails, everything is back in its place, with standby.signal: another server has taken
    its place, so it must not be started as a second primary.

    Raises:
        ServerStartError: it runs.
        DataDirectoryError: a directory cannot be moved aside, as a mount point.
        ProgramError, ReplicationError: as :func:`make_standby`; everything is back in its place.
    """
    # Where a link leads to is moved, and not the link: another disk has the room.
    directory = cluster.data_directory.resolve()
    with cluster_lock(directory):
        cluster.require_stopped()
        moves = _moves(directory)
        with _moved(moves, cluster.os_user):
            owner = None if cluster.os_user is None else cluster.os_user.owner
            for old in moves:
                create_directory(old, owner)
            make_standby(cluster, source, keystore, options)
    return list(moves.values())


def _moves(directory: Path) -> dict[Path, Path]:
    """Return the data directory and the directories of its tablespaces, and where each goes."""
    links = directory / "pg_tblspc"
    linked = [link.resolve() for link in links.iterdir()] if links.is_dir() else []
    outside = [path for path in linked if not path.is_relative_to(directory) and path.is_dir()]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return {path: path.with_name(f"{path.name}.before-{stamp}") for path in [directory, *outside]}


@contextmanager
def _moved(moves: dict[Path, Path], os_user: OsUser | None) -> Iterator[None]:
    """Move directories aside, and back when the body fails."""
    done: list[Path] = []
    try:
        for old, new in moves.items():
            try:
                old.rename(new)
            except OSError as error:
                raise DataDirectoryError(
                    f"{old} cannot be moved to {new}: {error.strerror}",
                    remedy="It may be a mount point, or its parent may not be written to. Move "
                    "what is in it by hand, and make the server again: tde pg standby",
                ) from error
            done.append(old)
        yield
    except BaseException:
        for old in reversed(done):
            _move_back(old, moves[old], os_user)
        _mark_as_standby(next(iter(moves)), os_user)
        raise


def _move_back(old: Path, new: Path, os_user: OsUser | None) -> None:
    try:
        if old.exists():  # Made for what has failed.
            remove_files(old, os_user)
            old.rmdir()
        new.rename(old)
    except OSError as error:
        _log.warning("%s could not be moved back to %s: %s", new, old, error.strerror)


def _mark_as_standby(directory: Path, os_user: OsUser | None) -> None:
    """Keep a server from being started as a second primary; the first failure is told anyway."""
    try:
        write_owned_file(directory / STANDBY_SIGNAL, "", os_user)
    except (OSError, UnsafeDirectoryError) as error:
        _log.warning("%s could not get %s: %s", directory, STANDBY_SIGNAL, error)
