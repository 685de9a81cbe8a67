"""Nothing is leaked: neither references and buffers nor OpenSSL's contexts."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import psutil
import pytest

from tde import PageCipher, PageError, RelationIdentity, WalIdentity, _core

KEY = bytes(range(64))
PAGE = 8192
IDENTITY = RelationIdentity(5, 16384)


def refused(work: Callable[..., object], *arguments: object, **keywords: object) -> None:
    with pytest.raises((PageError, TypeError, OverflowError, ValueError)):
        work(*arguments, **keywords)


def one_round(cipher: PageCipher, pages: bytearray, out: bytearray) -> None:
    """Do everything once, the errors included."""
    cipher.encrypt_pages(pages, identity=IDENTITY)
    cipher.encrypt_pages(pages, out, identity=IDENTITY, threads=2)
    cipher.decrypt_pages(out, out, identity=IDENTITY)
    refused(cipher.encrypt_pages, pages, out[:-1], identity=IDENTITY)
    refused(cipher.encrypt_pages, pages, bytes(out), identity=IDENTITY)
    refused(cipher.encrypt_pages, pages, 5, identity=IDENTITY)
    refused(cipher.encrypt_pages, 5, out, identity=IDENTITY)
    refused(cipher.encrypt_pages, pages, out, identity=IDENTITY, threads=999)
    refused(cipher.encrypt_pages, pages, out, identity=WalIdentity(1, 0, 1), first_block=2**24)
    refused(cipher.encrypt_pages, memoryview(pages)[::2], identity=IDENTITY)
    refused(PageCipher, KEY[:5])
    refused(PageCipher, bytes(64))
    refused(_core.Cipher, 9, KEY)
    refused(_core.Cipher, 2)
    refused(_core.xts, 2, KEY, bytes(16), bytes(5), True)
    refused(_core.tail_mask, bytes(5), bytes(16), 0, b"1")
    refused(_core.tweak, (1, 2), 3)
    refused(_core.unwrap_key_record, b"1", bytes(16), bytes(16), bytes(32), 1, 0)
    _core.parse_path("base/pgsql_tmp/pgsql_tmp1.0")
    with PageCipher(KEY) as other:
        other.encrypt_pages(pages, identity=IDENTITY, threads=4)
    PageCipher(KEY[:32], "AES128")


def test_memory_does_not_grow() -> None:
    cipher, pages, out = PageCipher(KEY), bytearray(b"\1" * 130 * PAGE), bytearray(130 * PAGE)
    process = psutil.Process()
    for _ in range(100):
        one_round(cipher, pages, out)
    gc.collect()
    before = process.memory_info().rss
    for _ in range(500):
        one_round(cipher, pages, out)
    gc.collect()
    grown = process.memory_info().rss - before
    # One leaked context or bytes object per round would be more than 500 KiB or 500 MiB.
    assert grown < 400 * 1024, f"{grown} bytes"


def test_reference_counts_are_stable() -> None:
    cipher, pages, out = PageCipher(KEY), bytearray(b"\1" * 130 * PAGE), bytearray(130 * PAGE)
    watched = (cipher, pages, out, KEY, _core.Cipher, PageError)
    one_round(cipher, pages, out)
    gc.collect()
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(50):
        one_round(cipher, pages, out)
    gc.collect()
    assert [sys.getrefcount(thing) for thing in watched] == before


def test_buffers_are_released() -> None:
    cipher, pages, out = PageCipher(KEY), bytearray(b"\1" * 2 * PAGE), bytearray(2 * PAGE)
    one_round(cipher, pages, out)
    # A bytearray whose buffer is still exported refuses to change its size.
    pages.append(1)
    out.append(1)
