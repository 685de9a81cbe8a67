"""Another passphrase: the keys stay, and exactly one of the two passphrases opens the keystore."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    KdfParametersError,
    KeystoreBusyError,
    KeystoreDamagedError,
    KeystoreError,
    PassphraseError,
    WrongPassphraseError,
)
from tde.keystore import KdfParameters, KeyOwner, Keystore, change_passphrase, inspect_keystore
from tde.keystore.providers.auto_open import AutoOpenProvider
from tde.keystore.providers.passphrase import PassphraseProvider
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.planting import plant_auto_open

NEW = b"another passphrase"
OLD = PassphraseProvider(PASSPHRASE)
WAL = KeyOwner.wal()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF) as keystore:
        keystore.create_key(WAL, Algorithm.AES256)
    return tmp_path / "ks"


def key_with(path: Path, passphrase: bytes) -> bytearray:
    with Keystore.open(path, passphrase) as keystore:
        return keystore.unwrap_key(WAL)


def fields(path: Path) -> Any:
    return json.loads((path / "keystore.json").read_bytes())


def test_the_new_passphrase_opens_the_same_keys_and_the_old_one_nothing(path: Path) -> None:
    key, before = key_with(path, PASSPHRASE), fields(path)
    records = {file: file.read_bytes() for file in (path / "keys").iterdir()}
    change_passphrase(path, OLD, NEW)
    assert key_with(path, NEW) == key
    with pytest.raises(WrongPassphraseError):
        Keystore.open(path, PASSPHRASE)
    after = fields(path)
    assert {file: file.read_bytes() for file in (path / "keys").iterdir()} == records
    assert after["kdf"]["salt"] != before["kdf"]["salt"]
    assert after["master_key"]["nonce"] != before["master_key"]["nonce"]
    for field in ("uuid", "created", "version"):
        assert after[field] == before[field]
    assert after["master_key"]["id"] == before["master_key"]["id"]


def test_no_file_opens_with_the_old_passphrase_any_more(path: Path) -> None:
    change_passphrase(path, OLD, NEW)
    names = sorted(file.name for file in path.iterdir())
    assert names == ["key.log", "keys", "keystore.json", "lock"]
    assert (path / "keystore.json").stat().st_mode & 0o777 == 0o600


def test_the_cost_can_be_raised_and_not_lowered(path: Path) -> None:
    higher = replace(CHEAP_KDF, memory_kib=16 * 1024, iterations=2)
    # With a higher cost the same passphrase may be kept.
    change_passphrase(path, OLD, PASSPHRASE, kdf=higher)
    assert inspect_keystore(path).kdf == higher
    change_passphrase(path, OLD, NEW)
    assert inspect_keystore(path).kdf == higher
    before = (path / "keystore.json").read_bytes()
    for lower in (
        replace(higher, memory_kib=8 * 1024),
        replace(higher, iterations=1),
        KdfParameters(memory_kib=64 * 1024, iterations=1, lanes=1),
    ):
        with pytest.raises(KdfParametersError, match="cheaper to attack"):
            change_passphrase(path, PassphraseProvider(NEW), PASSPHRASE, kdf=lower)
    assert (path / "keystore.json").read_bytes() == before


@pytest.mark.parametrize("length", [0, 7, 201])
def test_a_passphrase_of_a_wrong_length_changes_nothing(path: Path, length: int) -> None:
    with pytest.raises(PassphraseError, match="too short or too long"):
        change_passphrase(path, OLD, b"x" * length)
    key_with(path, PASSPHRASE)


def test_the_current_passphrase_is_no_new_one(path: Path) -> None:
    with pytest.raises(PassphraseError, match="is the current one"):
        change_passphrase(path, OLD, PASSPHRASE)


def test_a_wrong_current_passphrase_changes_nothing(path: Path) -> None:
    before = (path / "keystore.json").read_bytes()
    with pytest.raises(WrongPassphraseError):
        change_passphrase(path, PassphraseProvider(b"not the passphrase"), NEW)
    assert (path / "keystore.json").read_bytes() == before


def test_auto_open_is_not_touched_and_helps_when_the_passphrase_is_lost(path: Path) -> None:
    with Keystore.open(path, PASSPHRASE) as keystore:
        file = keystore.enable_auto_open()
        key = keystore.unwrap_key(WAL)
    before = file.read_bytes()
    change_passphrase(path, AutoOpenProvider(), NEW)
    assert file.read_bytes() == before
    assert key_with(path, NEW) == key
    with Keystore.open_automatically(path) as keystore:
        assert keystore.unwrap_key(WAL) == key


def test_of_two_changes_at_the_same_time_one_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwrap = PassphraseProvider.unwrap_master_key

    def somebody_is_faster(self: Any, *arguments: Any) -> Any:
        monkeypatch.undo()
        change_passphrase(path, OLD, b"the faster passphrase")
        return unwrap(self, *arguments)

    monkeypatch.setattr(PassphraseProvider, "unwrap_master_key", somebody_is_faster)
    with pytest.raises(KeystoreBusyError, match=re.escape("somebody else has changed")):
        change_passphrase(path, OLD, NEW)
    key_with(path, b"the faster passphrase")


def test_a_machine_that_computes_wrongly_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap = PassphraseProvider.wrap_master_key

    def wrap_something_else(self: Any, header: Any, master_key: Any) -> Any:
        with master_key.view as view:
            view[0] ^= 1
        try:
            return wrap(self, header, master_key)
        finally:
            with master_key.view as view:
                view[0] ^= 1

    monkeypatch.setattr(PassphraseProvider, "wrap_master_key", wrap_something_else)
    with pytest.raises(KeystoreError, match="does not give the master key"):
        change_passphrase(path, OLD, NEW)
    monkeypatch.undo()
    key_with(path, PASSPHRASE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_changes_the_passphrase_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "ks"
    Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF, owner=(65534, 65534)).close()
    change_passphrase(path, OLD, NEW)
    assert {file.stat().st_uid for file in (path, *path.rglob("*"))} == {65534}


@pytest.mark.parametrize("keys", ["all", "one of the attacker", "none"])
def test_a_planted_auto_open_file_gets_no_passphrase(path: Path, keys: str) -> None:
    """The attack: keystore.json, which has the only copy of the master key, was replaced by his."""
    document = (path / "keystore.json").read_bytes()
    plant_auto_open(path)
    record = path / "keys" / WAL.file_name
    if keys == "one of the attacker":
        # It is looked at first, or the key of the WAL is.
        with Keystore.open_automatically(path) as forged:
            forged.create_key(KeyOwner.tablespace(1), Algorithm.AES256)
    elif keys == "none":
        record.rename(path.parent / "record")
    with pytest.raises(KeystoreDamagedError) as caught:
        change_passphrase(path, AutoOpenProvider(), NEW)
    assert "Nothing was changed" in caught.value.remedy
    assert (path / "keystore.json").read_bytes() == document
    change_passphrase(path, OLD, NEW)
