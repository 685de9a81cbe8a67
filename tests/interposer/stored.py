"""Decodes what the interposer stored, with the independent reference implementation."""

from __future__ import annotations

from pathlib import Path

from tde import RelationIdentity, WalIdentity
from tde.keystore import KeyOwner, Keystore
from tde.page.reference import PAGE_SIZE, decrypt_pages, tweak, xts

PageIdentity = RelationIdentity | WalIdentity


def decode(
    path: Path, keystore: Keystore, owner: KeyOwner, identity: PageIdentity, first_block: int = 0
) -> bytes:
    """Return the plaintext of a relation file or WAL segment.

    A last block that is not whole (its length a multiple of 16) is the prefix of one.
    """
    key = bytes(keystore.unwrap_key(owner))
    stored = path.read_bytes()
    whole = len(stored) - len(stored) % PAGE_SIZE
    rest = stored[whole:]
    if any(rest):
        last = tweak(identity, first_block + whole // PAGE_SIZE)
        rest = xts(key, last, rest, encrypt=False)
    return decrypt_pages(key, stored[:whole], identity, first_block) + rest
