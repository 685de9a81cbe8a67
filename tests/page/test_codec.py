"""PageCipher: buffers of every kind, in place, zero pages and every error."""

from __future__ import annotations

import array
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tde
from tde import (
    Algorithm,
    BufferLengthError,
    IdentityError,
    KeyLengthError,
    PageCipher,
    PageError,
    RelationIdentity,
    WalIdentity,
)
from tde.page import reference

PAGE = 8192
KEYS = {Algorithm.AES128: bytes(range(32)), Algorithm.AES256: bytes(range(64))}
KEY = KEYS[Algorithm.AES256]
RELATION = RelationIdentity(5, 16384)
WAL = WalIdentity(1, 0, 1)
PAGES = bytes(i * 31 % 253 for i in range(3 * PAGE))
EXPECTED = reference.encrypt_pages(KEY, PAGES, RELATION)


@pytest.fixture
def cipher() -> PageCipher:
    return PageCipher(KEY)


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("identity", [RELATION, WAL])
def test_agrees_with_the_reference(
    algorithm: Algorithm, identity: RelationIdentity | WalIdentity
) -> None:
    cipher = PageCipher(KEYS[algorithm], algorithm)
    encrypted = cipher.encrypt_pages(PAGES, identity=identity, first_block=9)
    assert encrypted == reference.encrypt_pages(KEYS[algorithm], PAGES, identity, 9)
    assert cipher.decrypt_pages(encrypted, identity=identity, first_block=9) == PAGES


def test_block_identity_and_key_all_matter(cipher: PageCipher) -> None:
    page = PAGES[:PAGE]
    results = {
        cipher.encrypt_pages(page, identity=RELATION),
        cipher.encrypt_pages(page, identity=RELATION, first_block=1),
        cipher.encrypt_pages(page, identity=RelationIdentity(5, 16384, temporary=True)),
        cipher.encrypt_pages(page, identity=RelationIdentity(5, 16384, tde.Fork.VM)),
        cipher.encrypt_pages(page, identity=WAL),
        PageCipher(bytes(range(1, 65))).encrypt_pages(page, identity=RELATION),
        PageCipher(KEY[:32], "AES128").encrypt_pages(page, identity=RELATION),
    }
    assert len(results) == 7


def test_splitting_a_batch_changes_nothing(cipher: PageCipher) -> None:
    single = b"".join(
        cipher.encrypt_pages(PAGES[n * PAGE : (n + 1) * PAGE], identity=RELATION, first_block=n)
        for n in range(3)
    )
    assert single == EXPECTED


def test_zero_pages_stay_zero_and_are_written(cipher: PageCipher) -> None:
    pages = bytes(PAGE) + PAGES[:PAGE] + bytes(PAGE)
    out = bytearray(b"\xff" * len(pages))
    cipher.encrypt_pages(pages, out, identity=RELATION)
    assert out[:PAGE] == out[2 * PAGE :] == bytes(PAGE)
    assert out[PAGE : 2 * PAGE] == reference.encrypt_pages(KEY, PAGES[:PAGE], RELATION, 1)
    assert cipher.decrypt_pages(out, identity=RELATION) == pages


@pytest.mark.parametrize(
    "unwritten", [(0,), (15,), range(1, 16), range(8), range(8, 16), range(16)]
)
def test_sectors_that_were_never_written_are_zeros(
    cipher: PageCipher, unwritten: Sequence[int]
) -> None:
    """A power cut leaves them in a block that was zeros before."""
    stored, expected = bytearray(EXPECTED), bytearray(PAGES)
    for torn in (stored, expected):
        for sector in unwritten:
            torn[PAGE + 512 * sector : PAGE + 512 * (sector + 1)] = bytes(512)
    assert cipher.decrypt_pages(stored, identity=RELATION) == expected
    assert reference.decrypt_pages(KEY, bytes(stored), RELATION) == expected
    assert cipher.decrypt_pages(stored, stored, identity=RELATION) == expected


@pytest.mark.parametrize("position", [0, 15, 16, 17, 4095, 4096, 8175, 8176, 8191])
def test_one_byte_is_enough_not_to_be_a_zero_page(cipher: PageCipher, position: int) -> None:
    page = bytearray(PAGE)
    page[position] = 1
    encrypted = cipher.encrypt_pages(page, identity=RELATION)
    assert encrypted == reference.encrypt_pages(KEY, bytes(page), RELATION)
    assert encrypted.count(0) < 100
    assert cipher.decrypt_pages(encrypted, identity=RELATION) == page


