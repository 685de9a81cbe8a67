"""Writing small files into a data directory, durably and with the owner that the server needs."""

from __future__ import annotations

import os
from pathlib import Path

from tde.postgres.os_user import OsUser


def write_owned_file(path: Path, content: str, os_user: OsUser | None) -> None:
    """Replace ``path`` atomically; the file has mode 0600 and belongs to the server's user."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # O_EXCL and no links: as root we write into a directory that somebody else owns.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            if os_user is not None:
                os.fchown(file.fileno(), os_user.uid, os_user.gid)
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def append_to_file(path: Path, content: str) -> None:
    """Append to an existing file, which keeps its owner and mode; links are not followed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
