"""A keystore that was truncated, altered or mixed up is refused, whatever was done to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    KdfParametersError,
    KeystoreDamagedError,
    KeystoreError,
    KeystoreVersionError,
    WrongPassphraseError,
)
from tde.keystore import KeyOwner, Keystore, inspect_keystore
from tde.keystore.store.reading import read_document
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

WAL = KeyOwner.wal()
ONE = KeyOwner.tablespace(16400)
TWO = KeyOwner.tablespace(16401)


@pytest.fixture
def keystore(tmp_path: Path) -> Iterator[Keystore]:
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(WAL, Algorithm.AES256)
        created.create_key(ONE, Algorithm.AES256)
        created.create_key(TWO, Algorithm.AES256)
        created.create_plaintext_entry(1663)
        yield created


def record_file(keystore: Keystore, owner: KeyOwner) -> Path:
    return keystore.path / "keys" / owner.file_name


def flips(data: bytes) -> Iterator[bytes]:
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


@pytest.mark.parametrize("owner", [WAL, ONE, KeyOwner.tablespace(1663)], ids=str)
def test_every_flipped_bit_of_a_record_is_refused(keystore: Keystore, owner: KeyOwner) -> None:
    file = record_file(keystore, owner)
    for changed in flips(file.read_bytes()):
        file.write_bytes(changed)
        with pytest.raises((KeystoreDamagedError, KeystoreVersionError)):
            keystore.unwrap_key(owner)


def test_every_truncation_of_a_record_is_refused(keystore: Keystore) -> None:
    file = record_file(keystore, ONE)
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(KeystoreDamagedError, match=f"{length} bytes instead of 144"):
            keystore.unwrap_key(ONE)
    file.write_bytes(data + b"\0")
    with pytest.raises(KeystoreDamagedError, match="145 bytes instead of 144 or 160"):
        keystore.unwrap_key(ONE)


def test_every_flipped_bit_of_the_document_is_refused(keystore: Keystore) -> None:
    file = keystore.path / "keystore.json"
    for changed in flips(file.read_bytes()):
        file.write_bytes(changed)
        # Without a passphrase, so damage never passes for a wrong passphrase.
        with pytest.raises((KeystoreDamagedError, KeystoreVersionError)):
            inspect_keystore(keystore.path)


def test_every_truncation_of_the_document_is_refused(keystore: Keystore) -> None:
    file = keystore.path / "keystore.json"
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(KeystoreDamagedError):
            inspect_keystore(keystore.path)


def forge(keystore: Keystore, *path: str, value: Any) -> None:
    """Change one field the way somebody would who knows about the checksum."""
    file = keystore.path / "keystore.json"
    fields = json.loads(file.read_bytes())
    place = fields
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    del fields["checksum"]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    fields["checksum"] = hashlib.sha256(canonical).hexdigest()
    file.write_bytes(json.dumps(fields, indent=2).encode() + b"\n")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("uuid",), "00" * 16),
        (("created",), "2001-01-01T00:00:00+00:00"),
        (("kdf", "memory_kib"), 8193),
        (("kdf", "iterations"), 2),
        (("kdf", "lanes"), 2),
        (("kdf", "salt"), "00" * 16),
        (("master_key", "id"), "00" * 16),
        (("master_key", "nonce"), "00" * 12),
        (("master_key", "wrapped"), "00" * 48),
    ],
)
def test_forged_field_with_a_good_checksum_does_not_unwrap(
    keystore: Keystore, path: tuple[str, ...], value: Any
) -> None:
    forge(keystore, *path, value=value)
    read_document(keystore.path)  # The form is right, so only the key can tell.
    with pytest.raises(WrongPassphraseError, match="wrong passphrase") as caught:
        Keystore.open(keystore.path, PASSPHRASE)
    assert "altered" in caught.value.remedy


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (("format",), "other", KeystoreDamagedError),
        (("version",), 2, KeystoreVersionError),
        (("version",), "1", KeystoreVersionError),
        (("version",), True, KeystoreDamagedError),
        (("uuid",), None, KeystoreDamagedError),
        (("uuid",), "no hex", KeystoreDamagedError),
        (("uuid",), "0123456789ABCDEF" * 2, KeystoreDamagedError),
        (("created",), "yesterday", KeystoreDamagedError),
        (("extra",), 1, KeystoreDamagedError),
        (("kdf",), [], KeystoreDamagedError),
        (("kdf", "name"), "scrypt", KeystoreDamagedError),
        (("kdf", "extra"), 1, KeystoreDamagedError),
        (("kdf", "memory_kib"), 1024, KdfParametersError),
        (("kdf", "memory_kib"), 2**40, KdfParametersError),
        (("kdf", "iterations"), 10**6, KdfParametersError),
        (("kdf", "iterations"), True, KdfParametersError),
        (("kdf", "lanes"), 64, KdfParametersError),
        (("master_key", "wrapped"), "zz", KeystoreDamagedError),
        (("master_key", "wrapped"), 7, KeystoreDamagedError),
    ],
)
def test_field_that_tde_does_not_write_is_refused_before_any_derivation(
    keystore: Keystore, path: tuple[str, ...], value: Any, error: type[KeystoreError]
) -> None:
    forge(keystore, *path, value=value)
    with pytest.raises(error):
        inspect_keystore(keystore.path)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 60000, b"\xff", b"x" * 70000])
def test_something_else_in_place_of_the_document_is_refused(
    keystore: Keystore, content: bytes
) -> None:
    (keystore.path / "keystore.json").write_bytes(content)
    with pytest.raises(KeystoreDamagedError):
        Keystore.open(keystore.path, PASSPHRASE)


def test_records_swapped_between_tablespaces_are_refused(keystore: Keystore) -> None:
    one, two = record_file(keystore, ONE), record_file(keystore, TWO)
    content = one.read_bytes(), two.read_bytes()
    one.write_bytes(content[1])
    two.write_bytes(content[0])
    for owner, other in ((ONE, TWO), (TWO, ONE)):
        with pytest.raises(KeystoreDamagedError, match=f"is the key record of {other}"):
            keystore.unwrap_key(owner)
    with pytest.raises(KeystoreDamagedError, match="is the key record of"):
        inspect_keystore(keystore.path)


def test_swapped_records_relabelled_to_fit_are_refused(keystore: Keystore) -> None:
    # The key of 16401 under the header's owner 16400: only the tag can tell.
    stolen = bytearray(record_file(keystore, TWO).read_bytes())
    stolen[12:16] = ONE.oid.to_bytes(4, "big")
    record_file(keystore, ONE).write_bytes(stolen)
    with pytest.raises(KeystoreDamagedError, match="does not match the master key"):
        keystore.unwrap_key(ONE)


def test_record_of_another_master_key_is_refused(keystore: Keystore) -> None:
    file = record_file(keystore, ONE)
    changed = bytearray(file.read_bytes())
    changed[32] ^= 1
    file.write_bytes(changed)
    with pytest.raises(KeystoreDamagedError, match="another master key"):
        keystore.unwrap_key(ONE)


def test_key_relabelled_as_plaintext_is_refused(keystore: Keystore) -> None:
    file = record_file(keystore, ONE)
    changed = bytearray(file.read_bytes())
    changed[9] = 0
    file.write_bytes(changed)
    with pytest.raises(KeystoreDamagedError, match="does not match the master key"):
        keystore.unwrap_key(ONE)


def test_record_of_another_keystore_is_refused(keystore: Keystore, tmp_path: Path) -> None:
    with Keystore.create(tmp_path / "other", PASSPHRASE, kdf=CHEAP_KDF) as other:
        other.create_key(ONE, Algorithm.AES256)
        shutil.copy(record_file(other, ONE), record_file(keystore, ONE))
    with pytest.raises(KeystoreDamagedError, match="another keystore"):
        keystore.unwrap_key(ONE)
    with pytest.raises(KeystoreDamagedError, match="another keystore"):
        inspect_keystore(keystore.path)


def test_missing_directory_of_keys_is_named(keystore: Keystore) -> None:
    shutil.rmtree(keystore.path / "keys")
    with pytest.raises(KeystoreDamagedError, match="no directory"):
        inspect_keystore(keystore.path)
