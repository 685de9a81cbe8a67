"""How tablespaces are stored, as the key map and the records of the keystore say in the clear."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tde.algorithms import Algorithm
    from tde.keystore import KeyOwner, KeyRecordInfo
    from tde.postgres.cluster.keymap import KeyMap

PLAINTEXT = "plaintext"
NO_KEY = "NO KEY"


class Protections:
    """What protects each tablespace of a cluster; found out without the passphrase."""

    def __init__(self, keymap: KeyMap, records: Iterable[KeyRecordInfo]) -> None:
        self._keymap = keymap
        self._records: dict[KeyOwner, Algorithm | None] = {
            record.owner: record.algorithm for record in records
        }

    def of(self, oid: int) -> str:
        """Return the label of the algorithm, ``plaintext``, or ``NO KEY``."""
        entry = self._keymap.find(oid)
        if entry is None or entry.owner not in self._records:
            return NO_KEY
        algorithm = self._records[entry.owner]
        return PLAINTEXT if algorithm is None else algorithm.label

    def key_file(self, oid: int) -> str | None:
        """Return the name of the file in the keystore's ``keys`` that a tablespace depends on."""
        entry = self._keymap.find(oid)
        return None if entry is None else entry.owner.file_name
