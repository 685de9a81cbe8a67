"""Reading the key log, and telling whether it is whole and authentic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tde.keystore.crypto.secret import SecretBuffer, wipe
from tde.keystore.crypto.wrapping import (
    NONCE_BYTES,
    TAG_BYTES,
    UnwrapError,
    Wrapped,
    new_nonce,
    unwrap,
    wrap,
)
from tde.keystore.log.entry import (
    FIRST_PREVIOUS,
    EntryError,
    LogEntry,
    code_key,
    log_path,
    parse_entry,
    seal_key,
)
from tde.keystore.store.files import read_private_file

LONGEST_LOG = 1 << 30
"""Bytes; more than two million entries."""
SEALED_BYTES = NONCE_BYTES + 32 + TAG_BYTES
FIRST_EVENT = "create keystore"
ROTATION_EVENT = "rotate master key"


@dataclass(frozen=True)
class KeyLog:
    """What the key log of a keystore says.

    Attributes:
        entries: those that could be read, the oldest first.
        problems: what is wrong with it, a sentence each; empty when nothing is.
        confirmed: how many of the first entries a code speaks for; None when no codes were checked.
    """

    path: Path
    entries: list[LogEntry]
    problems: list[str]
    confirmed: int | None = None

    @property
    def begins_with_the_keystore(self) -> bool:
        """Whether the first entry is that of the keystore's creation."""
        return bool(self.entries) and self.entries[0].event == FIRST_EVENT


def read_key_log(
    directory: Path, author: tuple[UUID, bytes] | None = None, *, every_code: bool = True
) -> KeyLog:
    """Read the key log of a keystore, and check the chain of its entries.

    Args:
        directory: the keystore's.
        author: id and log secret of the master key, to check the codes as well.
        every_code: without it no code is checked in front of the last good one. By the chain that
            one speaks for all lines before it, so nothing could be altered unseen.

    Raises:
        KeystoreError: the file cannot be read, or is open to others. A log that is missing is an
            empty one.
    """
    path = log_path(directory)
    try:
        content = read_private_file(path, LONGEST_LOG)
    except FileNotFoundError:
        return KeyLog(path, [], [], None if author is None else 0)
    entries, found = _parse(content)
    confirmed = None
    if author is not None:
        confirmed, wrong = _check_codes(entries, author, every_code=every_code)
        found += wrong
    problems = [f"line {number} of {path} {what}" for number, what in sorted(found)]
    return KeyLog(path, entries, problems, confirmed)


def read_entries_of(directory: Path, *events: str) -> list[LogEntry]:
    """Return the entries of some events, without a look at the others or at the chain.

    What a verb is about to write is compared with them; a log of ten thousand keys would otherwise
    cost each start of a server as much as a list of them. Lines that are no entries are left out.

    Raises:
        KeystoreError: as :func:`read_key_log`.
    """
    try:
        content = read_private_file(log_path(directory), LONGEST_LOG)
    except FileNotFoundError:
        return []
    return entries_in(content, *events)


def entries_in(content: bytes, *events: str) -> list[LogEntry]:
    """Return the same from the content of a log."""
    wanted = [f'"event":"{event}"'.encode() for event in events]
    found = []
    for line in content.splitlines(keepends=True):
        if any(text in line for text in wanted):
            try:
                entry = parse_entry(line)
            except EntryError:
                continue
            if entry.event in events:
                found.append(entry)
    return found


def sealing_context(keystore: UUID, old: UUID, new: UUID) -> bytes:
    """Return what the sealed log secret of a rotation is bound to."""
    return b"TDELOG\x00\x01" + keystore.bytes + old.bytes + new.bytes


def sealed_secret(secret: bytes, new_secret: bytes, keystore: UUID, old: UUID, new: UUID) -> bytes:
    """Return the log secret of an old master key for who has that of the new one.

    Each master key is the new one of one rotation, so its sealing key seals one message.
    """
    with _filled(seal_key(new_secret)) as key, _filled(bytearray(secret)) as content:
        made = wrap(key, content, new_nonce(), sealing_context(keystore, old, new))
    return made.nonce + made.ciphertext + made.tag


