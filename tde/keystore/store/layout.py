"""The layout of a keystore directory, and how its files are read and first made.

keystore.json          the wrapped master key and how to derive the key that wraps it
keys/wal.key           one record per key (docs/format.md)
keys/other.key         of all tablespaces without a record of their own
keys/<OID>.key         of a built-in tablespace, or one made by a release without key ids
keys/<key id>.key      of the tablespace that the map of a cluster gives it to
keys/wal.<n>.<id>.key  of WAL that is written later; the first key stays
keys/*.key.destroying  a key whose destruction was begun; nothing reads it
keys.new, keys.old     the same records with another master key, while that is rotated
lock                   taken by whoever writes; always empty
auto-open.key          opens the keystore without its passphrase
unlock/<name>.<id>.json  opens it by a provider; the id is that of the master key
key.log                no key: who has opened and changed the keystore
key.log.index          no key: what a start needs of the log; made anew when it is missing
accepted-lines.<hex>   no key: what was accepted of a cluster's configuration
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR
from uuid import UUID

from tde.errors import (
    KeyMissingError,
    KeystoreDamagedError,
    KeystoreError,
    KeystoreExistsError,
    KeystoreMissingError,
    KeystorePermissionError,
    UnsafeDirectoryError,
)
from tde.keystore.store.document import KeystoreDocument, parse_document
from tde.keystore.store.files import (
    LOCK_NAME,
    check_private_directory,
    make_private_directory,
    read_file_of,
    read_private_file,
)
from tde.keystore.store.record import NAMED_RECORD_BYTES, KeyOwner, KeyRecord, parse_record
from tde.keystore.store.remedies import bring_key, copy_command, replace_key, restore_document
from tde.ownership import Owner, adopt_directory

AUTO_OPEN_NAME = "auto-open.key"
OF_EVERY_CLUSTER = (KeyOwner.wal(), KeyOwner.tablespace(1663), KeyOwner.tablespace(1664))
LOG_NAME = "key.log"
INDEX_NAME = "key.log.index"
_NAMED_RECORD = re.compile(r"[0-9a-f]{32}\.key")
_LATER_WAL_RECORD = re.compile(r"wal\.([1-9][0-9]{0,9})\.([0-9a-f]{32})\.key")
# What a person has accepted of a cluster's configuration (tde/postgres/cluster/accepted_lines.py).
_COMPANION = re.compile(r"accepted-lines\.[0-9a-f]{32}")
_DESTROYING = ".destroying"
_ENVELOPE = re.compile(r"([a-z][a-z0-9-]{0,30})\.([0-9a-f]{32})\.json")
_REMAINS = re.compile(r"\..*\.tmp")
# For a look at a directory that a rotation exchanges, which takes it a moment; 1 second together.
_ATTEMPTS = 50
_PAUSE = 0.02
LONGEST_FILE = 1 << 20  # Bytes; a real one has less than a thousand.
_DOCUMENT_LIMIT = 64 * 1024  # Bytes; a real one has about 700.


def document_path(directory: Path) -> Path:
    """Return the path of keystore.json."""
    return directory / "keystore.json"


def keys_path(directory: Path) -> Path:
    """Return the directory of the key records."""
    return directory / "keys"


def new_keys_path(directory: Path) -> Path:
    """Return where a rotation of the master key prepares the key records."""
    return directory / "keys.new"


def old_keys_path(directory: Path) -> Path:
    """Return where a rotation keeps the records that running servers still need."""
    return directory / "keys.old"


def new_auto_open_path(directory: Path) -> Path:
    """Return where a rotation of the master key prepares auto-open.key."""
    return directory / f"{AUTO_OPEN_NAME}.new"


def unlock_path(directory: Path) -> Path:
    """Return the directory of the envelopes, by which providers open the keystore."""
    return directory / "unlock"


def envelope_path(directory: Path, name: str, master_key_id: UUID) -> Path:
    """Return the path of one envelope."""
    return unlock_path(directory) / f"{name}.{master_key_id.hex}.json"


def list_envelopes(directory: Path) -> list[tuple[str, UUID]]:
    """Return the names of all envelopes and whose master key each has, in order of name.

    Those of another master key than that of keystore.json are what a rotation has left, or was
    interrupted before. Files with other names are passed over.

    Raises:
        KeystorePermissionError: their directory is open to others, not ours, or a link.
    """
    place = unlock_path(directory)
    if not os.path.lexists(place):
        return []
    _refuse_link(place)
    check_private_directory(place)
    found = (_ENVELOPE.fullmatch(file.name) for file in place.iterdir())
    return sorted((match[1], UUID(hex=match[2])) for match in found if match)


def current_envelopes(directory: Path, master_key_id: UUID) -> list[Path]:
    """Return the files of the envelopes of a master key."""
    envelopes = list_envelopes(directory)
    return [envelope_path(directory, *one) for one in envelopes if one[1] == master_key_id]


def is_envelope_name(name: str) -> bool:
    """Tell whether an envelope may have this name."""
    return _ENVELOPE.fullmatch(f"{name}.{'0' * 32}.json") is not None


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


def record_path(directory: Path, owner: KeyOwner) -> Path:
    """Return the path of one key record."""
    return keys_path(directory) / owner.file_name


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


def read_document(directory: Path) -> KeystoreDocument:
    """Return the content of keystore.json after checking permissions and form.

    Raises:
        KeystoreError: one of its subclasses, for whatever is wrong.
    """
    path = document_path(directory)
    try:
        # Nobody should close a directory to others because it was named in place of a keystore.
        if _is_no_keystore(directory):
            raise _no_document(directory)
        check_private_directory(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise KeystoreMissingError(
            f"there is no keystore at {directory}",
            remedy="Check --keystore and TDE_KEYSTORE, or make one with `tde keystore create`.",
        ) from error
    try:
        return parse_document(read_private_file(path, _DOCUMENT_LIMIT), path)
    except FileNotFoundError:
        raise _no_document(directory) from None


def _is_no_keystore(directory: Path) -> bool:
    try:
        names = {entry.name for entry in directory.iterdir()}
    except OSError:
        return False  # Its mode or owner says more.
    return names.isdisjoint({document_path(directory).name, keys_path(directory).name})


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
    names = _names_of_records(directory, keys)
    oids = sorted(int(name[:-4]) for name in names if _is_tablespace_record(name))
    shared = [KeyOwner.wal(), *_later_wal_owners(names), KeyOwner.other_tablespaces()]
    present = [owner for owner in shared if owner.file_name in names]
    ids = sorted(name[:-4] for name in names if _NAMED_RECORD.fullmatch(name))
    return [
        *present,
        *(KeyOwner.tablespace(oid) for oid in oids),
        *(KeyOwner.named(UUID(hex=key_id)) for key_id in ids),
    ]


def owner_of_file(name: str) -> KeyOwner | None:
    """Return whose key record a file in ``keys`` is by its name; ``None`` when it is none."""
    if _NAMED_RECORD.fullmatch(name):
        return KeyOwner.named(UUID(hex=name[:-4]))
    if _LATER_WAL_RECORD.fullmatch(name):
        return next(iter(_later_wal_owners([name])), None)
    if _is_tablespace_record(name):
        return KeyOwner.tablespace(int(name[:-4]))
    shared = (KeyOwner.wal(), KeyOwner.other_tablespaces())
    return next((owner for owner in shared if owner.file_name == name), None)


def _later_wal_owners(names: Collection[str]) -> list[KeyOwner]:
    found = (_LATER_WAL_RECORD.fullmatch(name) for name in names)
    parts = sorted((int(match[1]), match[2]) for match in found if match)
    return [
        KeyOwner.later_wal(number, UUID(hex=key_id))
        for number, key_id in parts
        if number in range(2, 1 << 32)
    ]


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


def destroying_path(directory: Path, owner: KeyOwner) -> Path:
    """Return where a key record is while it is being destroyed; nothing reads it as a record."""
    path = record_path(directory, owner)
    return path.with_name(f"{path.name}{_DESTROYING}")


def being_destroyed(directory: Path) -> list[Path]:
    """Return the records whose destruction was begun and not finished."""
    keys = keys_path(directory)
    try:
        # As text: to make paths of thousands of names takes longer than to read the directory.
        with os.scandir(keys) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(_DESTROYING)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [keys / name for name in sorted(names) if owner_of_file(name[: -len(_DESTROYING)])]


def companions(directory: Path) -> list[Path]:
    """Return the files that are kept beside the keys and are none: accepted lines of clusters."""
    return sorted(path for path in directory.iterdir() if _COMPANION.fullmatch(path.name))


def is_remains(name: str) -> bool:
    """Tell whether a file is what a writer that died has left."""
    return _REMAINS.fullmatch(name) is not None


def remains(directory: Path) -> list[Path]:
    """Return what writers that died have left; nothing reads it."""
    return [path for path in _entries(directory) if _REMAINS.fullmatch(path.name)]


def foreign_files(directory: Path) -> list[Path]:
    """Return what is not a keystore's, in its directory and in that of the records."""
    keys = keys_path(directory)
    ours = {keys, *(directory / name for name in (LOCK_NAME, AUTO_OPEN_NAME, LOG_NAME))}
    ours |= {document_path(directory), directory / INDEX_NAME}
    ours |= set(left_of_rotation(directory))
    ours |= {*companions(directory), *remains(directory), *being_destroyed(directory)}
    ours |= {record_path(directory, owner) for owner in list_owners(directory)}
    ours.add(unlock_path(directory))
    with suppress(KeystorePermissionError):  # What is wrong with its rights is told elsewhere.
        ours |= {envelope_path(directory, *envelope) for envelope in list_envelopes(directory)}
    return [path for path in _entries(directory) if path not in ours]


