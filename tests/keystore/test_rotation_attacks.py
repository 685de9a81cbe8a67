"""Files that somebody has put into a keystore, or brought back, before its rotation."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreBusyError, KeystoreDamagedError, KeystoreError, KeystoreMissingError
from tde.keystore import (
    KeyOwner,
    Keystore,
    accept_envelope,
    add_envelope,
    add_missing_keys,
    back_up_keystore,
    rotate_master_key,
)
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PassphraseSource
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.third_party import Xor

WAL = KeyOwner.wal()
FIRST = KeyOwner.tablespace(16400)
LATER = KeyOwner.tablespace(16401)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF) as keystore:
        keystore.create_key(WAL, Algorithm.AES256)
        keystore.create_key(FIRST, Algorithm.AES128)
    return tmp_path / "ks"


def keys(path: Path) -> dict[KeyOwner, bytes]:
    with Keystore.open(path, PASSPHRASE) as keystore:
        return {owner: bytes(keystore.unwrap_key(owner)) for owner in (WAL, FIRST, LATER)}


def fail(_: Keystore) -> None:
    raise KeystoreError("the server has not taken it")


def interrupt(path: Path) -> None:
    """Leave a rotation whose servers could not be told: keys.old is still there."""
    with pytest.raises(KeystoreError, match="has not taken it"):
        rotate_master_key(path, PASSPHRASE, fail)
    assert (path / "keys.old").is_dir()


@pytest.mark.parametrize("planted", ["empty", "noise", "link", "of another keystore"])
def test_a_planted_auto_open_file_is_not_made_good(
    path: Path, tmp_path: Path, planted: str
) -> None:
    """The attack: who may write to the keystore's directory got its master key."""
    file = path / "auto-open.key"
    before = (path / "keystore.json").read_bytes()
    if planted == "link":
        file.symlink_to(tmp_path / "elsewhere")
    elif planted == "of another keystore":
        with Keystore.create(tmp_path / "other", PASSPHRASE, kdf=CHEAP_KDF) as other:
            shutil.copy(other.enable_auto_open(), file)
    else:
        file.write_bytes(b"" if planted == "empty" else bytes(range(136)))
    if planted != "link":
        file.chmod(0o600)
    with pytest.raises(KeystoreError, match=r"auto-open\.key"):
        rotate_master_key(path, PASSPHRASE)
    assert (path / "keystore.json").read_bytes() == before
    assert not (path / "auto-open.key.new").exists()
    with pytest.raises(KeystoreError):
        Keystore.open_automatically(path)
    file.unlink()
    rotate_master_key(path, PASSPHRASE).close()
    with pytest.raises(KeystoreMissingError):
        Keystore.open_automatically(path)


@pytest.mark.parametrize("kind", ["noise", "link"])
def test_a_planted_new_auto_open_file_is_not_taken(path: Path, kind: str) -> None:
    with Keystore.open(path, PASSPHRASE) as keystore:
        genuine = keystore.enable_auto_open()
    planted = path / "auto-open.key.new"
    if kind == "link":
        planted.symlink_to(genuine)
    else:
        planted.write_bytes(genuine.read_bytes()[:40] + bytes(96))
        planted.chmod(0o600)
    rotate_master_key(path, PASSPHRASE).close()
    assert not planted.exists()
    Keystore.open_automatically(path).close()


def test_no_record_is_lost_when_keystore_json_is_restored_in_the_middle(
    path: Path, tmp_path: Path
) -> None:
    """The accident: keys.old had the only records that the restored file opens."""
    back_up_keystore(path, tmp_path / "backup")
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.create_key(LATER, Algorithm.AES256)  # Which the backup does not have.
    wanted = keys(path)
    interrupt(path)
    shutil.copy(tmp_path / "backup" / "keystore.json", path / "keystore.json")
    rotate_master_key(path, PASSPHRASE).close()
    assert keys(path) == wanted
    assert not (path / "keys.old").exists()
    assert not (path / "keys.new").exists()


