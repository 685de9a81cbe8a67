"""What messages about key files tell people to do, done as they say it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import unicodedata
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.keystore import KeyOwner, Keystore, restore_keystore
from tests.cli.test_keystore_verbs import run, secret_file
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE


@pytest.fixture
def keystore(place: Path) -> Path:
    with Keystore.create(place / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(KeyOwner.wal(), Algorithm.AES256)
        created.create_key(KeyOwner.other_tablespaces(), Algorithm.AES256)
        created.create_key(KeyOwner.tablespace(1663), Algorithm.AES256)
        created.create_key(KeyOwner.tablespace(1664), Algorithm.AES256)
    return place / "ks"


@pytest.fixture
def backup(keystore: Path, place: Path) -> Path:
    run("backup", place / "backup", "-k", keystore)
    return place / "backup"


def rotate(keystore: Path, place: Path) -> None:
    run("rotate", "-k", keystore, *secret_file(place, PASSPHRASE))


def add_key(keystore: Path) -> Path:
    with Keystore.open(keystore, PASSPHRASE) as opened:
        return keystore / "keys" / f"{opened.create_named_key(Algorithm.AES256).hex}.key"


def said(output: str, command: str) -> list[str]:
    """Return the arguments of the command that a message ends with."""
    found = re.search(rf"tde keystore ({command} .*)$", output, re.MULTILINE)
    assert found, output
    return shlex.split(found[1])


def do(arguments: list[str], backup: Path, place: Path) -> None:
    given = [str(backup) if argument == "BACKUP" else argument for argument in arguments]
    if given[0] == "copy":
        run(*given, *secret_file(place, PASSPHRASE))
        return
    # The command would give it to the user of a server, where root runs the tests.
    assert given[0] == "restore"
    assert given[2] == "--keystore"
    restore_keystore(Path(given[1]), Path(given[3]))


@pytest.mark.parametrize("damage", ["truncated", "altered", "copied"])
def test_a_damaged_key_file_comes_back_from_before_a_rotation(
    keystore: Path, backup: Path, place: Path, damage: str
) -> None:
    """The whole directory of the backup would lack the key that is newer than it."""
    rotate(keystore, place)
    newer = add_key(keystore)
    file = keystore / "keys" / "wal.key"
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[:50])
    elif damage == "altered":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.write_bytes((backup / "keys" / "wal.key").read_bytes())
    secret = secret_file(place, PASSPHRASE)
    shown = run("verify", "-k", keystore, *secret, code=1).stdout
    assert f"problem: {file} is " in shown
    assert "Move this file out of keys/" in shown
    assert "whole" not in shown
    file.rename(place / "damaged.key")
    do(said(shown, "copy"), backup, place)
    run("verify", "-k", keystore, *secret)
    assert newer.exists()


def test_a_missing_key_file_comes_back(keystore: Path, backup: Path, place: Path) -> None:
    rotate(keystore, place)
    (keystore / "keys" / "wal.key").unlink()
    secret = secret_file(place, PASSPHRASE)
    shown = run("verify", "-k", keystore, *secret, code=1).stdout
    do(said(shown, "copy"), backup, place)
    run("verify", "-k", keystore, *secret)


def test_an_old_document_is_replaced_and_newer_keys_are_kept(
    keystore: Path, backup: Path, place: Path
) -> None:
    rotate(keystore, place)
    run("backup", place / "newer", "-k", keystore)
    newer = add_key(keystore)
    document = keystore / "keystore.json"
    document.write_bytes((backup / "keystore.json").read_bytes())
    secret = secret_file(place, PASSPHRASE)
    shown = run("verify", "-k", keystore, *secret, code=1).stdout
    assert "Move this file" not in shown
    assert "move keystore.json away" in shown
    assert "keep the old directory: it may have newer keys" in shown
    document.unlink()
    do(said(shown, "restore"), place / "newer", place)
    assert "do not open" not in run("list", "-k", keystore, *secret).stderr
    assert newer.exists()


def test_a_damaged_document_is_restored_as_it_says(
    keystore: Path, backup: Path, place: Path
) -> None:
    newer = add_key(keystore)
    document = keystore / "keystore.json"
    document.write_bytes(document.read_bytes()[:-1])
    shown = run("status", "-k", keystore, code=5).stderr
    assert "Move it away" in shown
    document.rename(place / "damaged.json")
    shown = run("status", "-k", keystore, code=5).stderr
    do(said(shown, "restore"), backup, place)
    run("verify", "-k", keystore, *secret_file(place, PASSPHRASE))
    assert newer.exists()


def test_a_lost_document_is_not_restored_from_before_a_rotation(
    keystore: Path, backup: Path, place: Path
) -> None:
    rotate(keystore, place)
    (keystore / "keystore.json").unlink()
    before = sorted(path for path in keystore.rglob("*"))
    shown = run("restore", backup, "-k", keystore, code=5).stderr
    assert f"the backup {backup} is from before a rotation of the master key" in shown
    assert "have different keys" not in shown
    assert sorted(path for path in keystore.rglob("*")) == before
    run("restore", backup, "-k", place / "another")
    run("verify", "-k", place / "another", *secret_file(place, PASSPHRASE))


def test_copy_names_a_file_that_was_copied_by_hand(
    keystore: Path, backup: Path, place: Path
) -> None:
    """A standby's keystore, whose master key was rotated there."""
    rotate(backup, place)
    newer = add_key(keystore)
    by_hand = backup / "keys" / newer.name
    shutil.copy(newer, by_hand)
    another = add_key(keystore)
    secret = secret_file(place, PASSPHRASE)
    shown = run("copy", keystore, backup, *secret, code=5).stderr
    assert f"{by_hand} is wrapped with another master key" in shown
    assert f"Move {by_hand} away, and repeat the command" in shown
    assert not (backup / "keys" / another.name).exists()
    by_hand.unlink()
    shown = run("copy", keystore, backup, *secret).stdout
    assert shown.count("Added keys/") == 2


