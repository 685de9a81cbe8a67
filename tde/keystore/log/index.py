"""The index of the key log: the few lines that a start needs, so that it reads only the log's end.

Each opening adds a line, and a start asks which providers were removed, which clusters are known
and which keys they use. Without an index it would look for that in the openings of all years.

The index holds the lines of `KEPT_EVENTS` up to a place in the log, the SHA-256 of the last line
there, and a code under a key of the master key of now. It is a copy, and nothing is decided by it
that the log would not decide:

* It is made only where each line holds the digest of the one before, up to a line with a good
  code. So the digest stands for all lines in front of it, and with the rest of the log the index
  gives what the whole log gives. That is true of an older index too: to put one back gains nothing.
* Where the log has another line at that place, as one that is altered, shorter, or new, or where
  the code is not that of the master key of now, the index does not count, and the whole log is
  read. Who has an old master key can make no index.
* Lines that are altered in front of that place are no longer seen by a start, which goes on with
  what was proven. ``tde keystore log --verify``, ``history``, ``destroy`` and all others that
  decide something for good read the log itself.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tde.errors import KeystoreError, OsUserError
from tde.keystore.log.entry import (
    FIRST_PREVIOUS,
    LONGEST_LOG,
    EntryError,
    code_key,
    index_key,
    log_path,
    parse_entry,
)
from tde.keystore.store.files import exclusive_lock, read_private_file, write_atomically
from tde.keystore.store.layout import INDEX_NAME

KEPT_EVENTS = frozenset(
    {
        "rotate master key",
        "add provider",
        "remove provider",
        "serve cluster",
        "look at backup",
        "forget cluster",
        "activate keys",
        "deactivate keys",
        "mark key",
    }
)
LONGEST_REST = 1 << 20
"""Bytes behind the place of the index, about 2,700 entries; with more it is made anew."""
_FORMAT = "tde-key-log-index"
_VERSION = 1
_CODE_BYTES = 65  # 64 digits and a newline.


@dataclass(frozen=True)
class _Index:
    """An index; whether its code is good is another question.

    Attributes:
        end: where in the log the lines end that it stands for.
        last: SHA-256 of the last of them.
        last_bytes: its length.
        lines: those that are kept.
    """

    master_key: str
    end: int
    last: bytes
    last_bytes: int
    lines: bytes
    content: bytes
    code: bytes


def index_path(directory: Path) -> Path:
    """Return the path of the index of a keystore's key log."""
    return directory / INDEX_NAME


def lines_of_kept_events(directory: Path, author: tuple[UUID, bytes] | None) -> bytes:
    """Return all lines of `KEPT_EVENTS` of a key log, in their order, and some others.

    Args:
        directory: the keystore's.
        author: id and log secret of the master key; without it the code of the index is not
            checked, and what is decided by the lines must be decided again.

    Raises:
        FileNotFoundError: there is no log.
        KeystoreError: the log cannot be read.
    """
    index = _read(directory, author)
    kept, rest, place = b"", None, 0
    if index is not None:
        rest = _rest(directory, index)
        kept, place = index.lines, index.end
    if index is None or rest is None:
        index, kept, place = None, b"", 0
        rest = read_private_file(log_path(directory), LONGEST_LOG)
    if len(rest) > LONGEST_REST and author is not None:
        previous = FIRST_PREVIOUS if index is None else index.last
        _make(directory, author, kept, rest, place, previous)
    return kept + rest


def _read(directory: Path, author: tuple[UUID, bytes] | None) -> _Index | None:
    try:
        found = read_private_file(index_path(directory), LONGEST_LOG)
        content, code = found[:-_CODE_BYTES], found[-_CODE_BYTES:-1]
        header, lines = content.split(b"\n", 1)
        fields = json.loads(header)
        if (fields["format"], fields["version"]) != (_FORMAT, _VERSION):
            return None
        end, size = int(fields["end"]), int(fields["last_bytes"])
        last = bytes.fromhex(fields["last"])
        index = _Index(str(fields["master_key"]), end, last, size, lines, content, code)
    except (FileNotFoundError, KeystoreError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None  # OverflowError: JSON can write numbers that are infinite.
    if not 0 < size <= end <= LONGEST_LOG:
        return None
    return index if author is None or _has_code_of(index, author) else None


def _has_code_of(index: _Index, author: tuple[UUID, bytes]) -> bool:
    master_key_id, secret = author
    wanted = _code(secret, index.content)
    return index.master_key == master_key_id.hex and hmac.compare_digest(wanted, index.code)


def _rest(directory: Path, index: _Index) -> bytes | None:
    """Return the log behind the place of an index; ``None`` when that line is another one."""
    start = index.end - index.last_bytes
    found = read_private_file(log_path(directory), LONGEST_LOG, offset=start)
    last = found[: index.last_bytes]
    return found[index.last_bytes :] if hashlib.sha256(last).digest() == index.last else None


def _make(
    directory: Path,
    author: tuple[UUID, bytes],
    kept: bytes,
    rest: bytes,
    place: int,
    previous: bytes,
) -> None:
    """Store an index that goes further; what keeps it from that, as a full disk, is no error.

    Args:
        kept: the lines of the index before.
        rest: the log behind it.
        place: where the rest begins.
        previous: digest of the line in front of it.
    """
    master_key_id, secret = author
    lines = _proven(rest.splitlines(keepends=True), code_key(secret))
    if not lines or not _is_chain(lines, previous):
        return
    wanted = [f'"event":"{event}"'.encode() for event in KEPT_EVENTS]
    more = b"".join(line for line in lines if any(text in line for text in wanted))
    fields = {
        "format": _FORMAT,
        "version": _VERSION,
        "master_key": master_key_id.hex,
        "end": place + sum(map(len, lines)),
        "last": hashlib.sha256(lines[-1]).hexdigest(),
        "last_bytes": len(lines[-1]),
    }
    content = json.dumps(fields, separators=(",", ":")).encode() + b"\n" + kept + more
    with suppress(KeystoreError, OsUserError, OSError), exclusive_lock(directory, patience=0):
        write_atomically(index_path(directory), content + _code(secret, content) + b"\n")


def _proven(lines: list[bytes], key: bytes) -> list[bytes]:
    """Return the lines up to the last one with a good code."""
    for position in range(len(lines) - 1, -1, -1):
        with suppress(EntryError):
            if parse_entry(lines[position]).has_code_of(key):
                return lines[: position + 1]
    return []


def _is_chain(lines: list[bytes], previous: bytes) -> bool:
    """Tell whether each line holds the digest of the line before.

    They are not parsed, which of a large log takes ten times as long. A quotation mark within a
    text of JSON has a backslash, so this is a field; a line that has it elsewhere is another line.
    """
    for line in lines:
        if b'"previous":"' + previous.hex().encode() + b'"' not in line:
            return False
        previous = hashlib.sha256(line).digest()
    return True


def _code(secret: bytes, content: bytes) -> bytes:
    return hmac.digest(index_key(secret), content, "sha256").hex().encode()
