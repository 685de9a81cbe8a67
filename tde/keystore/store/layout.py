"""The layout of a keystore directory, and how its files are read and first made.

keystore.json          the wrapped master key and how to derive the key that wraps it
keys/wal.key           one record per key (docs/format.md)
keys/other.key         of all tablespaces without a record of their own
keys/<OID>.key         of a built-in tablespace, or one made by a release without key ids
keys/<key id>.key      of the tablespace that the map of a cluster gives it to
lock                   taken by whoever writes; always empty
"""

from __future__ import annotations

import os
import re
import shlex
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
    read_private_file,
    temporary_path,
)
from tde.keystore.store.record import NAMED_RECORD_BYTES, KeyOwner, KeyRecord, parse_record
from tde.ownership import Owner, adopt_directory

_NAMED_RECORD = re.compile(r"[0-9a-f]{32}\.key")
_DOCUMENT_LIMIT = 64 * 1024  # Bytes; a real one has about 700.


def document_path(directory: Path) -> Path:
    """Return the path of keystore.json."""
    return directory / "keystore.json"


def keys_path(directory: Path) -> Path:
    """Return the directory of the key records."""
    return directory / "keys"


def record_path(directory: Path, owner: KeyOwner) -> Path:
    """Return the path of one key record."""
    return keys_path(directory) / owner.file_name


def read_document(directory: Path) -> KeystoreDocument:
    """Return the content of keystore.json after checking permissions and form.

    Raises:
        KeystoreError: one of its subclasses, for whatever is wrong.
    """
    path = document_path(directory)
    try:
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


def read_record(directory: Path, owner: KeyOwner) -> KeyRecord:
    """Return the key record of ``owner``; its form is checked, its authenticity is not.

    Raises:
        KeyMissingError: there is none.
        KeystoreError: another of its subclasses, for whatever is wrong.
    """
    path = record_path(directory, owner)
    try:
        check_private_directory(keys_path(directory))
        return parse_record(read_private_file(path, NAMED_RECORD_BYTES), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise KeyMissingError(
            f"the keystore has no key for {owner}: {path} does not exist",
            remedy="Restore the file from a backup of the keystore. Without it the data of "
            f"{owner} cannot be read.",
        ) from None


def check_belongs(record: KeyRecord, path: Path, owner: KeyOwner, keystore: UUID) -> None:
    """Refuse a record that lies in the wrong place.

    The tag of the record binds the same fields; looking at them first names the mistake.

    Raises:
        KeystoreDamagedError: it is the record of another owner or keystore.
    """
    found = record.header
    remedy = "Restore this file from a backup of this keystore."
    if found.keystore != keystore:
        raise KeystoreDamagedError(
            f"{path} belongs to another keystore, {found.keystore.hex}", remedy=remedy
        )
    if found.owner != owner:
        raise KeystoreDamagedError(f"{path} is the key record of {found.owner}", remedy=remedy)


def list_owners(directory: Path) -> list[KeyOwner]:
    """Return whose keys are in the keystore: WAL, other tablespaces, tablespaces by OID, key ids.

    Files with other names are passed over.
    """
    keys = keys_path(directory)
    try:
        check_private_directory(keys)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise KeystoreDamagedError(
            f"the keystore has no directory {keys}",
            remedy="Restore it, with the key records in it, from a backup of the keystore.",
        ) from error
    names = {entry.name for entry in keys.iterdir()}
    shared = [KeyOwner.wal(), KeyOwner.other_tablespaces()]
    oids = sorted(int(name[:-4]) for name in names if _is_tablespace_record(name))
    present = [owner for owner in shared if owner.file_name in names]
    ids = sorted(name[:-4] for name in names if _NAMED_RECORD.fullmatch(name))
    return [
        *present,
        *(KeyOwner.tablespace(oid) for oid in oids),
        *(KeyOwner.named(UUID(hex=key_id)) for key_id in ids),
    ]


def check_place(directory: Path) -> None:
    """Check that a keystore can be created in ``directory``, and change nothing.

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
    else:
        refuse_foreign_content(directory)


def _remedy_of_missing_parent(directory: Path) -> str:
    if any(part.endswith(":") for part in directory.parts):
        return "A keystore is a directory; addresses such as vault:// are not known here."
    if any(part.startswith("~") for part in directory.parts):
        return "Write out the home directory: the shell has left ~ as it is."
    return f"mkdir -p {shlex.quote(str(directory.parent))}"


def prepare_directory(directory: Path, owner: tuple[int, int] | None) -> None:
    """Make the keystore's directory, or take an existing one that is empty and private.

    Raises:
        KeystoreError: the place is not suitable.
    """
    check_place(directory)
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
    status = directory.stat()
    owner = (status.st_uid, status.st_gid)
    keys = keys_path(directory)
    try:
        make_private_directory(keys, owner)
    except FileExistsError:
        # From a creation that was interrupted; a link to another user's directory is not.
        if not S_ISDIR(keys.lstat().st_mode):
            raise KeystorePermissionError(
                f"{keys} is not a directory, or only a link to one",
                remedy=f"Remove it and repeat the command: rm {keys}",
            ) from None
        _adopt(keys, owner)
    except UnsafeDirectoryError as error:
        raise KeystorePermissionError(str(error), remedy=error.remedy) from error
    except OSError as error:
        raise KeystoreError(f"could not create {keys}: {error.strerror}") from error


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
    if keys.is_dir() and any(keys.iterdir()):
        raise _no_document(directory)
    ours = {LOCK_NAME, keys.name, temporary_path(document).name}
    foreign = {entry.name for entry in directory.iterdir()} - ours
    if foreign:
        raise KeystoreExistsError(
            f"{directory} is not empty: it contains {min(foreign)}",
            remedy="Choose a directory that is empty or does not exist yet.",
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
            remedy="Restore keystore.json from a backup of the keystore.",
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
