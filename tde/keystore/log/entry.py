"""The form of the key log: one line of JSON per entry, chained and authenticated.

Each line ends the chain so far: it holds the SHA-256 of the line before. An entry that was written
while the keystore was open also has a code, HMAC-SHA256 under a key that is derived from the master
key, over all of its line before the code; through the chain it speaks for all lines before it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import pwd
import re
import socket
import sys
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from tde.keystore.crypto.derivation import derive_authentication_key
from tde.keystore.store.layout import LOG_NAME

LABEL = b"tde key log"
FIRST_PREVIOUS = bytes(32)
LONGEST_LINE = 64 * 1024
"""Bytes; a real one has about 400."""
LONGEST_LOG = 1 << 30
"""Bytes; more than two million entries."""
_CODE = re.compile(rb',"code":"([0-9a-f]{64})"}\n')
_CODE_BYTES = len(b',"code":""}\n') + 64
_CODE_LABEL, _SEAL_LABEL, _DOCUMENT_LABEL = b"code", b"seal", b"document"
_INDEX_LABEL = b"index"
_NO_LOGIN = "4294967295"
# Directly, because to read ten thousand lines with json.loads takes a third longer.
_DECODER = json.JSONDecoder()
_WORD = re.compile(r"[a-z][a-z-]{0,30}")


_origin = ""


def note_origin(text: str) -> None:
    """Have entries of this process say what its command was begun from, such as a web page."""
    global _origin
    _origin = text


class LogEntry(NamedTuple):
    """One entry; a named tuple, because there may be tens of thousands.

    Attributes:
        number: 1 for the first, also the number of its line.
        time: in UTC, from the clock of the machine.
        event: what happened, or was about to: an entry is written before the change.
        who: user, login, host, process and command of who did it, and through what.
        master_key_id: whose code it has; None without one.
        details: what else it says, by name.
        line: all of it, with the newline.
    """

    number: int
    time: datetime
    event: str
    who: Mapping[str, str | int]
    master_key_id: UUID | None
    details: Mapping[str, Any]
    previous: bytes
    line: bytes

    def has_code_of(self, key: bytes) -> bool:
        """Tell whether the code is that of a key that :func:`code_key` has returned."""
        found = _CODE.fullmatch(self.line, len(self.line) - _CODE_BYTES)
        if found is None:
            return False
        return hmac.compare_digest(_code(key, self.line[:-_CODE_BYTES]), found.group(1))

    def details_in_words(self, hidden: Collection[str]) -> str:
        """Return the details for people, without those that are named in ``hidden``."""
        return ", ".join(f"{n} {_words(v)}" for n, v in self.details.items() if n not in hidden)

    @property
    def digest(self) -> bytes:
        """What the next entry says of this one: 32 bytes."""
        return hashlib.sha256(self.line).digest()


def _words(value: object) -> str:
    """Return a value of an entry for people, names of keys with what is said of each."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} ({said})" if said else str(name) for name, said in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


class EntryError(ValueError):
    """A line is no entry; the message says why."""


def log_path(directory: Path) -> Path:
    """Return the path of the key log of a keystore."""
    return directory / LOG_NAME


def seal_key(secret: bytes) -> bytearray:
    """Return the key under which a rotation keeps the log secret of the old master key."""
    return bytearray(derive_authentication_key(bytearray(secret), _SEAL_LABEL))


def code_key(secret: bytes) -> bytes:
    """Return the key of the codes of entries, of a master key's log secret."""
    return derive_authentication_key(bytearray(secret), _CODE_LABEL)


def document_key(secret: bytes) -> bytes:
    """Return the key that seals documents, such as reports, with a master key's log secret."""
    return derive_authentication_key(bytearray(secret), _DOCUMENT_LABEL)


def index_key(secret: bytes) -> bytes:
    """Return the key of the code of the log's index, of a master key's log secret."""
    return derive_authentication_key(bytearray(secret), _INDEX_LABEL)


def pack_entry(
    number: int,
    previous: bytes,
    event: str,
    details: Mapping[str, Any],
    author: tuple[UUID, bytes] | None,
) -> bytes:
    """Return the line of an entry.

    Args:
        previous: digest of the line before; zeros for the first.
        author: id and log secret of the master key; None where the keystore is not open.
    """
    fields: dict[str, Any] = {
        "number": number,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "event": event,
        "who": current_author(),
        "details": dict(details),
        "previous": previous.hex(),
    }
    if author is None:
        return _json(fields) + b"\n"
    master_key_id, secret = author
    fields["master_key"] = master_key_id.hex
    begin = _json(fields)[:-1]
    return begin + b',"code":"' + _code(code_key(secret), begin) + b'"}\n'


def parse_entry(line: bytes) -> LogEntry:
    """Return an entry; whether it is authentic is another question.

    Raises:
        EntryError: it is none.
    """
    try:
        text = line.decode()
        fields, end = _DECODER.raw_decode(text)
        if text[end:] != "\n":
            raise EntryError("something stands behind it")
        master_key = fields.get("master_key")
        has_code = _CODE.fullmatch(line, max(0, len(line) - _CODE_BYTES)) is not None
        if (master_key is not None) != has_code:
            raise EntryError("it has a code and no master key, or the other way round")
        number = fields["number"]
        # No log has as many entries as bytes; what is no such number would stop who counts on.
        if type(number) is not int or not 0 <= number < LONGEST_LOG:
            raise EntryError("it has no number that a line can have")
        time = datetime.fromisoformat(fields["time"])
        if time.tzinfo is None:
            raise EntryError("its time has no time zone")
        return LogEntry(
            number,
            time,
            str(fields["event"]),
            dict(fields["who"]),
            None if master_key is None else _uuid(master_key),
            dict(fields["details"]),
            bytes.fromhex(fields["previous"]),
            line,
        )
    except EntryError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise EntryError("it is no entry of a key log") from error


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


@lru_cache(maxsize=8)
def _uuid(text: str) -> UUID:
    """Make a UUID once: most entries of a log have the same."""
    return UUID(hex=text)


def _code(key: bytes, begin: bytes) -> bytes:
    return hmac.digest(key, begin, "sha256").hex().encode()


def current_author() -> dict[str, str | int]:
    """Return who runs this process: user, login where somebody has logged in, host, command."""
    who: dict[str, str | int] = {"user": _name(os.geteuid())}
    login = _login()
    if login is not None:
        who["login"] = login
    if _origin:
        who["via"] = _origin
    return {**who, "host": socket.gethostname(), "process": os.getpid(), "command": _command()}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _login() -> str | None:
    """Return who has logged in, which sudo and su do not change; None where nobody has."""
    try:
        uid = Path("/proc/self/loginuid").read_text().strip()
    except OSError:
        return None
    return _name(int(uid)) if uid.isdecimal() and uid != _NO_LOGIN else None


def _command() -> str:
    """Return the program and, of ``tde``, the noun and the verb; never an argument."""
    words = [Path(sys.argv[0]).name if sys.argv else ""]
    if words[0] == "tde":
        for word in sys.argv[1:3]:
            if not _WORD.fullmatch(word) or "psql" in words:
                break
            words.append(word)
    return " ".join(words)
