"""The directory that holds a run's ephemeral clusters."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tde.errors import UnreachablePathError
from tde.postgres.os_user import OsUser, require_reachable, server_os_user
from tde_bench.errors import BenchError
from tde_bench.lifecycle import signals_wait
from tde_bench.metadata import filesystem_of

_PREFIX = "tde-bench-"
_REMOVE_ATTEMPTS = 20
_REMOVE_PAUSE_SECONDS = 0.1


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
    """
    os_user = server_os_user(None)
    folder = (default_parent() if parent is None else parent).absolute()
    require_reachable(os_user, folder / _PREFIX, "the benchmark directory")
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        give_to(path, os_user)
        yield path
    finally:
        if not keep:
            with signals_wait():
                _remove(path)


def give_to(path: Path, os_user: OsUser | None) -> None:
    """Make ``path`` belong to the user that runs the servers; None is the current user."""
    if os_user is not None:
        os.chown(path, os_user.uid, os_user.gid)


def _remove(path: Path) -> None:
    """Remove a tree from which the last processes may still be going away."""
    for _ in range(_REMOVE_ATTEMPTS):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(_REMOVE_PAUSE_SECONDS)
    raise BenchError(f"{path} could not be removed", remedy=f"Remove it: rm -r {path}")
