"""Entries of the key log that somebody has written who may write there and has no key of it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreDamagedError, KeystoreExistsError
from tde.keystore import (
    KeyOwner,
    Keystore,
    add_missing_keys,
    age_findings,
    back_up_keystore,
    read_key_log,
    read_lives,
    rotate_master_key,
    verify_keystore,
)
from tde.keystore.completeness import missing_keys
from tde.keystore.lifecycle.changes import set_age_limit
from tde.keystore.lifecycle.destruction import destroy_key
from tde.keystore.lifecycle.events import Place, activate_keys, tell_of_place, told_active
from tde.keystore.log.documents import SealedDocument, check_seal, document_code
from tde.keystore.log.entry import log_path
from tde.keystore.log.writing import write_entry
from tde.postgres.cluster.key_destruction import places_to_look_at
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

ONE = Path("/srv/pg/one")


@pytest.fixture
def keystore(tmp_path: Path):
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(KeyOwner.wal(), Algorithm.AES256)
        yield created


@pytest.fixture(params=["no code", "a wrong code"])
def forge(keystore: Keystore, request) -> Callable[..., None]:
    """Write what somebody without a key can, and let the next entry speak for it by the chain."""
    author = None if request.param == "no code" else (keystore.master_key_id, os.urandom(32))

    def log(event: str, **details: object) -> None:
        write_entry(keystore.path, event, details, author)
        keystore.log("open keystore")

    return log


def named(keystore: Keystore) -> KeyOwner:
    return KeyOwner.named(keystore.create_named_key(Algorithm.AES256))


def test_nothing_is_decided_by_a_forged_entry(
    keystore: Keystore, forge: Callable[..., None]
) -> None:
    owner = named(keystore)
    activate_keys(keystore, {owner: "tablespace 1"}, Place(ONE))
    tell_of_place(keystore, ONE, 7)
    set_age_limit(keystore, "all", 10)
    before = read_lives(keystore.path, keystore)
    assert before.problems == []
    count = len(read_key_log(keystore.path).entries)
    forge("forget cluster", directory=str(ONE))
    forge("set age limit", of="all", days=None)
    forge("deactivate keys", cluster=str(ONE), keys={owner.file_name: "gone"})
    forge("destroy key", key=owner.file_name, sha256="0" * 64)
    forge("key destroyed", key=owner.file_name)
    forge("discard keys", keys=[owner.file_name])
    forge("create key", key=owner.file_name, algorithm="AES-256", by="SQL")
    forge("mark key", key=owner.file_name, state="active")
    forge("change passphrase")
    after = read_lives(keystore.path, keystore)
    assert after.keys == before.keys
    assert (after.places, after.limits) == (before.places, before.limits)
    assert after.passphrase == before.passphrase
    assert told_active(keystore, Place(ONE)) == {owner.file_name: "tablespace 1"}
    # Each is a problem for whoever reads the log.
    lines = [count + 1 + 2 * number for number in range(9)]
    for problems in (
        read_key_log(keystore.path, keystore.log_author()).problems,
        after.problems,
    ):
        assert [int(problem.split()[1]) for problem in problems] == lines
    assert age_findings(after)[0].file == "key.log"
    bad = [one for one in verify_keystore(keystore.path, keystore) if one.file.name == "key.log"]
    assert f"line {lines[0]} of " in bad[0].problem
    # A key that it takes for used and not for discarded is missed.
    (keystore.path / "keys" / owner.file_name).unlink()
    present = {KeyOwner.wal(): True}
    with_code = read_key_log(keystore.path).left_out == frozenset()
    assert (owner in missing_keys(keystore.path, present)) is not with_code


def test_a_closed_keystore_tells_of_entries_without_a_code(keystore: Keystore) -> None:
    write_entry(keystore.path, "set age limit", {"of": "all", "days": None}, None)
    log = read_key_log(keystore.path)
    assert len(log.problems) == 1
    assert "'set age limit' must have one" in log.problems[0]
    assert log.counting == log.entries[:-1]
    assert read_lives(keystore.path).problems == log.problems


def test_destroy_and_copy_refuse_a_log_that_was_altered(
    keystore: Keystore, tmp_path: Path, forge: Callable[..., None]
) -> None:
    owner = named(keystore)
    back_up_keystore(keystore.path, tmp_path / "backup")
    tell_of_place(keystore, ONE, 7)
    record = keystore.path / "keys" / owner.file_name
    digest = hashlib.sha256(record.read_bytes()).hexdigest()
    forge("destroy key", key=owner.file_name, algorithm="AES-256", sha256=digest)
    forge("key destroyed", key=owner.file_name, overwritten=True)
    for act in (
        lambda: destroy_key(keystore, owner),
        lambda: places_to_look_at(keystore, (), ()),
    ):
        with pytest.raises(KeystoreDamagedError, match="the key log was altered"):
            act()
    assert record.exists()
    # A record that is gone gets no receipt, and nobody is told to remove the last copy of it.
    away = record.rename(tmp_path / "away")
    with pytest.raises(KeystoreDamagedError, match="the key log was altered"):
        destroy_key(keystore, owner)
    with pytest.raises(KeystoreDamagedError, match="the key log was altered") as caught:
        add_missing_keys(tmp_path / "backup", keystore)
    assert "rm " not in caught.value.remedy
    away.rename(record)


def test_a_proven_destruction_still_keeps_the_key_out(keystore: Keystore, tmp_path: Path) -> None:
    owner = named(keystore)
    back_up_keystore(keystore.path, tmp_path / "backup")
    destroy_key(keystore, owner)
    rotate_master_key(keystore.path, PASSPHRASE).close()
    with (
        Keystore.open(keystore.path, PASSPHRASE) as rotated,
        Keystore.open(tmp_path / "backup", PASSPHRASE) as other,
        pytest.raises(KeystoreExistsError, match="was destroyed on") as caught,
    ):
        add_missing_keys(tmp_path / "backup", rotated, other)
    assert f"tde keystore restore {tmp_path}/backup --keystore" in caught.value.remedy


def test_a_key_made_in_sql_has_no_code_and_counts(keystore: Keystore) -> None:
    owner = KeyOwner.named(uuid4())
    details = {"key": owner.file_name, "algorithm": Algorithm.AES256.label, "by": "SQL"}
    write_entry(keystore.path, "create key", details, None)
    life = read_lives(keystore.path, keystore)
    assert life.problems == []
    found = life.find(owner.file_name)
    assert found is not None
    assert found.created is not None
    # Of another kind of key, or a second time, it is forged.
    for name in (owner.file_name, "wal.key", "16400.key", "no key"):
        write_entry(keystore.path, "create key", {**details, "key": name}, None)
    assert len(read_key_log(keystore.path).problems) == 4
    assert read_lives(keystore.path, keystore).find(owner.file_name) == found


def test_a_document_is_not_proven_by_an_entry_without_a_code(keystore: Keystore) -> None:
    old: tuple[UUID, bytes] = keystore.log_author()
    rotate_master_key(keystore.path, PASSPHRASE).close()
    with Keystore.open(keystore.path, PASSPHRASE) as rotated:
        file = b"all is well"
        document = SealedDocument(file, old[0], document_code(old[1], file), file)
        digest = {"sha256": {"json": hashlib.sha256(file).hexdigest()}}
        # This event needs no code, but it tells of no document.
        write_entry(rotated.path, "back up keystore", {"to": "/srv", **digest}, None)
        rotated.log("open keystore")
        assert read_key_log(rotated.path, rotated.log_author()).problems == []
        assert (
            "could have made it since"
            in check_seal(rotated.path, rotated.log_author(), document).problem
        )


@pytest.mark.parametrize("number", ["1e999", "Infinity", "true", "2.5", "-1", "9" * 4300, 1 << 29])
def test_a_number_that_no_line_has_keeps_nobody_out(keystore: Keystore, number: object) -> None:
    log = log_path(keystore.path)
    lines = log.read_bytes().splitlines(keepends=True)
    forged = re.sub(rb'"number":[0-9]+', f'"number":{number}'.encode(), lines[-1])
    log.write_bytes(b"".join([*lines, forged]))
    with Keystore.open(keystore.path, PASSPHRASE) as opened:
        opened.log("open keystore")
        found = read_key_log(opened.path, opened.log_author())
    assert found.entries[-1].number == len(lines) + 2
    assert any(problem.startswith(f"line {len(lines) + 1} ") for problem in found.problems)
