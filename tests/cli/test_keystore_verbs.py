"""`tde keystore passphrase`, `list`, `verify`, `backup`, `restore` and `copy`."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from tde.algorithms import Algorithm
from tde.cli.app import app
from tde.keystore import KeyOwner, Keystore
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.terminal import run_on_terminal

NEW = b"another passphrase"
VERBS = ["passphrase", "rotate", "list", "verify", "log", "backup", "restore", "copy"]
TDE = [sys.executable, "-c", "from tde.cli.app import main; main()"]
runner = CliRunner(env={"TDE_KEYSTORE": None, "COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture
def keystore(place: Path) -> Path:
    with Keystore.create(place / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(KeyOwner.wal(), Algorithm.AES256)
        created.create_plaintext_entry(1663)
        created.create_plaintext_entry(1664)
        created.create_key(KeyOwner.tablespace(16400), Algorithm.AES128)
    return place / "ks"


def secret_file(place: Path, passphrase: bytes) -> list[str]:
    file = place / uuid4().hex
    file.write_bytes(passphrase + b"\n")
    file.chmod(0o600)
    return ["--passphrase-file", str(file)]


def run(*arguments: object, code: int = 0) -> Any:
    result = runner.invoke(app, ["keystore", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def opens(keystore: Path, passphrase: bytes) -> bool:
    try:
        Keystore.open(keystore, passphrase).close()
    except Exception:
        return False
    return True


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_has_examples(verb: str) -> None:
    text = run(verb, "--help").stdout
    assert "Examples " in text
    assert f"$ tde keystore {verb}" in text


# Passphrase.


def test_passphrase_from_files(keystore: Path, place: Path) -> None:
    old, new = secret_file(place, PASSPHRASE), secret_file(place, NEW)
    new[0] = "--new-passphrase-file"
    result = run("passphrase", "-k", keystore, *old, *new)
    assert result.stdout == f"The passphrase of {keystore} was changed.\n"
    assert "made before still open with the old passphrase" in result.stderr
    assert "opens by itself" not in result.stderr
    assert [opens(keystore, PASSPHRASE), opens(keystore, NEW)] == [False, True]
    # The current one is proved first, whatever the new one is.
    again = run("passphrase", "-k", keystore, *old, *new, code=5)
    assert "wrong passphrase for the keystore" in again.stderr


def test_passphrase_on_a_terminal(keystore: Path) -> None:
    change = [*TDE, "keystore", "passphrase", "-k", str(keystore)]
    shown, code = run_on_terminal(change, [PASSPHRASE + b"\n", NEW + b"\n", NEW + b"\n"])
    assert code == 0, shown
    order = [shown.index(text) for text in ("Current pass", "New pass", "The same again: ")]
    assert order == sorted(order)
    assert b"another passphrase".decode() not in shown
    assert opens(keystore, NEW)
    shown, code = run_on_terminal(change, [NEW + b"\n", b"one for all\n", b"none for all\n"])
    assert "the two passphrases differ" in shown
    shown, code = run_on_terminal(change, [b"a wrong one\n"])
    assert "wrong passphrase" in shown
    assert "New passphrase" not in shown
    assert code == 5
    assert opens(keystore, NEW)


def test_passphrase_by_descriptors_and_a_command(keystore: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, PASSPHRASE)
    os.close(writer)
    arguments = ["--passphrase-fd", str(reader), "--new-passphrase-command", f"echo {NEW.decode()}"]
    subprocess.run(
        [*TDE, "keystore", "passphrase", "-k", keystore, *arguments], pass_fds=[reader], check=True
    )
    os.close(reader)
    assert opens(keystore, NEW)


def test_passphrase_refuses_before_it_asks(keystore: Path, place: Path) -> None:
    old = secret_file(place, PASSPHRASE)
    run("passphrase", "-k", keystore, "--passphrase-fd", 0, "--new-passphrase-fd", 0, code=2)
    run("passphrase", "-k", keystore, "--with-auto-open", *old, code=2)
    for option, value, bounds in (("memory", 4, "8<=x<=1024"), ("iterations", 17, "1<=x<=16")):
        result = run("passphrase", "-k", keystore, f"--kdf-{option}", value, code=2)
        assert bounds in result.stderr
        assert "keystore.json" not in result.stderr
    two = ["--new-passphrase-file", "x", "--new-passphrase-fd", 3]
    result = run("passphrase", "-k", keystore, *old, *two, code=5)
    assert "--new-passphrase-file, --new-passphrase-fd or --new-passphrase-command" in result.stderr
    # There is no terminal here, so asking would fail in other words.
    run("passphrase", "-k", place / "none", code=5)


def test_passphrase_cost_is_raised_and_never_lowered(keystore: Path, place: Path) -> None:
    old = secret_file(place, PASSPHRASE)
    same = ["--new-passphrase-file", old[1]]
    shown = run(
        *("passphrase", "-k", keystore, *old, *same, "--kdf-memory", 16, "--kdf-iterations", 2)
    )
    assert "was changed" not in shown.stdout
    assert "It is the same." in shown.stdout
    assert "old passphrase" not in shown.stderr
    kdf = json.loads(run("status", "-k", keystore, "--json").stdout)["kdf"]
    assert (kdf["memory_kib"], kdf["iterations"]) == (16 * 1024, 2)
    result = run("passphrase", "-k", keystore, *old, *same, "--kdf-memory", 8, code=5)
    assert "cheaper to attack" in result.stderr
    result = run("passphrase", "-k", keystore, *old, *same, code=5)
    assert "is the current one" in result.stderr


def test_a_lost_passphrase_is_replaced_through_auto_open(keystore: Path, place: Path) -> None:
    with Keystore.open(keystore, PASSPHRASE) as opened:
        opened.enable_auto_open()
    new = ["--new-passphrase-file", secret_file(place, NEW)[1]]
    # Without being told so it asks, although the keystore opens by itself.
    result = run("passphrase", "-k", keystore, *new, code=5)
    assert "no passphrase was given" in result.stderr
    result = run("passphrase", "-k", keystore, "--with-auto-open", *new)
    assert "The keystore still opens by itself." in result.stderr
    assert opens(keystore, NEW)


# List and verify.


def test_list(keystore: Path, place: Path) -> None:
    secret = secret_file(place, PASSPHRASE)
    shown = run("list", "-k", keystore, *secret)
    rows = [re.split("  +", line) for line in shown.stdout.splitlines()]
    assert rows == [
        ["Key", "Ver", "Algorithm", "State", "Age"],
        ["wal", "1", "AES-256-XTS", "unknown", "0 d"],
        ["1663 (pg_default)", "1", "not encrypted", "-"],
        ["1664 (pg_global)", "1", "not encrypted", "-"],
        ["16400", "1", "AES-128-XTS", "unknown", "0 d"],
    ]
    assert "not encrypted" in shown.stdout
    assert "4 keys" in shown.stderr
    document = json.loads(run("list", "-k", keystore, "--json", *secret).stdout)
    assert [(k["kind"], k["oid"], k["encrypted"], k["opens"]) for k in document["keys"]] == [
        ("wal", None, True, True),
        ("tablespace", 1663, False, True),
        ("tablespace", 1664, False, True),
        ("tablespace", 16400, True, True),
    ]
    flip(keystore / "keys" / "16400.key")
    shown = run("list", "-k", keystore, *secret)
    assert "DAMAGED" in shown.stdout.splitlines()[-1]
    assert "1 of which do not open" in shown.stderr


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_verify_finds_what_status_does_not(keystore: Path, place: Path) -> None:
    secret = secret_file(place, PASSPHRASE)
    good = run("verify", "-k", keystore, *secret)
    assert "4 keys are good, every file is as tde wrote it" in good.stdout
    flip(keystore / "keys" / "16400.key")
    status = run("status", "-k", keystore)
    assert "Only the form was checked" in status.stderr
    assert "tde keystore verify" in status.stderr
    bad = run("verify", "-k", keystore, *secret, code=1)
    assert f"problem: {keystore / 'keys' / '16400.key'} is damaged or was altered" in bad.stdout
    assert "HINT: Move this file out of keys/, then bring it from a backup of the" in bad.stdout
    assert f"tde keystore copy BACKUP {keystore}" in bad.stdout
    document = json.loads(run("verify", "-k", keystore, "--json", *secret, code=1).stdout)
    assert not document["good"]
    (file,) = [file for file in document["files"] if not file["good"]]
    assert file["file"] == str(keystore / "keys" / "16400.key")
    assert file["remedy"]


def test_verify_says_when_the_passphrase_was_not_tried(keystore: Path, place: Path) -> None:
    with Keystore.open(keystore, PASSPHRASE) as opened:
        opened.enable_auto_open()
    (keystore / "notes.txt").touch()
    shown = run("verify", "-k", keystore)
    assert "its passphrase was not tried" in shown.stderr
    assert f"note: {keystore / 'notes.txt'} is no file of a keystore" in shown.stdout
    assert json.loads(run("verify", "-k", keystore, "--json").stdout)["opened_by_itself"]
    shown = run("verify", "-k", keystore, *secret_file(place, PASSPHRASE))
    assert "not tried" not in shown.stderr


def test_verify_of_a_keystore_that_cannot_be_opened(keystore: Path, place: Path) -> None:
    document = keystore / "keystore.json"
    document.write_bytes(document.read_bytes()[:-1])
    flip(keystore / "keys" / "16400.key")
    shown = run("verify", "-k", keystore, "--backup", place, code=1).stdout
    assert f"problem: {document} is damaged" in shown
    assert f"the keys of {place} were not looked for" in shown
    assert "4 keys could not be tried: they have the right form" in shown
    assert "good" not in shown
    # A wrong passphrase, or no keystore at all, is another matter.
    document.unlink()
    run("verify", "-k", place / "none", code=5)


def test_verify_with_a_wrong_passphrase_is_an_error(keystore: Path, place: Path) -> None:
    run("verify", "-k", keystore, *secret_file(place, b"not this one"), code=5)


# The key log.


def test_the_log_shows_who_has_done_what(keystore: Path, place: Path) -> None:
    secret = secret_file(place, PASSPHRASE)
    shown = run("log", "-k", keystore)
    titles, *rows = shown.stdout.splitlines()
    assert titles.split() == ["No.", "Time", "(UTC)", "Who", "Command", "What"]
    assert len(rows) == 5
    assert rows[0].endswith("create keystore")
    created = "create key: key wal.key, algorithm AES-256-XTS, state pre-activation"
    assert rows[1].endswith(created)
    assert "tde keystore log --verify" in shown.stderr
    shown = run("log", "-k", keystore, "--verify", *secret)
    assert shown.stdout.splitlines()[-1].endswith("open keystore: with the passphrase")
    assert "6 entries, all authentic" in shown.stderr
    run("list", "-k", keystore, *secret_file(place, b"not this one"), code=5)
    shown = run("log", "-k", keystore, "--last", "1", "--json")
    found = json.loads(shown.stdout)
    assert (found["good"], found["verified"], len(found["entries"])) == (True, False, 1)
    assert found["entries"][0]["event"] == "fail to open keystore"
    assert found["entries"][0]["details"] == {"why": "WrongPassphraseError"}


def test_an_altered_log_is_told_with_exit_status_1(keystore: Path, place: Path) -> None:
    log = keystore / "key.log"
    log.write_bytes(log.read_bytes().replace(b"wal.key", b"wal\\u001b[2J", 1))
    shown = run("log", "-k", keystore, "--verify", *secret_file(place, PASSPHRASE), code=1)
    assert f"Altered: line 2 of {log} was altered: its code does not fit" in shown.stderr
    assert "HINT" in shown.stderr
    assert "\033" not in shown.stdout + shown.stderr
    shown = run("verify", "-k", keystore, *secret_file(place, PASSPHRASE), code=1)
    assert f"problem: line 2 of {log}" in shown.stdout + shown.stderr


def test_a_keystore_without_a_log(keystore: Path) -> None:
    (keystore / "key.log").unlink()
    assert "There is no log yet" in run("log", "-k", keystore).stderr


def test_what_is_no_keystore_has_no_log(keystore: Path, place: Path) -> None:
    for path in (place / "none", place):
        assert "no keystore at" in run("log", "-k", path, code=5).stderr
    # What has happened to one that is damaged is worth reading.
    (keystore / "keystore.json").write_bytes(b"{}")
    assert "create keystore" in run("log", "-k", keystore).stdout


def test_entries_that_are_not_proven_yet_are_not_called_authentic(
    keystore: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, so that the opening itself is not told."""
    run("list", "-k", keystore, *secret_file(place, b"not this one"), code=5)
    secret = secret_file(place, PASSPHRASE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        shown = run("log", "-k", keystore, "--verify", *secret)
    assert "6 entries, of which the first 5 are proven" in shown.stderr
    assert "7 entries, all authentic" in run("log", "-k", keystore, "--verify", *secret).stderr


# Copies.


def test_backup_restore_and_copy(keystore: Path, place: Path) -> None:
    secret = secret_file(place, PASSPHRASE)
    with Keystore.open(keystore, PASSPHRASE) as opened:
        opened.enable_auto_open()
    shown = run("backup", place / "backup", "-k", keystore)
    assert "with 4 keys to" in shown.stdout
    assert "auto-open.key was left out" in shown.stderr
    shown = run("restore", place / "backup", "-k", place / "restored")
    assert "Restored keystore" in shown.stdout
    run("verify", "-k", place / "restored", *secret)
    assert "already a keystore" in run("restore", place / "backup", "-k", keystore, code=5).stderr

    with Keystore.open(keystore, PASSPHRASE) as opened:
        name = opened.create_named_key(Algorithm.AES256).hex
    shown = run("copy", keystore, place / "restored", *secret)
    assert shown.stdout == f"Added keys/{name}.key (key {name})\n"
    shown = run("copy", keystore, "-k", place / "restored", *secret)
    assert "lacks no key" in shown.stdout
    run("copy", keystore, code=1)  # Nobody has said where to.


def test_a_backup_with_auto_open_is_told(keystore: Path, place: Path) -> None:
    with Keystore.open(keystore, PASSPHRASE) as opened:
        opened.enable_auto_open()
    (keystore / "notes.txt").touch()
    shown = run("backup", place / "backup", "-k", keystore, "--with-auto-open")
    assert "needs no passphrase" in shown.stderr
    assert f"no file of a keystore: {keystore / 'notes.txt'}" in shown.stderr
    assert Keystore.open_automatically(place / "backup").is_open


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_restores_for_the_servers_user(keystore: Path, place: Path) -> None:
    run("backup", place / "backup", "-k", keystore)
    run("restore", place / "backup", "-k", place / "restored", "--os-user", "nobody")
    assert (place / "restored" / "keys" / "wal.key").stat().st_uid != 0
    assert (place / "backup").stat().st_uid == 0
