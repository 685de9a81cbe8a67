"""Storing a key that a running server has made, which has the master key and writes no file.

Whoever stores it has no key at all: it is told by its form, and proves itself to the server when
that reads it.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from tde.errors import KeystoreDamagedError, KeystoreError, KeystoreExistsError
from tde.keystore.log.writing import write_entry
from tde.keystore.store.files import exclusive_lock, write_atomically
from tde.keystore.store.layout import record_path
from tde.keystore.store.reading import check_belongs, read_document, require_no_rotation
from tde.keystore.store.record import KeyRecord, OwnerKind, parse_record


def id_of_server_key(data: bytes) -> UUID:
    """Return the id of the key in a record that a server has made.

    Raises:
        KeystoreDamagedError: it is no record of a tablespace's key.
    """
    return _parse(data)[1]


def store_key_of_server(directory: Path, data: bytes) -> None:
    """Store the record of a tablespace's key.

    Args:
        directory: the keystore's.
        data: the record, wrapped with the newest master key.

    Raises:
        KeystoreDamagedError: it is no such record, or another keystore's.
        KeystoreError: it cannot be written, or the master key was rotated meanwhile.
    """
    directory = directory.resolve()
    record, _ = _parse(data)
    owner = record.header.owner
    path = record_path(directory, owner)
    with exclusive_lock(directory):
        require_no_rotation(directory)
        header = read_document(directory).header
        check_belongs(record, directory, owner, header.uuid)
        if record.header.master_key_id != header.master_key_id:
            raise KeystoreError(
                f"the server has another master key than the keystore {directory}",
                remedy=f"Repeat the statement; if that does not help: tde keystore rotate "
                f"--keystore {directory}",
            )
        if path.exists():
            raise KeystoreExistsError(f"there is a key record {path} already")
        algorithm = record.header.algorithm
        label = "not encrypted" if algorithm is None else algorithm.label
        # No passphrase: the next entry proves this one.
        details = {"key": owner.file_name, "algorithm": label, "by": "SQL"}
        write_entry(directory, "create key", details, None)
        write_atomically(path, data)


def _parse(data: bytes) -> tuple[KeyRecord, UUID]:
    record = parse_record(data, "the key that the server has made")
    owner = record.header.owner
    if owner.kind is not OwnerKind.NAMED or owner.key_id is None:
        raise KeystoreDamagedError(f"the server has made a key of {owner}, and not of a tablespace")
    return record, owner.key_id
