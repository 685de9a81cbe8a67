"""What a server with keys tells about itself, because /proc/<pid> of such a server is closed.

The interposer makes the file (``c_ext/interpose/blocks/status.h`` has the same layout). Only the
server's user could make another one, and that user may do anything to the server as well.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tde.machine.process_files import process_user, read_as_owner, start_time

_MEMORY_DIRECTORY = Path("/dev/shm")
_MAGIC = 0x5444455354415431
MESSAGE_SUFFIX = ".message"
_PATH = 4096
# Magic, process id, start time, device and inode of the working directory, number of stripes,
# words per stripe, bytes before them; then three texts.
_LAYOUT = struct.Struct(f"=8Q{_PATH}s{_PATH}s256s")
# Keystore UUID, public key, master key id, number of the last message, what was wrong with it,
# the keystore's path, the code of the public key. Servers that were started by earlier releases do
# not have it.
_MESSAGES = struct.Struct(f"=16s32s16sQ128s{_PATH + 8}s32s")
# The id of the WAL key, whether the keystore is closed, tablespaces that are locked, and the
# segment from which on WAL has its key. Servers of earlier releases do not have that either.
_CHANGES = struct.Struct("=16s63I4xQ")
# The version of the libcrypto that encrypts. Servers of earlier releases do not have that either.
_LIBRARY = struct.Struct("=64s")
_SETTLED = _LAYOUT.size + _MESSAGES.size + _CHANGES.size + _LIBRARY.size  # Counters follow.
_MOST_READINGS = 5  # Servers of earlier releases count where others have what settles.
_LONGEST = 1 << 20  # Bytes; the server's user could make it as long as memory is large.


@dataclass(frozen=True)
class KeysOfServer:
    """What a running server says about its keys, and about messages that bring it others.

    Attributes:
        message_file: where a message is laid for it, beside its status.
        exchange_key: seals messages to it; X25519, 32 bytes.
        exchange_code: proves, to who has the keystore open, that the key is that process's.
        start_time: field 22 of /proc/<pid>/stat.
        master_key_id: of the newest master key that it has.
        message: number of the last message that it has looked at.
        problem: what was wrong with that one; empty when it was done.
        closed: whether its sessions wait until the keystore is opened.
        locked: OIDs of the tablespaces that are locked, 62 at most.
        wal_key_from: the end of the name of the first segment with that key, without the timeline.
        wal_key: id of the key of new WAL segments, zeros for the first key; ``None`` for a server
            of a release that had one key of WAL.
    """

    message_file: Path
    keystore: UUID
    keystore_path: Path
    exchange_key: bytes
    exchange_code: bytes
    start_time: int
    master_key_id: UUID
    message: int
    problem: str
    wal_key: bytes | None = None
    closed: bool = False
    locked: tuple[int, ...] = ()
    wal_key_from: str = ""


@dataclass(frozen=True)
class PublishedStatus:
    """The part of a server's own account that does not change, and its counters as raw bytes.

    Attributes:
        directory: device and inode of the working directory.
        standard_error: what the server was started to log to; empty when it is closed.
        libcrypto: the library that encrypts; the file may have been replaced or removed since.
        openssl_capabilities: the variable that can forbid OpenSSL the AES instructions, in the
            server's environment (tde/machine/capabilities.py); empty when unset.
        words_per_stripe: how many counters a process has.
        stripes: the counters of all processes, 64-bit integers in the machine's order.
        keys: ``None`` for a server that an earlier release has started.
        libcrypto_version: what that library says of itself; empty for such a server.
    """

    directory: tuple[int, int]
    standard_error: str
    libcrypto: str
    openssl_capabilities: str
    words_per_stripe: int
    stripes: bytes
    keys: KeysOfServer | None = None
    libcrypto_version: str = ""


def published_servers() -> list[int]:
    """Return the postmasters that have published a status; some may have ended since."""
    names = (path.name.split("-") for path in _named(_name_prefix()))
    return sorted({int(parts[2]) for parts in names if parts[2].isdecimal()})


def _named(prefix: str) -> list[Path]:
    """Return the files whose names begin so; servers' shared memory lies there by the hundred."""
    try:
        with os.scandir(_MEMORY_DIRECTORY) as entries:
            return [Path(entry.path) for entry in entries if entry.name.startswith(prefix)]
    except FileNotFoundError:
        return []


def _name_prefix() -> str:
    return f"tde-{Path('/proc/self/ns/pid').stat().st_ino}-"


