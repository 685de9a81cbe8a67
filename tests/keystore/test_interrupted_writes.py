"""Writers that die, fill the disk or meet each other never spoil a keystore."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreBusyError, KeystoreError, KeystoreExistsError
from tde.keystore import KeyOwner, Keystore, inspect_keystore
from tde.keystore.store import creation, files
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

WAL = KeyOwner.wal()


class Tripwire:
    """Stands between the keystore and the system calls that change files.

    Before call number ``step`` (from 0) it runs ``trip``. Calls that come after are made.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, step: int, trip: Callable[[], None]
    ) -> None:
        self.calls = 0
        self._step = step
        self._trip = trip
        for owner, name in (
            (os, "fsync"),
            (os, "fchown"),
            (os, "chown"),
            (os, "open"),
            (os, "rmdir"),
            (Path, "mkdir"),
            (Path, "chmod"),
            (Path, "rename"),
            (Path, "unlink"),
            (os, "write"),
            (os, "ftruncate"),
            (files, "sync_directory"),
            (creation, "make_private_directory"),
        ):
            monkeypatch.setattr(owner, name, self._watch(getattr(owner, name)))

    def _watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls - 1 == self._step:
                self._trip()
            return function(*args, **kwargs)

        return watched


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(step: int, action: Callable[[], object]) -> bool:
    """Run ``action`` in a child that is killed before its system call number ``step``.

    Returns whether it lived to its end.
    """
    child = os.fork()
    if child == 0:
        # The parent's monkeypatch must not see the changes that are made here.
        Tripwire(pytest.MonkeyPatch(), step, die)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status)


def owners_in(keystore: Keystore) -> set[KeyOwner]:
    return {key.owner for key in inspect_keystore(keystore.path).keys}


def test_creation_killed_at_any_step_can_be_repeated(tmp_path: Path) -> None:
    # As root, a keystore for somebody else, because giving files away takes more steps.
    owner = (65534, 65534) if os.geteuid() == 0 else None
    uid = 65534 if os.geteuid() == 0 else os.geteuid()
    for step in range(100):
        path = tmp_path / f"ks{step}"
        create = partial(Keystore.create, path, PASSPHRASE, kdf=CHEAP_KDF, owner=owner)
        survived = run_until_killed(step, create)
        try:
            create().close()
        except KeystoreExistsError:
            # The name was already in place when the writer died: then it is a whole keystore.
            Keystore.open(path, PASSPHRASE).close()
        assert not list(path.glob(".*"))
        assert {entry.stat().st_uid for entry in (path, *path.rglob("*"))} == {uid}
        if survived:
            assert step > 8
            return
    pytest.fail("creation never got to its end")


def test_key_creation_killed_at_any_step_leaves_the_old_keys(tmp_path: Path) -> None:
    keystore = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    keystore.create_key(WAL, Algorithm.AES256)
    wal_key = keystore.unwrap_key(WAL)
    for step in range(100):
        owner = KeyOwner.tablespace(16400 + step)
        survived = run_until_killed(step, partial(keystore.create_key, owner, Algorithm.AES128))
        assert keystore.unwrap_key(WAL) == wal_key
        if owner in owners_in(keystore):
            assert len(keystore.unwrap_key(owner)) == 32
        else:
            keystore.create_key(owner, Algorithm.AES128)
        if survived:
            assert step > 4
            return
    pytest.fail("the key was never made")


def test_full_disk_at_any_step_changes_nothing(tmp_path: Path) -> None:
    def disk_full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    keystore = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    keystore.create_key(WAL, Algorithm.AES256)
    messages = []
    for step in range(100):
        owner = KeyOwner.tablespace(16400 + step)
        with pytest.MonkeyPatch.context() as patch:
            Tripwire(patch, step, disk_full)
            try:
                keystore.create_key(owner, Algorithm.AES256)
            except KeystoreError as error:
                messages.append(str(error))
            else:
                break
        assert not list((keystore.path / "keys").glob(".*"))
        # Only the very last steps, making the name durable, find the record in place.
        assert (owner in owners_in(keystore)) == ("but could not" in messages[-1])
    assert owner in owners_in(keystore)
    assert len(messages) > 4
    assert all("No space left on device" in message for message in messages)


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full cannot be renamed into place, so the short write is simulated."""
    sizes = []
    write = os.write

    def stingy(fd: int, data: memoryview) -> int:
        sizes.append(len(data))
        return write(fd, data[:7])

    monkeypatch.setattr(os, "write", stingy)
    files.write_atomically(tmp_path / "file", b"x" * 20)
    assert sizes == [20, 13, 6]
    assert (tmp_path / "file").read_bytes() == b"x" * 20


def create_and_report(path: Path, start: Any, connection: Connection) -> None:
    start.wait()
    try:
        with Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF) as keystore:
            connection.send(keystore.uuid)
    except KeystoreExistsError:
        connection.send(None)


def test_of_concurrent_creators_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    path = tmp_path / "ks"
    start = context.Barrier(6)
    pipes = [context.Pipe(duplex=False) for _ in range(6)]
    creators = [
        context.Process(target=create_and_report, args=(path, start, writer)) for _, writer in pipes
    ]
    for creator in creators:
        creator.start()
    for _, writer in pipes:
        writer.close()  # So that a creator that dies without a report ends the wait for it.
    created = [reader.recv() for reader, _ in pipes]
    for creator in creators:
        creator.join()
    (winner,) = [uuid for uuid in created if uuid is not None]
    with Keystore.open(path, PASSPHRASE) as keystore:
        assert keystore.uuid == winner


def test_concurrent_keys_of_one_owner_leave_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    keystore = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    start = context.Barrier(4)

    def create() -> None:
        start.wait()
        try:
            keystore.create_key(WAL, Algorithm.AES256)
        except KeystoreExistsError:
            os._exit(1)
        os._exit(0)

    writers = [context.Process(target=create) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(writer.exitcode or 0 for writer in writers) == [0, 1, 1, 1]
    assert len(keystore.unwrap_key(WAL)) == 64


def test_writer_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.05)
    keystore = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    with (
        files.exclusive_lock(keystore.path),
        pytest.raises(KeystoreBusyError, match="another process") as caught,
    ):
        keystore.create_key(WAL, Algorithm.AES256)
    assert "lslocks" in caught.value.remedy
    keystore.create_key(WAL, Algorithm.AES256)
