"""The key log: what is told, who can alter it unseen (nobody), and what stops when it is full."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import syslog
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreError, KeystoreExistsError, WrongPassphraseError
from tde.keystore import (
    KeyLog,
    KeyOwner,
    Keystore,
    add_missing_keys,
    back_up_keystore,
    change_passphrase,
    inspect_keystore,
    read_key_log,
    restore_keystore,
    rotate_master_key,
)
from tde.keystore.opening import open_keystore
from tde.keystore.providers.auto_open import disable_auto_open
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.keystore.store import files
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

NEW = b"another passphrase"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF).close()
    return tmp_path / "ks"


def verified(path: Path, passphrase: bytes = PASSPHRASE) -> KeyLog:
    with Keystore.open(path, passphrase) as keystore:
        return read_key_log(path, keystore.log_author())


def events(path: Path) -> list[str]:
    return [entry.event for entry in read_key_log(path).entries]


def lines(path: Path) -> list[bytes]:
    return (path / "key.log").read_bytes().splitlines(keepends=True)


def use(path: Path) -> None:
    """Do what people do with a keystore in a year."""
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
        keystore.enable_auto_open()
    with rotate_master_key(path, PASSPHRASE) as keystore:
        keystore.create_plaintext_entry(16400)
    with pytest.raises(WrongPassphraseError):
        Keystore.open(path, b"no such passphrase")
    rotate_master_key(path, PASSPHRASE).close()
    disable_auto_open(path)
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.create_named_key(Algorithm.AES128)


def test_every_verb_is_told_and_proven(path: Path, tmp_path: Path) -> None:
    use(path)
    change_passphrase(path, PassphraseProvider(PASSPHRASE), NEW)
    back_up_keystore(path, tmp_path / "backup")
    with Keystore.open(path, NEW) as keystore:
        keystore.discard_records(keystore.create_key(KeyOwner.tablespace(20000), Algorithm.AES128))
    log = verified(path, NEW)
    assert [entry.event for entry in log.entries] == [
        "create keystore",
        *("create key", "enable auto-open", "rotate master key", "create key"),
        *("fail to open keystore", "rotate master key", "disable auto-open", "create key"),
        *("change passphrase", "back up keystore", "create key", "discard keys"),
    ]
    assert (log.problems, log.confirmed) == ([], len(log.entries))
    assert log.begins_with_the_keystore
    assert [entry.number for entry in log.entries] == list(range(1, len(log.entries) + 1))
    assert log.entries[1].details == {
        "key": "wal.key",
        "algorithm": "AES-256-XTS",
        "state": "pre-activation",
    }
    assert log.entries[10].details["to"] == str(tmp_path / "backup")
    # The copy has the log up to itself, and goes on with it.
    restore_keystore(tmp_path / "backup", tmp_path / "restored")
    assert events(tmp_path / "restored") == [*events(path)[:11], "restore keystore"]
    assert verified(tmp_path / "restored", NEW).problems == []


def test_keys_that_are_added_from_another_copy_are_told(path: Path, tmp_path: Path) -> None:
    back_up_keystore(path, tmp_path / "standby")
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
    with Keystore.open(tmp_path / "standby", PASSPHRASE) as standby:
        add_missing_keys(path, standby)
    entry = read_key_log(tmp_path / "standby").entries[-1]
    assert entry.event == "add keys"
    created = read_key_log(path).entries[-1].time.isoformat()
    assert entry.details == {
        "source": str(path),
        "keys": ["wal.key"],
        "created": {"wal.key": created},
    }


def test_nothing_secret_is_in_the_log(path: Path) -> None:
    use(path)
    content = (path / "key.log").read_bytes()
    with Keystore.open(path, PASSPHRASE) as keystore:
        secrets = [keystore.unwrap_key(KeyOwner.wal()), keystore.log_author()[1], PASSPHRASE]
        with keystore._open_master_key().view as view:
            secrets.append(bytes(view))
    for secret in secrets:
        assert bytes(secret) not in content
        assert bytes(secret).hex().encode() not in content
    assert (path / "key.log").stat().st_mode & 0o777 == 0o600


def forge(line: bytes, change: Callable[[dict], object]) -> bytes:
    fields = json.loads(line)
    change(fields)
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize("at", range(9))
def test_an_altered_removed_or_inserted_line_is_found(path: Path, at: int) -> None:
    use(path)
    before = lines(path)
    assert len(before) == 9
    last = at == len(before) - 1
    altered = forge(before[at], lambda fields: fields["who"].update(user="mallory"))
    moved = forge(before[at], lambda fields: fields.update(number=at + 2))
    for changed, found in (
        ([*before[:at], altered, *before[at + 1 :]], True),
        ([*before[:at], b"{}\n", *before[at + 1 :]], True),
        ([*before[:at], *before[at + 1 :]], not last),  # The end is not missed: see syslog.
        ([*before[:at], before[at], moved, *before[at + 1 :]], True),
    ):
        (path / "key.log").write_bytes(b"".join(changed))
        log = verified(path)
        assert bool(log.problems) == found, changed
        assert not found or str(path / "key.log") in log.problems[0]
        # The chain alone shows what is not at the end.
        assert bool(read_key_log(path).problems) == (not last or found) or last


def test_who_has_an_old_master_key_cannot_write_entries_of_today(
    path: Path, tmp_path: Path
) -> None:
    """A master key is rotated because somebody may have the old one."""
    use(path)
    with Keystore.open(path, PASSPHRASE) as keystore:
        old = keystore.log_author()
    rotate_master_key(path, PASSPHRASE).close()
    forged = tmp_path / "forged"
    forged.mkdir(mode=0o700)
    (forged / "key.log").write_bytes((path / "key.log").read_bytes())
    (forged / "key.log").chmod(0o600)
    from tde.keystore.log.writing import write_entry

    write_entry(forged, "open keystore", {}, old)
    (path / "key.log").write_bytes((forged / "key.log").read_bytes())
    (problem,) = verified(path).problems
    assert "its code does not fit" in problem


def test_a_rotation_that_was_interrupted_breaks_no_chain(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(path)

    def full(*_: object) -> None:
        raise KeystoreError("could not write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tde.keystore.rotation.write_atomically", full)
        with pytest.raises(KeystoreError):
            rotate_master_key(path, PASSPHRASE)
    assert events(path)[-1] == "rotate master key"
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.create_named_key(Algorithm.AES128)
    rotate_master_key(path, PASSPHRASE).close()
    log = verified(path)
    assert (log.problems, log.confirmed) == ([], len(log.entries))


def test_what_is_not_proven_yet_is_proven_by_the_next_entry(path: Path) -> None:
    with pytest.raises(WrongPassphraseError):
        Keystore.open(path, b"no such passphrase")
    log = verified(path)
    assert (log.confirmed, len(log.entries)) == (1, 2)
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.enable_auto_open()
    assert verified(path).confirmed == 3


def test_a_torn_entry_is_told_and_the_next_one_takes_its_place(path: Path) -> None:
    whole = (path / "key.log").read_bytes()
    (path / "key.log").write_bytes(whole + b'{"number":2,"time":"20')
    assert "torn" in read_key_log(path).problems[0]
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.enable_auto_open()
    log = verified(path)
    assert log.problems == []
    assert log.entries[-1].details == {"bytes of a torn entry removed": 22}


def test_a_long_torn_entry_does_not_take_the_others_along(path: Path) -> None:
    """The accident: what lay at the end was longer than what was looked at, and all was cut off."""
    use(path)
    before = lines(path)
    for junk in (300_000, 1_000_000):
        with (path / "key.log").open("ab") as file:
            file.write(b"x" * junk)
        with Keystore.open(path, PASSPHRASE) as keystore:
            keystore.enable_auto_open()
        assert lines(path)[: len(before)] == before
        assert verified(path).problems == []
    # As a whole line it stays, for whoever looks for its origin, and the chain goes on behind it.
    with (path / "key.log").open("ab") as file:
        file.write(b"x" * 300_000 + b"\n")
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.enable_auto_open()
    assert lines(path)[: len(before)] == before
    number = len(lines(path)) - 1
    assert verified(path).problems[0].startswith(f"line {number} of {path / 'key.log'} was altered")


def test_entries_are_sent_to_syslog(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[object, ...]] = []
    monkeypatch.setattr(syslog, "openlog", lambda *options: sent.append(options))
    monkeypatch.setattr(syslog, "syslog", lambda *message: sent.append(message))
    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.enable_auto_open()
    with pytest.raises(WrongPassphraseError):
        Keystore.open(path, b"no such passphrase")
    *_, first, second = lines(path)
    assert sent == [
        ("tde", 0, syslog.LOG_AUTHPRIV),
        (syslog.LOG_NOTICE, f"{path / 'key.log'}: {first.decode().rstrip()}"),
        ("tde", 0, syslog.LOG_AUTHPRIV),
        (syslog.LOG_NOTICE, f"{path / 'key.log'}: {second.decode().rstrip()}"),
    ]


def test_keys_of_a_failed_command_are_removed_although_it_cannot_be_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The full disk may be why the command has failed; keys that stay would stop the next one."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Keystore.open(path, PASSPHRASE) as keystore:
        written = keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(os, "fsync", full)
            keystore.discard_records(written)
        assert inspect_keystore(path).keys == []
        assert "lacks: discard keys" in caplog.text
        keystore.create_first_keys({KeyOwner.wal(): Algorithm.AES256})


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_nothing_is_changed_that_cannot_be_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with Keystore.open(path, PASSPHRASE) as keystore:
        for change in (
            lambda: keystore.create_key(KeyOwner.wal(), Algorithm.AES256),
            keystore.enable_auto_open,
            lambda: change_passphrase(path, PassphraseProvider(PASSPHRASE), NEW),
            lambda: back_up_keystore(path, path.parent / "backup"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, full)
                with pytest.raises(KeystoreError, match=r"key\.log: No space left") as caught:
                    change()
            assert "repeat the command" in caught.value.remedy
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_keystore_opens_although_it_cannot_be_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At 3 a.m. a server must start although the disk of the keystore is full."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Keystore.open(path, PASSPHRASE) as keystore:
        keystore.enable_auto_open()
    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING), open_keystore(path) as opened:
        assert opened.is_open
    assert re.search(r"key\.log: No space left on device; .* lacks: open keystore", caplog.text)
    monkeypatch.undo()
    assert verified(path).problems == []


def test_links_owners_and_modes(path: Path, tmp_path: Path) -> None:
    log = path / "key.log"
    whole = log.read_bytes()
    log.chmod(0o644)
    with Keystore.open(path, PASSPHRASE) as keystore:
        with pytest.raises(KeystoreError, match="open to other users"):
            keystore.enable_auto_open()
        log.unlink()
        target = tmp_path / "elsewhere"
        target.touch()
        log.symlink_to(target)
        with pytest.raises(KeystoreError, match=r"key\.log"):
            keystore.enable_auto_open()
        assert target.read_bytes() == b""
        log.unlink()
        os.mkfifo(log, 0o600)
        with pytest.raises(KeystoreError, match="not a regular file"):
            keystore.enable_auto_open()
        log.unlink()
        log.write_bytes(whole)
        log.chmod(0o600)
        keystore.enable_auto_open()


def test_the_log_of_a_used_keystore_is_not_replaced(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "key.log").write_bytes((path / "key.log").read_bytes())
    (other / "key.log").chmod(0o600)
    # A creation that was interrupted leaves one entry; it is begun again.
    with Keystore.create(other, PASSPHRASE, kdf=CHEAP_KDF) as keystore:
        keystore.enable_auto_open()
    assert verified(other).problems == []
    (other / "keystore.json").unlink()
    (other / "auto-open.key").unlink()
    with pytest.raises(KeystoreExistsError, match="the log of a keystore that was used here"):
        Keystore.create(other, PASSPHRASE, kdf=CHEAP_KDF)


def test_a_keystore_of_an_earlier_release_begins_a_log(path: Path) -> None:
    (path / "key.log").unlink()
    assert read_key_log(path).entries == []
    with open_keystore_of(path) as keystore:
        keystore.enable_auto_open()
    log = verified(path)
    assert log.problems == []
    assert not log.begins_with_the_keystore


def open_keystore_of(path: Path) -> Keystore:
    return Keystore.open(path, PASSPHRASE)


def test_many_writers_at_once(path: Path) -> None:
    def make_keys() -> None:
        with Keystore.open(path, PASSPHRASE) as keystore:
            for _ in range(10):
                keystore.create_named_key(Algorithm.AES128)

    def mistype() -> None:
        for _ in range(10):
            with pytest.raises(WrongPassphraseError):
                Keystore.open(path, b"no such passphrase")

    threads = [threading.Thread(target=target) for target in (make_keys, mistype, make_keys)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = verified(path)
    assert log.problems == []
    assert len(log.entries) == 31
    assert len(inspect_keystore(path).keys) == 20


def test_a_command_with_a_secret_in_it_is_not_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for argv, command in (
        (["/usr/bin/tde", "pg", "start", "-D", "/srv/pg"], "tde pg start"),
        (["/usr/bin/tde", "psql", "secret"], "tde psql"),
        (["/usr/bin/tde", "keystore", "--passphrase-fd", "3"], "tde keystore"),
        (["backup.py", "secret"], "backup.py"),
        ([], ""),
    ):
        monkeypatch.setattr("sys.argv", argv)
        open_and_tell(path)
        assert read_key_log(path).entries[-1].who["command"] == command


def open_and_tell(path: Path) -> None:
    from tde.keystore.log.writing import write_entry_if_possible

    write_entry_if_possible(path, "open keystore", {}, None)


def test_the_wait_for_a_writer_that_hangs_is_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.1)
    with Keystore.open(path, PASSPHRASE) as keystore, (path / "key.log").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(KeystoreError, match="has been writing to"):
            keystore.enable_auto_open()
    assert not (path / "auto-open.key").exists()
