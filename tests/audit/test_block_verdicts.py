"""What the auditor's C core says about single blocks."""

from __future__ import annotations

import math
import os
import random
import struct

import pytest

from tde import _core
from tde.errors import BufferLengthError, PageError

PAGE = 8192
KEY = bytes(range(64))
IDENTITY = (_core.CLASS_RELATION, 5, 16384, 0, 0)
MAGIC = 0xD118
SEGMENT_BYTES = 16 << 20


def make_page(block: int, *, fill: bytes | None = None) -> bytes:
    """Return a page with a proper header and checksum, and any or repeated content.

    The same at every run: of random pages, one in 65,536 hides any damage from its checksum.
    """
    body = random.Random(block).randbytes(PAGE) if fill is None else (fill * PAGE)[:PAGE]
    page = bytearray(body)
    struct.pack_into("<IIHHHHHHI", page, 0, 0, 7, 0, 0, 100, 8000, 8192, 8196, 0)
    struct.pack_into("<H", page, 8, reference_checksum(bytes(page), block))
    return bytes(page)


def reference_checksum(page: bytes, block: int) -> int:
    """PostgreSQL's page checksum, written from its description a second time."""
    starts = (
        "5B1F36E9 B8525960 02AB50AA 1DE66D2A 79FF467A 9BB9F8A3 217E7CD2 83E13D2C "
        "F8D4474F E39EB970 42C6AE16 993216FA 7B093B5D 98DAFF3C F718902A 0B1C9CDB "
        "E58F764B 187636BC 5D7B3BB1 E73DE7DE 92BEC979 CCA6C0B2 304A0979 85AA43D4 "
        "783125BB 6CA8EAA2 E407EAC6 4B5CFC3E 9FBF8C76 15CA20BE F2CA9FD3 959BD756"
    )
    sums = [int(word, 16) for word in starts.split()]
    words = list(struct.unpack("<2048I", page))
    words[2] &= 0xFFFF0000  # The field of the checksum itself.
    for at in range(0, len(words) + 64, 32):
        row = words[at : at + 32] or [0] * 32
        for lane, word in enumerate(row):
            mixed = sums[lane] ^ word
            sums[lane] = (mixed * 16777619 & 0xFFFFFFFF) ^ mixed >> 17
    result = 0
    for lane in sums:
        result ^= lane
    return (result ^ block) % 65535 + 1


@pytest.fixture
def cipher() -> _core.Cipher:
    return _core.Cipher(2, KEY)


def stored(cipher: _core.Cipher, *pages: bytes, first: int = 0) -> bytes:
    return cipher.encrypt_blocks(b"".join(pages), None, IDENTITY, first, 1)


@pytest.mark.parametrize("block", [0, 1, 131072, 2**32 - 2])
def test_checksum_is_postgresqls(block):
    page = os.urandom(PAGE)
    assert _core.page_checksum(page, block) == reference_checksum(page, block)


def test_verdicts_on_pages(cipher):
    pages = [make_page(7), bytes(PAGE), make_page(9, fill=b"row ")]
    good = stored(cipher, *pages, first=7)
    expected = bytes([_core.AUDIT_VERIFIED, _core.AUDIT_ZERO, _core.AUDIT_VERIFIED])
    assert cipher.audit_pages(good, IDENTITY, 7, True) == expected
    assert cipher.audit_pages(good, IDENTITY, 7, False) == expected
    plain = bytes([_core.AUDIT_PLAIN_PAGE, _core.AUDIT_ZERO, _core.AUDIT_PLAIN_PAGE])
    assert cipher.audit_pages(b"".join(pages), IDENTITY, 7, True) == plain


def test_another_identity_is_noise(cipher):
    good = stored(cipher, make_page(0))
    other = (_core.CLASS_RELATION, 5, 16385, 0, 0)
    assert cipher.audit_pages(good, other, 0, True) == bytes([_core.AUDIT_NOISE])
    assert cipher.audit_pages(good, IDENTITY, 1, True) == bytes([_core.AUDIT_NOISE])


def test_damage_and_partial_plaintext(cipher):
    good = bytearray(stored(cipher, make_page(0)))
    good[4096] ^= 1
    assert cipher.audit_pages(good, IDENTITY, 0, True) == bytes([_core.AUDIT_BAD_CHECKSUM])
    assert cipher.audit_pages(good, IDENTITY, 0, False) == bytes([_core.AUDIT_VERIFIED])
    good[4096:4352] = (b"half a sector of somebody's words " * 9)[:256]
    for checksums in (True, False):
        verdict = cipher.audit_pages(good, IDENTITY, 0, checksums)
        assert verdict == bytes([_core.AUDIT_NOT_RANDOM])


def test_text_that_is_no_page(cipher):
    text = (b"INSERT INTO secret VALUES (42); " * 300)[:PAGE]
    assert cipher.audit_pages(text, IDENTITY, 0, True) == bytes([_core.AUDIT_NOT_RANDOM])


def wal_page(segment: int, block: int, *, timeline: int = 1) -> bytes:
    address = segment * SEGMENT_BYTES + block * PAGE
    return struct.pack("<HHIQ", MAGIC, 0, timeline, address) + b"record " * 1168


