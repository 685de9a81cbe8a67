"""Destroying a key: its record is overwritten and removed, and a receipt tells of it.

In this order, each step durable before the next:

1. the key log says that it is destroyed, with the digest of its record;
2. the record gets a name that nobody reads keys from;
3. the caller looks once more whether anything needs it; then it gets its name back;
4. the record is overwritten with random bytes;
5. it is removed;
6. the key log says that it is gone.

After a kill at any moment the keystore opens and the command can be repeated. A key whose record
has lost its name is either whole under the other one, or destroyed with an entry in the log.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tde.errors import KeyMissingError, KeystoreDamagedError, KeystoreError
from tde.keystore.lifecycle import events
from tde.keystore.lifecycle.changes import LONGEST_REASON
from tde.keystore.lifecycle.receipt import destruction_of, make_receipt
from tde.keystore.log.entry import LogEntry
from tde.keystore.log.reading import proven_entries, read_key_log
from tde.keystore.open_master_key import OpenMasterKey
from tde.keystore.store.files import (
    exclusive_lock,
    read_private_file,
    sync_directory,
    temporary_path,
)
from tde.keystore.store.layout import destroying_path, keys_path, record_path
from tde.keystore.store.reading import RecordReader
from tde.keystore.store.record import NAMED_RECORD_BYTES, KeyOwner, OwnerKind, parse_record
from tde.whole_writes import write_all

_CAN_BE_DESTROYED = (OwnerKind.LATER_WAL, OwnerKind.NAMED)
# An entry of the log has a longest line, which paths of places must not reach.
_PLACES_OF_AN_ENTRY = 100


def require_destroyable(owner: KeyOwner) -> None:
    """Refuse keys that a keystore cannot be without.

    Raises:
        KeystoreError: it is one of them.
    """
    if owner.kind in _CAN_BE_DESTROYED:
        return
    why = (
        "the codes of the key map and of messages to servers are derived from it"
        if owner.kind is OwnerKind.WAL
        else "every cluster of this keystore needs it"
    )
    raise KeystoreError(
        f"the key of {owner} cannot be destroyed: {why}",
        remedy="Later keys of WAL and keys of tablespaces with an id can be. When the cluster and "
        "all its backups are gone, destroy the whole keystore and its backups instead.",
    )


def destroy_key(
    keystore: OpenMasterKey,
    owner: KeyOwner,
    *,
    reason: str = "",
    looked_at: Sequence[str] = (),
    look_again: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Destroy a key, finish a destruction that was interrupted, or tell again of one.

    Args:
        reason: of at most 500 characters, for the log and the receipt.
        looked_at: clusters, backups and archives that do not need it.
        look_again: raises when one does; called when no new user can find the key any more.

    Returns:
        The receipt (:mod:`.receipt`).

    Raises:
        KeyMissingError: there is no such key, and there never was one.
        KeystoreDamagedError: the key log was altered, so that nothing is proven by it.
        KeystoreError: it must not be destroyed, or a step failed. It says which, and whether the
            key is still there; repeating the call goes on.
    """
    require_destroyable(owner)
    if len(reason) > LONGEST_REASON:
        raise KeystoreError(f"the reason has {len(reason)} characters, more than {LONGEST_REASON}")
    with exclusive_lock(keystore.path):
        keystore.require_rotated()
        entries = proven_entries(keystore.path, keystore.log_author())
        record, hidden = record_path(keystore.path, owner), destroying_path(keystore.path, owner)
        is_present, is_hidden = os.path.lexists(record), os.path.lexists(hidden)
        done = destruction_of(entries, owner.file_name)
        if not is_present and not is_hidden and done is not None:
            return make_receipt(keystore, *done, entries)
        begun = _begun(entries, owner)
        if not is_present and begun is None:
            raise KeyMissingError(
                f"the keystore {keystore.path} has no key {owner.file_name}, and its log does not "
                "tell of its destruction",
                remedy="tde keystore verify says what is missing.",
            )
        if is_present:
            begun = _begin(keystore, owner, begun, reason, looked_at)
            _hide(keystore, owner, look_again)
        assert begun is not None  # A hidden record without an entry is refused above.
        overwritten = _erase(owner, hidden)
        finished = _finish(keystore, owner, begun, overwritten)
        log = read_key_log(keystore.path, keystore.log_author())
        return make_receipt(keystore, begun, finished, log.counting)


