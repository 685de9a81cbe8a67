"""Envelopes that were closed, and that somebody who may write to the keystore puts back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreDamagedError
from tde.keystore import (
    KeyOwner,
    Keystore,
    remove_envelope,
    rotate_master_key,
    verify_keystore,
)
from tde.keystore.log.entry import log_path, pack_entry, parse_entry
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PassphraseSource
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.third_party import Xor


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    made = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    made.create_key(KeyOwner.wal(), Algorithm.AES256)
    for oid in (1663, 1664):
        made.create_plaintext_entry(oid)
    return made


def opens_by_provider(path: Path) -> str:
    with open_keystore(path, PassphraseSource(provider="xor"), for_server=True) as opened:
        opened.unwrap_key(KeyOwner.wal())
        return opened.level


def put(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    file.chmod(0o600)


def append(path: Path, line: bytes) -> None:
    with log_path(path).open("ab") as log:
        log.write(line)


def lines(path: Path) -> list[bytes]:
    return log_path(path).read_bytes().splitlines(keepends=True)


def test_a_provider_that_was_removed_stays_so(keystore: Keystore, xor: Xor) -> None:
    file = xor.add(keystore)
    content = file.read_bytes()
    addition = next(line for line in lines(keystore.path) if b"add provider" in line)
    remove_envelope(keystore.path, "xor")
    put(file, content)
    before = len(xor.asked)
    with pytest.raises(KeystoreDamagedError, match="was removed, by line"):
        opens_by_provider(keystore.path)
    assert len(xor.asked) == before
    (bad,) = [one for one in verify_keystore(keystore.path, keystore) if not one.good]
    assert (bad.file, "was removed" in bad.problem) == (file, True)
    # A rotation would give it the next master key.
    with pytest.raises(KeystoreDamagedError, match="was removed, by line"):
        rotate_master_key(keystore.path, PASSPHRASE)
    # Nor does it help to repeat the entry of its addition.
    append(keystore.path, addition)
    with pytest.raises(KeystoreDamagedError, match="was removed, by line"):
        opens_by_provider(keystore.path)
    remove_envelope(keystore.path, "xor")
    rotate_master_key(keystore.path, PASSPHRASE).close()
    with Keystore.open(keystore.path, PASSPHRASE) as opened:
        xor.add(opened)
    opens_by_provider(keystore.path)


@pytest.mark.parametrize("has_code", [False, True])
def test_an_addition_is_not_forged(keystore: Keystore, xor: Xor, has_code: bool) -> None:
    file = xor.add(keystore)
    content = file.read_bytes()
    remove_envelope(keystore.path, "xor")
    put(file, content)
    last = parse_entry(lines(keystore.path)[-1])
    author = (keystore.master_key_id, b"a secret of the forger's own....") if has_code else None
    details = {"provider": "xor", "type": "xor"}
    line = pack_entry(last.number + 1, last.digest, "add provider", details, author)
    append(keystore.path, line)
    with pytest.raises(KeystoreDamagedError, match="was removed, by line"):
        opens_by_provider(keystore.path)
    with pytest.raises(KeystoreDamagedError, match="was removed, by line"):
        rotate_master_key(keystore.path, PASSPHRASE)


def test_the_last_level_counts(keystore: Keystore, xor: Xor) -> None:
    file = xor.add(keystore, unattended=True, level="full")
    more = file.read_bytes()
    remove_envelope(keystore.path, "xor")
    less = xor.add(keystore, unattended=True, level="wal").read_bytes()
    assert opens_by_provider(keystore.path) == "wal"
    put(file, more)
    with pytest.raises(KeystoreDamagedError, match="is another one than was added"):
        opens_by_provider(keystore.path)
    with pytest.raises(KeystoreDamagedError, match="is another one than was added"):
        rotate_master_key(keystore.path, PASSPHRASE)
    # The right one still is one after two rotations, whose log leads back to its addition.
    put(file, less)
    for _ in range(2):
        rotate_master_key(keystore.path, PASSPHRASE).close()
        assert opens_by_provider(keystore.path) == "wal"


def test_a_keystore_whose_log_is_of_before_such_entries(keystore: Keystore, xor: Xor) -> None:
    xor.add(keystore)
    log_path(keystore.path).unlink()
    opens_by_provider(keystore.path)
    rotate_master_key(keystore.path, PASSPHRASE).close()
    opens_by_provider(keystore.path)
