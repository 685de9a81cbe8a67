"""Lists of keys, and the proof that every bit of a keystore is as it was written."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreClosedError, KeystoreDamagedError
from tde.keystore import KeyOwner, Keystore, list_keys, verify_keystore
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE


@pytest.fixture
def keystore(tmp_path: Path) -> Iterator[Keystore]:
    """One key of each kind, and auto-open."""
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(KeyOwner.wal(), Algorithm.AES256)
        created.create_key(KeyOwner.other_tablespaces(), Algorithm.AES128)
        created.create_plaintext_entry(1663)
        created.create_plaintext_entry(1664)
        created.create_key(KeyOwner.tablespace(16400), Algorithm.AES128)
        created.create_named_key(Algorithm.AES256)
        created.enable_auto_open()
        yield created


def bad_files(keystore: Keystore) -> list[str]:
    found = [file for file in verify_keystore(keystore.path, keystore) if not file.good]
    assert all(str(file.file) in file.problem for file in found)
    assert all(file.remedy for file in found)
    return [str(file.file.relative_to(keystore.path)) for file in found]


def test_a_list_says_what_each_key_is_for(keystore: Keystore) -> None:
    keys = list_keys(keystore)
    assert [(str(key.owner)[:16], key.algorithm, key.owner.record_version) for key in keys] == [
        ("the WAL", Algorithm.AES256, 1),
        ("other tablespace", Algorithm.AES128, 1),
        ("tablespace 1663", None, 1),
        ("tablespace 1664", None, 1),
        ("tablespace 16400", Algorithm.AES128, 1),
        (str(keys[-1].owner)[:16], Algorithm.AES256, 2),
    ]
    assert all(key.opens for key in keys)
    assert [key.is_plaintext_entry for key in keys] == [False, False, True, True, False, False]


def test_a_list_names_the_keys_that_do_not_open(keystore: Keystore) -> None:
    for name in ("16400.key", "other.key", "1663.key"):
        file = keystore.path / "keys" / name
        data = bytearray(file.read_bytes())
        data[70] ^= 1
        file.write_bytes(data)
    (keystore.path / "keys" / "16401.key").write_bytes(b"short")
    (keystore.path / "keys" / "16401.key").chmod(0o600)
    (keystore.path / "keys" / "16402.key").symlink_to("wal.key")
    keys = {key.owner.file_name: key for key in list_keys(keystore)}
    damaged = {name for name, key in keys.items() if not key.opens}
    assert damaged == {"16400.key", "other.key", "1663.key", "16401.key", "16402.key"}
    assert all(keys[name].remedy for name in damaged)
    # A damaged entry does not say that something is deliberately not encrypted.
    assert not keys["1663.key"].is_plaintext_entry


def test_a_closed_keystore_lists_nothing(keystore: Keystore) -> None:
    keystore.close()
    with pytest.raises(KeystoreClosedError):
        list_keys(keystore)


def test_a_keystore_as_it_was_written_is_good(keystore: Keystore) -> None:
    assert bad_files(keystore) == []
    files = [file.file.name for file in verify_keystore(keystore.path, keystore)]
    assert {path.name for path in keystore.path.rglob("*") if path.is_file()} == set(files)


def test_every_flipped_bit_of_every_file_is_found_and_named(keystore: Keystore) -> None:
    for file in sorted(path for path in keystore.path.rglob("*") if path.is_file()):
        data = file.read_bytes()
        name = str(file.relative_to(keystore.path))
        # One bit of each byte, each of the eight in turn; test_damage.py tries every bit. Of the
        # log, which is as long as all others together, every seventh byte.
        for at in range(0, len(data), 7 if file.name == "key.log" else 1):
            changed = bytearray(data)
            changed[at] ^= 1 << at % 8
            file.write_bytes(changed)
            assert name in bad_files(keystore), at
        file.write_bytes(data)
    assert bad_files(keystore) == []


def test_a_damaged_document_does_not_hide_the_other_files(keystore: Keystore) -> None:
    document = keystore.path / "keystore.json"
    document.write_bytes(document.read_bytes().replace(b'"version": 1', b'"version": 3'))
    record = keystore.path / "keys" / "16400.key"
    record.write_bytes(record.read_bytes()[:-1])
    with pytest.raises(Exception, match="keystore format 3"):
        Keystore.open(keystore.path, PASSPHRASE)
    found = verify_keystore(keystore.path, None)
    bad = [file.file.name for file in found if not file.good]
    assert bad == ["keystore.json", "16400.key", "auto-open.key"]
    assert any("only the form" in file.what for file in found if file.good)


def test_what_is_missing_is_named(keystore: Keystore) -> None:
    (keystore.path / "keys" / "wal.key").unlink()
    assert bad_files(keystore) == ["keys/wal.key"]
    shutil.rmtree(keystore.path / "keys")
    with pytest.raises(KeystoreDamagedError, match="no directory"):
        verify_keystore(keystore.path, keystore)


def test_auto_open_of_another_master_key_is_found(keystore: Keystore, tmp_path: Path) -> None:
    # Bound to the same ids, as only somebody who knows the format can make it.
    from tde.keystore.crypto.secret import random_secret
    from tde.keystore.providers.auto_open import pack_auto_open

    with random_secret(32) as other:
        forged = pack_auto_open(keystore.uuid, keystore.master_key_id, other)
    (keystore.path / "auto-open.key").write_bytes(forged)
    assert bad_files(keystore) == ["auto-open.key"]


def test_a_file_that_others_can_read_is_named(keystore: Keystore) -> None:
    file = keystore.path / "keys" / "16400.key"
    file.chmod(0o640)
    (found,) = [file for file in verify_keystore(keystore.path, keystore) if not file.good]
    assert found.remedy == f"chmod 0600 {file}"


def test_other_files_are_told_and_are_no_damage(keystore: Keystore) -> None:
    for name in ("notes.txt", "keys/wal.key.old", "keys/.16400.key.tmp", "lock.1"):
        (keystore.path / name).touch(0o600)
    assert bad_files(keystore) == []
    told = {file.file.name: file.what for file in verify_keystore(keystore.path, keystore)}
    assert told["notes.txt"] == told["wal.key.old"] == told["lock.1"]
    assert "no file of a keystore" in told["notes.txt"]
    assert "interrupted" in told[".16400.key.tmp"]


def test_a_lock_with_content_is_told(keystore: Keystore) -> None:
    (keystore.path / "lock").write_text("x")
    assert bad_files(keystore) == ["lock"]


def test_ten_thousand_keys_are_listed_in_a_second(keystore: Keystore) -> None:
    # Written without a sync for each, which is not what is measured.
    for _ in range(10_000 - len(list_keys(keystore))):
        owner = KeyOwner.named(uuid4())
        file = keystore.path / "keys" / owner.file_name
        file.write_bytes(keystore.new_record(owner, Algorithm.AES256))
        file.chmod(0o600)
    # Not the time on the clock, which others on this machine take too; the best of three.
    costs = []
    for _ in range(3):
        start = time.process_time()
        keys = list_keys(keystore)
        costs.append(time.process_time() - start)
    assert len(keys) == 10_000
    assert all(key.opens for key in keys)
    assert min(costs) < 1.5  # Alone on the machine it is half of that.
