"""Blocks that were torn between their plain and their encrypted form are finished."""

from __future__ import annotations

import random
import secrets
import struct

import pytest

from tde import PageCipher, RelationIdentity, _core
from tde.convert.blocks import (
    SAMPLES_PER_BLOCK,
    SECTOR,
    CipherChange,
    Direction,
    convert,
    converted_before,
    digest,
    encrypted_digest,
    finish,
    finish_with_checksums,
    invalid_pages,
    take_samples,
)
from tde.page.codec import PAGE_SIZE

IDENTITY = RelationIdentity(database=5, relfilenumber=16384)
FIRST = 131072
BLOCKS = 16


@pytest.fixture(params=["AES128", "AES256"])
def cipher(request):
    size = 32 if request.param == "AES128" else 64
    with PageCipher(secrets.token_bytes(size), request.param) as made:
        yield made


def make_blocks(chooser: random.Random) -> bytes:
    """Blocks of noise, of zeros, and of noise with sectors of zeros, as sparse pages have them."""
    blocks = b""
    for number in range(BLOCKS):
        page = bytearray(chooser.randbytes(PAGE_SIZE))
        if number % 4 == 0:
            page = bytearray(PAGE_SIZE)
        elif number % 4 == 1:
            page[SECTOR : 15 * SECTOR] = bytes(14 * SECTOR)
        blocks += page
    return blocks


def mix(one: bytes, other: bytes, chooser: random.Random, share: float) -> bytearray:
    """Take each sector from one of two versions."""
    result = bytearray(one)
    for start in range(0, len(one), SECTOR):
        if chooser.random() < share:
            result[start : start + SECTOR] = other[start : start + SECTOR]
    return result


@pytest.mark.parametrize("direction", [Direction.ENCRYPT, Direction.DECRYPT])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_every_mixture_of_sectors_is_finished(cipher, direction, share):
    chooser = random.Random(f"{direction}{share}")
    plain = make_blocks(chooser)
    encrypted = cipher.encrypt_pages(plain, identity=IDENTITY, first_block=FIRST)
    samples = take_samples(memoryview(encrypted))
    assert len(samples) == BLOCKS * SAMPLES_PER_BLOCK
    for _ in range(20):
        torn = mix(plain, encrypted, chooser, share)
        finish(memoryview(torn), samples, cipher, IDENTITY, FIRST, direction)
        assert torn == (encrypted if direction is Direction.ENCRYPT else plain)
        found = encrypted_digest(memoryview(torn), samples, cipher, IDENTITY, FIRST, direction)
        assert found == digest(memoryview(encrypted))


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_every_mixture_is_finished_where_pages_get_checksums(cipher, share):
    """The old form of a first sector lacks the checksum, which all the others decide."""
    chooser = random.Random(share)
    plain = bytearray(make_blocks(chooser))
    for number in range(0, BLOCKS, 2):  # Pages of zeros are among them; the others are noise.
        start = number * PAGE_SIZE
        if number % 4:
            plain[start + 8 : start + 20] = struct.pack("<6H", 7, 0, 24, 100, 8192, PAGE_SIZE | 4)
    whole = bytearray(plain)
    _core.set_checksums(whole, FIRST)
    assert whole != plain
    encrypted = cipher.encrypt_pages(whole, identity=IDENTITY, first_block=FIRST)
    samples = take_samples(memoryview(encrypted))
    for _ in range(20):
        torn = mix(bytes(plain), encrypted, chooser, share)
        finish_with_checksums(memoryview(torn), samples, cipher, IDENTITY, FIRST)
        assert torn == encrypted


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_blocks_that_an_earlier_power_cut_left_half_written_are_decrypted(cipher, share):
    """Such sectors are zeros in both forms, and encrypting them again would not give that."""
    chooser = random.Random(share)
    plain = bytearray(make_blocks(chooser))
    encrypted = bytearray(cipher.encrypt_pages(plain, identity=IDENTITY, first_block=FIRST))
    for blocks in (plain, encrypted):
        blocks[2 * PAGE_SIZE : 2 * PAGE_SIZE + 5 * SECTOR] = bytes(5 * SECTOR)
    samples = take_samples(memoryview(encrypted))
    torn = mix(plain, encrypted, chooser, share)
    finish(memoryview(torn), samples, cipher, IDENTITY, FIRST, Direction.DECRYPT)
    assert torn == plain
    found = encrypted_digest(memoryview(torn), samples, cipher, IDENTITY, FIRST, Direction.DECRYPT)
    assert found == digest(memoryview(encrypted))


