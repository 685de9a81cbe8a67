"""Writing to the key log: an entry is on the disk before the change that it tells of."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import syslog
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from tde.errors import (
    KeystoreDamagedError,
    KeystoreError,
    KeystoreReadOnlyError,
    OsUserError,
    ProviderError,
    WrongPassphraseError,
)
from tde.file_rights import file_rights_of_owner
from tde.keystore.log.entry import (
    FIRST_PREVIOUS,
    LONGEST_LINE,
    EntryError,
    LogEntry,
    log_path,
    pack_entry,
    parse_entry,
)
from tde.keystore.store.files import (
    FILE_MODE,
    check_mode,
    check_owner,
    give_to_owner_of,
    require_writable,
    sync_directory,
    wait_for_lock,
    write_atomically,
)
from tde.printable import printable
from tde.whole_writes import write_all

_warnings = logging.getLogger("tde.keystore")


def begin_log(
    directory: Path, event: str, details: Mapping[str, Any], author: tuple[UUID, bytes]
) -> None:
    """Write the first entry of a new keystore, in the place of what an interrupted creation left.

    Raises:
        KeystoreError: it could not be written.
    """
    path = log_path(directory)
    line = pack_entry(1, FIRST_PREVIOUS, event, details, author)
    write_atomically(path, line)
    _send_to_syslog(path, line)


def write_entry(
    directory: Path,
    event: str,
    details: Mapping[str, Any],
    author: tuple[UUID, bytes] | None,
) -> LogEntry:
    """Append an entry, send it to syslog, and return it.

    Args:
        directory: the keystore's.
        author: id and log secret of the master key; None where the keystore is not open.

    Raises:
        KeystoreReadOnlyError: the keystore is read-only.
        KeystoreError: another reason why it could not be written; the log is as it was.
    """
    path = log_path(directory)
    require_writable(directory)
    try:
        with file_rights_of_owner(directory):
            fd, is_new = _open(path)
            try:
                line = _append(fd, path, event, details, author)
            finally:
                os.close(fd)
            if is_new:
                sync_directory(directory)
    except OSError as error:
        raise KeystoreError(
            f"could not write {path}: {error.strerror}",
            remedy="What it would have told of was not done. Remove the cause, and repeat the "
            "command.",
        ) from error
    _send_to_syslog(path, line)
    return parse_entry(line)


def write_entry_if_possible(
    directory: Path,
    event: str,
    details: Mapping[str, Any],
    author: tuple[UUID, bytes] | None,
) -> None:
    """Append an entry of what changes nothing; a full disk does not keep a server from its keys.

    A read-only keystore has its entries in syslog alone.
    """
    try:
        write_entry(directory, event, details, author)
    except KeystoreReadOnlyError:
        # It has no place in the chain of entries, which its number says.
        line = pack_entry(0, FIRST_PREVIOUS, event, details, author)
        _send_to_syslog(log_path(directory), line)
        _tell_once(directory)
    except (KeystoreError, OsUserError) as error:
        _warnings.warning("%s; the key log lacks: %s", error, event)


@cache
def _tell_once(directory: Path) -> None:
    _warnings.warning(
        "the keystore %s is read-only: who opens it is told to syslog, and not in its key log",
        directory,
    )


@contextmanager
def telling_of_failures(
    directory: Path, details: Mapping[str, object] = MappingProxyType({})
) -> Iterator[None]:
    """Append an entry when a keystore does not open with what somebody had.

    Args:
        details: what else the entry says, such as the provider that was asked.
    """
    try:
        yield
    except (WrongPassphraseError, KeystoreDamagedError, ProviderError) as error:
        why = {"why": type(error).__name__, **details}
        write_entry_if_possible(directory, "fail to open keystore", why, None)
        raise


def _send_to_syslog(path: Path, line: bytes) -> None:
    """Send an entry where who may write to the keystore cannot take it back, if there is such."""
    syslog.openlog("tde", 0, syslog.LOG_AUTHPRIV)
    # syslog takes text that is UTF-8, which a path need not be.
    syslog.syslog(syslog.LOG_NOTICE, f"{printable(str(path))}: {line.decode().rstrip()}")


def _open(path: Path) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    is_new = False
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        fd = os.open(path, flags | os.O_CREAT, FILE_MODE)
        is_new = True
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise KeystoreError(
                f"{path} is not a regular file with one name",
                remedy="Find out who made it, and move it away: a new one begins then.",
            )
        if status.st_size == 0:
            # New, or of a process of root that was killed before it had given it away.
            give_to_owner_of(path.parent, fd)
        else:
            check_owner(path, status, path.parent.stat().st_uid)
            check_mode(path, status, FILE_MODE)
        wait_for_lock(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd, is_new


def _append(
    fd: int,
    path: Path,
    event: str,
    details: Mapping[str, Any],
    author: tuple[UUID, bytes] | None,
) -> bytes:
    end, last = _last_line(fd)
    number = 1 if last is None else _number_of(fd, end, last) + 1
    previous = FIRST_PREVIOUS if last is None else hashlib.sha256(last).digest()
    torn = os.fstat(fd).st_size - end
    if torn:
        # A power cut has left a part of a line, which nobody was told of.
        details = {**details, "bytes of a torn entry removed": torn}
        os.ftruncate(fd, end)
    line = pack_entry(number, previous, event, details, author)
    try:
        write_all(fd, line)
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, end)
        raise
    return line


def _last_line(fd: int) -> tuple[int, bytes | None]:
    """Return where the last whole line ends, and that line; None when there is none."""
    size = os.fstat(fd).st_size
    window = 2 * LONGEST_LINE
    while True:
        start = max(0, size - window)
        tail = _read(fd, start, size - start)
        end = tail.rfind(b"\n") + 1
        begin = tail.rfind(b"\n", 0, end - 1) + 1 if end else 0
        if begin or start == 0:
            return (start + end, tail[begin:end]) if end else (0, None)
        window *= 2  # Something longer than an entry lies at the end.


def _number_of(fd: int, end: int, last: bytes) -> int:
    with suppress(EntryError):
        number = parse_entry(last).number
        if number <= end // len(b'{"number":1}\n'):
            return number
    # Somebody has altered it, which reading tells; the number is that of the line.
    return _read(fd, 0, end).count(b"\n")


def _read(fd: int, offset: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.pread(fd, size - len(data), offset + len(data))
        if not part:
            break
        data += part
    return bytes(data)
