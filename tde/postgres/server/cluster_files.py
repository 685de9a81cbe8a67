"""Reading files that somebody else can exchange: those of a data directory, and configurations.

As root we look at what an unprivileged user owns, and the storage under it may be another's still.
A link would have root read what that user may not, a pipe would stop the reader for ever, and a
device has no end. So a file of a data directory is opened without following links, must be a
regular file of the directory's owner or of root, and is read up to a limit. A configuration file
may rightly be a link, to /etc for example: it is read with the rights of the server's user.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tde.errors import DataDirectoryError

SMALL = 4 << 20
"""Bytes; the longest command line that Linux takes is shorter, and so is every other small file."""

_LONGEST_CONFIGURATION = 64 << 20
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


def read_cluster_file(data_directory: Path, name: str, limit: int = SMALL) -> bytes:
    """Return the content of a file of a data directory.

    Args:
        name: relative to the directory; no part of it may be a link.
        limit: refuse files with more bytes than this.

    Raises:
        FileNotFoundError: there is no such file, or no such directory.
        PermissionError: it may not be read.
        DataDirectoryError: it is nothing that PostgreSQL or tde has made.
    """
    content = _read(data_directory, name, limit + 1)
    if len(content) > limit:
        raise _unusable(data_directory / name, f"it has more than {limit} bytes")
    return content


def read_beginning(data_directory: Path, name: str, count: int) -> bytes:
    """Return the first bytes of a file of a data directory; else as :func:`read_cluster_file`."""
    return _read(data_directory, name, count)


def read_configuration(path: Path) -> bytes:
    """Return the content of a configuration file; links are followed.

    As root, call it with the rights of the server's user (:mod:`.file_user`).

    Raises:
        OSError: it is missing, may not be read, is no regular file, or is too long.
    """
    with _regular_file(path) as descriptor:
        content = _read_up_to(descriptor, _LONGEST_CONFIGURATION + 1)
    if len(content) > _LONGEST_CONFIGURATION:
        raise OSError(errno.EFBIG, f"it has more than {_LONGEST_CONFIGURATION} bytes", str(path))
    return content


def read_end(path: Path, start: int, count: int) -> bytes:
    """Return the last bytes of a log behind ``start``; else as :func:`read_configuration`."""
    with _regular_file(path) as descriptor:
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, max(0, start if start <= size else 0, size - count), os.SEEK_SET)
        return _read_up_to(descriptor, count)


@contextmanager
def _regular_file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def _read(data_directory: Path, name: str, count: int) -> bytes:
    path = data_directory / name
    *directories, last = Path(name).parts
    parent = os.open(data_directory, _DIRECTORY)
    try:
        for part in directories:
            inner = _open(part, _DIRECTORY, parent, path)
            os.close(parent)
            parent = inner
        owner = os.fstat(parent).st_uid
        descriptor = _open(last, _FLAGS, parent, path)
    finally:
        os.close(parent)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(path, "it is not a regular file")
        # Nobody else can put a file into a directory of root, a copy of a cluster for example.
        # What root wrote elsewhere has one name: a second one may be that of another file.
        planted = status.st_uid != owner and (status.st_uid != 0 or status.st_nlink > 1)
        if owner != 0 and planted:
            raise _unusable(path, f"it belongs to user {status.st_uid} instead of user {owner}")
        return _read_up_to(descriptor, count)
    finally:
        os.close(descriptor)


def _open(name: str, flags: int, parent: int, path: Path) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)
    except (FileNotFoundError, PermissionError) as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        is_link = error.errno in (errno.ELOOP, errno.ENOTDIR)
        why = "it, or its directory, is a link or no directory" if is_link else error.strerror
        raise _unusable(path, why or str(error)) from error


def _read_up_to(descriptor: int, count: int) -> bytes:
    """Read to the end of the file, or as many bytes; a read may return fewer than it was asked."""
    parts: list[bytes] = []
    while count > 0 and (part := os.read(descriptor, min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _unusable(path: Path, why: str) -> DataDirectoryError:
    return DataDirectoryError(
        f"{path} is not used: {why}",
        remedy="Neither PostgreSQL nor tde makes such a file. Look at what it is (ls -l), find out "
        "who may write to the volume, and remove it or restore the file from a backup.",
    )