def left_of_rotation(directory: Path) -> list[Path]:
    """Return what a rotation of the master key has not finished with; the next one does."""
    paths = (new_keys_path(directory), old_keys_path(directory), new_auto_open_path(directory))
    return [path for path in paths if os.path.lexists(path)]


def _entries(directory: Path) -> list[Path]:
    places = (keys_path(directory), unlock_path(directory))
    inner = [place for place in places if place.is_dir() and not place.is_symlink()]
    return sorted(path for place in (directory, *inner) for path in place.iterdir())


def check_place(directory: Path) -> None:
    """Check that a keystore can be created in ``directory``, and change nothing.

    Raises:
        KeystoreError: one of its subclasses, for whatever is wrong with the place.
    """
    if is_existing_place(directory):
        refuse_foreign_content(directory)


def is_existing_place(directory: Path) -> bool:
    """Tell whether a directory for a keystore exists, which is private then, or can be made.

    Raises:
        KeystoreError: one of its subclasses, for whatever is wrong with the place.
    """
    _refuse_data_directory(directory)
    try:
        check_private_directory(directory)
    except NotADirectoryError as error:
        raise KeystoreExistsError(
            f"{directory} is not a directory, or only a link to one",
            remedy="Choose another place for the keystore, or name the directory itself.",
        ) from error
    except FileNotFoundError:
        if not directory.parent.is_dir():
            raise KeystoreMissingError(
                f"the directory {directory.parent} does not exist",
                remedy=_remedy_of_missing_parent(directory),
            ) from None
        return False
    return True