def test_copy_names_a_damaged_file_of_the_same_master_key(
    keystore: Path, backup: Path, place: Path
) -> None:
    file = keystore / "keys" / "1663.key"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    shown = run("copy", backup, keystore, *secret_file(place, PASSPHRASE), code=5).stderr
    assert f"Move {file} away, and repeat the command" in shown


def test_a_missing_directory_of_keys_comes_back(keystore: Path, backup: Path, place: Path) -> None:
    shutil.rmtree(keystore / "keys")
    secret = secret_file(place, PASSPHRASE)
    shown = run("verify", "-k", keystore, *secret, code=5).stderr
    assert f"mkdir -m 0700 {keystore}/keys" in shown
    (keystore / "keys").mkdir(mode=0o700)
    do(said(shown, "copy"), backup, place)
    run("verify", "-k", keystore, *secret)


@pytest.mark.parametrize("name", ["1663", "1664", "other", "wal"])
def test_a_key_that_every_cluster_needs_is_missed(
    keystore: Path, backup: Path, place: Path, name: str
) -> None:
    file = keystore / "keys" / f"{name}.key"
    file.unlink()
    secret = secret_file(place, PASSPHRASE)
    shown = run("verify", "-k", keystore, *secret, code=1).stdout
    assert f"problem: {file} is missing, and the cluster needs it" in shown
    # The keys that are left are worth a copy all the same.
    shown = run("backup", place / "second", "-k", keystore)
    assert "with 3 keys to" in shown.stdout
    assert f"Warning: {file} is missing" in shown.stderr
    do(said(shown.stderr, "copy"), backup, place)
    run("verify", "-k", keystore, *secret)
    assert "Warning" not in run("backup", place / "third", "-k", keystore).stderr


