"""Writing small files into a data directory, durably and with the owner that the server needs.

As root we write into a directory that somebody else owns. So the directory is opened once, is
checked to be the server user's, and all names are looked up in it without following links:
whatever that user puts in the way, root changes nothing that the user could not have changed.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tde.errors import ClusterBusyError, UnsafeDirectoryError
from tde.file_lock import lock_until
from tde.postgres.server.os_user import OsUser
from tde.whole_writes import write_all

_PATIENCE = 30.0  # Seconds; a server that makes a tablespace needs a moment.
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_owned_file(
    path: Path, content: str | bytes, os_user: OsUser | None, *, mode: int = 0o600
) -> None:
    """Replace ``path`` atomically; the file belongs to the server's user.

    Args:
        content: bytes, or text; in it bytes that were decoded with ``surrogateescape`` are
            written unchanged.
        mode: permissions of the file.

    Raises:
        UnsafeDirectoryError: the directory does not belong to the server's user.
        OSError: it cannot be written; an existing file is unchanged.
    """
    temporary = temporary_name(path.name)
    with _open_directory(path.parent, os_user) as directory:
        descriptor = os.open(temporary, _WRITE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(
                    content
                    if isinstance(content, bytes)
                    else content.encode(errors="surrogateescape")
                )
                file.flush()
                if os_user is not None:
                    os.fchown(file.fileno(), os_user.uid, os_user.gid)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)


def temporary_name(name: str) -> str:
    """Return a name that nothing has, under which the new content of a file is prepared.

    Not with the process's number: after a power cut, and in a container, the next process has the
    same, and met what the first one had left. Digits, because audit and interposer know the form.
    """
    return f".{name}.{secrets.randbits(63)}.tmp"


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; one that may not be opened is left alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_to_file(path: Path, content: str, os_user: OsUser | None) -> None:
    """Append to an existing file, which keeps its owner and mode; links are not followed.

    Raises:
        UnsafeDirectoryError: the directory or the file does not belong to the server's user.
        OSError: it cannot be written; it is then as it was.
    """
    with _open_directory(path.parent, os_user) as directory:
        flags = _WRITE | os.O_APPEND | os.O_NONBLOCK
        descriptor = os.open(path.name, flags, dir_fd=directory)
        try:
            # The file may be another name (a hard link) of one that is not the user's.
            _require_owner(descriptor, path, os_user)
            _append(descriptor, content.encode())
        finally:
            os.close(descriptor)


@contextmanager
def locked_owned_file(path: Path, os_user: OsUser | None) -> Iterator[BinaryIO]:
    """Open an existing file to change it in place; nobody else who locks it does meanwhile.

    Raises:
        UnsafeDirectoryError: the directory or the file does not belong to the server's user.
        ClusterBusyError: somebody else has it locked all the time.
        OSError: it cannot be opened or locked.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with _open_directory(path.parent, os_user) as directory:
        descriptor = os.open(path.name, flags, dir_fd=directory)
        with os.fdopen(descriptor, "r+b") as file:
            _require_owner(descriptor, path, os_user)
            if not lock_until(descriptor, time.monotonic() + _PATIENCE):
                raise ClusterBusyError(
                    f"another process has {path} locked for {_PATIENCE:.0f} seconds",
                    remedy=f"Find that process with `fuser -v {path}`, then repeat the command.",
                )
            yield file


def _append(descriptor: int, content: bytes) -> None:
    """Append all of it or nothing: half a line of a configuration keeps a server from starting."""
    before = os.fstat(descriptor).st_size
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise


@contextmanager
def _open_directory(path: Path, os_user: OsUser | None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _require_owner(descriptor, path, os_user)
        yield descriptor
    finally:
        os.close(descriptor)


def _require_owner(descriptor: int, path: Path, os_user: OsUser | None) -> None:
    if os_user is not None and os.fstat(descriptor).st_uid != os_user.uid:
        raise UnsafeDirectoryError(
            f"{path} does not belong to {os_user.name}, the user that runs the server",
            remedy=f"See who owns it, and correct that: chown {os_user.name} {path}",
        )
