"""Which lines of a cluster's configuration a person has started it with (docs/format.md, 6).

Whoever may write to the volume adds `archive_command` to a file and has a program run at the next
start. The configuration is plain and belongs to the DBA, so nothing is refused: new lines are
named. The record of the others lies in the keystore, not beside the data, because status and doctor
have no key to check it with: there, who writes to the data only could add to it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import (
    DataDirectoryError,
    KeystoreDamagedError,
    KeystoreError,
    OsUserError,
    TdeError,
)
from tde.postgres.cluster.configuration import files_to_look_through
from tde.postgres.server.config_files import ProgramLine, program_lines
from tde.postgres.server.os_user import OsUser, run_as
from tde.printable import printable

if TYPE_CHECKING:
    from tde.keystore import Keystore

LABEL = b"tde accepted lines"

_MAGIC = b"TDELIN\x00\x01"
_SALT_BYTES = 16
_HEADER_BYTES = 32  # The magic, eight zeros, the salt.
_DIGEST_BYTES = 32
_SAID = 20  # Lines at a start; whoever adds thousands shall not fill the log.
_LONGEST = 1 << 20  # Bytes; a real one has some hundred.

_APPEND = 'umask 077; cat >> "$1"'

_log = logging.getLogger(__name__)


def record_file(keystore: Path, data_directory: Path) -> Path:
    """Return where the record of a cluster is; the cluster counts by the place where it lies."""
    place = hashlib.sha256(os.fsencode(data_directory.resolve())).hexdigest()[:32]
    return keystore.resolve() / f"accepted-lines.{place}"


def new_lines(
    data_directory: Path, keystore: Path, arguments: Sequence[str], key: bytes | None = None
) -> tuple[ProgramLine, ...]:
    """Return the lines that were not there when the cluster was last started by hand.

    Args:
        arguments: of the server, at its last start or at the one to come.
        key: authenticates the record; without it only its form is checked.

    Raises:
        KeystoreError: the record cannot be used.
        OSError: the configuration cannot be read.
    """
    found = _lines_of(data_directory, arguments)
    if not found:
        return ()
    record = _read(record_file(keystore, data_directory), key)
    if record is None:
        return found
    salt, accepted = record
    return tuple(line for line in found if _digest(salt, line) not in accepted)


def accept_hint(data_directory: Path) -> str:
    """Return what to do about new lines."""
    return (
        "Look at it in its file. If it is not yours, remove it before the next start or reload, "
        "and find out who may write to the volume. If it is, accept it: "
        f"tde pg accept -D {data_directory}"
    )


def accept_lines(
    data_directory: Path, keystore: Keystore, arguments: Sequence[str]
) -> tuple[ProgramLine, ...]:
    """Record that a person wants the lines that the cluster has now, and return them.

    Raises:
        KeystoreError: the record cannot be written.
        OSError: the configuration cannot be read.
    """
    lines = _lines_of(data_directory, arguments)
    _write(data_directory, keystore, lines)
    return lines


class LinesOfStart:
    """The lines with which a server is about to be started, and what is said about them."""

    def __init__(self, data_directory: Path, keystore: Keystore, arguments: Sequence[str]) -> None:
        self._directory = data_directory
        self._keystore = keystore
        self._lines: tuple[ProgramLine, ...] = ()
        self.messages: list[str] = []
        try:
            self._lines = _lines_of(data_directory, arguments)
            new = new_lines(
                data_directory, keystore.path, arguments, keystore.authentication_key(LABEL)
            )
        except KeystoreError as error:
            self.messages.append(printable(f"{error}. {error.remedy}"))
            new = self._lines
        except (OSError, OsUserError, DataDirectoryError) as error:
            self.messages.append(printable(f"the configuration could not be looked at: {error}"))
            new = ()
        self.messages += [self._message(line) for line in new[:_SAID]]
        if len(new) > _SAID:
            self.messages.append(f"{len(new) - _SAID} more such lines: see tde pg status")

    def _message(self, line: ProgramLine) -> str:
        accepted = (
            "it counts as accepted from this start on"
            if self._keystore.by_hand
            else f"if it is yours: tde pg accept -D {printable(str(self._directory))}"
        )
        return (
            "new since the last start by hand, and runs a program or loads a library: "
            f"{line} ({accepted})"
        )

    def tell(self, log: Path, os_user: OsUser | None) -> None:
        """Say it on standard error and in the server's log, before the server runs anything."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        for message in self.messages:
            _log.warning("%s", message)
        if self.messages:
            text = "".join(f"{now} tde WARNING:  {message}\n" for message in self.messages)
            command: list[str | Path] = ["/bin/sh", "-c", _APPEND, "sh", log]
            try:
                failure = run_as(os_user, command, text=text).stderr.strip()
            except OSError as error:
                failure = str(error)
            if failure:  # It was said on standard error, and a start does not depend on the log.
                _log.warning("it is not in the log: %s", printable(failure))

    def accept(self) -> None:
        """Record the lines, if a person has typed the passphrase for this start."""
        if not self._keystore.by_hand:
            return
        try:
            _write(self._directory, self._keystore, self._lines)
        except (TdeError, OSError) as error:
            _log.warning("the lines of the configuration stay new: %s", error)