def _remedy_of_missing_parent(directory: Path) -> str:
    if any(part.endswith(":") for part in directory.parts):
        return "A keystore is a directory; addresses such as vault:// are not known here."
    if any(part.startswith("~") for part in directory.parts):
        return "Write out the home directory: the shell has left ~ as it is."
    return f"mkdir -p {shlex.quote(str(directory.parent))}"


def prepare_directory(directory: Path, owner: tuple[int, int] | None) -> None:
    """Make the keystore's directory, or take an existing one; the caller has checked the place.

    Raises:
        KeystoreError: it cannot be made, or given to its owner.
    """
    wanted = owner or (os.geteuid(), os.getegid())
    try:
        make_private_directory(directory, wanted)
    except UnsafeDirectoryError as error:
        raise KeystorePermissionError(str(error), remedy=error.remedy) from error
    except FileExistsError:
        _adopt(directory, owner)
    except PermissionError as error:
        raise KeystorePermissionError(
            f"could not create {directory} for user {wanted[0]}: {error.strerror}",
            remedy="Run this as root, or choose a place where you may write.",
        ) from None
    except OSError as error:
        raise KeystoreError(f"could not create {directory}: {error.strerror}") from error


def _adopt(directory: Path, owner: tuple[int, int] | None) -> None:
    try:
        adopt_directory(directory, None if owner is None else Owner(*owner))
    except UnsafeDirectoryError as error:
        raise KeystorePermissionError(str(error), remedy=error.remedy) from error


