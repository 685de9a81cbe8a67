"""The keys of an open keystore, one by one: what each is for, and whether it opens."""

from __future__ import annotations

from dataclasses import dataclass

from tde.algorithms import Algorithm
from tde.errors import KeystoreClosedError, KeystoreError
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.keystore import Keystore
from tde.keystore.store.layout import RecordReader, list_owners
from tde.keystore.store.record import PAYLOAD_BYTES, KeyOwner


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
    with SecretBuffer(PAYLOAD_BYTES) as payload:
        return [_check(keystore, reader, owner, payload) for owner in owners]


def _check(
    keystore: Keystore, reader: RecordReader, owner: KeyOwner, payload: SecretBuffer
) -> KeyInfo:
    try:
        algorithm = keystore.authenticate(reader.read(owner), owner, payload)
    except KeystoreError as error:
        return KeyInfo(owner, None, str(error), error.remedy)
    return KeyInfo(owner, algorithm)
