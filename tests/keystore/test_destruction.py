"""Keys that are destroyed: killed before each system call, on a full disk, and with a receipt."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeyMissingError, KeystoreDamagedError, KeystoreError
from tde.keystore import (
    KeyOwner,
    KeyState,
    Keystore,
    back_up_keystore,
    check_receipt,
    list_keys,
    read_key_log,
    read_lives,
    restore_keystore,
    rotate_master_key,
    verify_keystore,
)
from tde.keystore.lifecycle.changes import mark_key, set_age_limit
from tde.keystore.lifecycle.destruction import begin_again, destroy_key
from tde.keystore.lifecycle.receipt import _code, pack_receipt
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.test_interrupted_verbs import EVERY_ACCIDENT

OWNER = (65534, 65534) if os.geteuid() == 0 else None


@pytest.fixture
def keystore(tmp_path: Path):
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF, owner=OWNER) as created:
        created.create_key(KeyOwner.wal(), Algorithm.AES256)
        yield created


def named(keystore: Keystore) -> KeyOwner:
    return KeyOwner.named(keystore.create_named_key(Algorithm.AES256))


def record_of(keystore: Keystore, owner: KeyOwner) -> Path:
    return keystore.path / "keys" / owner.file_name


def write(place: Path, receipt: dict[str, Any]) -> Path:
    place.write_bytes(pack_receipt(receipt))
    return place


@EVERY_ACCIDENT
def test_a_key_is_whole_or_destroyed_with_an_entry(
    tmp_path: Path, happen: Callable[..., None]
) -> None:
    path = tmp_path / "ks"
    with Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF, owner=OWNER) as keystore:
        keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
        state: dict[str, Any] = {}
        seen = set()

        def prepare(step: int) -> Callable[[], object]:
            state["owner"] = owner = named(keystore)
            state["record"] = record_of(keystore, owner).read_bytes()
            return partial(destroy_key, keystore, owner)

        def check() -> None:
            owner, record = state["owner"], record_of(keystore, state["owner"])
            hidden = record.with_name(f"{record.name}.destroying")
            log = read_key_log(path, keystore.log_author())
            assert log.problems == []
            told = [e for e in log.entries if e.details.get("key") == owner.file_name]
            is_told = any(entry.event == "destroy key" for entry in told)
            # The keystore opens, whatever has happened.
            with Keystore.open(path, PASSPHRASE) as opened:
                assert all(key.opens for key in list_keys(opened))
                life = read_lives(path, opened).find(owner.file_name)
            assert life is not None
            problems = {file.file for file in verify_keystore(path, keystore) if not file.good}
            problems -= {path / "keys" / f"{oid}.key" for oid in (1663, 1664)}
            if record.exists():
                assert record.read_bytes() == state["record"]
                assert not hidden.exists()
                assert life.state is not None
                assert not life.state.is_destroyed
                assert problems == set()
            else:
                assert is_told
                assert problems == ({hidden} if hidden.exists() else set())
                assert (life.state is KeyState.DESTROYED) is not hidden.exists()
            whole = hidden.exists() and hidden.read_bytes() == state["record"]
            seen.add((record.exists(), hidden.exists(), whole, is_told))
            # Repeating finishes it, and gives the receipt.
            assert begin_again(keystore, owner) is (record.exists() or whole)
            receipt = destroy_key(keystore, owner)
            assert not record.exists()
            assert not hidden.exists()
            assert check_receipt(keystore, write(tmp_path / "receipt", receipt)).good
            assert receipt == destroy_key(keystore, owner)
            assert not list((path / "keys").glob(".*"))

        happen(prepare, check)
        # Before the entry, before the rename, before and after it was overwritten, and at the end.
        assert {
            (True, False, False, False),
            (True, False, False, True),
            (False, True, True, True),
            (False, True, False, True),
            (False, False, False, True),
        } <= seen


@EVERY_ACCIDENT
def test_marks_and_limits_are_set_or_not(tmp_path: Path, happen: Callable[..., None]) -> None:
    path = tmp_path / "ks"
    with Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF, owner=OWNER) as keystore:
        keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
        days = [0]

        def both() -> None:
            set_age_limit(keystore, "wal", days[0])
            mark_key(keystore, "wal", KeyState.SUSPENDED, f"after {days[0]} days")

        def prepare(step: int) -> Callable[[], object]:
            days[0] = step + 1
            return both

        def check() -> None:
            life = read_lives(path, keystore)
            assert life.problems == []
            key = life.find("wal.key")
            assert key is not None
            assert key.max_age in (None, days[0] - 1, days[0])
            both()
            key = read_lives(path, keystore).find("wal.key")
            assert key is not None
            assert (key.max_age, key.reason) == (days[0], f"after {days[0]} days")

        happen(prepare, check)


def test_the_record_is_overwritten_before_it_is_removed(keystore: Keystore, tmp_path: Path) -> None:
    owner = named(keystore)
    record = record_of(keystore, owner)
    content = record.read_bytes()
    # A second name shows what is on the disk afterwards.
    os.link(record, tmp_path / "second name")
    destroy_key(keystore, owner)
    left = (tmp_path / "second name").read_bytes()
    assert len(left) == len(content)
    assert sum(one == two for one, two in zip(left, content, strict=True)) < 20


def test_a_key_that_somebody_begins_to_need_is_kept(keystore: Keystore) -> None:
    owner = named(keystore)
    before = record_of(keystore, owner).read_bytes()

    def look() -> None:
        assert not record_of(keystore, owner).exists()
        raise KeystoreError("a server has it now")

    with pytest.raises(KeystoreError, match="a server has it now"):
        destroy_key(keystore, owner, look_again=look)
    assert record_of(keystore, owner).read_bytes() == before
    life = read_lives(keystore.path, keystore).find(owner.file_name)
    assert life is not None
    assert life.state is KeyState.PRE_ACTIVATION
    assert [event.event for event in life.events][-1] == "kept after all"
    destroy_key(keystore, owner)


def test_what_a_keystore_needs_is_not_destroyed(keystore: Keystore) -> None:
    keystore.create_key(KeyOwner.other_tablespaces(), Algorithm.AES256)
    for owner in (KeyOwner.wal(), KeyOwner.other_tablespaces(), KeyOwner.tablespace(1663)):
        with pytest.raises(KeystoreError, match="cannot be destroyed"):
            destroy_key(keystore, owner)
    plain = KeyOwner.named(keystore.create_named_key(None))
    with pytest.raises(KeystoreError, match="plaintext entry"):
        destroy_key(keystore, plain)
    lost = named(keystore)
    record_of(keystore, lost).unlink()
    with pytest.raises(KeyMissingError, match="does not tell of its destruction"):
        destroy_key(keystore, lost)


def test_two_at_once_give_the_same_receipt(keystore: Keystore, tmp_path: Path) -> None:
    owner = named(keystore)

    def run(number: int) -> None:
        write(tmp_path / str(number), destroy_key(keystore, owner))

    context = multiprocessing.get_context("fork")
    running = [context.Process(target=run, args=(number,)) for number in range(4)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 4
    first, *others = [(tmp_path / str(number)).read_bytes() for number in range(4)]
    assert others == [first] * 3
    events = [entry.event for entry in read_key_log(keystore.path).entries]
    assert events.count("destroy key") == events.count("key destroyed") == 1


def test_a_record_that_was_put_back_by_hand_is_told(keystore: Keystore) -> None:
    owner = named(keystore)
    record = record_of(keystore, owner)
    record.with_name(f"{record.name}.destroying").write_bytes(record.read_bytes())
    with pytest.raises(KeystoreDamagedError, match="put back by hand"):
        begin_again(keystore, owner)
    assert record.exists()
    # A rotation would remove what is to be overwritten.
    with pytest.raises(KeystoreError, match="was interrupted") as caught:
        rotate_master_key(keystore.path, PASSPHRASE)
    assert f"tde keystore destroy {owner.file_name[:-4]}" in caught.value.remedy


# Receipts.


def test_a_receipt_is_proven_after_rotations(keystore: Keystore, tmp_path: Path) -> None:
    owner = named(keystore)
    back_up_keystore(keystore.path, tmp_path / "backup")
    receipt = destroy_key(keystore, owner, reason="enough", looked_at=["/srv/pg/one"])
    file = write(tmp_path / "receipt.json", receipt)
    backups = receipt["known_backups_of_the_keystore"]
    assert [one["to"] for one in backups] == [str(tmp_path / "backup")]
    assert (receipt["reason"], receipt["looked_at"]) == ("enough", ["/srv/pg/one"])
    for _ in range(2):
        rotate_master_key(keystore.path, PASSPHRASE).close()
    with Keystore.open(keystore.path, PASSPHRASE) as rotated:
        found = check_receipt(rotated, file)
        assert (found.good, found.in_log) == (True, True)
    # The backup proves the code, and knows nothing of the destruction.
    with Keystore.open(tmp_path / "backup", PASSPHRASE) as backup:
        found = check_receipt(backup, file)
        assert (found.good, found.in_log) == (True, False)


def test_an_altered_receipt_is_refused(keystore: Keystore, tmp_path: Path) -> None:
    receipt = destroy_key(keystore, named(keystore), reason="enough")
    for name, value in (
        ("reason", "other"),
        ("key", "wal.2.key"),
        ("record_sha256", "0" * 64),
        ("log_entries", [{"number": 1, "sha256": ""}, {"number": 2, "sha256": ""}]),
        ("code", "é"),
        ("master_key", "0" * 32),
        ("keystore", "0" * 32),
    ):
        found = check_receipt(keystore, write(tmp_path / "r", {**receipt, name: value}))
        assert not found.good
    for content in (b"", b"[]", b"{}", json.dumps({**receipt, "version": 2}).encode()):
        (tmp_path / "r").write_bytes(content)
        with pytest.raises(KeystoreDamagedError):
            check_receipt(keystore, tmp_path / "r")
    with (
        Keystore.create(tmp_path / "other", PASSPHRASE, kdf=CHEAP_KDF) as other,
        pytest.raises(KeystoreError, match="could not read"),
    ):
        check_receipt(other, tmp_path / "none")


def test_who_has_an_old_master_key_makes_no_receipt(keystore: Keystore, tmp_path: Path) -> None:
    """For a key that lives, with the entries of another; and with none, after the rotation."""
    owner, living = named(keystore), named(keystore)
    genuine = destroy_key(keystore, owner)
    old = keystore.log_author()[1]

    def forged(**fields: object) -> Path:
        content = {name: value for name, value in genuine.items() if name != "code"} | fields
        return write(tmp_path / "forged", {**content, "code": _code(old, content)})

    rotate_master_key(keystore.path, PASSPHRASE).close()
    with Keystore.open(keystore.path, PASSPHRASE) as rotated:
        assert check_receipt(rotated, forged()).good
        for name, value in (
            ("key", living.file_name),
            ("record_sha256", "0" * 64),
            ("begun", "2020-01-01T00:00:00+00:00"),
            ("finished", "2020-01-01T00:00:00+00:00"),
            ("who", {"user": "somebody else"}),
            ("reason", "another"),
            ("looked_at", ["/srv/pg"]),
            ("known_backups_of_the_keystore", [{"to": "/srv"}]),
        ):
            found = check_receipt(rotated, forged(**{name: value}))
            assert (found.good, found.in_log) == (False, False)
            assert f"its {name} are not what entries" in found.problems[0]
        first, last = genuine["log_entries"]
        for entries in ([last, first], [first, first], [first, {**last, "sha256": "0" * 64}]):
            found = check_receipt(rotated, forged(log_entries=entries))
            assert not found.good
            assert not found.in_log
        assert check_receipt(rotated, forged(key=living.file_name)).present


def test_a_destroyed_key_that_was_put_back_is_named(keystore: Keystore, tmp_path: Path) -> None:
    owner = named(keystore)
    record = record_of(keystore, owner)
    content = record.read_bytes()
    file = write(tmp_path / "receipt", destroy_key(keystore, owner))
    assert not check_receipt(keystore, file).present
    assert read_lives(keystore.path, keystore).find(owner.file_name).problem == ""
    record.write_bytes(content)
    record.chmod(0o600)
    os.chown(record, *(OWNER or (-1, -1)))
    found = check_receipt(keystore, file)
    assert (found.good, found.in_log, found.present) == (True, True, True)
    problem = read_lives(keystore.path, keystore).find(owner.file_name).problem
    assert "somebody has put it back" in problem
    told = {one.file: one for one in verify_keystore(keystore.path, keystore) if one.problem}
    assert told[record].problem == problem
    assert f"tde keystore destroy {record.name[:-4]}" in told[record].remedy
    # Destroyed again, all is well.
    again = write(tmp_path / "again", destroy_key(keystore, owner))
    for one in (file, again):
        assert (check_receipt(keystore, one).good, check_receipt(keystore, one).present) == (
            True,
            False,
        )
    assert read_lives(keystore.path, keystore).find(owner.file_name).problem == ""


def test_restoring_an_old_backup_brings_the_key_back(keystore: Keystore, tmp_path: Path) -> None:
    owner = named(keystore)
    back_up_keystore(keystore.path, tmp_path / "backup")
    destroy_key(keystore, owner)
    restore_keystore(tmp_path / "backup", tmp_path / "restored")
    life = read_lives(tmp_path / "restored").find(owner.file_name)
    assert life is not None
    assert life.state is KeyState.PRE_ACTIVATION
