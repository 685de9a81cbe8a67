"""A backup of a whole keystore, and its way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tde.errors import KeystoreExistsError
from tde.keystore.copies.content import (
    KeystoreContent,
    compare,
    read_content,
    require_apart,
    require_equal,
)
from tde.keystore.log.entry import LONGEST_LOG
from tde.keystore.log.writing import write_entry
from tde.keystore.store.contents import companions
from tde.keystore.store.creation import (
    check_unused_names,
    is_existing_place,
    prepare_directory,
    prepare_keys_directory,
    prepare_unlock_directory,
)
from tde.keystore.store.files import exclusive_lock, read_private_file, write_all_atomically
from tde.keystore.store.layout import (
    AUTO_OPEN_NAME,
    LOG_NAME,
    document_path,
    keys_path,
    record_path,
    unlock_path,
)
from tde.keystore.store.reading import RecordReader, list_owners, read_document
from tde.keystore.store.record import KeyOwner


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
        content = read_content(path, with_auto_open)
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
    content = read_content(backup.resolve(), with_auto_open)
    _write_whole(content, destination, owner, may_have_more=True)
    return content


def _check_destination(
    content: KeystoreContent, destination: Path, *, may_have_more: bool = False
) -> None:
    directory = destination.absolute()
    require_apart(content.path, directory.resolve())
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
        compare({**records, **others})
        if may_have_more:
            write_entry(directory, "restore keystore", {"from": str(content.path)}, None)
        write_all_atomically(document)
        compare(document)


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
    require_equal(directory, content, present)
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
