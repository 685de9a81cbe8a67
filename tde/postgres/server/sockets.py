"""Unix sockets of servers whose configuration names no directory for them.

A stock server uses the directory compiled into it, where two clusters with the same port
collide. A library, tests and benchmarks start many clusters, so the default here is a
private directory per cluster; ``tde pg start`` asks for the stock one as well, because an
administrator expects a plain ``psql`` to find the server.

The data directory itself would be private too, but base backups would copy the socket's lock
file, and a standby on the same machine then refuses to start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import psutil

from tde.errors import DataDirectoryError
from tde.ownership import create_directory
from tde.postgres.server.cluster_files import read_configuration
from tde.postgres.server.file_user import files_as
from tde.postgres.server.os_user import OsUser, can_access
from tde.postgres.server.pidfile import read_postmaster_file

# Short on purpose: sockaddr_un holds 107 bytes of path.
_PRIVATE_PARENT = Path("/tmp")
SETTING = "unix_socket_directories"
_SETTING_LINE = re.compile(rf"^\s*{SETTING}\s*[=\s]", re.MULTILINE)
_LOCK_PID = re.compile(rb"-?([0-9]{1,9})\n")


def is_configured(data_directory: Path, configuration: Path | None = None) -> bool:
    """Tell whether the cluster's own files set unix_socket_directories.

    Files that they include are not searched; there the value differing from the default tells.

    Args:
        configuration: the file that the server begins with, when it is not the cluster's own.
    """
    first = configuration or data_directory / "postgresql.conf"
    for path in (first, data_directory / "postgresql.auto.conf"):
        try:
            text = read_configuration(path).decode(errors="replace")
        except FileNotFoundError:
            continue
        if _SETTING_LINE.search(text):
            return True
    return False


def private_directory(data_directory: Path, os_user: OsUser | None) -> Path:
    """Return the path of the cluster's private socket directory, whether it exists or not.

    It depends on the data directory and the server's user only, so restarts keep it.
    """
    uid = os.geteuid() if os_user is None else os_user.uid
    digest = hashlib.sha256(os.fsencode(data_directory.resolve())).hexdigest()[:12]
    return _PRIVATE_PARENT / f"tde-{uid}-{digest}"


def create_private_directory(data_directory: Path, os_user: OsUser | None) -> Path:
    """Create the cluster's private socket directory, or check the existing one, and return it.

    Raises:
        DataDirectoryError: somebody else owns a directory of that name.
    """
    directory = private_directory(data_directory, os_user)
    uid = os.geteuid() if os_user is None else os_user.uid
    try:
        create_directory(directory, None if os_user is None else os_user.owner)
    except FileExistsError:
        # /tmp is open to everybody: a directory or link that is not ours is not trusted.
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
            raise DataDirectoryError(
                f"the socket directory {directory} belongs to somebody else",
                remedy="Remove it, or set unix_socket_directories in postgresql.conf.",
            ) from None
    return directory


def remove_private_directory(data_directory: Path, os_user: OsUser | None) -> None:
    """Remove the private socket directory when it is there and empty, and no server runs.

    A server that starts has nothing in it yet, but will.
    """
    if read_postmaster_file(data_directory) is not None:
        return
    with contextlib.suppress(OSError):  # Not worth failing a successful stop.
        private_directory(data_directory, os_user).rmdir()


def split_socket_argument(arguments: Sequence[str], private: Path) -> tuple[list[str], bool]:
    """Take the setting that an earlier start added out of the server's arguments.

    Returns:
        The other arguments, and whether the stock directory was used besides ``private``.
    """
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        directories = value.split(",")
        if name == SETTING and str(private) in directories:
            # The argument before it is its "-c".
            rest = [*arguments[: position - 1], *arguments[position + 1 :]]
            return rest, len(directories) > 1
    return list(arguments), False


def usable_stock_directory(
    stock_directories: str, port: int, os_user: OsUser | None
) -> Path | None:
    """Return the stock socket directory if this server could put its socket there now.

    Args:
        stock_directories: the compiled-in default of unix_socket_directories.
        port: the port of the server that is about to start.
    """
    first = stock_directories.split(",")[0].strip()
    if not first.startswith("/"):
        return None
    directory = Path(first)
    if _is_locked(directory / f".s.PGSQL.{port}.lock", os_user):
        return None
    return directory if can_access(os_user, directory, "-w") else None


def _is_locked(lock: Path, os_user: OsUser | None) -> bool:
    """Tell whether a server of this user would refuse the place because of the lock file there.

    As CreateLockFile (miscinit.c) does it: a killed server leaves its file behind, and the next
    one replaces it, unless a process of its own user has that number now. What that process is
    and which data directory the file names do not count there, so they do not count here. A file
    that is not such a server's own cannot be read, or not be removed, and counts as taken.
    """
    uid = os.geteuid() if os_user is None else os_user.uid
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        with files_as(os_user):
            descriptor = os.open(lock, flags)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != uid:
            return True
        first = _LOCK_PID.match(os.read(descriptor, 64))
    except OSError:
        return True
    finally:
        os.close(descriptor)
    # What holds no process id is being written by a server that starts now.
    return first is None or _would_take_signal(int(first[1]), uid)


def _would_take_signal(pid: int, uid: int) -> bool:
    """Tell whether a process lives that this user may signal; a zombie does live."""
    try:
        users = psutil.Process(pid).uids()
    except psutil.NoSuchProcess:
        return False
    return uid in (users.real, users.saved)
