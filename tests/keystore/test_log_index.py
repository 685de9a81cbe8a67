"""The index of the key log: a start reads the log's end alone, and decides as by the whole log."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreDamagedError, KeystoreError
from tde.keystore import KeyOwner, Keystore, read_key_log, rotate_master_key, verify_keystore
from tde.keystore.envelopes import remove_envelope
from tde.keystore.lifecycle.changes import forget_place, mark_key
from tde.keystore.lifecycle.events import (
    Place,
    activate_keys,
    deactivate_keys,
    tell_of_place,
    told_active,
)
from tde.keystore.lifecycle.states import KeyState
from tde.keystore.log import index
from tde.keystore.log.index import KEPT_EVENTS, index_path
from tde.keystore.log.reading import read_entries_of
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PassphraseSource
from tde.keystore.store.files import exclusive_lock
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.third_party import Xor

ONE = Place(Path("/srv/pg/one"), "7")
WAL = KeyOwner.wal()
REST = 4096


@pytest.fixture
def keystore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keystore]:
    """A keystore whose log has an index as soon as it has a few lines."""
    monkeypatch.setattr(index, "LONGEST_REST", REST)
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(WAL, Algorithm.AES256)
        tell_of_place(created, ONE.directory, 7)
        activate_keys(created, {WAL: "WAL"}, ONE)
        yield created


def grow(keystore: Keystore, count: int = 30) -> None:
    for _ in range(count):
        keystore.log("open keystore", **{"with": "passphrase"})


def with_index(keystore: Keystore) -> Path:
    grow(keystore)
    assert told_active(keystore, ONE)
    return index_path(keystore.path)


def entries(keystore: Keystore, *, from_index: bool = True) -> list[int]:
    """Return the numbers of what a start reads."""
    path = index_path(keystore.path)
    aside = path.with_name(".index.tmp")
    if not from_index:
        path.rename(aside)
    with exclusive_lock(keystore.path):  # So that no index is made meanwhile.
        found = read_entries_of(keystore.path, *KEPT_EVENTS, author=keystore.log_author())
    if not from_index:
        aside.rename(path)
    return [entry.number for entry in found]


def bytes_read(keystore: Keystore, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how much of the log a start reads."""
    sizes = []
    read = index.read_private_file

    def counted(path: Path, *arguments: Any, **named: Any) -> bytes:
        found = read(path, *arguments, **named)
        sizes.append(len(found) if path.name == "key.log" else 0)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(index, "read_private_file", counted)
        tell_of_place(keystore, ONE.directory, 7)
    return sum(sizes)


