"""Explanations of blocks that decrypt to noise: another file's, or another key's."""

from __future__ import annotations

from collections.abc import Iterable

from tde import _core
from tde.audit.inventory import AuditedFile
from tde.audit.keys import AuditKeys
from tde.audit.report import FileClass
from tde.page.identity import CoreIdentity

# Trying one file takes some microseconds; the explanation is a service, not a proof.
_MAXIMUM_CANDIDATES = 50_000


class Explainer:
    """Tries the identities of all files and the keys of all tablespaces on a block."""

    def __init__(self, keys: AuditKeys, files: Iterable[AuditedFile]) -> None:
        self._keys = keys
        relations: dict[tuple[CoreIdentity, int], str] = {}
        for file in files:
            if file.file_class is FileClass.RELATION and len(relations) < _MAXIMUM_CANDIDATES:
                relations[file.identity, file.first_block] = file.name
        self._relations = relations

    def explain(self, file: AuditedFile, block: int, stored: bytes) -> str:
        """Return what the block is, to continue a sentence that begins with it; or ``""``."""
        if file.tablespace is None:
            return ""
        for oid, protection in self._keys.known_tablespaces:
            cipher = protection.cipher
            if cipher is None:
                continue
            if oid != file.tablespace and _fits(
                cipher, file, file.identity, file.first_block + block, stored
            ):
                return f"is encrypted with the key of tablespace {oid}"
            for (identity, first_block), name in self._relations.items():
                if _fits(cipher, file, identity, first_block + block, stored):
                    return f"is ciphertext of {name}: the file was copied or renamed"
        return ""


def _fits(
    cipher: _core.Cipher,
    file: AuditedFile,
    identity: CoreIdentity,
    number: int,
    stored: bytes,
) -> bool:
    checksums = file.place.control.data_checksums
    return cipher.audit_pages(stored, identity, number, checksums)[0] == _core.AUDIT_VERIFIED