@pytest.fixture
def other_cipher():
    with PageCipher(secrets.token_bytes(64), "AES256") as made:
        yield made


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_every_mixture_of_two_keys_is_finished(cipher, other_cipher, share):
    """Both forms are ciphertext. Some sectors of the old one were never written."""
    chooser = random.Random(share)
    plain = bytearray(make_blocks(chooser))
    old = bytearray(cipher.encrypt_pages(plain, identity=IDENTITY, first_block=FIRST))
    for blocks in (plain, old):
        blocks[2 * PAGE_SIZE : 2 * PAGE_SIZE + 5 * SECTOR] = bytes(5 * SECTOR)
    new = other_cipher.encrypt_pages(plain, identity=IDENTITY, first_block=FIRST)
    place = (CipherChange(cipher, other_cipher), IDENTITY, FIRST, Direction.REKEY)
    converted = bytearray(old)
    convert(memoryview(converted), *place)
    assert converted == new
    samples = take_samples(memoryview(new))
    for _ in range(20):
        torn = mix(bytes(old), new, chooser, share)
        finish(memoryview(torn), samples, *place)
        assert torn == new
        assert encrypted_digest(memoryview(torn), samples, *place) == digest(memoryview(new))


def test_a_block_that_has_its_new_key_already_is_found(cipher, other_cipher):
    plain = bytearray(4 * PAGE_SIZE)
    for start in range(0, 3 * PAGE_SIZE, PAGE_SIZE):
        plain[start + 8 : start + 20] = struct.pack("<6H", 7, 0, 24, 100, 8192, PAGE_SIZE | 4)
    stored = bytearray(cipher.encrypt_pages(plain, identity=IDENTITY, first_block=FIRST))
    new = other_cipher.encrypt_pages(plain, identity=IDENTITY, first_block=FIRST)
    stored[PAGE_SIZE : 2 * PAGE_SIZE] = new[PAGE_SIZE : 2 * PAGE_SIZE]
    taken_for_plain = memoryview(
        bytearray(cipher.decrypt_pages(stored, identity=IDENTITY, first_block=FIRST))
    )
    place = (CipherChange(cipher, other_cipher), IDENTITY, FIRST, Direction.REKEY)
    assert converted_before(taken_for_plain, *place) == [1]


@pytest.mark.parametrize("direction", [Direction.ENCRYPT, Direction.DECRYPT])
def test_a_sector_that_is_neither_form_shows_in_the_digest(cipher, direction):
    chooser = random.Random(1)
    plain = make_blocks(chooser)
    encrypted = cipher.encrypt_pages(plain, identity=IDENTITY, first_block=FIRST)
    torn = mix(plain, encrypted, chooser, 0.5)
    samples = take_samples(memoryview(encrypted))
    torn[3 * PAGE_SIZE + 100] ^= 1
    finish(memoryview(torn), samples, cipher, IDENTITY, FIRST, direction)
    found = encrypted_digest(memoryview(torn), samples, cipher, IDENTITY, FIRST, direction)
    assert found != digest(memoryview(encrypted))


def test_samples_hold_no_plaintext_and_tell_sectors_apart(cipher):
    plain = make_blocks(random.Random(2))
    encrypted = cipher.encrypt_pages(plain, identity=IDENTITY)
    samples = take_samples(memoryview(encrypted))
    for number in range(len(plain) // SECTOR):
        sample = samples[8 * number : 8 * number + 8]
        assert sample == encrypted[number * SECTOR : number * SECTOR + 8]
        in_zero_page = number // 16 % 4 == 0
        assert (sample == plain[number * SECTOR : number * SECTOR + 8]) is in_zero_page


def test_pages_are_told_from_noise():
    page = bytearray(PAGE_SIZE)
    page[18:20] = (PAGE_SIZE | 4).to_bytes(2, "little")
    noise = bytes(range(256)) * 32
    blocks = bytes(page) + bytes(PAGE_SIZE) + noise + bytes(page) + noise
    assert invalid_pages(memoryview(blocks)) == [2, 4]
