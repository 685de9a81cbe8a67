"""WAL segments in plaintext, whichever key each was written with."""

from __future__ import annotations

from pathlib import Path

from tde.algorithms import Algorithm
from tde.keystore import Keystore
from tde.keystore.store.reading import list_owners
from tde.keystore.store.record import OwnerKind
from tde.page.codec import PageCipher
from tde.page.identity import WalIdentity


def plain_segment(keystore: Keystore, file: Path) -> bytes:
    """Return the content of a segment; the address in its first page tells the right key."""
    words = [int(file.name[at : at + 8], 16) for at in (0, 8, 16)]
    content = file.read_bytes()
    for owner in list_owners(keystore.path):
        if owner.kind not in (OwnerKind.WAL, OwnerKind.LATER_WAL):
            continue
        key = keystore.unwrap_key(owner)
        with PageCipher(key, Algorithm.of_key(key)) as cipher:
            plain = cipher.decrypt_pages(content, identity=WalIdentity(*words))
        address = int.from_bytes(plain[8:16], "little")
        if address == (words[1] << 32) + words[2] * len(content):
            return plain
    raise AssertionError(f"no key fits {file}")
