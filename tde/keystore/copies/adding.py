"""Keys that a keystore lacks, from another copy of it."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from tde.errors import KeystoreDamagedError, KeystoreError, KeystoreExistsError
from tde.keystore.copies.content import (
    KeystoreContent,
    compare,
    read_content,
    require_apart,
    require_equal,
)
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.keystore import MOST_LATER_WAL_KEYS, Keystore
from tde.keystore.lifecycle import events
from tde.keystore.log.reading import entries_in, proven_entries
from tde.keystore.store.files import exclusive_lock, write_all_atomically
from tde.keystore.store.layout import LOG_NAME, record_path
from tde.keystore.store.reading import RecordReader, list_owners
from tde.keystore.store.record import PAYLOAD_BYTES, KeyOwner, KeyRecord, OwnerKind, parse_record

# Of key records in the key log, with a time for each: an entry has a longest line.
_NAMES_OF_AN_ENTRY = 400


def add_missing_keys(
    source: Path, keystore: Keystore, other: Keystore | None = None
) -> list[KeyOwner]:
    """Add the key records that a keystore lacks from another copy of it: all of them or none.

    Each record must open with the master key. None is replaced or removed.

    Args:
        source: the directory of the other copy.
        keystore: open, and gets the keys.
        other: the other copy, open, which is needed where the master key of one was rotated.

    Returns:
        Whose keys were added.

    Raises:
        KeystoreExistsError: both have a key for the same owner, and not the same one.
        KeystoreDamagedError: a record of the other copy is damaged.
        KeystoreError: it is a copy of another keystore, or cannot be read or written.
    """
    path = keystore.path
    require_apart(source.resolve(), path)
    content = read_content(source.resolve(), with_auto_open=False)
    _require_same_keystore(content, keystore, other)
    if other is not None:
        other.require_rotated()
    with exclusive_lock(path):
        keystore.require_rotated()
        present = set(list_owners(path))
        _require_own_records(keystore, content, present)
        if other is not None:
            content = _rewrapped(content, keystore, other, present)
        require_equal(path, content, present)
        added = [owner for owner in content.records if owner not in present]
        _require_places(path, [*present, *added])
        _require_not_destroyed(keystore, content.path, added)
        with SecretBuffer(PAYLOAD_BYTES) as payload:
            for owner in added:
                _authenticate(content, owner, keystore, payload)
        times = _times_of_creation(content, (other or keystore).log_author())
        for start in range(0, len(added), _NAMES_OF_AN_ENTRY):
            names = [owner.file_name for owner in added[start : start + _NAMES_OF_AN_ENTRY]]
            created = {name: times[name] for name in names if name in times}
            keystore.log("add keys", source=str(content.path), keys=names, created=created)
        files = {record_path(path, owner): content.records[owner] for owner in added}
        write_all_atomically(files)
        compare(files)
    return added


def _times_of_creation(content: KeystoreContent, author: tuple[UUID, bytes]) -> dict[str, str]:
    """Return when each key of the other copy was made, as far as its log proves it."""
    times: dict[str, str] = {}
    log = content.others.get(LOG_NAME, b"")
    for entry in entries_in(log, events.CREATE, events.ADD, author=author):
        if entry.event == events.CREATE:
            times[str(entry.details.get("key"))] = entry.time.isoformat()
        elif isinstance(found := entry.details.get("created"), Mapping):
            times.update({name: time for name, time in found.items() if isinstance(time, str)})
    return times


def _require_same_keystore(
    content: KeystoreContent, keystore: Keystore, other: Keystore | None
) -> None:
    if content.header.uuid != keystore.uuid:
        raise KeystoreError(
            f"{content.path} is another keystore, {content.header.uuid.hex}, and not a copy of "
            f"{keystore.path}, {keystore.uuid.hex}",
            remedy="Nothing was changed. Name a copy of the same keystore.",
        )
    if content.header.master_key_id != (other or keystore).master_key_id:
        raise KeystoreError(
            f"{content.path} has another master key than {(other or keystore).path}",
            remedy="Nothing was changed. Repeat the command.",
        )


def _require_own_records(
    keystore: Keystore, content: KeystoreContent, present: set[KeyOwner]
) -> None:
    """Name a key file that does not fit the keystore it is in, as one that was copied by hand.

    Raises:
        KeystoreDamagedError: there is one, in place of a key that the other copy has.
    """
    reader = RecordReader(keystore.path)
    is_same_master_key = content.header.master_key_id == keystore.master_key_id
    with SecretBuffer(PAYLOAD_BYTES) as payload:
        for owner in content.records:
            is_equal = owner in present and reader.read_bytes(owner) == content.records[owner]
            if owner not in present or (is_same_master_key and is_equal):
                continue
            try:
                keystore.authenticate(reader.read(owner), owner, payload)
            except KeystoreDamagedError as error:
                file = record_path(keystore.path, owner)
                raise KeystoreDamagedError(
                    str(error),
                    remedy=f"Nothing was added. Move {file} away, and repeat the command.",
                ) from error


def _require_places(path: Path, owners: Iterable[KeyOwner]) -> None:
    """Refuse more keys of WAL than a server has places for: it would lack any of them."""
    count = sum(owner.kind is OwnerKind.LATER_WAL for owner in owners)
    if count > MOST_LATER_WAL_KEYS:
        raise KeystoreError(
            f"with these {path} would have {count + 1} keys for WAL, and a server can hold "
            f"{MOST_LATER_WAL_KEYS + 1}",
            remedy="Rotate the keys of WAL less often, or encrypt the cluster with a new keystore: "
            "tde pg decrypt, then tde pg encrypt.",
        )


def _require_not_destroyed(keystore: Keystore, source: Path, added: Iterable[KeyOwner]) -> None:
    """Refuse to bring back what an officer has destroyed, as from a backup from before.

    Raises:
        KeystoreExistsError: the key log tells of such a destruction, and proves it: the hint is to
            remove the key from a backup, which may be the last one.
        KeystoreDamagedError: the key log was altered.
    """
    path = keystore.path
    destroyed = events.destroyed_keys(proven_entries(path, keystore.log_author()))
    names = [owner.file_name for owner in added if owner.file_name in destroyed]
    if names:
        entry = destroyed[names[0]]
        raise KeystoreExistsError(
            f"the key {names[0]} was destroyed on {entry.time:%Y-%m-%d} (entry {entry.number} of "
            f"the key log of {path}), and {source} still has it",
            # That may be the last copy of a key which was destroyed by mistake.
            remedy="Nothing was added. If a cluster misses this key, restore that copy beside this "
            f"keystore (tde keystore restore {source} --keystore ANOTHER), and start the cluster "
            "with it. To bring only the other keys, restore it, destroy the key there as well, and "
            "copy from there.",
        )


def _rewrapped(
    content: KeystoreContent, keystore: Keystore, other: Keystore, present: set[KeyOwner]
) -> KeystoreContent:
    """Return the content with records for this keystore's master key.

    Where this keystore has the same key already, the record is its own.
    """
    own = RecordReader(keystore.path)
    records = {}
    with SecretBuffer(PAYLOAD_BYTES) as payload, SecretBuffer(PAYLOAD_BYTES) as ours:
        for owner in content.records:
            record = _authenticate(content, owner, other, payload)
            records[owner] = keystore.rewrap(record, owner, other)
            if owner not in present:
                continue
            present_record = own.read(owner)
            keystore.authenticate(present_record, owner, ours)
            with payload.view as wanted, ours.view as found:
                if hmac.compare_digest(wanted, found):
                    records[owner] = present_record.pack()
    return replace(content, records=records)


def _authenticate(
    content: KeystoreContent, owner: KeyOwner, keystore: Keystore, payload: SecretBuffer
) -> KeyRecord:
    file = record_path(content.path, owner)
    record = parse_record(content.records[owner], str(file))
    try:
        keystore.authenticate(record, owner, payload)
    except KeystoreDamagedError as error:
        raise KeystoreDamagedError(
            f"{file} is damaged or was altered: it does not match the master key",
            remedy="Nothing was changed. Take another copy, or remove that file from this one.",
        ) from error
    return record
