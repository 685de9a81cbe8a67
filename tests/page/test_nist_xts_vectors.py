"""The C core against NIST's XTS vectors (CAVS 11.0, XTSVS), both ways of giving the tweak.

The vectors come with the ``cryptography_vectors`` package.  Units that are not a multiple
of 16 bytes need ciphertext stealing, which no PostgreSQL block does; they are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors
import pytest

from tde import Algorithm, BufferLengthError, PageError, _core
from tde.page import reference

DIRECTORY = Path(cryptography_vectors.__file__).parent / "ciphers" / "AES" / "XTS"
FILES = [
    pytest.param(f"{kind}/XTSGen{algorithm.name}.rsp", algorithm, id=f"{kind}-{algorithm.name}")
    for kind in ("tweak-128hexstr", "tweak-dataunitseqno")
    for algorithm in Algorithm
]


def read_vectors(path: Path) -> Iterator[dict[str, str]]:
    """Yield the records of a .rsp file; "section" is ENCRYPT or DECRYPT."""
    section = ""
    record: dict[str, str] = {}
    for line in [*path.read_text(encoding="ascii").splitlines(), ""]:
        name, equals, value = line.partition(" = ")
        if equals:
            record[name] = value
        elif line.startswith("["):
            section = line.strip("[]")
        elif record:
            yield {"section": section, **record}
            record = {}


def tweak_of(vector: dict[str, str]) -> bytes:
    if "i" in vector:
        return bytes.fromhex(vector["i"])
    return int(vector["DataUnitSeqNumber"]).to_bytes(16, "little")


@pytest.mark.parametrize(("file", "algorithm"), FILES)
def test_the_core_agrees_with_the_published_vectors(file: str, algorithm: Algorithm) -> None:
    seen = {"ENCRYPT": 0, "DECRYPT": 0}
    for vector in read_vectors(DIRECTORY / file):
        if int(vector["DataUnitLen"]) % 128 != 0:
            continue
        key = bytes.fromhex(vector["Key"])
        plain, cipher = bytes.fromhex(vector["PT"]), bytes.fromhex(vector["CT"])
        tweak = tweak_of(vector)
        label = f"{vector['section']} {vector['COUNT']}"
        assert _core.xts(algorithm.value, key, tweak, plain, True) == cipher, label
        assert _core.xts(algorithm.value, key, tweak, cipher, False) == plain, label
        seen[vector["section"]] += 1
    # An unread file must not look like success.
    assert min(seen.values()) >= 100, seen


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("length", [16, 32, 496, 512, 4096, 8176, 8192])
def test_longer_units_than_the_published_ones(algorithm: Algorithm, length: int) -> None:
    key, tweak = bytes(range(algorithm.key_bytes)), bytes(range(16))
    data = bytes(i * 7 % 251 for i in range(length))
    expected = reference.xts(key, tweak, data, encrypt=True)
    assert _core.xts(algorithm.value, key, tweak, data, True) == expected
    assert _core.xts(algorithm.value, key, tweak, expected, False) == data


def test_a_shorter_unit_is_the_prefix_of_a_longer_one() -> None:
    # Reading or writing a part of a block depends on it.
    key, tweak, data = bytes(range(64)), bytes(16), bytes(range(256)) * 32
    whole = _core.xts(2, key, tweak, data, True)
    assert all(_core.xts(2, key, tweak, data[:n], True) == whole[:n] for n in range(16, 8192, 368))


@pytest.mark.parametrize("length", [1, 15, 17, 8208])
def test_lengths_that_are_no_data_unit_are_refused(length: int) -> None:
    with pytest.raises(BufferLengthError):
        _core.xts(2, bytes(range(64)), bytes(16), bytes(length), True)


@pytest.mark.parametrize(
    ("algorithm", "key", "tweak"),
    [
        (0, b"", bytes(16)),
        (3, bytes(range(64)), bytes(16)),
        (1, bytes(range(64)), bytes(16)),
        (2, bytes(64), bytes(16)),
        (2, bytes(range(64)), bytes(15)),
    ],
    ids=["plaintext", "unknown", "long key", "equal halves", "short tweak"],
)
def test_unusable_arguments_are_refused(algorithm: int, key: bytes, tweak: bytes) -> None:
    with pytest.raises(PageError):
        _core.xts(algorithm, key, tweak, bytes(16), True)


@pytest.mark.parametrize("length", range(16))
def test_tail_mask_agrees_with_the_reference(length: int) -> None:
    key, tweak, data = bytes(range(32)), bytes(range(100, 116)), bytes(range(50, 50 + length))
    for index in (0, 1, 511, 0xFFFF_FFFF):
        expected = reference.tail_mask(key, tweak, index, data)
        assert _core.tail_mask(key, tweak, index, data) == expected
        assert _core.tail_mask(key, tweak, index, expected) == data


def test_tail_mask_takes_less_than_an_aes_block() -> None:
    with pytest.raises(PageError):
        _core.tail_mask(bytes(range(32)), bytes(16), 0, bytes(16))
