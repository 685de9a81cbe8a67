"""The protection of tablespaces, as the records of a keystore say it in the clear."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tde.keystore import KeyRecordInfo

PLAINTEXT = "plaintext"
NO_KEY = "NO KEY"


def tablespace_protections(records: list[KeyRecordInfo]) -> dict[int, str]:
    """Return how each tablespace with a key record is stored, by OID."""
    from tde.keystore import OwnerKind

    return {
        record.owner.oid: record.algorithm.label if record.algorithm else PLAINTEXT
        for record in records
        if record.owner.kind is OwnerKind.TABLESPACE
    }


def other_protection(records: list[KeyRecordInfo]) -> str | None:
    """Return how tablespaces without a record are stored, or None when they cannot be used."""
    from tde.keystore import OwnerKind

    for record in records:
        if record.owner.kind is OwnerKind.OTHER_TABLESPACES and record.algorithm:
            return record.algorithm.label
    return None
