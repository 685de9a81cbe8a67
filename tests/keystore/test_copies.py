"""Backups of a keystore, their way back, and keys that one copy has and another lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    KeystoreDamagedError,
    KeystoreError,
    KeystoreExistsError,
    KeystoreMissingError,
    KeystorePermissionError,
)
from tde.keystore import (
    KeyOwner,
    Keystore,
    add_missing_keys,
    back_up_keystore,
    can_open_automatically,
    change_passphrase,
    restore_keystore,
)
from tde.keystore.providers.passphrase import PassphraseProvider
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

WAL = KeyOwner.wal()
COMPANION = "accepted-lines." + "0" * 32


@pytest.fixture
def keystore(tmp_path: Path) -> Iterator[Keystore]:
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(WAL, Algorithm.AES256)
        created.create_plaintext_entry(1663)
        created.create_named_key(Algorithm.AES128)
        (created.path / COMPANION).write_bytes(b"lines")
        (created.path / COMPANION).chmod(0o600)
        yield created


def content(path: Path) -> dict[str, bytes]:
    # The key log tells of the copy itself.
    files = (f for f in path.rglob("*") if f.is_file() and f.name not in ("lock", "key.log"))
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def add_key(keystore: Keystore) -> str:
    return f"keys/{keystore.create_named_key(Algorithm.AES256).hex}.key"


# Backup and restore.


def test_a_backup_is_the_keystore_byte_for_byte(keystore: Keystore, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    copied = back_up_keystore(keystore.path, backup)
    assert content(backup) == content(keystore.path)
    assert len(copied.records) == 3
    assert {path.stat().st_mode & 0o777 for path in (backup, backup / "keys")} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in backup.rglob("*.*")} == {0o600}
    with Keystore.open(backup, PASSPHRASE) as opened:
        assert opened.unwrap_key(WAL) == keystore.unwrap_key(WAL)


def test_auto_open_is_copied_only_when_it_is_asked_for(keystore: Keystore, tmp_path: Path) -> None:
    keystore.enable_auto_open()
    back_up_keystore(keystore.path, tmp_path / "without")
    back_up_keystore(keystore.path, tmp_path / "with", with_auto_open=True)
    assert not can_open_automatically(tmp_path / "without")
    Keystore.open_automatically(tmp_path / "with").close()
    restore_keystore(tmp_path / "with", tmp_path / "restored")
    assert not can_open_automatically(tmp_path / "restored")
    restore_keystore(tmp_path / "with", tmp_path / "again", with_auto_open=True)
    Keystore.open_automatically(tmp_path / "again").close()


def test_what_is_no_file_of_a_keystore_is_left_out_and_told(
    keystore: Keystore, tmp_path: Path
) -> None:
    (keystore.path / "passphrase.txt").write_bytes(PASSPHRASE)
    (keystore.path / "keys" / ".16400.key.tmp").touch()
    copied = back_up_keystore(keystore.path, tmp_path / "backup")
    assert [path.name for path in copied.left_out] == ["passphrase.txt"]
    assert not [path for path in (tmp_path / "backup").rglob("*") if "pass" in path.name]


@pytest.mark.parametrize("place", ["ks", "ks/backup", "."])
def test_a_backup_is_apart_from_the_keystore(
    keystore: Keystore, tmp_path: Path, place: str
) -> None:
    before = content(keystore.path)
    with pytest.raises(KeystoreError):
        back_up_keystore(keystore.path, tmp_path / place)
    assert content(keystore.path) == before


def test_a_backup_overwrites_nothing(keystore: Keystore, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    back_up_keystore(keystore.path, backup)
    before = content(backup)
    with pytest.raises(KeystoreExistsError, match="already a keystore"):
        back_up_keystore(keystore.path, backup)
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o700)
    (foreign / "notes").touch()
    with pytest.raises(KeystoreExistsError, match="not empty"):
        back_up_keystore(keystore.path, foreign)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for place in ("link", "missing/backup"):
        with pytest.raises(KeystoreError):
            back_up_keystore(keystore.path, tmp_path / place)
    assert content(backup) == before


def test_a_backup_in_a_data_directory_is_refused(keystore: Keystore, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("15\n")
    with pytest.raises(KeystoreError, match="inside the PostgreSQL data directory"):
        back_up_keystore(keystore.path, data / "keystore")


@pytest.mark.parametrize("name", ["keystore.json", "keys/wal.key", "keys/1663.key"])
def test_a_damaged_keystore_makes_no_backup(keystore: Keystore, tmp_path: Path, name: str) -> None:
    file = keystore.path / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(KeystoreDamagedError, match=file.name):
        back_up_keystore(keystore.path, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_missing_keystore_gets_no_lock(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    with pytest.raises(KeystoreMissingError):
        back_up_keystore(tmp_path / "empty", tmp_path / "backup")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_restored_keystore_opens(keystore: Keystore, tmp_path: Path) -> None:
    back_up_keystore(keystore.path, tmp_path / "backup")
    restore_keystore(tmp_path / "backup", tmp_path / "restored")
    assert content(tmp_path / "restored") == content(keystore.path)
    with Keystore.open(tmp_path / "restored", PASSPHRASE) as opened:
        assert opened.unwrap_key(WAL) == keystore.unwrap_key(WAL)


def test_a_keystore_is_never_overwritten_by_its_backup(keystore: Keystore, tmp_path: Path) -> None:
    back_up_keystore(keystore.path, tmp_path / "backup")
    add_key(keystore)
    before = content(keystore.path)
    with pytest.raises(KeystoreExistsError, match="already a keystore") as caught:
        restore_keystore(tmp_path / "backup", keystore.path)
    assert "tde keystore copy" in caught.value.remedy
    assert content(keystore.path) == before


def test_a_lost_document_is_restored_beside_newer_keys(keystore: Keystore, tmp_path: Path) -> None:
    keystore.enable_auto_open()
    back_up_keystore(keystore.path, tmp_path / "backup")
    newer = add_key(keystore)
    (keystore.path / COMPANION).write_bytes(b"newer lines")
    before = content(keystore.path)
    (keystore.path / "keystore.json").unlink()
    restore_keystore(tmp_path / "backup", keystore.path)
    assert content(keystore.path) == before
    assert newer in before


def test_keys_of_another_keystore_are_not_mixed_in(keystore: Keystore, tmp_path: Path) -> None:
    back_up_keystore(keystore.path, tmp_path / "backup")
    with Keystore.create(tmp_path / "other", PASSPHRASE, kdf=CHEAP_KDF) as other:
        add_key(other)
    (other.path / "keystore.json").unlink()
    before = content(other.path)
    with pytest.raises(KeystoreExistsError, match="another keystore"):
        restore_keystore(tmp_path / "backup", other.path)
    other_wal = other.path / "keys" / "wal.key"
    shutil.copy(keystore.path / "keys" / "1663.key", other_wal)
    other_wal.chmod(0o600)
    with pytest.raises(KeystoreExistsError, match="different keys for the WAL"):
        restore_keystore(tmp_path / "backup", other.path)
    other_wal.unlink()
    assert content(other.path) == before


def test_a_backup_that_others_can_read_or_that_is_a_link_is_refused(
    keystore: Keystore, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    back_up_keystore(keystore.path, backup)
    backup.chmod(0o755)
    with pytest.raises(KeystorePermissionError, match="open to other users"):
        restore_keystore(backup, tmp_path / "restored")
    backup.chmod(0o700)
    for name in ("keystore.json", "keys/wal.key", COMPANION):
        file = backup / name
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(KeystoreError, match=file.name):
            restore_keystore(backup, tmp_path / "restored")
        (tmp_path / "elsewhere").replace(file)
    (backup / "keys").rename(tmp_path / "keys")
    (backup / "keys").symlink_to(tmp_path / "keys")
    with pytest.raises(KeystoreDamagedError, match="no directory"):
        restore_keystore(backup, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_owner_are_refused_and_root_restores_for_another_user(
    keystore: Keystore, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    back_up_keystore(keystore.path, backup)
    restore_keystore(backup, tmp_path / "restored", owner=(65534, 65534))
    found = [tmp_path / "restored", *(tmp_path / "restored").rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in found} == {(65534, 65534)}
    os.chown(backup / "keys" / "wal.key", 65534, 65534)
    with pytest.raises(KeystorePermissionError, match="belongs to user 65534"):
        restore_keystore(backup, tmp_path / "again")


def test_a_disk_that_gives_back_something_else_is_noticed(
    keystore: Keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tde.keystore.store import files

    write = files.write_all
    monkeypatch.setattr(files, "write_all", lambda fd, data: write(fd, bytes(len(data))))
    with pytest.raises(KeystoreError, match="does not read back"):
        back_up_keystore(keystore.path, tmp_path / "backup")
    # Without keystore.json it is no keystore.
    assert not (tmp_path / "backup" / "keystore.json").exists()


# Keys that another copy has.


@pytest.fixture
def standby(keystore: Keystore, tmp_path: Path) -> Iterator[Keystore]:
    """A copy of the keystore, made before the keystore gets its next key."""
    back_up_keystore(keystore.path, tmp_path / "standby")
    with Keystore.open(tmp_path / "standby", PASSPHRASE) as opened:
        yield opened


def test_missing_keys_are_added_and_nothing_else_changes(
    keystore: Keystore, standby: Keystore
) -> None:
    before = content(standby.path)
    names = {add_key(keystore) for _ in range(3)}
    (keystore.path / COMPANION).write_bytes(b"of the primary")
    # Each side may change its passphrase: the records do not depend on it.
    change_passphrase(keystore.path, PassphraseProvider(PASSPHRASE), b"of the primary only")
    added = add_missing_keys(keystore.path, standby)
    assert {f"keys/{owner.file_name}" for owner in added} == names
    after = content(standby.path)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == names
    for owner in added:
        assert standby.unwrap_key(owner) == keystore.unwrap_key(owner)
    assert add_missing_keys(keystore.path, standby) == []
    # What only the standby has stays.
    own = add_key(standby)
    assert add_missing_keys(keystore.path, standby) == []
    assert own in content(standby.path)


def test_a_key_that_differs_stops_everything(keystore: Keystore, standby: Keystore) -> None:
    add_key(keystore)
    owner = KeyOwner.tablespace(16400)
    keystore.create_key(owner, Algorithm.AES256)
    standby.create_key(owner, Algorithm.AES256)
    before = content(standby.path)
    with pytest.raises(KeystoreExistsError, match=r"different keys for tablespace 16400") as caught:
        add_missing_keys(keystore.path, standby)
    assert "verify" in caught.value.remedy
    assert content(standby.path) == before


def test_a_damaged_key_is_not_spread(keystore: Keystore, standby: Keystore) -> None:
    file = keystore.path / add_key(keystore)
    add_key(keystore)
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    before = content(standby.path)
    with pytest.raises(KeystoreDamagedError, match=file.name) as caught:
        add_missing_keys(keystore.path, standby)
    assert "Nothing was changed" in caught.value.remedy
    assert content(standby.path) == before


def test_only_copies_of_the_same_keystore_are_taken(standby: Keystore, tmp_path: Path) -> None:
    with Keystore.create(tmp_path / "other", PASSPHRASE, kdf=CHEAP_KDF) as other:
        add_key(other)
    before = content(standby.path)
    with pytest.raises(KeystoreError, match="is another keystore"):
        add_missing_keys(other.path, standby)
    with pytest.raises(KeystoreError, match="same directory"):
        add_missing_keys(standby.path, standby)
    assert content(standby.path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_added_keys_belong_to_the_owner_of_the_keystore(keystore: Keystore, tmp_path: Path) -> None:
    back_up_keystore(keystore.path, tmp_path / "backup")
    restore_keystore(tmp_path / "backup", tmp_path / "standby", owner=(65534, 65534))
    name = add_key(keystore)
    with Keystore.open(tmp_path / "standby", PASSPHRASE) as standby:
        add_missing_keys(keystore.path, standby)
    assert (tmp_path / "standby" / name).stat().st_uid == 65534
