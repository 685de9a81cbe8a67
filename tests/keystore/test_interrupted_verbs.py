"""Commands that change or copy a keystore, killed before each system call, and on a full disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreBusyError, KeystoreError, ProviderError, WrongPassphraseError
from tde.keystore import (
    KeyOwner,
    Keystore,
    add_missing_keys,
    back_up_keystore,
    change_passphrase,
    inspect_keystore,
    list_keys,
    read_key_log,
    remove_envelope,
    restore_keystore,
    rotate_master_key,
    verify_keystore,
)
from tde.keystore.providers.envelope_provider import EnvelopeProvider
from tde.keystore.providers.passphrase import PassphraseProvider
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.test_interrupted_writes import Tripwire, run_until_killed
from tests.keystore.third_party import Xor

NEW = b"another passphrase"
MOST_STEPS = 200
BUILT_IN = {"1663.key", "1664.key"}
"""What every cluster has besides; the keystores here have few keys, because each takes steps."""

# As root, a keystore for somebody else, because giving files away takes more steps.
OWNER = (65534, 65534) if os.geteuid() == 0 else None


def make_keystore(path: Path, keys: int = 2) -> Keystore:
    keystore = Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF, owner=OWNER)
    keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
    for _ in range(keys):
        keystore.create_named_key(Algorithm.AES128)
    return keystore


def content(path: Path) -> dict[str, bytes]:
    """Return the files but the key log, which tells of what was begun, and is whole."""
    assert read_key_log(path).problems == []
    names = (file for file in path.rglob("*") if file.is_file())
    unlike = ("lock", "key.log")
    kept = (file for file in names if file.name not in unlike and not file.name.endswith(".tmp"))
    return {str(file.relative_to(path)): file.read_bytes() for file in kept}


def opens(path: Path, passphrase: bytes) -> bool:
    try:
        with Keystore.open(path, passphrase) as keystore:
            return len(keystore.unwrap_key(KeyOwner.wal())) == 64
    except WrongPassphraseError:
        return False


def kill_at_every_step(prepare: Callable[[int], Callable[[], object]], check: Callable[[], object]):
    """Kill what ``prepare`` returns before each of its calls, and look at what is there then."""
    for step in range(MOST_STEPS):
        action = prepare(step)
        survived = run_until_killed(step, action)
        check()
        if survived:
            assert step > 4
            return
    pytest.fail("it never got to its end")


def fail_at_every_step(prepare: Callable[[int], Callable[[], object]], check: Callable[[], object]):
    """As kill_at_every_step, with a disk that is full from one call on."""

    def disk_full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in range(MOST_STEPS):
        action = prepare(step)
        message = ""
        with pytest.MonkeyPatch.context() as patch:
            tripwire = Tripwire(patch, step, disk_full)
            try:
                action()
            except (KeystoreError, OSError) as error:
                message = str(error)
        # Where a directory cannot be opened, the reason is not told.
        assert not message or "No space left" in message or "is not given to" in message
        check()
        if not message and tripwire.calls <= step:
            return
    pytest.fail("it never got to its end")


EVERY_ACCIDENT = pytest.mark.parametrize("happen", [kill_at_every_step, fail_at_every_step])


@EVERY_ACCIDENT
def test_exactly_one_of_two_passphrases_opens(tmp_path: Path, happen: Callable[..., None]) -> None:
    path = tmp_path / "ks"
    make_keystore(path).close()
    before = content(path)
    seen = set()

    def prepare(step: int) -> Callable[[], object]:
        # Each attempt begins with the passphrase that opens now.
        old, new = (PASSPHRASE, NEW) if opens(path, PASSPHRASE) else (NEW, PASSPHRASE)
        return partial(change_passphrase, path, PassphraseProvider(old), new)

    def check() -> None:
        opened = [opens(path, PASSPHRASE), opens(path, NEW)]
        assert sum(opened) == 1
        seen.add(tuple(opened))
        now = content(path)
        assert now.keys() == before.keys()
        assert {name for name in now if now[name] != before[name]} <= {"keystore.json"}

    happen(prepare, check)
    assert len(seen) == 2


@EVERY_ACCIDENT
def test_a_backup_that_was_interrupted_is_no_keystore_and_can_be_repeated(
    tmp_path: Path, happen: Callable[..., None]
) -> None:
    source = make_keystore(tmp_path / "ks")
    wanted = content(source.path)
    place = [tmp_path]

    def prepare(step: int) -> Callable[[], object]:
        place[0] = tmp_path / f"backup{step}"
        return partial(back_up_keystore, source.path, place[0])

    def check() -> None:
        assert content(source.path) == wanted
        if not (place[0] / "keystore.json").exists():
            back_up_keystore(source.path, place[0])
        assert content(place[0]) == wanted
        assert not list(place[0].rglob("*.tmp"))

    happen(prepare, check)


@EVERY_ACCIDENT
def test_a_restoration_that_was_interrupted_can_be_repeated(
    tmp_path: Path, happen: Callable[..., None]
) -> None:
    source = make_keystore(tmp_path / "ks")
    back_up_keystore(source.path, tmp_path / "backup")
    wanted = content(tmp_path / "backup")
    place = [tmp_path]
    uid = os.geteuid() if OWNER is None else OWNER[0]

    def prepare(step: int) -> Callable[[], object]:
        place[0] = tmp_path / f"restored{step}"
        return partial(restore_keystore, tmp_path / "backup", place[0], owner=OWNER)

    def check() -> None:
        assert content(tmp_path / "backup") == wanted
        if not (place[0] / "keystore.json").exists():
            restore_keystore(tmp_path / "backup", place[0], owner=OWNER)
        assert content(place[0]) == wanted
        assert {path.stat().st_uid for path in (place[0], *place[0].rglob("*"))} == {uid}
        assert opens(place[0], PASSPHRASE)

    happen(prepare, check)


@EVERY_ACCIDENT
def test_keys_that_were_being_added_are_whole_and_the_others_untouched(
    tmp_path: Path, happen: Callable[..., None]
) -> None:
    source = make_keystore(tmp_path / "ks")
    back_up_keystore(source.path, tmp_path / "backup")
    added = {f"keys/{source.create_named_key(Algorithm.AES256).hex}.key" for _ in range(2)}
    everything = content(source.path)
    place = [tmp_path]

    def copy() -> None:
        with Keystore.open(place[0], PASSPHRASE) as standby:
            add_missing_keys(source.path, standby)

    def prepare(step: int) -> Callable[[], object]:
        place[0] = tmp_path / f"standby{step}"
        restore_keystore(tmp_path / "backup", place[0])
        return copy

    def check() -> None:
        now = content(place[0])
        assert now.items() <= everything.items()
        assert everything.keys() - now.keys() <= added
        copy()
        assert content(place[0]) == everything

    happen(prepare, check)


def all_keys(keystore: Keystore) -> dict[KeyOwner, bytes]:
    owners = [key.owner for key in list_keys(keystore)]
    return {owner: bytes(keystore.unwrap_key(owner)) for owner in owners}


def dying_of(action: Callable[[], object]) -> Callable[[], object]:
    """Let a process of a provider that was killed, or could not write, end its command as well."""

    def run() -> object:
        try:
            return action()
        except ProviderError as error:
            if "died without an answer" in str(error):
                os.kill(os.getpid(), signal.SIGKILL)
            raise

    return run


# A provider's processes make three minutes of one.
@pytest.mark.parametrize("provider", [False, pytest.param(True, marks=pytest.mark.slow)])
@EVERY_ACCIDENT
def test_a_master_key_that_was_being_rotated_opens_everything(
    tmp_path: Path, happen: Callable[..., None], xor: Xor, provider: bool
) -> None:
    path = tmp_path / "ks"
    told = tmp_path / "told"
    with make_keystore(path) as keystore:
        keystore.enable_auto_open()
        if provider:
            xor.add(keystore)
        wanted = all_keys(keystore)
    seen = set()
    servers: list[Keystore] = []  # What a running server has: the master key of before.

    def prepare(step: int) -> Callable[[], object]:
        with Keystore.open(path, PASSPHRASE) as now:
            servers.append(Keystore.open(path, PASSPHRASE))
            assert servers[-1].master_key_id == now.master_key_id
        told.unlink(missing_ok=True)
        rotate = partial(rotate_master_key, path, PASSPHRASE, lambda keystore: told.touch())
        return dying_of(rotate)

    def check() -> None:
        with (
            Keystore.open(path, PASSPHRASE) as by_passphrase,
            Keystore.open_automatically(path) as by_itself,
        ):
            assert all_keys(by_passphrase) == all_keys(by_itself) == wanted
            assert {key.owner for key in inspect_keystore(path).keys} == set(wanted)
            seen.add((by_passphrase.master_key_id == servers[-1].master_key_id, told.exists()))
        if provider:
            with Keystore.open_with(path, EnvelopeProvider("xor")) as by_provider:
                assert all_keys(by_provider) == wanted
        if not told.exists():
            assert {owner: bytes(servers[-1].unwrap_key(owner)) for owner in wanted} == wanted

    happen(prepare, check)
    rotate_master_key(path, PASSPHRASE).close()
    with Keystore.open(path, PASSPHRASE) as opened:
        assert all_keys(opened) == wanted
        log = read_key_log(path, opened.log_author())
        assert (log.problems, log.confirmed) == ([], len(log.entries))
        assert damaged(path, opened) <= BUILT_IN
    assert sorted(file.name for file in path.iterdir()) == [
        "auto-open.key", "key.log", "keys", "keystore.json", "lock", *["unlock"] * provider,
    ]  # fmt: skip
    assert {file.stat().st_uid for file in path.rglob("*")} == {path.stat().st_uid}
    if provider:
        (envelope,) = (path / "unlock").iterdir()
        assert envelope.name == f"xor.{inspect_keystore(path).master_key_id.hex}.json"
    # Killed before and after keystore.json was replaced, and after the servers had been told.
    assert {(True, False), (False, False), (False, True)} <= seen


@EVERY_ACCIDENT
def test_a_provider_that_was_being_added_opens_or_is_not_there(
    tmp_path: Path, happen: Callable[..., None], xor: Xor
) -> None:
    path = tmp_path / "ks"
    make_keystore(path, keys=0).close()
    wanted = content(path)

    def prepare(step: int) -> Callable[[], object]:
        def add() -> None:
            with Keystore.open(path, PASSPHRASE) as keystore:
                xor.add(keystore)

        return dying_of(add)

    def check() -> None:
        now = content(path)
        assert wanted.items() <= now.items()
        if now.keys() == wanted.keys():
            return
        with Keystore.open_with(path, EnvelopeProvider("xor")) as opened:
            opened.require_fitting_record()
        remove_envelope(path, "xor")
        assert content(path) == wanted

    happen(prepare, check)


def test_several_verbs_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "ks"
    keystore = make_keystore(path)

    def change_often() -> None:
        for number in range(6):
            old, new = (PASSPHRASE, NEW) if number % 2 == 0 else (NEW, PASSPHRASE)
            change_passphrase(path, PassphraseProvider(old), new)

    def make_keys() -> None:
        for _ in range(30):
            keystore.create_named_key(Algorithm.AES256)

    def make_backups() -> None:
        for number in range(6):
            back_up_keystore(path, tmp_path / f"backup{number}")

    context = multiprocessing.get_context("fork")
    running = [context.Process(target=verb) for verb in (change_often, make_keys, make_backups)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert opens(path, PASSPHRASE)
    assert len(list_keys(keystore)) == 33
    for number in range(6):
        backup = tmp_path / f"backup{number}"
        assert opens(backup, PASSPHRASE) + opens(backup, NEW) == 1
        with Keystore.open_with(backup, PassphraseProvider(opened_by(backup))) as opened:
            assert damaged(backup, opened) <= BUILT_IN


def damaged(path: Path, keystore: Keystore) -> set[str]:
    return {file.file.name for file in verify_keystore(path, keystore) if not file.good}


def opened_by(path: Path) -> bytes:
    return PASSPHRASE if opens(path, PASSPHRASE) else NEW


def test_a_keystore_that_was_opened_before_a_rotation_writes_nothing(tmp_path: Path) -> None:
    """Auto-open would give the old master key, and a record would not open."""
    path = tmp_path / "ks"
    with make_keystore(path) as old:
        rotate_master_key(path, PASSPHRASE).close()
        before = content(path)
        for write in (
            old.enable_auto_open,
            partial(old.create_named_key, Algorithm.AES256),
            partial(old.create_plaintext_entry, 16400),
        ):
            with pytest.raises(KeystoreBusyError, match="was rotated after it had been opened"):
                write()
        assert content(path) == before
