"""The key of a tablespace, as tests that look at its files need it."""

from __future__ import annotations

from tde.algorithms import Algorithm
from tde.keystore import KeyOwner, Keystore, inspect_keystore


def key_of_tablespace(keystore: Keystore, oid: int) -> tuple[Algorithm, bytearray] | None:
    """Return the key of a tablespace without a name: of its record, or derived."""
    owners = {record.owner for record in inspect_keystore(keystore.path).keys}
    owner = KeyOwner.tablespace(oid)
    return keystore.key_of(owner) if owner in owners else keystore.derived_key(oid)