def begin_again(keystore: OpenMasterKey, owner: KeyOwner) -> bool:
    """Give a record its name back whose destruction was interrupted while it was still whole.

    So whether anything needs the key is asked again with the key in hand.

    Returns:
        Whether the record is there and whole.

    Raises:
        KeystoreError: it is there twice, or a step failed.
    """
    with exclusive_lock(keystore.path):
        keystore.require_rotated()
        record, hidden = record_path(keystore.path, owner), destroying_path(keystore.path, owner)
        if not os.path.lexists(hidden):
            return os.path.lexists(record)
        if os.path.lexists(record):
            raise KeystoreDamagedError(
                f"{hidden} is being destroyed, and {record} was put back by hand",
                remedy=f"Remove the one that is not wanted: rm {record}, to go on.",
            )
        begun = _begun(proven_entries(keystore.path, keystore.log_author()), owner)
        content = read_private_file(hidden, NAMED_RECORD_BYTES)
        digest = hashlib.sha256(content).hexdigest()
        if begun is not None and begun.details.get("sha256") != digest:
            return False  # It is overwritten, at least in part.
        _rename(hidden, record)
        return True


def _begun(entries: list[LogEntry], owner: KeyOwner) -> LogEntry | None:
    """Return the entry of a destruction that was not taken back."""
    begun = None
    for entry in entries:
        if entry.details.get("key") == owner.file_name:
            if entry.event == events.DESTROY:
                begun = entry
            elif entry.event in (events.KEEP, events.CREATE):
                begun = None
    return begun


def _begin(
    keystore: OpenMasterKey,
    owner: KeyOwner,
    begun: LogEntry | None,
    reason: str,
    looked_at: Sequence[str],
) -> LogEntry:
    content = RecordReader(keystore.path, keys_path(keystore.path)).read_bytes(owner)
    algorithm = parse_record(content, owner.file_name).header.algorithm
    if algorithm is None:
        raise KeystoreError(
            f"{owner.file_name} is a plaintext entry, and no key",
            remedy="It holds nothing that could be destroyed.",
        )
    digest = hashlib.sha256(content).hexdigest()
    if begun is not None and begun.details.get("sha256") == digest:
        return begun  # It was interrupted before the record had lost its name.
    more = len(looked_at) - _PLACES_OF_AN_ENTRY
    places = [*looked_at[:_PLACES_OF_AN_ENTRY], *([f"and {more} more"] if more > 0 else [])]
    return keystore.log(
        events.DESTROY,
        key=owner.file_name,
        algorithm=algorithm.label,
        sha256=digest,
        reason=reason,
        looked_at=places,
    )


def _hide(keystore: OpenMasterKey, owner: KeyOwner, look_again: Callable[[], object]) -> None:
    """Take the record its name, and give it back when somebody has begun to need the key."""
    record, hidden = record_path(keystore.path, owner), destroying_path(keystore.path, owner)
    _rename(record, hidden)
    try:
        look_again()
    except BaseException as error:
        _rename(hidden, record)
        keystore.log(events.KEEP, key=owner.file_name, reason=str(error)[:LONGEST_REASON])
        raise


def _rename(path: Path, new: Path) -> None:
    try:
        path.rename(new)
        sync_directory(path.parent)
    except OSError as error:
        raise KeystoreError(
            f"could not rename {path}: {error.strerror}",
            remedy="The key is still there. Remove the cause, and repeat the command.",
        ) from error


def _erase(owner: KeyOwner, hidden: Path) -> bool:
    """Overwrite and remove what there is of a record; tell whether it was overwritten."""
    keys = hidden.parent
    overwritten = False
    try:
        # The other one is what a write of this record that was interrupted has left.
        for path in (hidden, temporary_path(keys / owner.file_name)):
            if not os.path.lexists(path):
                continue
            overwritten = _overwrite(path) or overwritten
            path.unlink()
        sync_directory(keys)
    except OSError as error:
        raise KeystoreError(
            f"could not overwrite and remove {hidden}: {error.strerror}",
            remedy="Nothing reads the key any more, but it may still be on the disk. Remove the "
            "cause, and repeat the command.",
        ) from error
    return overwritten


def _overwrite(path: Path) -> bool:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return False
        write_all(fd, os.urandom(status.st_size))
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def _finish(
    keystore: OpenMasterKey, owner: KeyOwner, begun: LogEntry, overwritten: bool
) -> LogEntry:
    try:
        return keystore.log(
            events.DESTROYED,
            key=owner.file_name,
            entry=begun.number,
            # A run that was killed between the two has overwritten it before it removed it.
            overwritten=overwritten or "by a run that was interrupted",
        )
    except KeystoreError as error:
        raise KeystoreError(
            f"the key {owner.file_name} is destroyed, but its receipt is missing: {error}",
            remedy="Remove the cause, and repeat the command: it writes the receipt.",
        ) from error
