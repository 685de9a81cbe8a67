"""Telling converted sectors from others, and finishing blocks that were torn.

A block of 8192 bytes is overwritten by its encrypted form, or the other way round, or by its form
under another key. When the
machine stops in the middle, each of its sectors holds either the one or the other, because disks
write sectors of 512 bytes as a whole. Which one it is can be told from the first 8 bytes of the
sector in its encrypted form, the *sample*: plain data equals it by chance once in 2**64. Samples
are journaled before the block is overwritten. They are ciphertext in every direction, so the
journal holds nothing that has to be protected. Where a block gets another key both forms are
ciphertext: the sample is of the new one, which the old one equals by chance once in 2**64 too.

XTS encrypts each 16 bytes within a block independently of the others, given their place. So
converting a mixture of both forms as a whole converts exactly those sectors right that were still
in the old form, and the others are kept as they are.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from tde import _core
from tde.page.codec import PAGE_SIZE, PageCipher
from tde.page.identity import PageIdentity, RelationIdentity
from tde.postgres.cluster.unfinished_conversion import REKEY
from tde.postgres.facts import MAJOR_VERSIONS

SECTOR = 512
SAMPLE = 8
SAMPLES_PER_BLOCK = SAMPLE * PAGE_SIZE // SECTOR  # 128 bytes

# pd_pagesize_version: page size and layout version in one number (bufpage.h); 0 in a new page.
_PAGE_VERSIONS = (PAGE_SIZE | 4, 0)
_PAGE_VERSION_WORD = 9
# pd_flags, pd_lower, pd_upper, pd_special, pd_pagesize_version, and where they begin.
_PAGE_HEADER = struct.Struct("<HHHHH")
_PAGE_HEADER_START = 10
_PAGE_HEADER_BYTES = 24
_PAGE_FLAGS = 7
# xlp_magic, xlp_info, xlp_tli, xlp_pageaddr (xlog_internal.h).
_WAL_HEADER = struct.Struct("<HHIQ")
_WAL_INFO = 15
_WAL_MAGICS = frozenset(version.wal_page_magic for version in MAJOR_VERSIONS.values())


class Direction(str, Enum):
    """What a conversion does."""

    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    REKEY = REKEY


@dataclass(frozen=True, slots=True)
class CipherChange:
    """The ciphers of a tablespace before and after it gets another key."""

    old: PageCipher
    new: PageCipher


BlockCipher = PageCipher | CipherChange

CipherName = int | UUID | None
"""Of a tablespace its OID, of the first key of WAL ``None``, of a later one its id."""


def take_samples(blocks: memoryview) -> bytes:
    """Return the first 8 bytes of every sector of whole blocks."""
    return blocks.cast("Q")[:: SECTOR // SAMPLE].tobytes()


def digest(blocks: memoryview) -> int:
    """Return a checksum of encrypted blocks, which shows whether finishing them was possible."""
    return zlib.crc32(blocks)


def invalid_pages(blocks: memoryview) -> list[int]:
    """Return the numbers of blocks, counted from 0, that do not begin like a page."""
    words = blocks.cast("H")[_PAGE_VERSION_WORD :: PAGE_SIZE // 2].tolist()
    return [number for number, word in enumerate(words) if word not in _PAGE_VERSIONS]


def is_surely_plain(block: bytes | bytearray, identity: PageIdentity) -> bool:
    """Tell whether a block is a page of a relation or of WAL, so that it cannot be ciphertext.

    Ciphertext passes less often than once in 2**35. Zeros and damaged pages do not pass.
    """
    if isinstance(identity, RelationIdentity):
        flags, lower, upper, special, version = _PAGE_HEADER.unpack_from(block, _PAGE_HEADER_START)
        in_order = _PAGE_HEADER_BYTES <= lower <= upper <= special <= PAGE_SIZE
        return bool(version == _PAGE_VERSIONS[0] and in_order and flags <= _PAGE_FLAGS)
    magic, info, timeline, address = _WAL_HEADER.unpack_from(block)
    known = magic in _WAL_MAGICS and info <= _WAL_INFO
    return bool(known and 0 < timeline <= identity.timeline and address % PAGE_SIZE == 0)


def converted_before(
    plain: memoryview,
    cipher: BlockCipher,
    identity: PageIdentity,
    first_block: int,
    direction: Direction,
) -> list[int]:
    """Return the numbers of blocks, counted from 0, that had their new form already.

    Args:
        plain: what is taken for the plain form of the blocks.
    """
    found = []
    for number in range(len(plain) // PAGE_SIZE):
        block = bytearray(plain[number * PAGE_SIZE : (number + 1) * PAGE_SIZE])
        if is_surely_plain(block, identity) or block.count(0) == PAGE_SIZE:
            continue
        _undo(memoryview(block), cipher, identity, first_block + number, direction)
        if is_surely_plain(block, identity):
            found.append(number)
    return found


def _undo(
    blocks: memoryview,
    cipher: BlockCipher,
    identity: PageIdentity,
    first_block: int,
    direction: Direction,
) -> None:
    """Make in place the plain form of blocks in their new form that were taken for old ones."""
    if isinstance(cipher, CipherChange):
        convert(blocks, cipher.old, identity, first_block, Direction.ENCRYPT)
        convert(blocks, cipher.new, identity, first_block, Direction.DECRYPT)
    else:
        opposite = Direction.DECRYPT if direction is Direction.ENCRYPT else Direction.ENCRYPT
        convert(blocks, cipher, identity, first_block, opposite)


def convert(
    blocks: memoryview,
    cipher: BlockCipher,
    identity: PageIdentity,
    first_block: int,
    direction: Direction,
) -> None:
    """Convert whole blocks in place; ``first_block`` counts as the identity does."""
    if isinstance(cipher, CipherChange):
        convert(blocks, cipher.old, identity, first_block, Direction.DECRYPT)
        convert(blocks, cipher.new, identity, first_block, Direction.ENCRYPT)
    elif direction is Direction.ENCRYPT:
        cipher.encrypt_pages(blocks, out=blocks, identity=identity, first_block=first_block)
    else:
        cipher.decrypt_pages(blocks, out=blocks, identity=identity, first_block=first_block)


def finish(
    blocks: memoryview,
    samples: bytes,
    cipher: BlockCipher,
    identity: PageIdentity,
    first_block: int,
    direction: Direction,
) -> None:
    """Convert in place those sectors that an interrupted run has not reached.

    Args:
        blocks: the blocks as they are on disk now.
        samples: of their encrypted form, or that under the new key, as :func:`take_samples`
            returned them.
    """
    current = take_samples(blocks)
    if current == samples:
        # Everything is in that form.
        if direction is Direction.DECRYPT:
            convert(blocks, cipher, identity, first_block, direction)
        return
    found = bytearray(blocks)
    convert(blocks, cipher, identity, first_block, direction)
    for sector in range(len(blocks) // SECTOR):
        sample = slice(sector * SAMPLE, (sector + 1) * SAMPLE)
        encrypted = current[sample] == samples[sample]
        if encrypted is (direction is not Direction.DECRYPT):
            place = slice(sector * SECTOR, (sector + 1) * SECTOR)
            blocks[place] = found[place]


def finish_with_checksums(
    blocks: memoryview,
    samples: bytes,
    cipher: PageCipher,
    identity: PageIdentity,
    first_block: int,
) -> None:
    """Encrypt in place what an interrupted run has not reached, where pages get checksums.

    A sector in its old form is that of a page without its checksum, which depends on all sectors.
    So the whole pages are put together in their plain form, and encrypted again.

    Args:
        blocks: the blocks as they are on disk now.
        samples: of their encrypted form, as :func:`take_samples` returned them.
    """
    finish(blocks, samples, cipher, identity, first_block, Direction.DECRYPT)
    _core.set_checksums(blocks, first_block)
    convert(blocks, cipher, identity, first_block, Direction.ENCRYPT)


def encrypted_digest(
    blocks: memoryview,
    samples: bytes,
    cipher: BlockCipher,
    identity: PageIdentity,
    first_block: int,
    direction: Direction,
) -> int:
    """Return the digest of converted blocks in their encrypted form, or that under the new key.

    Args:
        samples: of that form, as :func:`take_samples` returned them.
    """
    if direction is not Direction.DECRYPT or isinstance(cipher, CipherChange):
        return digest(blocks)
    encrypted = bytearray(cipher.encrypt_pages(blocks, identity=identity, first_block=first_block))
    # Encrypting gives no sector of zeros, but a power cut during a first write leaves them.
    for sector in range(len(blocks) // SECTOR):
        if not any(samples[sector * SAMPLE : (sector + 1) * SAMPLE]):
            encrypted[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)
    return digest(memoryview(encrypted))