@pytest.mark.parametrize("accident", ["missing", "damaged", "in both"])
def test_records_that_are_needed_are_not_removed(path: Path, accident: str) -> None:
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.create_key(LATER, Algorithm.AES256)
    interrupt(path)
    record = path / "keys" / LATER.file_name
    saved = record.read_bytes()
    if accident == "missing":
        record.unlink()
    else:
        record.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
    if accident == "in both":
        old = path / "keys.old" / FIRST.file_name
        old.write_bytes(old.read_bytes()[:-1] + b"\0")
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*"))
    with pytest.raises(KeystoreDamagedError) as caught:
        rotate_master_key(path, PASSPHRASE)
    assert "Nothing was" in caught.value.remedy
    assert "copy of the whole directory" in caught.value.remedy
    assert sorted(str(file.relative_to(path)) for file in path.rglob("*")) == names
    record.write_bytes(saved)
    record.chmod(0o600)
    rotate_master_key(path, PASSPHRASE).close()
    assert len(keys(path)) == 3


def test_other_files_between_the_records_are_not_removed(path: Path) -> None:
    """The accident: a record that was moved away, within the directory, as a message had told."""
    kept = path / "keys" / "16400.key.old"
    kept.write_bytes(b"of value")
    with pytest.raises(KeystoreError, match=r"16400\.key\.old is no key record"):
        rotate_master_key(path, PASSPHRASE)
    assert kept.read_bytes() == b"of value"
    kept.rename(path.parent / "elsewhere")
    # What a writer that died has left is of no use.
    (path / "keys" / ".16400.key.tmp").touch(mode=0o600)
    rotate_master_key(path, PASSPHRASE).close()


def test_keys_are_not_added_with_a_master_key_of_before(path: Path, tmp_path: Path) -> None:
    """The accident: the copy waited for the lock while the master key was rotated."""
    back_up_keystore(path, tmp_path / "copy")
    with Keystore.open(tmp_path / "copy", PASSPHRASE) as copy:
        copy.create_key(LATER, Algorithm.AES256)
    with Keystore.open(path, PASSPHRASE) as keystore:
        rotate_master_key(path, PASSPHRASE).close()
        with pytest.raises(KeystoreBusyError, match="was rotated after it had been opened"):
            add_missing_keys(tmp_path / "copy", keystore)
    assert not (path / "keys" / LATER.file_name).exists()
    rotate_master_key(path, PASSPHRASE).close()


def test_an_auto_open_file_of_before_says_so(path: Path, tmp_path: Path) -> None:
    with Keystore.open(path, PASSPHRASE) as keystore:
        shutil.copy(keystore.enable_auto_open(), tmp_path / "before")
    rotate_master_key(path, PASSPHRASE).close()
    shutil.copy(tmp_path / "before", path / "auto-open.key")
    with pytest.raises(KeystoreDamagedError, match="that of the keystore was rotated"):
        Keystore.open_automatically(path)


def test_the_only_way_to_the_master_key_of_the_records_is_not_removed(path: Path, xor: Xor) -> None:
    """The accident, or the attack: keystore.json is one from before a rotation that has ended."""
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.create_key(LATER, Algorithm.AES256)
        xor.add(keystore)
    wanted = keys(path)
    earlier = (path / "keystore.json").read_bytes()
    rotate_master_key(path, PASSPHRASE).close()
    newer = (path / "keystore.json").read_bytes()
    envelopes = sorted((path / "unlock").iterdir())
    (path / "keystore.json").write_bytes(earlier)
    with pytest.raises(KeystoreDamagedError, match="is for another master key") as caught:
        rotate_master_key(path, PASSPHRASE)
    assert "Nothing was changed" in caught.value.remedy
    assert sorted((path / "unlock").iterdir()) == envelopes
    # The way that is left does still bring back the keys.
    (path / "keystore.json").write_bytes(newer)
    with open_keystore(path, PassphraseSource(provider="xor")) as opened:
        assert bytes(opened.unwrap_key(WAL)) == wanted[WAL]
    rotate_master_key(path, PASSPHRASE).close()
    assert keys(path) == wanted