def test_no_pages_become_no_bytes(cipher: PageCipher) -> None:
    assert cipher.encrypt_pages(b"", identity=RELATION) == b""
    assert cipher.decrypt_pages(b"", identity=RELATION, threads=8) == b""
    out = bytearray()
    assert cipher.encrypt_pages(b"", out, identity=RELATION) is out


SOURCES: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "array": lambda data: array.array("Q", data),
    "numpy bytes": lambda data: np.frombuffer(data, np.uint8),
    "numpy words in pages": lambda data: np.frombuffer(data, "<u4").reshape(-1, PAGE // 4),
    "memoryview slice": lambda data: memoryview(b"123" + data + b"45")[3:-2],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_any_buffer_is_a_source(cipher: PageCipher, kind: str) -> None:
    encrypted = cipher.encrypt_pages(SOURCES[kind](PAGES), identity=RELATION)
    assert type(encrypted) is bytes
    assert encrypted == EXPECTED
    assert cipher.decrypt_pages(SOURCES[kind](EXPECTED), identity=RELATION) == PAGES


OUTS: dict[str, Callable[[int], Any]] = {
    "bytearray": bytearray,
    "memoryview": lambda length: memoryview(bytearray(length)),
    "numpy": lambda length: np.zeros(length, np.uint8),
    "numpy 2-D": lambda length: np.zeros((length // PAGE, PAGE), np.uint8),
    "anonymous mmap": lambda length: mmap.mmap(-1, length),
}


@pytest.mark.parametrize("kind", OUTS)
def test_any_writable_buffer_is_filled_and_returned(cipher: PageCipher, kind: str) -> None:
    out = OUTS[kind](len(PAGES))
    assert cipher.encrypt_pages(PAGES, out, identity=RELATION) is out
    assert bytes(memoryview(out)) == EXPECTED
    assert cipher.decrypt_pages(out, out, identity=RELATION) is out
    assert bytes(memoryview(out)) == PAGES


def test_a_mapped_file_in_place(cipher: PageCipher, tmp_path: Path) -> None:
    path = tmp_path / "16384"
    path.write_bytes(PAGES)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        cipher.encrypt_pages(mapped, mapped, identity=RELATION)
    assert path.read_bytes() == EXPECTED


@pytest.mark.parametrize("offset", [0, 1, 3, 7, 15, 16, 33, 63])
def test_unaligned_buffers_are_taken(cipher: PageCipher, offset: int) -> None:
    source = memoryview(bytearray(offset) + PAGES)[offset:]
    target = bytearray(len(PAGES) + 64)
    cipher.encrypt_pages(source, memoryview(target)[63 - offset : -1 - offset], identity=RELATION)
    assert target[63 - offset : -1 - offset] == EXPECTED
    assert not any(target[: 63 - offset])
    assert not any(target[-1 - offset :])
    cipher.encrypt_pages(source, source, identity=RELATION)
    assert source == EXPECTED


@pytest.mark.parametrize("shift", [1, 16, PAGE, 3 * PAGE - 1])
def test_partial_overlap_is_refused(cipher: PageCipher, shift: int) -> None:
    memory = memoryview(bytearray(PAGES + PAGES))
    low, high = memory[: 3 * PAGE], memory[shift : shift + 3 * PAGE]
    for source, target in ((low, high), (high, low)):
        with pytest.raises(PageError, match="overlaps"):
            cipher.encrypt_pages(source, target, identity=RELATION)
    assert memory == PAGES + PAGES


def test_neighbours_do_not_overlap(cipher: PageCipher) -> None:
    memory = memoryview(bytearray(PAGES + PAGES))
    cipher.encrypt_pages(memory[: 3 * PAGE], memory[3 * PAGE :], identity=RELATION)
    assert memory == PAGES + EXPECTED
    cipher.decrypt_pages(memory[3 * PAGE :], memory[: 3 * PAGE], identity=RELATION)
    assert memory == PAGES + EXPECTED


@pytest.mark.parametrize("length", [1, 16, 512, PAGE - 1, PAGE + 1])
def test_partial_pages_are_refused(cipher: PageCipher, length: int) -> None:
    with pytest.raises(BufferLengthError, match=str(length)):
        cipher.encrypt_pages(bytes(length), identity=RELATION)
    with pytest.raises(BufferLengthError, match=str(length)):
        cipher.decrypt_pages(bytes(length), identity=RELATION)


@pytest.mark.parametrize("length", [0, PAGE, 4 * PAGE, 3 * PAGE + 1])
def test_out_must_have_the_length_of_pages(cipher: PageCipher, length: int) -> None:
    with pytest.raises(BufferLengthError):
        cipher.encrypt_pages(PAGES, bytearray(length), identity=RELATION)


def read_only_array(data: bytes) -> Any:
    view = np.frombuffer(data, np.uint8)
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("kind", [bytes, lambda data: memoryview(data), read_only_array])
def test_read_only_out_is_refused(cipher: PageCipher, kind: Callable[[bytes], Any]) -> None:
    out = kind(PAGES)
    with pytest.raises(PageError, match="read-only"):
        cipher.encrypt_pages(PAGES, out, identity=RELATION)
    assert bytes(out) == PAGES


def test_buffers_that_are_not_contiguous_are_refused(cipher: PageCipher) -> None:
    columns: Any = np.zeros((PAGE, 2), np.uint8)
    for source in (columns[:, 0], memoryview(columns)[::2], np.asfortranarray(columns)):
        with pytest.raises(PageError, match="contiguous"):
            cipher.encrypt_pages(source, identity=RELATION)
    with pytest.raises(PageError, match="contiguous"):
        cipher.encrypt_pages(bytes(PAGE), columns[:, 0], identity=RELATION)


@pytest.mark.parametrize("thing", ["text", 7, None, [1]])
def test_things_that_are_no_buffers_are_refused(cipher: PageCipher, thing: object) -> None:
    with pytest.raises(TypeError):
        cipher.encrypt_pages(thing, identity=RELATION)  # type: ignore[call-overload]


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("length", [0, 16, 31, 32, 33, 48, 63, 64, 65, 128])
def test_only_keys_as_long_as_the_algorithms_are_taken(algorithm: Algorithm, length: int) -> None:
    key = bytes(i % 251 for i in range(length))
    if length == algorithm.key_bytes:
        assert PageCipher(key, algorithm).algorithm is algorithm
        return
    with pytest.raises(KeyLengthError, match=f"must have {algorithm.key_bytes} bytes"):
        PageCipher(key, algorithm)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_equal_halves_are_refused(algorithm: Algorithm) -> None:
    half = bytes(range(algorithm.key_bytes // 2))
    with pytest.raises(PageError, match="two halves of an XTS key must differ"):
        PageCipher(half + half, algorithm)


def test_only_the_two_algorithms_are_known_by_name() -> None:
    assert PageCipher(KEY).algorithm is Algorithm.AES256
    assert PageCipher(KEY[:32], "aes128").algorithm is Algorithm.AES128
    for name in ("AES192", "AES-256", "", "PLAINTEXT"):
        with pytest.raises(PageError, match="AES128 or AES256"):
            PageCipher(KEY, name)


@pytest.mark.parametrize("first_block", [-1, 2**32, 2**64, -(2**70)])
def test_a_first_block_out_of_range_is_refused(cipher: PageCipher, first_block: int) -> None:
    with pytest.raises(IdentityError):
        cipher.encrypt_pages(PAGES, identity=RELATION, first_block=first_block)


@pytest.mark.parametrize(("identity", "limit"), [(RELATION, 2**32), (WAL, 2**24)])
def test_pages_fit_up_to_the_last_of_a_file(
    cipher: PageCipher, identity: RelationIdentity | WalIdentity, limit: int
) -> None:
    last = cipher.encrypt_pages(PAGES, identity=identity, first_block=limit - 3)
    assert last == reference.encrypt_pages(KEY, PAGES, identity, limit - 3)
    out = bytearray(len(PAGES))
    with pytest.raises(IdentityError, match="do not fit"):
        cipher.encrypt_pages(PAGES, out, identity=identity, first_block=limit - 2)
    assert not any(out), "nothing may be done before the range is known to be good"


@pytest.mark.parametrize("threads", [0, -1, 65, 2**31])
def test_a_number_of_threads_out_of_range_is_refused(cipher: PageCipher, threads: int) -> None:
    with pytest.raises(PageError, match="threads"):
        cipher.encrypt_pages(PAGES, identity=RELATION, threads=threads)


@pytest.mark.parametrize("count", [1, 63, 64, 127, 128, 129, 191, 192, 200, 256, 513])
def test_threads_change_nothing(cipher: PageCipher, count: int) -> None:
    pages = (PAGES * (count // 3 + 1))[: count * PAGE]
    expected = cipher.encrypt_pages(pages, identity=RELATION, first_block=3)
    for threads in (2, 3, 7, 64):
        out = bytearray(pages)
        cipher.encrypt_pages(out, out, identity=RELATION, first_block=3, threads=threads)
        assert out == expected
        cipher.decrypt_pages(out, out, identity=RELATION, first_block=3, threads=threads)
        assert out == pages


def test_errors_are_value_errors_and_tde_errors() -> None:
    for kind in (KeyLengthError, BufferLengthError, IdentityError):
        assert issubclass(kind, PageError)
        assert issubclass(kind, ValueError)
        assert issubclass(kind, tde.TdeError)