def _filled(content: bytearray) -> SecretBuffer:
    """Return a locked copy of a secret, which is wiped."""
    buffer = SecretBuffer(len(content))
    with buffer.view as view:
        view[:] = content
    wipe(content)
    return buffer


def _parse(content: bytes) -> tuple[list[LogEntry], list[tuple[int, str]]]:
    """Return the entries, and by line what is wrong with their form or their chain."""
    entries: list[LogEntry] = []
    problems: list[tuple[int, str]] = []
    previous = FIRST_PREVIOUS
    *lines, torn = content.split(b"\n")
    if torn:
        problems.append((len(lines) + 1, "is torn: a power cut came in its middle"))
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_entry(line + b"\n")
        except EntryError as error:
            problems.append((number, f"was altered: {error}"))
            previous = b""
            continue
        if entry.number != number:
            problems.append((number, f"has the number {entry.number}"))
        if entry.previous != previous:
            problems.append(
                (number, "does not follow the line before: lines were altered or removed")
            )
        entries.append(entry)
        previous = entry.digest
    return entries, problems


def _check_codes(
    entries: list[LogEntry], author: tuple[UUID, bytes], *, every_code: bool
) -> tuple[int, list[tuple[int, str]]]:
    """Return how many of the first entries a good code speaks for, and by line what is wrong."""
    master_key_id, secret = author
    key = code_key(secret)
    problems = []
    confirmed = 0
    # From the last to the first: each rotation keeps the secret of the master key before it, which
    # counts in front of it and no longer behind it. One that was interrupted has changed nothing.
    for position in range(len(entries), 0, -1):
        entry = entries[position - 1]
        if entry.event == ROTATION_EVENT and entry.details.get("new") == master_key_id.hex:
            before = _unsealed(entry, secret)
            if before is None:
                problems.append((entry.number, "does not lead to the master key before"))
                break
            master_key_id, secret = before
            key = code_key(secret)
        if entry.master_key_id is None:
            continue
        if entry.master_key_id != master_key_id or not entry.has_code_of(key):
            problems.append((entry.number, "was altered: its code does not fit"))
        else:
            confirmed = max(confirmed, position)
            if not every_code:
                break
    return confirmed, problems


def log_secret_of(
    entries: list[LogEntry], author: tuple[UUID, bytes], master_key_id: str
) -> bytes | None:
    """Return the log secret of an earlier master key, or of the one of now.

    Args:
        author: id and log secret of the master key of now.
        master_key_id: of the earlier one, 32 digits.

    Returns:
        None when the log does not lead back to it.
    """
    current, secret = author
    for entry in reversed(entries):
        if current.hex == master_key_id:
            break
        if entry.event == ROTATION_EVENT and entry.details.get("new") == current.hex:
            before = _unsealed(entry, secret)
            if before is None:
                return None
            current, secret = before
    return secret if current.hex == master_key_id else None


def _unsealed(entry: LogEntry, secret: bytes) -> tuple[UUID, bytes] | None:
    """Return the master key's id and log secret that a rotation has kept for the next master key.

    Args:
        secret: log secret of the new master key.

    Returns:
        None when the entry was altered.
    """
    try:
        keystore, old, new = (UUID(hex=entry.details[n]) for n in ("keystore", "old", "new"))
        sealed = bytes.fromhex(entry.details["sealed"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if len(sealed) != SEALED_BYTES:
        return None
    parts = Wrapped(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:-TAG_BYTES], sealed[-TAG_BYTES:])
    context = sealing_context(keystore, old, new)
    try:
        with (
            _filled(seal_key(secret)) as key,
            unwrap(key, parts, context) as unsealed,
            unsealed.view as view,
        ):
            return old, bytes(view)
    except UnwrapError:
        return None