@pytest.mark.parametrize("type_", ["host-secret", "secret-command"])
def test_a_secret_that_was_exchanged_is_not_bound_to(path: Path, place: Path, type_: str) -> None:
    """The attack: the next master key was sealed to a secret of whoever could write that file."""
    secret = place / "host.key"
    secret.write_bytes(os.urandom(32))
    secret.chmod(0o600)
    named = {"file": str(secret)} if type_ == "host-secret" else {"command": f"cat {secret}"}
    with Keystore.open(path, PASSPHRASE) as keystore:
        add_envelope(keystore, "bound", type_, named, unattended=True)
    genuine = secret.read_bytes()
    before = (path / "keystore.json").read_bytes()
    secret.write_bytes(bytes(range(32)))
    with pytest.raises(KeystoreError, match="has another secret than the one") as caught:
        rotate_master_key(path, PASSPHRASE)
    assert "Nothing was changed" in caught.value.remedy
    assert "tde keystore provider remove bound" in caught.value.remedy
    assert (path / "keystore.json").read_bytes() == before
    assert [file.name.partition(".")[0] for file in (path / "unlock").iterdir()] == ["bound"]
    secret.write_bytes(genuine)
    rotate_master_key(path, PASSPHRASE).close()
    open_keystore(path).close()


def test_a_provider_that_no_longer_opens_is_asked_to_wrap_nothing(path: Path, xor: Xor) -> None:
    """As another token, or another server, that stands where the one stood that was added."""
    with Keystore.open(path, PASSPHRASE) as keystore:
        xor.add(keystore)
    xor.behave("wrong")
    with pytest.raises(KeystoreDamagedError, match="its provider has given another key"):
        rotate_master_key(path, PASSPHRASE)
    xor.behave()
    rotate_master_key(path, PASSPHRASE).close()


def test_a_rotation_runs_nothing_that_was_not_accepted_on_this_machine(
    path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a keystore from elsewhere, of which nobody has looked at the commands."""
    ran = place / "ran"
    cat = {"wrap-command": f"tee -a {ran}", "unwrap-command": f"tee -a {ran}"}
    with Keystore.open(path, PASSPHRASE) as keystore:
        add_envelope(keystore, "of-theirs", "command", cat)
        # It is sorted in front, and would be asked before the other one is found.
        add_envelope(keystore, "a", "command", cat)
    ran.unlink()
    monkeypatch.setenv("TDE_ACCEPTED", str(place / "another machine"))
    with pytest.raises(KeystoreError, match="was not accepted on this machine") as caught:
        rotate_master_key(path, PASSPHRASE)
    assert f"tde keystore provider accept a --keystore {path}" in caught.value.remedy
    with Keystore.open(path, PASSPHRASE) as keystore:
        accept_envelope(keystore, "a")
        with pytest.raises(KeystoreError, match=r"of-theirs .* was not accepted"):
            rotate_master_key(path, PASSPHRASE)
        assert not ran.exists()
        accept_envelope(keystore, "of-theirs")
    rotate_master_key(path, PASSPHRASE).close()
    assert ran.exists()


def test_an_auto_open_file_that_is_put_there_during_a_rotation_is_not_made_good(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: an empty file was put there after the look at it, while providers answered."""

    def plant(*_: Keystore) -> dict[Path, bytes]:
        (path / "auto-open.key").touch(mode=0o600)
        return {}

    monkeypatch.setattr("tde.keystore.rotation.rotated_envelopes", plant)
    rotate_master_key(path, PASSPHRASE).close()
    with pytest.raises(KeystoreError):
        Keystore.open_automatically(path)
