"""Reading the key log, and telling whether it is whole and authentic."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from tde.errors import KeystoreDamagedError
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
    LONGEST_LOG,
    EntryError,
    LogEntry,
    code_key,
    log_path,
    parse_entry,
    seal_key,
)
from tde.keystore.log.index import KEPT_EVENTS, lines_of_kept_events
from tde.keystore.log.uncoded import CREATE_EVENT, TELLING_OF_A_KEY, without_needed_code
from tde.keystore.store.files import read_private_file

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
        left_out: positions of entries that decide nothing: they lack a code that they need, or,
            when codes were checked, have a wrong one.
    """

    path: Path
    entries: list[LogEntry]
    problems: list[str]
    confirmed: int | None = None
    left_out: frozenset[int] = frozenset()

    @property
    def counting(self) -> list[LogEntry]:
        """The entries that something may be decided by."""
        return _without(self.entries, self.left_out)

    @property
    def begins_with_the_keystore(self) -> bool:
        """Whether the first entry is that of the keystore's creation."""
        first = self.entries[:1]
        return bool(first) and first[0].event == FIRST_EVENT and 0 not in self.left_out


def read_key_log(directory: Path, author: tuple[UUID, bytes] | None = None) -> KeyLog:
    """Read the key log of a keystore, and check the chain of its entries.

    Args:
        directory: the keystore's.
        author: id and log secret of the master key, to check the codes as well.

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
    wrong = without_needed_code(entries)
    found += [(entries[position].number, what) for position, what in wrong.items()]
    left_out = set(wrong)
    confirmed = None
    if author is not None:
        checked = _check_codes(entries, author)
        confirmed = checked.confirmed
        found += checked.problems
        left_out |= checked.left_out
    problems = [f"line {number} of {path} {what}" for number, what in sorted(found)]
    return KeyLog(path, entries, problems, confirmed, frozenset(left_out))


def proven_entries(directory: Path, author: tuple[UUID, bytes]) -> list[LogEntry]:
    """Return all entries of a log that is whole, for what cannot be taken back.

    Args:
        author: id and log secret of the master key.

    Raises:
        KeystoreDamagedError: the log was altered; it says where.
        KeystoreError: as :func:`read_key_log`.
    """
    log = read_key_log(directory, author)
    if log.problems:
        raise altered_log(log.path, log.problems)
    return log.counting


def altered_log(path: Path, problems: Sequence[str]) -> KeystoreDamagedError:
    """Return the error of who must not decide anything by a log that was altered."""
    return KeystoreDamagedError(
        f"the key log was altered, so what it tells of keys and clusters is not proven: "
        f"{problems[0]}",
        remedy="Nothing was changed. Compare it with syslog and with the log in backups of the "
        f"keystore, and find out who has written to {path.parent}. Then put {path.name} of a "
        "backup in its place, or move it away: a new one begins, which knows no clusters, so "
        "name all of them and their backups to tde keystore destroy.",
    )


def read_entries_of(
    directory: Path, *events: str, author: tuple[UUID, bytes] | None
) -> list[LogEntry]:
    """Return the entries of some events, without a look at the others or at the chain.

    What a verb is about to write is compared with them; a log of ten thousand keys would otherwise
    cost each start of a server as much as a list of them. Left out are lines that are no entries,
    and entries that :class:`KeyLog` leaves out.

    Where the log has an index (:mod:`.index`), events of that kind are read from there and from the
    end of the log.

    Args:
        author: as for :func:`read_key_log`.

    Raises:
        KeystoreError: as :func:`read_key_log`.
    """
    try:
        if KEPT_EVENTS.issuperset(events):
            content = lines_of_kept_events(directory, author)
        else:
            content = read_private_file(log_path(directory), LONGEST_LOG)
    except FileNotFoundError:
        return []
    return entries_in(content, *events, author=author)


def entries_in(content: bytes, *events: str, author: tuple[UUID, bytes] | None) -> list[LogEntry]:
    """Return the same from the content of a log."""
    # Of these depends which of the others count.
    needed = {*events, *((ROTATION_EVENT,) if author is not None else ())}
    needed.update(TELLING_OF_A_KEY if CREATE_EVENT in events else ())
    wanted = [f'"event":"{event}"'.encode() for event in needed]
    found = []
    for line in content.splitlines(keepends=True):
        if any(text in line for text in wanted):
            try:
                entry = parse_entry(line)
            except EntryError:
                continue
            if entry.event in needed:
                found.append(entry)
    left_out = set(without_needed_code(found))
    if author is not None:
        left_out |= _check_codes(found, author).left_out
    return [entry for entry in _without(found, left_out) if entry.event in events]


def _without(entries: list[LogEntry], left_out: Collection[int]) -> list[LogEntry]:
    if not left_out:
        return entries
    return [entry for position, entry in enumerate(entries) if position not in left_out]


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


@dataclass(frozen=True)
class _Codes:
    """What the check of all codes has found.

    Attributes:
        confirmed: how many of the first entries a good code speaks for.
        problems: by line what is wrong.
        left_out: positions of entries with a code that is not proven.
    """

    confirmed: int
    problems: list[tuple[int, str]]
    left_out: set[int]


def _check_codes(entries: list[LogEntry], author: tuple[UUID, bytes]) -> _Codes:
    """Check every code: a good one speaks for lines before it, but not for who wrote them."""
    master_key_id, secret = author
    key = code_key(secret)
    found = _Codes(0, [], set())
    confirmed = 0
    # From the last to the first: each rotation keeps the secret of the master key before it, which
    # counts in front of it and no longer behind it. One that was interrupted has changed nothing.
    for position in range(len(entries) - 1, -1, -1):
        entry = entries[position]
        if entry.master_key_id is None:
            continue
        if entry.event == ROTATION_EVENT and entry.details.get("new") == master_key_id.hex:
            before = _unsealed(entry, secret)
            if before is None:
                found.problems.append((entry.number, "does not lead to the master key before"))
                found.left_out.update(
                    at for at in range(position + 1) if entries[at].master_key_id is not None
                )
                break
            master_key_id, secret = before
            key = code_key(secret)
        if entry.master_key_id != master_key_id or not entry.has_code_of(key):
            found.problems.append((entry.number, "was altered: its code does not fit"))
            found.left_out.add(position)
        else:
            confirmed = max(confirmed, position + 1)
    return replace(found, confirmed=confirmed)


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
