"""Reading keystore.json and key records: their form is checked, their authenticity is not."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from tde.errors import (
    KeyMissingError,
    KeystoreDamagedError,
    KeystoreError,
    KeystoreMissingError,
)
from tde.keystore.store.document import KeystoreDocument, parse_document
from tde.keystore.store.files import check_private_directory, read_file_of, read_private_file
from tde.keystore.store.layout import (
    document_path,
    keys_path,
    new_auto_open_path,
    new_keys_path,
    old_keys_path,
    record_path,
)
from tde.keystore.store.names import owners_of_files
from tde.keystore.store.record import NAMED_RECORD_BYTES, KeyOwner, KeyRecord, parse_record
from tde.keystore.store.remedies import bring_key, copy_command, replace_key, restore_document

OF_EVERY_CLUSTER = (KeyOwner.wal(), KeyOwner.tablespace(1663), KeyOwner.tablespace(1664))
# For a look at a directory that a rotation exchanges, which takes it a moment; 1 second together.
_ATTEMPTS = 50
_PAUSE = 0.02
_DOCUMENT_LIMIT = 64 * 1024  # Bytes; a real one has about 700.


def read_document(directory: Path) -> KeystoreDocument:
    """Return the content of keystore.json after checking permissions and form.

    Raises:
        KeystoreError: one of its subclasses, for whatever is wrong.
    """
    path = document_path(directory)
    try:
        # Nobody should close a directory to others because it was named in place of a keystore.
        if _is_no_keystore(directory):
            raise no_document(directory)
        check_private_directory(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise KeystoreMissingError(
            f"there is no keystore at {directory}",
            remedy="Check --keystore and TDE_KEYSTORE, or make one with `tde keystore create`.",
        ) from error
    try:
        return parse_document(read_private_file(path, _DOCUMENT_LIMIT), path)
    except FileNotFoundError:
        raise no_document(directory) from None


def _is_no_keystore(directory: Path) -> bool:
    try:
        names = {entry.name for entry in directory.iterdir()}
    except OSError:
        return False  # Its mode or owner says more.
    return names.isdisjoint({document_path(directory).name, keys_path(directory).name})


def no_document(directory: Path) -> KeystoreError:
    """Return the error about a directory without keystore.json."""
    keys = keys_path(directory)
    if keys.is_dir() and any(keys.iterdir()):
        return KeystoreDamagedError(
            f"{directory} has key records, but keystore.json, which opens them, is missing",
            remedy=restore_document(directory),
        )
    return KeystoreMissingError(
        f"there is no keystore at {directory}: it has no keystore.json",
        remedy="Check --keystore and TDE_KEYSTORE, or make one with `tde keystore create`.",
    )


def left_of_rotation(directory: Path) -> list[Path]:
    """Return what a rotation of the master key has not finished with; the next one does."""
    paths = (new_keys_path(directory), old_keys_path(directory), new_auto_open_path(directory))
    return [path for path in paths if os.path.lexists(path)]


def require_no_rotation(directory: Path) -> None:
    """Refuse to add keys to a keystore whose master key is being replaced.

    Raises:
        KeystoreError: a rotation was interrupted.
    """
    if left_of_rotation(directory):
        raise KeystoreError(
            f"the rotation of the master key of {directory} was interrupted",
            remedy=f"Finish it: tde keystore rotate --keystore {directory}",
        )


def current_keys_path(directory: Path) -> Path:
    """Return the directory whose records the master key in keystore.json opens.

    It has another name than the usual one only while the master key is rotated, or where that was
    interrupted.

    Raises:
        KeystoreError: keystore.json, or a record that tells, cannot be used.
    """
    new = new_keys_path(directory)
    try:
        names = sorted(path for path in new.iterdir() if path.suffix == ".key")
        content = read_private_file(names[0], NAMED_RECORD_BYTES)
    except (FileNotFoundError, NotADirectoryError, PermissionError, IndexError):
        return keys_path(directory)
    record = parse_record(content, str(names[0]))
    is_current = record.header.master_key_id == read_document(directory).header.master_key_id
    return new if is_current else keys_path(directory)


def find_record(directory: Path, owner: KeyOwner, master_key_id: UUID) -> KeyRecord:
    """Return the key record of ``owner`` that a master key opens.

    While the master key is rotated, two directories have the record, each wrapped with another
    one. Where no record is wrapped with the given one, the usual place counts.

    Raises:
        KeystoreError: as :func:`read_record`.
    """
    # The first again, because the directories may be renamed between two looks.
    for keys in (keys_path(directory), new_keys_path(directory), old_keys_path(directory)):
        try:
            record = read_record(directory, owner, keys)
        except KeyMissingError:
            continue
        if record.header.master_key_id == master_key_id:
            return record
    return read_record(directory, owner)


def read_record(directory: Path, owner: KeyOwner, keys: Path | None = None) -> KeyRecord:
    """Return the key record of ``owner``; its form is checked, its authenticity is not.

    Args:
        keys: the directory of the records, when it is not the usual one.

    Raises:
        KeyMissingError: there is none.
        KeystoreError: another of its subclasses, for whatever is wrong.
    """
    try:
        return RecordReader(directory, keys).read(owner)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_record(record_path(directory, owner), owner) from None


class RecordReader:
    """Reads many records of one keystore; the directory is checked once.

    Args:
        keys: the directory of the records, when it is not the usual one.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no directory of records.
        KeystorePermissionError: it is open to others or not ours.
    """

    def __init__(self, directory: Path, keys: Path | None = None) -> None:
        keys = keys or current_keys_path(directory)
        check_private_directory(keys)
        self._place = f"{keys}/"
        self._owner = keys.lstat().st_uid

    def read_bytes(self, owner: KeyOwner) -> bytes:
        """Return the content of a record's file.

        Raises:
            KeyMissingError: there is none.
            KeystoreError: another of its subclasses, for whatever is wrong.
        """
        path = self._place + owner.file_name
        try:
            return read_file_of(self._owner, path, NAMED_RECORD_BYTES)
        except FileNotFoundError:
            raise _no_record(path, owner) from None

    def read(self, owner: KeyOwner) -> KeyRecord:
        """Return a record as :func:`read_record` does."""
        return parse_record(self.read_bytes(owner), self._place + owner.file_name)


def _no_record(path: Path | str, owner: KeyOwner) -> KeyMissingError:
    return KeyMissingError(
        f"the keystore has no key for {owner}: {path} does not exist",
        remedy=f"Without it the data of {owner} cannot be read. "
        f"{bring_key(Path(path).parent.parent)}",
    )


def check_belongs(record: KeyRecord, directory: Path, owner: KeyOwner, keystore: UUID) -> None:
    """Refuse a record that lies in the wrong place in a keystore's directory.

    The tag of the record binds the same fields; looking at them first names the mistake.

    Raises:
        KeystoreDamagedError: it is the record of another owner or keystore.
    """
    found = record.header
    if found.keystore == keystore and found.owner == owner:
        return
    path = record_path(directory, owner)
    remedy = replace_key(path)
    if found.keystore != keystore:
        raise KeystoreDamagedError(
            f"{path} belongs to another keystore, {found.keystore.hex}", remedy=remedy
        )
    raise KeystoreDamagedError(f"{path} is the key record of {found.owner}", remedy=remedy)


def another_master_key(directory: Path, owner: KeyOwner) -> KeystoreDamagedError:
    """Return the error about a record that is not wrapped with the master key of keystore.json.

    One such file is foreign. Where no file of those that every cluster has fits, keystore.json is
    from the other side of a rotation.
    """
    current = read_document(directory).header.master_key_id
    fits = False
    for one in OF_EVERY_CLUSTER:
        with suppress(KeystoreError):
            fits |= read_record(directory, one).header.master_key_id == current
    path = record_path(directory, owner)
    if fits:
        remedy = replace_key(path)
    else:
        remedy = (
            f"No key file fits {document_path(directory)}, so that is from the other side of a "
            "rotation of the master key. If no backup has the master key of the key files, restore "
            "one into another directory, and keep the old directory: it may have newer keys. If "
            f"one has, move keystore.json away. {restore_document(directory)}"
        )
    return KeystoreDamagedError(
        f"{path} is wrapped with another master key than the one in keystore.json", remedy=remedy
    )


def list_owners(directory: Path, keys: Path | None = None) -> list[KeyOwner]:
    """Return whose keys are in the keystore: WAL, other tablespaces, tablespaces by OID, key ids.

    Later keys of the WAL follow the first, in the order in which they came.

    Files with other names are passed over.

    Args:
        keys: the directory of the records, when it is not the usual one.
    """
    return owners_of_files(_names_of_records(directory, keys))


def _names_of_records(directory: Path, keys: Path | None) -> set[str]:
    """Return the names in the directory of the records, which a rotation may exchange meanwhile."""
    for attempt in range(_ATTEMPTS):
        place = keys or current_keys_path(directory)
        try:
            check_private_directory(place)
            before = place.stat()
            with os.scandir(place) as entries:
                names = {entry.name for entry in entries}
            if os.path.samestat(before, place.stat()):
                return names
        except (FileNotFoundError, NotADirectoryError):
            # An interrupted rotation leaves a directory with one of the two names.
            if attempt > 0 and not left_of_rotation(directory):
                break
        time.sleep(_PAUSE)
    require_no_rotation(directory)
    raise KeystoreDamagedError(
        f"the keystore has no directory {keys or keys_path(directory)}",
        remedy="As its owner, make it, and bring the keys from a backup of the keystore: "
        f"mkdir -m 0700 {shlex.quote(str(keys or keys_path(directory)))} && "
        f"{copy_command(directory)}",
    )
