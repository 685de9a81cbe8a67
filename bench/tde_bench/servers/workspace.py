"""The directory that holds a run's ephemeral clusters."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tde.errors import UnreachablePathError
from tde.postgres.server.os_user import OsUser, require_reachable, server_os_user
from tde_bench.errors import BenchError
from tde_bench.measure.metadata import filesystem_of
from tde_bench.measure.signals import signals_wait

_PREFIX = "tde-bench-"
_REMOVE_ATTEMPTS = 20
_REMOVE_PAUSE_SECONDS = 0.1

_log = logging.getLogger(__name__)


def default_parent() -> Path:
    """Choose where the clusters live when the user does not say.

    A temporary directory on the filesystem of the current directory is best, because that is
    the disk the user stands on; the current directory itself follows, then any temporary
    directory. Filesystems in memory are left out: they have no I/O to compare.

    Raises:
        BenchError: when every candidate is in memory or closed to the server's user.
    """
    os_user = server_os_user(None)
    current = Path.cwd()
    temporary = [Path(tempfile.gettempdir()), Path("/var/tmp")]
    same_disk = [path for path in temporary if _device(path) == _device(current)]
    for candidate in [*same_disk, current, *temporary]:
        if candidate.is_dir() and not filesystem_of(candidate).in_memory:
            try:
                require_reachable(os_user, candidate / _PREFIX, "the benchmark directory")
            except UnreachablePathError:
                continue
            if os.access(candidate, os.W_OK):
                return candidate
    raise BenchError(
        "no directory on a disk was found for the servers of the benchmark",
        remedy="Name one with --directory.",
    )


def _device(path: Path) -> int | None:
    """Return the number of the device that holds ``path``, None when there is no such path."""
    try:
        return path.stat().st_dev
    except OSError:
        return None


@contextmanager
def workspace(parent: Path | None, *, keep: bool) -> Iterator[Path]:
    """Create a private directory below ``parent``, and remove it at the end unless ``keep``.

    It belongs to the user that runs the servers, so that as root, too, nobody else can read
    the clusters or reach their sockets.

    Raises:
        UnreachablePathError: when that user cannot reach ``parent``.
        BenchError: at the end, when the directory cannot be removed. An exception of the ``with``
            block goes on instead, and what is left is only said, on standard error.
    """
    os_user = server_os_user(None)
    folder = (default_parent() if parent is None else parent).absolute()
    require_reachable(os_user, folder / _PREFIX, "the benchmark directory")
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        give_to(path, os_user)
        yield path
    except BaseException:
        if not keep:
            _remove_or_say(path)
        raise
    if not keep:
        _remove(path)


def give_to(path: Path, os_user: OsUser | None) -> None:
    """Make ``path`` belong to the user that runs the servers; None is the current user."""
    if os_user is not None:
        os.chown(path, os_user.uid, os_user.gid)


def mounts_below(path: Path) -> list[Path]:
    """Return where filesystems are mounted at ``path`` and below it, the last mount first.

    The kernel's list is read instead of looking at the directories, because that fails where the
    daemon of a FUSE filesystem has died, and the mount is still there.
    """
    # Of the path itself only the parents are resolved, because it may be such a directory.
    target = path.parent.resolve() / path.name
    mounts = [Path(partition.mountpoint) for partition in psutil.disk_partitions(all=True)]
    return [mount for mount in reversed(mounts) if mount.is_relative_to(target)]


def _remove_or_say(path: Path) -> None:
    """Remove a tree after an exception, which an exception from here would hide."""
    try:
        _remove(path)
    except BenchError as error:
        _log.error("%s. %s", error, error.remedy)


def _remove(path: Path) -> None:
    """Remove a tree from which the last processes may still be going away.

    Raises:
        BenchError: when it is still there after a while, or holds a mount; what is mounted must
            not be removed file by file.
    """
    with signals_wait():
        for _ in range(_REMOVE_ATTEMPTS):
            if not mounts_below(path):
                shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                return
            time.sleep(_REMOVE_PAUSE_SECONDS)
    commands = [f"umount -l {mount}" for mount in mounts_below(path)] + [f"rm -r {path}"]
    raise BenchError(f"{path} could not be removed", remedy=f"Remove it: {' && '.join(commands)}")
