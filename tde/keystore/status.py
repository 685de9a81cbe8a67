"""Looking at a keystore without its passphrase."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from tde.algorithms import Algorithm
from tde.keystore.crypto.kdf import KdfParameters
from tde.keystore.providers.auto_open import can_open_automatically
from tde.keystore.store.contents import list_envelopes
from tde.keystore.store.layout import record_path
from tde.keystore.store.reading import (
    RecordReader,
    check_belongs,
    left_of_rotation,
    list_owners,
    read_document,
)
from tde.keystore.store.record import KeyOwner


@dataclass(frozen=True)
class KeyRecordInfo:
    """What a key record says in the clear; only unwrapping it proves that it is authentic.

    Attributes:
        algorithm: None for a plaintext entry.
    """

    owner: KeyOwner
    algorithm: Algorithm | None
    file: Path


@dataclass(frozen=True)
class KeystoreStatus:
    """What a keystore says in the clear.

    Attributes:
        auto_open: whether it opens without its passphrase.
        providers: the names of the envelopes that have its master key.
        rotation_unfinished: whether a rotation of the master key runs, or was interrupted.
    """

    path: Path
    uuid: UUID
    created: datetime
    kdf: KdfParameters
    master_key_id: UUID
    keys: list[KeyRecordInfo]
    auto_open: bool
    providers: list[str]
    rotation_unfinished: bool


def keystore_uuid(path: Path) -> UUID:
    """Return the identity of a keystore, without a look at its key records.

    Raises:
        KeystoreError: one of its subclasses when there is no keystore or it cannot be used.
    """
    return read_document(path.resolve()).header.uuid


def inspect_keystore(path: Path) -> KeystoreStatus:
    """Return what can be known about a keystore without opening it.

    Raises:
        KeystoreError: one of its subclasses when there is no keystore, when others have
            access to it, or when any of its files is damaged.
    """
    path = path.resolve()
    header = read_document(path).header
    keys = []
    owners = list_owners(path)
    reader = RecordReader(path)
    for owner in owners:
        record = reader.read(owner)
        check_belongs(record, path, owner, header.uuid)
        keys.append(KeyRecordInfo(owner, record.header.algorithm, record_path(path, owner)))
    return KeystoreStatus(
        path,
        header.uuid,
        header.created,
        header.kdf,
        header.master_key_id,
        keys,
        can_open_automatically(path),
        [name for name, key_id in list_envelopes(path) if key_id == header.master_key_id],
        bool(left_of_rotation(path)),
    )