def check_record(path: Path, key: bytes | None) -> None:
    """Check a record as it lies in a keystore.

    Args:
        key: authenticates it; without it only its form is checked.

    Raises:
        KeystoreError: it cannot be used.
    """
    _read(path, key)


def _lines_of(data_directory: Path, arguments: Sequence[str]) -> tuple[ProgramLine, ...]:
    files = files_to_look_through(data_directory, arguments)
    return program_lines(files, data_directory, arguments)


def _write(data_directory: Path, keystore: Keystore, lines: Iterable[ProgramLine]) -> None:
    from tde.keystore.store.files import exclusive_lock, write_atomically

    path = record_file(keystore.path, data_directory)
    key = keystore.authentication_key(LABEL)
    wanted = {(line.name, line.value): line for line in lines}
    if not wanted and not path.exists():
        return
    salt = secrets.token_bytes(_SALT_BYTES)
    digests = sorted(_digest(salt, line) for line in wanted.values())
    content = _MAGIC + bytes(8) + salt + b"".join(digests)
    with exclusive_lock(keystore.path):
        write_atomically(path, content + _code(key, path, content))


def _read(path: Path, key: bytes | None) -> tuple[bytes, frozenset[bytes]] | None:
    """Return the salt and the digests; ``None`` when nothing was ever accepted."""
    from tde.keystore.store.files import read_private_file

    try:
        data = read_private_file(path, _LONGEST)
    except FileNotFoundError:
        return None
    content, code = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if (
        len(content) < _HEADER_BYTES
        or (len(content) - _HEADER_BYTES) % _DIGEST_BYTES
        or content[:8] != _MAGIC
        or any(content[8:16])
    ):
        raise _damaged(path)
    if key is not None and not hmac.compare_digest(_code(key, path, content), code):
        raise _damaged(path)
    digests = range(_HEADER_BYTES, len(content), _DIGEST_BYTES)
    accepted = frozenset(content[at : at + _DIGEST_BYTES] for at in digests)
    return content[16:_HEADER_BYTES], accepted


def _digest(salt: bytes, line: ProgramLine) -> bytes:
    text = line.name.encode("latin-1", "replace") + b"\0" + line.value
    return hashlib.sha256(salt + text).digest()


def _code(key: bytes, path: Path, content: bytes) -> bytes:
    # With its name, so that the record of one cluster does not stand for another.
    return hmac.new(key, path.name.encode() + content, hashlib.sha256).digest()


def _damaged(path: Path) -> KeystoreDamagedError:
    return KeystoreDamagedError(
        f"the record of accepted lines {path} is damaged or was altered",
        remedy="Look at the configuration; tde pg accept writes the record again.",
    )
