"""The keys of an open keystore, one by one: what each is for, and whether it opens."""

from __future__ import annotations

from dataclasses import dataclass

from tde.algorithms import Algorithm
from tde.errors import KeystoreClosedError, KeystoreError
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.keystore import Keystore
from tde.keystore.store.reading import RecordReader, list_owners
from tde.keystore.store.record import PAYLOAD_BYTES, KeyOwner, KeyRecord


@dataclass(frozen=True)
class KeyInfo:
    """One key record.

    Attributes:
        owner: whose key it is, by the name of the file in the directory ``keys``.
        algorithm: ``None`` for a plaintext entry, and for a record that does not open.
        problem: why it does not open; empty when it does.
        remedy: what to do then.
    """

    owner: KeyOwner
    algorithm: Algorithm | None
    problem: str = ""
    remedy: str = ""

    @property
    def opens(self) -> bool:
        """Whether the record is authentic."""
        return not self.problem

    @property
    def is_plaintext_entry(self) -> bool:
        """Whether the record says that a tablespace is deliberately not encrypted."""
        return self.opens and self.algorithm is None


def list_keys(keystore: Keystore) -> list[KeyInfo]:
    """Return every key record of a keystore, after unwrapping each.

    The order is: WAL, other tablespaces, tablespaces by OID, key ids.

    Raises:
        KeystoreClosedError: the keystore was closed.
        KeystoreError: the directory of the records cannot be used.
    """
    owners = list_owners(keystore.path)
    if not keystore.is_open:
        raise KeystoreClosedError
    reader = RecordReader(keystore.path)
    # All are read before the first is unwrapped: taking turns takes a third longer.
    records = [_read(reader, owner) for owner in owners]
    with SecretBuffer(PAYLOAD_BYTES) as payload:
        return [
            _check(keystore, record, owner, payload)
            for record, owner in zip(records, owners, strict=True)
        ]


def _read(reader: RecordReader, owner: KeyOwner) -> KeyRecord | KeystoreError:
    try:
        return reader.read(owner)
    except KeystoreError as error:
        return error


def _check(
    keystore: Keystore, record: KeyRecord | KeystoreError, owner: KeyOwner, payload: SecretBuffer
) -> KeyInfo:
    if isinstance(record, KeystoreError):
        return _unusable(owner, record)
    try:
        return KeyInfo(owner, keystore.authenticate(record, owner, payload))
    except KeystoreError as error:
        return _unusable(owner, error)


def _unusable(owner: KeyOwner, error: KeystoreError) -> KeyInfo:
    return KeyInfo(owner, None, str(error), error.remedy)