def prepare_keys_directory(directory: Path) -> None:
    """Make the directory for key records; the caller holds the lock.

    Raises:
        KeystoreError: it cannot be made.
    """
    _prepare_inner_directory(keys_path(directory))


def prepare_unlock_directory(directory: Path) -> None:
    """Make the directory for envelopes; the caller holds the lock.

    Raises:
        KeystoreError: it cannot be made.
    """
    _prepare_inner_directory(unlock_path(directory))


def _prepare_inner_directory(path: Path) -> None:
    status = path.parent.stat()
    owner = (status.st_uid, status.st_gid)
    try:
        make_private_directory(path, owner)
    except FileExistsError:
        # From a command that was interrupted; a link to another user's directory is not.
        _refuse_link(path)
        _adopt(path, owner)
    except UnsafeDirectoryError as error:
        raise KeystorePermissionError(str(error), remedy=error.remedy) from error
    except OSError as error:
        raise KeystoreError(f"could not create {path}: {error.strerror}") from error


def _refuse_link(path: Path) -> None:
    if os.path.lexists(path) and not S_ISDIR(path.lstat().st_mode):
        raise KeystorePermissionError(
            f"{path} is not a directory, or only a link to one",
            remedy=f"Remove it and repeat the command: rm {path}",
        ) from None


def refuse_foreign_content(directory: Path) -> None:
    """Refuse a directory with anything but the remains of an interrupted creation.

    Raises:
        KeystoreExistsError: there is a keystore, or something that is not ours.
        KeystoreDamagedError: there are keys, but the file that opens them is gone.
    """
    document = document_path(directory)
    if document.exists():
        raise KeystoreExistsError(
            f"there is already a keystore at {directory}",
            remedy="Use it, or choose another directory. A keystore that has ever been used "
            "must be kept: without it the data cannot be read.",
        )
    keys = keys_path(directory)
    _refuse_link(keys)
    if keys.is_dir() and any(keys.iterdir()):
        raise _no_document(directory)
    check_unused_names(directory, ())


def check_unused_names(directory: Path, expected: Collection[str]) -> None:
    """Refuse a directory with anything but the remains of a write, and what is expected there.

    Raises:
        KeystoreExistsError: there is something that is not ours.
    """
    ours = {LOCK_NAME, LOG_NAME, INDEX_NAME, keys_path(directory).name, *expected}
    names = {entry.name for entry in directory.iterdir()} - ours
    foreign = {name for name in names if not _REMAINS.fullmatch(name)}
    if foreign:
        file = directory / min(foreign)
        raise KeystoreExistsError(
            f"{directory} is not empty: it contains {file.name}",
            remedy=f"Move {file} away, and repeat the command: the keys may be newer than others."
            if keys_path(directory).is_dir()
            else "Choose a directory that is empty or does not exist yet.",
        )


def _refuse_data_directory(directory: Path) -> None:
    # Inside the data directory the keys would travel with every base backup of the data.
    for parent in (directory, *directory.parents):
        if (parent / "PG_VERSION").exists():
            raise KeystoreError(
                f"{directory} is inside the PostgreSQL data directory {parent}",
                remedy="Choose a place outside it, so that backups of the data hold no keys.",
            )


def _no_document(directory: Path) -> KeystoreError:
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


def _is_tablespace_record(name: str) -> bool:
    stem = name.removesuffix(".key")
    # The number must be written as tde writes it: 007.key is not the key of tablespace 7.
    return (
        name != stem
        and stem.isascii()
        and stem.isdigit()
        and stem == str(int(stem))
        and int(stem) in range(1, 1 << 32)
    )
