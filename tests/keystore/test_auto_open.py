"""Opening a keystore without its passphrase."""

from __future__ import annotations

import os

import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    KeystoreClosedError,
    KeystoreDamagedError,
    KeystoreError,
    KeystoreMissingError,
    KeystorePermissionError,
)
from tde.keystore import KeyOwner, Keystore, can_open_automatically, inspect_keystore
from tde.keystore.providers import auto_open
from tde.keystore.providers.auto_open import RECORD_BYTES, auto_open_path, disable_auto_open


def test_opens_the_same_keys(keystore_factory) -> None:
    keystore = keystore_factory("ks")
    keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
    assert not can_open_automatically(keystore.path)
    with pytest.raises(KeystoreMissingError, match="does not open by itself"):
        Keystore.open_automatically(keystore.path)
    path = keystore.enable_auto_open()
    assert inspect_keystore(keystore.path).auto_open
    assert path.stat().st_mode & 0o777 == 0o600
    with Keystore.open_automatically(keystore.path) as opened:
        assert opened.unwrap_key(KeyOwner.wal()) == keystore.unwrap_key(KeyOwner.wal())


def test_enabling_again_leaves_no_old_file(keystore_factory) -> None:
    keystore = keystore_factory("ks")
    before = keystore.enable_auto_open().read_bytes()
    path = keystore.enable_auto_open()
    assert path.read_bytes() != before
    assert [entry.name for entry in keystore.path.glob("auto-open*")] == [path.name]
    keystore.close()
    with pytest.raises(KeystoreClosedError):
        keystore.enable_auto_open()


def test_enabling_again_never_leaves_it_disabled(keystore_factory, monkeypatch) -> None:
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()

    def disk_full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(KeystoreError, match="No space left"):
        keystore.enable_auto_open()
    Keystore.open_automatically(keystore.path).close()


def test_disabling_is_durable_and_tells_whether_it_was_enabled(
    keystore_factory, monkeypatch, tmp_path
) -> None:
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    synced = []
    monkeypatch.setattr(auto_open, "sync_directory", synced.append)
    assert disable_auto_open(keystore.path)
    # Or a power failure brings the file back after the operator was told that it is gone.
    assert synced == [keystore.path]
    assert not disable_auto_open(keystore.path)
    with pytest.raises(KeystoreMissingError):
        disable_auto_open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_noticed(keystore_factory) -> None:
    keystore = keystore_factory("ks")
    path = keystore.enable_auto_open()
    content = path.read_bytes()
    for position in range(RECORD_BYTES):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(KeystoreDamagedError) as caught:
            Keystore.open_automatically(keystore.path)
        assert caught.value.remedy
    path.write_bytes(content[:-1])
    with pytest.raises(KeystoreDamagedError):
        Keystore.open_automatically(keystore.path)


def test_file_of_another_keystore_or_open_to_others(keystore_factory) -> None:
    keystore, other = keystore_factory("ks"), keystore_factory("other")
    path = keystore.enable_auto_open()
    content = path.read_bytes()
    path.write_bytes(other.enable_auto_open().read_bytes())
    with pytest.raises(KeystoreDamagedError, match="another keystore"):
        Keystore.open_automatically(keystore.path)
    path.write_bytes(content)
    auto_open_path(keystore.path).chmod(0o640)
    with pytest.raises(KeystorePermissionError):
        Keystore.open_automatically(keystore.path)
