"""Where the manager keeps what has to survive it: the servers that it knows, and jobs."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from tde.errors import UnsafeDirectoryError
from tde.ownership import is_out_of_reach
from tde.postgres.server.owned_files import write_owned_file
from tde.postgres.service.places import own_place

_ADDRESS = "address"


def default_directory() -> Path:
    """Return this user's directory, as for what tde installs."""
    return own_place().with_name("manager")


def prepare_directory(directory: Path) -> None:
    """Make a directory that nobody else may look into, or take one that is so already.

    What lies in it is believed: which commands a job runs, for one.

    Raises:
        UnsafeDirectoryError: others could write there, or have put it there.
        OSError: it cannot be made.
    """
    directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not os.path.lexists(directory):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not is_own or status.st_mode & 0o077 or not _is_safe(directory.parent):
        raise UnsafeDirectoryError(
            f"{directory} is no directory of this user alone",
            remedy=f"Name another one with --directory, or: chmod 700 {directory}",
        )
    for name in ("jobs", "locks"):
        (directory / name).mkdir(mode=0o700, exist_ok=True)


def _is_safe(parent: Path) -> bool:
    """Whether nobody but root, and this user, can exchange what is in a directory."""
    if os.geteuid() == 0:
        return is_out_of_reach(parent)
    status = parent.stat()
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    return status.st_uid in (0, os.geteuid()) and not shared


def secret_path(directory: Path) -> str:
    """Return the path below which this manager's pages are, of 256 bits.

    Cookies are sent to every port of a host, so to whatever else listens there: but only below
    their path, and nobody else knows this one. It stays the same, for bookmarks.

    Raises:
        OSError: it cannot be read or written.
    """
    file = directory / _ADDRESS
    if not file.exists():
        write_owned_file(file, secrets.token_urlsafe(32), None)
    return f"/{file.read_text(encoding='ascii').strip()}"