def wal_identity(segment: int, timeline: int = 1) -> tuple[int, int, int, int, int]:
    return (_core.CLASS_WAL, timeline, segment // 256, segment % 256, 0)


def test_verdicts_on_wal(cipher):
    segment = 300
    pages = wal_page(segment, 5) + wal_page(segment, 6) + bytes(PAGE)
    good = cipher.encrypt_blocks(pages, None, wal_identity(segment), 5, 1)
    address = segment * SEGMENT_BYTES
    expected = bytes([_core.AUDIT_VERIFIED] * 2 + [_core.AUDIT_ZERO])
    assert cipher.audit_wal(good, wal_identity(segment), 5, address, MAGIC) == expected
    plain = cipher.audit_wal(pages, wal_identity(segment), 5, address, MAGIC)
    assert plain == bytes([_core.AUDIT_PLAIN_PAGE] * 2 + [_core.AUDIT_ZERO])
    moved = cipher.audit_wal(good, wal_identity(segment), 6, address, MAGIC)
    assert moved == bytes([_core.AUDIT_NOISE] * 2 + [_core.AUDIT_ZERO])


def test_pages_of_an_older_timeline_belong_to_the_copy(cipher):
    page = wal_page(300, 0, timeline=1)
    identity = wal_identity(300, timeline=2)
    good = cipher.encrypt_blocks(page, None, identity, 0, 1)
    address = 300 * SEGMENT_BYTES
    assert cipher.audit_wal(good, identity, 0, address, MAGIC) == bytes([_core.AUDIT_VERIFIED])
    newer = cipher.encrypt_blocks(wal_page(300, 0, timeline=3), None, identity, 0, 1)
    assert cipher.audit_wal(newer, identity, 0, address, MAGIC) == bytes([_core.AUDIT_NOISE])


def test_former_segment_is_found(cipher):
    good = cipher.encrypt_blocks(wal_page(257, 9), None, wal_identity(257), 9, 1)
    search = (1, 300, 100, SEGMENT_BYTES, MAGIC)
    assert cipher.find_segment(good, 9, *search) == 257
    assert cipher.find_segment(good, 8, *search) is None
    assert cipher.find_segment(good, 9, 1, 300, 43, SEGMENT_BYTES, MAGIC) is None
    assert cipher.find_segment(good, 9, 2, 300, 100, SEGMENT_BYTES, MAGIC) is None


def test_random_bytes_pass_and_rows_do_not():
    data = os.urandom(3 * PAGE) + bytes(PAGE) + os.urandom(512)
    expected = bytes([_core.AUDIT_VERIFIED] * 3 + [_core.AUDIT_ZERO, _core.AUDIT_VERIFIED])
    assert _core.audit_random(data) == expected
    rows = bytearray(os.urandom(PAGE))
    # 48 equal bytes, all in one sector: a skew of 3,600 or so, far above the limit of 2,912.
    rows[600:648] = bytes(48)
    assert _core.audit_random(rows) == bytes([_core.AUDIT_NOT_RANDOM])
    with pytest.raises(ValueError, match="whole sectors"):
        _core.audit_random(data[:-1])


def test_limit_of_the_statistic_refuses_ciphertext_less_than_once_in_2_to_the_50():
    """A Chernoff bound for the sum of squares over 512 random bytes, Poisson made multinomial."""
    limit, largest, sector = 2912, 25, 512
    mean = sector / 256

    def log_poisson(count: int) -> float:
        return -mean + count * math.log(mean) - math.lgamma(count + 1)

    def log_bound(tilt: float) -> float:
        terms = sum(math.exp(log_poisson(c) + tilt * c * c) for c in range(largest + 1))
        return 256 * math.log(terms) - tilt * (limit + 1)

    # Given that independent Poisson counts add up to 512, they are the counts of random bytes.
    log_condition = sector * math.log(sector) - sector - math.lgamma(sector + 1)
    body = min(log_bound(step / 10000) for step in range(1, 2000)) - log_condition
    above = 256 * math.exp(log_poisson(largest + 1)) / (1 - mean / (largest + 2))
    total = math.exp(body) + above / math.exp(log_condition)
    assert total < 2**-50
    counts = [os.urandom(sector) for _ in range(500)]
    assert max(map(_core.sector_skew, counts)) < limit
    assert _core.sector_skew(bytes(sector)) == sector**2


def test_bytes_are_found_from_an_offset_on():
    data = b"x" * 10 + b"needle" + b"y" * 10
    assert _core.find_bytes(data, b"needle", 0) == 10
    assert _core.find_bytes(data, b"needle", 11) == -1
    assert _core.find_bytes(data, b"", 0) == -1
    assert _core.find_bytes(data, b"y", 100) == -1


def test_partial_pages_plain_files_and_closed_ciphers_are_refused(cipher):
    with pytest.raises(BufferLengthError):
        cipher.audit_pages(bytes(100), IDENTITY, 0, True)
    with pytest.raises(PageError):
        cipher.audit_pages(bytes([1]) * PAGE, (_core.CLASS_PLAIN, 0, 0, 0, 0), 0, True)
    cipher.close()
    with pytest.raises(PageError, match="closed"):
        cipher.audit_pages(bytes(PAGE), IDENTITY, 0, True)