@pytest.mark.parametrize("trace", ["key.log", "accepted-lines." + "0" * 32])
def test_a_keystore_that_has_lost_all_keys_is_no_new_one(
    keystore: Path, place: Path, trace: str
) -> None:
    for file in (keystore / "keys").iterdir():
        file.unlink()
    if trace != "key.log":
        (keystore / "key.log").unlink()
        (keystore / trace).touch(mode=0o600)
    shown = run("verify", "-k", keystore, *secret_file(place, PASSPHRASE), code=1).stdout
    for name in ("wal", "1663", "1664"):
        assert f"{keystore}/keys/{name}.key is missing" in shown


def test_nothing_is_missed_where_nothing_was_lost(keystore: Path, place: Path) -> None:
    """A new keystore; one whose cluster was not made; and all tablespaces in scope tablespaces."""
    secret = secret_file(place, PASSPHRASE)
    wanted = dict.fromkeys((KeyOwner.wal(), KeyOwner.tablespace(1663)), Algorithm.AES256)
    wanted[KeyOwner.tablespace(1664)] = Algorithm.AES256
    with Keystore.create(place / "new", PASSPHRASE, kdf=CHEAP_KDF) as created:
        run("verify", "-k", place / "new", *secret)
        created.discard_records(created.create_first_keys(wanted))
        run("verify", "-k", place / "new", *secret)
        created.create_first_keys(wanted)
    run("verify", "-k", place / "new", *secret)


def test_a_foreign_file_is_moved_away_and_the_newer_keys_stay(
    keystore: Path, backup: Path, place: Path
) -> None:
    newer = add_key(keystore)
    (keystore / "keystore.json").unlink()
    (keystore / "notes.txt").touch()
    shown = run("restore", backup, "-k", keystore, code=5).stderr
    assert f"Move {keystore / 'notes.txt'} away, and repeat the command" in shown
    (keystore / "notes.txt").unlink()
    restore_keystore(backup, keystore)
    assert newer.exists()


def test_the_parent_directory_is_no_keystore(keystore: Path, place: Path) -> None:
    """Nobody should be told to close it to others."""
    shown = run("status", "-k", place, code=5).stderr
    assert f"there is no keystore at {place}: it has no keystore.json" in shown
    assert "chmod" not in shown


def test_an_interrupted_rotation_shows_in_the_status(keystore: Path) -> None:
    assert "Rotation" not in run("status", "-k", keystore).stdout
    assert not json.loads(run("status", "-k", keystore, "--json").stdout)["rotation_unfinished"]
    (keystore / "keys.old").mkdir(mode=0o700)
    shown = run("status", "-k", keystore)
    assert "runs, or was interrupted" in shown.stdout
    assert f"tde keystore rotate --keystore {keystore}" in shown.stderr
    assert json.loads(run("status", "-k", keystore, "--json").stdout)["rotation_unfinished"]


def test_a_damaged_auto_open_key_is_made_again_as_it_says(keystore: Path, place: Path) -> None:
    secret = secret_file(place, PASSPHRASE)
    run("auto-open", "enable", "-k", keystore, *secret)
    (keystore / "auto-open.key").write_bytes(b"x")
    shown = run("verify", "-k", keystore, *secret, code=1).stdout
    run(*said(shown, "auto-open"), *secret)
    run("verify", "-k", keystore, *secret)


def test_a_backup_that_is_not_there_is_said_to_be_missing(keystore: Path, place: Path) -> None:
    secret = secret_file(place, PASSPHRASE)
    shown = run("verify", "-k", keystore, "--backup", place / "none", *secret, code=1).stdout
    assert f"problem: there is no directory {place / 'none'}" in shown


def test_letters_that_are_taken_apart_are_composed(keystore: Path, place: Path) -> None:
    apart = secret_file(place, unicodedata.normalize("NFD", "geheime Wörter").encode())[1]
    options = [*secret_file(place, PASSPHRASE), "--new-passphrase-file", apart]
    shown = run("passphrase", "-k", keystore, *options, code=5).stderr
    assert "Unicode form NFD" in shown
    assert "uconv -x nfc" in shown
    assert "od -c" not in shown