def read_published_status(pid: int) -> PublishedStatus | None:
    """Return what the server with this postmaster publishes; ``None`` when it has no keys.

    Raises:
        OSError: there is something, and it may not be read.
    """
    try:
        owner, started = process_user(pid), start_time(pid)
        for path in _candidates(pid):
            content = _read_settled(path, owner)
            found = None if content is None else parse_published_status(content, pid, started, path)
            if found is not None:
                return found
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None


def _candidates(pid: int) -> list[Path]:
    """Return the files with the name of a server's status that its user may have made.

    The directory is everybody's, and another user's file must neither be read nor stand in the way.
    """
    name = f"{_name_prefix()}{pid}"
    # Servers that earlier releases have started have no random number in the name.
    found = [path for path in _named(f"{name}-") if path.suffix != MESSAGE_SUFFIX]
    paths = [*found, _MEMORY_DIRECTORY / name]
    owner = process_user(pid)
    return [path for path in paths if _is_of(path, owner)]


def _is_of(path: Path, owner: int) -> bool:
    try:
        return _is_plain(path.lstat(), owner)
    except FileNotFoundError:
        return False


def parse_published_status(
    content: bytes, pid: int, started: int, path: Path
) -> PublishedStatus | None:
    """Return the content of a status file, or ``None`` when it is not this process's.

    Args:
        started: field 22 of /proc/<pid>/stat; a killed server's file names another time.
        path: of the file.
    """
    if len(content) < _LAYOUT.size:
        return None
    fields = _LAYOUT.unpack_from(content)
    magic, of_pid, of_start, device, inode, stripes, words, before = fields[:8]
    if (magic, of_pid, of_start) != (_MAGIC, pid, started):
        return None
    end = before + stripes * words * 8
    if before < _LAYOUT.size or len(content) < end:
        return None
    error, libcrypto, capabilities = (os.fsdecode(text.split(b"\0", 1)[0]) for text in fields[8:])
    has_keys = before >= _LAYOUT.size + _MESSAGES.size
    keys = _keys(content[:before], path, started) if has_keys else None
    return PublishedStatus(
        (device, inode),
        error,
        libcrypto,
        capabilities,
        words,
        content[before:end],
        keys,
        _libcrypto_version(content[:before]),
    )


def _libcrypto_version(content: bytes) -> str:
    at = _LAYOUT.size + _MESSAGES.size + _CHANGES.size
    if len(content) < at + _LIBRARY.size:
        return ""
    (text,) = _LIBRARY.unpack_from(content, at)
    return os.fsdecode(text.split(b"\0", 1)[0])


def _keys(content: bytes, path: Path, started: int) -> KeysOfServer:
    fields = _MESSAGES.unpack_from(content, _LAYOUT.size)
    keystore, exchange_key, master_key_id, message, problem, directory, code = fields
    at = _LAYOUT.size + _MESSAGES.size
    has_changes = len(content) >= at + _CHANGES.size
    wal_key, closed, *locked, wal_key_from = (
        _CHANGES.unpack_from(content, at) if has_changes else (None, 0, 0)
    )
    return KeysOfServer(
        path.with_name(f"{path.name}{MESSAGE_SUFFIX}"),
        UUID(bytes=keystore),
        Path(os.fsdecode(directory.split(b"\0", 1)[0])),
        exchange_key,
        code,
        started,
        UUID(bytes=master_key_id),
        message,
        problem.split(b"\0", 1)[0].decode(errors="replace"),
        wal_key,
        closed != 0,
        tuple(oid for oid in locked if oid),
        f"{wal_key_from >> 12:08X}{wal_key_from & 0xFFF:08X}",
    )


def _read_settled(path: Path, owner: int) -> bytes | None:
    """Read until two readings agree in all but the counters.

    The server writes meanwhile. What it stores before a number is there when the number is, but a
    processor other than x86 may have read it before the number.
    """
    content = _read(path, owner)
    for _ in range(_MOST_READINGS):
        again = _read(path, owner)
        if content is None or again is None or again[:_SETTLED] == content[:_SETTLED]:
            return again
        content = again
    return content


def _read(path: Path, owner: int) -> bytes | None:
    """Read a file that must be a regular one and belong to the server's user."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        # Root without CAP_DAC_OVERRIDE may still become that user.
        return read_as_owner(owner, path) if _is_plain(path.lstat(), owner) else None
    except OSError as error:
        if path.is_symlink():
            return None
        raise error
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_LONGEST) if _is_plain(os.fstat(file.fileno()), owner) else None


def _is_plain(status: os.stat_result, owner: int) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == owner
