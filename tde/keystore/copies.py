"""Copies of a keystore: a backup, its way back, and keys that another copy lacks.

A key record is never replaced and never removed, here as elsewhere. keystore.json is written last,
so a copy that was interrupted is no keystore yet, and the command can be repeated.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from tde.errors import (
    KeystoreDamagedError,
    KeystoreError,
    KeystoreExistsError,
    KeystoreMissingError,
)
from tde.keystore.completeness import missing_keys
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.keystore import MOST_LATER_WAL_KEYS, Keystore
from tde.keystore.lifecycle import events
from tde.keystore.log.entry import LONGEST_LOG
from tde.keystore.log.reading import entries_in, proven_entries
from tde.keystore.log.writing import write_entry
from tde.keystore.store.document import KeystoreHeader
from tde.keystore.store.files import exclusive_lock, read_private_file, write_all_atomically
from tde.keystore.store.layout import (
    AUTO_OPEN_NAME,
    LOG_NAME,
    LONGEST_FILE,
    RecordReader,
    another_master_key,
    check_belongs,
    check_unused_names,
    companions,
    current_envelopes,
    document_path,
    foreign_files,
    is_existing_place,
    keys_path,
    list_owners,
    prepare_directory,
    prepare_keys_directory,
    prepare_unlock_directory,
    read_document,
    record_path,
    require_no_rotation,
    unlock_path,
)
from tde.keystore.store.record import PAYLOAD_BYTES, KeyOwner, KeyRecord, OwnerKind, parse_record

_MOST_NAMED = 5
# Of key records in the key log, with a time for each: an entry has a longest line.
_NAMES_OF_AN_ENTRY = 400


@dataclass(frozen=True)
class KeystoreContent:
    """The files of a keystore at one moment.

    Attributes:
        others: by name, what lies beside the records and keystore.json.
        left_out: what is no file of a keystore.
    """

    path: Path
    header: KeystoreHeader
    document: bytes
    records: Mapping[KeyOwner, bytes]
    others: Mapping[str, bytes]
    left_out: list[Path]

    @property
    def providers(self) -> list[str]:
        """The names of the providers that open it."""
        return [Path(name).name.partition(".")[0] for name in self.others if "/" in name]

    def missing_keys(self) -> list[KeyOwner]:
        """Return whose keys its cluster needs and it has not."""
        present = {
            owner: parse_record(data, owner.file_name).header.algorithm is not None
            for owner, data in self.records.items()
        }
        return missing_keys(self.path, present)


def back_up_keystore(
    path: Path, destination: Path, *, with_auto_open: bool = False
) -> KeystoreContent:
    """Copy a keystore into a new or empty directory of the current user; it stays closed.

    Args:
        path: the keystore's directory.
        destination: the directory of the copy; its parent must exist.
        with_auto_open: also copy the file that opens the keystore without its passphrase.

    Returns:
        What was copied.

    Raises:
        KeystoreExistsError: the directory holds something already.
        KeystoreDamagedError: a file of the keystore is not what tde wrote, so that the copy would
            be of no use.
        KeystoreError: another of its subclasses: it cannot be read or written.
    """
    path = path.resolve()
    read_document(path)  # A missing keystore must not get a lock file.
    with exclusive_lock(path):
        content = _read(path, with_auto_open)
        # What cannot be done is refused before the log says that it was done.
        _check_destination(content, destination)
        details = {"to": str(destination.absolute()), "auto-open.key": with_auto_open}
        write_entry(path, "back up keystore", details, None)
        log = read_private_file(path / LOG_NAME, LONGEST_LOG)
        content = replace(content, others={**content.others, LOG_NAME: log})
    _write_whole(content, destination, None, may_have_more=False)
    return content


def restore_keystore(
    backup: Path,
    destination: Path,
    *,
    owner: tuple[int, int] | None = None,
    with_auto_open: bool = False,
) -> KeystoreContent:
    """Make a keystore from a copy, in a directory that has no keystore.json.

    Records and other files that are there already, of the same keystore, stay as they are: where
    only keystore.json was lost, they may be newer than the copy.

    Args:
        backup: the directory of the copy.
        destination: the directory of the keystore; its parent must exist.
        owner: (uid, gid) to give the keystore to, which only root can do.
        with_auto_open: also take auto-open.key, if the copy has it.

    Returns:
        What was copied.

    Raises:
        KeystoreExistsError: there is a keystore, or something else.
        KeystoreError: as :func:`back_up_keystore`.
    """
    content = _read(backup.resolve(), with_auto_open)
    _write_whole(content, destination, owner, may_have_more=True)
    return content


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
    _require_apart(source.resolve(), path)
    content = _read(source.resolve(), with_auto_open=False)
    _require_same_keystore(content, keystore, other)
    if other is not None:
        other.require_rotated()
    with exclusive_lock(path):
        keystore.require_rotated()
        present = set(list_owners(path))
        _require_own_records(keystore, content, present)
        if other is not None:
            content = _rewrapped(content, keystore, other, present)
        _require_equal(path, content, present)
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
        _compare(files)
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


def _read(path: Path, with_auto_open: bool) -> KeystoreContent:
    """Read all files of a keystore and check their form."""
    require_no_rotation(path)
    header = read_document(path).header
    owners = list_owners(path)
    reader = RecordReader(path)
    records = {}
    for owner in owners:
        records[owner] = reader.read_bytes(owner)
        record = parse_record(records[owner], str(record_path(path, owner)))
        check_belongs(record, path, owner, header.uuid)
        if record.header.master_key_id != header.master_key_id:
            raise another_master_key(path, owner)
    others = [*companions(path), *(file for file in [path / LOG_NAME] if file.exists())]
    others += current_envelopes(path, header.master_key_id)
    if with_auto_open and (path / AUTO_OPEN_NAME).exists():
        others.append(path / AUTO_OPEN_NAME)
    return KeystoreContent(
        path,
        header,
        read_private_file(document_path(path), LONGEST_FILE),
        records,
        {str(file.relative_to(path)): read_private_file(file, _limit(file)) for file in others},
        foreign_files(path),
    )


def _check_destination(
    content: KeystoreContent, destination: Path, *, may_have_more: bool = False
) -> None:
    directory = destination.absolute()
    _require_apart(content.path, directory.resolve())
    if is_existing_place(directory):
        _require_room(content, directory, may_have_more=may_have_more)


def _write_whole(
    content: KeystoreContent,
    destination: Path,
    owner: tuple[int, int] | None,
    *,
    may_have_more: bool,
) -> None:
    _check_destination(content, destination, may_have_more=may_have_more)
    directory = destination.absolute()
    prepare_directory(directory, owner)
    directory = directory.resolve()
    with exclusive_lock(directory):
        present = _require_room(content, directory, may_have_more=may_have_more)
        prepare_keys_directory(directory)
        if content.providers:
            prepare_unlock_directory(directory)
        records = {record_path(directory, key): data for key, data in content.records.items()}
        others = {
            directory / name: data
            for name, data in content.others.items()
            if not (directory / name).exists()
        }
        document = {document_path(directory): content.document}
        missing = {record_path(directory, key) for key in content.records if key not in present}
        write_all_atomically({path: records[path] for path in records if path in missing})
        write_all_atomically(others)
        _compare({**records, **others})
        if may_have_more:
            write_entry(directory, "restore keystore", {"from": str(content.path)}, None)
        write_all_atomically(document)
        _compare(document)


def _require_room(
    content: KeystoreContent, directory: Path, *, may_have_more: bool
) -> set[KeyOwner]:
    """Refuse a directory with anything but a part of this copy; return the records it has."""
    if document_path(directory).exists():
        raise KeystoreExistsError(
            f"there is already a keystore at {directory}",
            remedy="Choose another directory. To add the keys that it lacks: tde keystore copy "
            f"{content.path} {directory}",
        )
    expected = {name.partition("/")[0] for name in content.others}
    if may_have_more:
        expected |= {AUTO_OPEN_NAME, unlock_path(directory).name}
        expected |= {file.name for file in companions(directory)}
    check_unused_names(directory, expected)
    if not keys_path(directory).is_dir():
        return set()
    present = set(list_owners(directory))
    if not may_have_more and not present <= content.records.keys():
        raise KeystoreExistsError(
            f"{directory} has keys that are not in {content.path}",
            remedy="Choose a directory that is empty or does not exist yet.",
        )
    _require_no_rotation_between(directory, content, present)
    _require_equal(directory, content, present)
    reader = RecordReader(directory)
    for owner in present - content.records.keys():
        header = reader.read(owner).header
        if (header.keystore, header.master_key_id) != (
            content.header.uuid,
            content.header.master_key_id,
        ):
            raise KeystoreExistsError(
                f"{record_path(directory, owner)} belongs to another keystore",
                remedy="Choose a directory that is empty or does not exist yet.",
            )
    return present


def _require_no_rotation_between(
    directory: Path, content: KeystoreContent, present: set[KeyOwner]
) -> None:
    """Refuse to give key files a keystore.json with another master key; none would open.

    Raises:
        KeystoreExistsError: no key file fits the copy.
    """
    reader = RecordReader(directory)
    ids = set()
    for owner in present:
        header = reader.read(owner).header
        if header.keystore == content.header.uuid:
            ids.add(header.master_key_id)
    if not ids or content.header.master_key_id in ids:
        return
    raise KeystoreExistsError(
        f"the backup {content.path} is from before a rotation of the master key, or the key files "
        f"in {keys_path(directory)} are: those have another master key",
        remedy="Nothing was changed. Name a backup that was made after the rotation. If there is "
        f"none: tde keystore restore {content.path} --keystore ANOTHER, then add newer keys from "
        f"the keystore of a standby with tde keystore copy. Keep {directory}.",
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


def _require_equal(directory: Path, content: KeystoreContent, present: set[KeyOwner]) -> None:
    """Refuse to mix copies of which one key differs: one of the two protects data."""
    reader = RecordReader(directory)
    both = [owner for owner in content.records if owner in present]
    differ = [owner for owner in both if reader.read_bytes(owner) != content.records[owner]]
    if not differ:
        return
    names = ", ".join(owner.file_name for owner in differ[:_MOST_NAMED])
    raise KeystoreExistsError(
        f"{keys_path(directory)} and {keys_path(content.path)} have different keys for "
        f"{', '.join(map(str, differ[:_MOST_NAMED]))}: {names}",
        remedy="Nothing was changed, because either may protect data. `tde keystore verify` says "
        "whether one is damaged: move that file away, and repeat the command.",
    )


def _require_apart(source: Path, destination: Path) -> None:
    if source.is_relative_to(destination) or destination.is_relative_to(source):
        raise KeystoreError(
            f"{source} and {destination} are the same directory, or one is inside the other",
            remedy="Choose a place outside the keystore, best on another disk.",
        )


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


def _limit(file: Path) -> int:
    return LONGEST_LOG if file.name == LOG_NAME else LONGEST_FILE


def _compare(files: Mapping[Path, bytes]) -> None:
    """Read back what was written.

    Raises:
        KeystoreError: it is not the same.
    """
    for file, data in files.items():
        try:
            same = read_private_file(file, _limit(file)) == data
        except FileNotFoundError as error:
            raise KeystoreMissingError(f"{file} has disappeared after it was written") from error
        if not same:
            raise KeystoreError(
                f"{file} does not read back as it was written",
                remedy="This copy is of no use: remove it, and check the disk.",
            )
