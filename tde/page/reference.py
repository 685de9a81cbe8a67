"""The page format once more, slowly and independently of the C core.

Written from docs/format.md on top of the ``cryptography`` package, so that two programs
with no code in common have to agree on every byte.  Not for production use.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tde.page.identity import PageIdentity, RelationIdentity

PAGE_SIZE = 8192
SECTOR_SIZE = 512

_FORMAT_VERSION = 1
_CLASS_RELATION = 1
_CLASS_WAL = 2
_CLASS_TEMP_RELATION = 3
_CLASS_EPHEMERAL = 4


def tweak(identity: PageIdentity, block: int) -> bytes:
    """Return the 16-byte tweak of one page.

    Relation: database, relfilenumber, block (4 bytes each), fork (1), format version (2),
    class (1).  WAL: timeline, log, segment (4 each), block (3), class (1).  Big-endian.
    """
    if isinstance(identity, RelationIdentity):
        return struct.pack(
            ">IIIBHB",
            identity.database,
            identity.relfilenumber,
            block,
            identity.fork,
            _FORMAT_VERSION,
            _CLASS_TEMP_RELATION if identity.temporary else _CLASS_RELATION,
        )
    words = struct.pack(">III", identity.timeline, identity.log, identity.segment)
    return words + block.to_bytes(3, "big") + bytes([_CLASS_WAL])


def ephemeral_tweak(digest: bytes, block: int) -> bytes:
    """Return the tweak of a block of an ephemeral file from its name's digest (11 bytes used).

    Digest bytes 0 to 7 (8), block (4), digest bytes 8 to 10 (3), class (1).
    """
    return digest[:8] + struct.pack(">I", block) + digest[8:11] + bytes([_CLASS_EPHEMERAL])


def xts(key: bytes, unit_tweak: bytes, data: bytes, *, encrypt: bool) -> bytes:
    """Run AES-XTS over one data unit of at least 16 bytes."""
    cipher = Cipher(algorithms.AES(key), modes.XTS(unit_tweak))
    context = cipher.encryptor() if encrypt else cipher.decryptor()
    return context.update(data) + context.finalize()


def tail_mask(tail_key: bytes, unit_tweak: bytes, index: int, data: bytes) -> bytes:
    """Mask the last, partial AES block of a file: data XOR AES(AES(tweak) XOR index)."""

    def aes(block: bytes) -> bytes:
        # One block at a time; ECB names the bare cipher here, not a mode of use.
        return Cipher(algorithms.AES(tail_key), modes.ECB()).encryptor().update(block)

    inner = int.from_bytes(aes(unit_tweak), "big") ^ index
    mask = aes(inner.to_bytes(16, "big"))
    return bytes(a ^ b for a, b in zip(data, mask, strict=False))


def _process(
    key: bytes, pages: bytes, identity: PageIdentity, first_block: int, *, encrypt: bool
) -> bytes:
    result = []
    for number, start in enumerate(range(0, len(pages), PAGE_SIZE), first_block):
        page = pages[start : start + PAGE_SIZE]
        if any(page):
            stored, page = page, xts(key, tweak(identity, number), page, encrypt=encrypt)
            if not encrypt:
                page = _without_unwritten_sectors(stored, page)
        result.append(page)  # A page of zeros stays one.
    return b"".join(result)


def _without_unwritten_sectors(stored: bytes, page: bytes) -> bytes:
    """Return zeros where a stored sector is zeros: a power cut left it unwritten."""
    sectors = []
    for start in range(0, len(page), SECTOR_SIZE):
        sector = slice(start, start + SECTOR_SIZE)
        sectors.append(page[sector] if any(stored[sector]) else bytes(SECTOR_SIZE))
    return b"".join(sectors)


def encrypt_pages(key: bytes, pages: bytes, identity: PageIdentity, first_block: int = 0) -> bytes:
    """Encrypt whole 8192-byte pages of one file, the first of them ``first_block``."""
    return _process(key, pages, identity, first_block, encrypt=True)


def decrypt_pages(key: bytes, pages: bytes, identity: PageIdentity, first_block: int = 0) -> bytes:
    """Undo :func:`encrypt_pages`."""
    return _process(key, pages, identity, first_block, encrypt=False)