def test_a_start_reads_the_end_of_a_long_log(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = with_index(keystore)
    for _ in range(3):
        grow(keystore)
        tell_of_place(keystore, ONE.directory, 7)
    log = (keystore.path / "key.log").stat().st_size
    assert bytes_read(keystore, monkeypatch) < REST + 1000 < log / 5
    assert file.stat().st_size < 3000
    assert read_key_log(keystore.path, keystore.log_author()).problems == []
    assert file not in [one.file for one in verify_keystore(keystore.path, keystore)]


def test_an_index_gives_what_the_whole_log_gives(keystore: Keystore) -> None:
    chosen = random.Random(5)
    owners = [KeyOwner.named(keystore.create_named_key(Algorithm.AES256)) for _ in range(3)]
    acts = [
        lambda: grow(keystore, 5),
        lambda: activate_keys(keystore, {chosen.choice(owners): "tablespace 1"}, ONE),
        lambda: deactivate_keys(keystore, {chosen.choice(owners): "rekeyed"}, ONE),
        lambda: tell_of_place(keystore, Path(f"/srv/pg/{chosen.randrange(3)}"), 8),
        lambda: mark_key(keystore, owners[0].file_name, KeyState.SUSPENDED, "a test"),
        lambda: mark_key(keystore, owners[0].file_name, KeyState.ACTIVE, "a test"),
    ]
    made = set()
    for _ in range(120):
        try:
            chosen.choice(acts)()
        except KeystoreError as error:
            assert "is marked as" in str(error)  # noqa: PT017 - others are mistakes.
        if told_active(keystore, ONE) and index_path(keystore.path).exists():
            made.add(index_path(keystore.path).read_bytes())
            assert entries(keystore) == entries(keystore, from_index=False)
    assert len(made) > 5


def test_a_rotation_ends_an_index_and_the_next_one_goes_on(keystore: Keystore) -> None:
    file = with_index(keystore)
    old = file.read_bytes()
    with rotate_master_key(keystore.path, PASSPHRASE) as rotated:
        assert told_active(rotated, ONE) == {"wal.key": "WAL"}
        assert entries(rotated) == entries(rotated, from_index=False)
        grow(rotated)
        assert told_active(rotated, ONE) == {"wal.key": "WAL"}
        assert file.read_bytes() != old
        # Who has the old master key can say nothing with it.
        file.write_bytes(old)
        assert entries(rotated) == entries(rotated, from_index=False)


def forge_code(file: Path) -> None:
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    kept = [line for line in lines if b"serve cluster" not in line]
    assert len(kept) == len(lines) - 1
    file.write_bytes(b"".join(kept))


def forge_place(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"end":', b'"end":1', 1))


def forge_infinite_place(file: Path) -> None:
    file.write_bytes(re.sub(rb'"end":[0-9]+', b'"end":1e999', file.read_bytes(), count=1))


def forge_place_behind_all(file: Path) -> None:
    file.write_bytes(re.sub(rb'"end":[0-9]+', b'"end":1%030d' % 0, file.read_bytes(), count=1))


def make_nonsense(file: Path) -> None:
    file.write_bytes(os.urandom(500))


def make_empty(file: Path) -> None:
    file.write_bytes(b"")


def make_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def open_to_others(file: Path) -> None:
    file.chmod(0o644)


@pytest.mark.parametrize(
    "alter",
    [
        *(forge_code, forge_place, forge_infinite_place, forge_place_behind_all, make_nonsense),
        *(make_empty, make_directory, open_to_others),
    ],
)
def test_an_index_that_was_altered_does_not_count(keystore: Keystore, alter: Any) -> None:
    file = with_index(keystore)
    whole = entries(keystore)
    alter(file)
    assert entries(keystore) == whole
    if alter is not forge_code:  # Without a key nobody tells that one, and nothing is decided yet.
        found = read_entries_of(keystore.path, *KEPT_EVENTS, author=None)
        assert {entry.number for entry in found} >= set(whole)
    assert told_active(keystore, ONE) == {"wal.key": "WAL"}


def test_an_older_index_that_is_put_back_says_the_same(keystore: Keystore) -> None:
    file = with_index(keystore)
    old = file.read_bytes()
    forget_place(keystore, ONE.directory)
    grow(keystore)
    assert told_active(keystore, ONE) == {}
    assert file.read_bytes() != old
    file.write_bytes(old)
    assert entries(keystore) == entries(keystore, from_index=False)
    assert told_active(keystore, ONE) == {}


@pytest.mark.parametrize("keep", [0, 1, 5])
def test_a_log_that_is_cut_or_new_is_read_as_it_is(keystore: Keystore, keep: int) -> None:
    file = with_index(keystore)
    log = keystore.path / "key.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:keep]))
    wanted = {0: {}, 1: {}, 5: {"wal.key": "WAL"}}[keep]
    assert told_active(keystore, ONE) == wanted
    log.unlink()
    assert told_active(keystore, ONE) == {}
    assert file.exists()


def test_no_index_is_made_of_a_log_that_was_altered(keystore: Keystore) -> None:
    grow(keystore)
    log = keystore.path / "key.log"
    good = log.read_bytes()
    line = next(one for one in good.splitlines(keepends=True) if b"serve cluster" in one)
    log.write_bytes(good.replace(line, b"x" * (len(line) - 1) + b"\n"))
    told_active(keystore, ONE)
    assert not index_path(keystore.path).exists()
    log.write_bytes(good)
    told_active(keystore, ONE)
    assert line in index_path(keystore.path).read_bytes()


def test_what_is_behind_the_last_code_waits_for_the_next_index(keystore: Keystore) -> None:
    file = with_index(keystore)
    old = file.read_bytes()
    log = keystore.path / "key.log"
    with log.open("ab") as opened:
        opened.write(b'{"event":"forget cluster"' + b" " * REST + b"}\n")
    assert told_active(keystore, ONE) == {"wal.key": "WAL"}
    assert file.read_bytes() == old


def test_who_cannot_store_an_index_goes_on(keystore: Keystore) -> None:
    grow(keystore)
    with exclusive_lock(keystore.path):
        assert told_active(keystore, ONE) == {"wal.key": "WAL"}
    assert not index_path(keystore.path).exists()
    index_path(keystore.path).mkdir()
    assert told_active(keystore, ONE) == {"wal.key": "WAL"}
    index_path(keystore.path).rmdir()
    keystore.path.chmod(0o500)
    assert told_active(keystore, ONE) == {"wal.key": "WAL"}
    keystore.path.chmod(0o700)
    assert not index_path(keystore.path).exists()


def test_a_removed_provider_that_is_put_back_opens_nothing(keystore: Keystore, xor: Xor) -> None:
    """The index is read before the master key is there to check it, and again afterwards."""
    file = xor.add(keystore)
    content = file.read_bytes()
    before = with_index(keystore).read_bytes()
    remove_envelope(keystore.path, "xor")
    made = with_index(keystore)
    assert made.read_bytes() != before
    file.write_bytes(content)
    file.chmod(0o600)
    by_provider = PassphraseSource(provider="xor")
    with pytest.raises(KeystoreDamagedError, match="was removed"):
        open_keystore(keystore.path, by_provider)
    # A forger takes the removal out of the index, which he has no key to seal.
    lines = made.read_bytes().splitlines(keepends=True)
    made.write_bytes(b"".join(line for line in lines if b"remove provider" not in line))
    with pytest.raises(KeystoreDamagedError, match="was removed"):
        open_keystore(keystore.path, by_provider)
    made.write_bytes(before)
    with pytest.raises(KeystoreDamagedError, match="was removed"):
        open_keystore(keystore.path, by_provider)
