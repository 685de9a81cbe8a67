"""Binding a keystore, killed before each system call, and on a full disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tde.errors import KeystoreError
from tde.keystore import Keystore
from tde.keystore.auto_opening import bind_auto_open, disable_all, ways_to_open
from tde.keystore.opening import open_unattended
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.test_interrupted_verbs import EVERY_ACCIDENT

TESTS = os.getpid()


def opens_by_itself(path: Path) -> bool:
    try:
        open_unattended(path).close()
    except KeystoreError:
        return False
    return True


def bind(keystore: Keystore, secret: Path) -> None:
    try:
        bind_auto_open(keystore, "host-secret", {"file": str(secret)}, "full")
    except KeystoreError:
        if os.getpid() != TESTS:  # Killed was the provider's process and not this one.
            os.kill(os.getpid(), signal.SIGKILL)
        raise


@pytest.mark.slow
@EVERY_ACCIDENT
def test_a_keystore_that_opened_by_itself_goes_on_doing_so(
    tmp_path: Path, happen: Callable[..., None]
) -> None:
    """A server that is started by an init script meanwhile must find a way at any moment."""
    path, secret = tmp_path / "ks", tmp_path / "host.key"
    keystore = Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF)
    seen = set()

    def prepare(step: int) -> Callable[[], object]:
        disable_all(path)
        secret.unlink(missing_ok=True)
        keystore.enable_auto_open()
        return partial(bind, keystore, secret)

    def check() -> None:
        assert opens_by_itself(path)
        # What is there is whole: nothing is ever bound to a part of a secret.
        assert not secret.exists() or len(secret.read_bytes()) == 32
        ways = ways_to_open(path, trying=True)
        assert not any(way.problem for way in ways)
        seen.add(tuple(way.type for way in ways))

    happen(prepare, check)
    assert seen == {("file",), ("file", "host-secret"), ("host-secret",)}


@pytest.mark.slow
@EVERY_ACCIDENT
def test_disabling_can_be_repeated(tmp_path: Path, happen: Callable[..., None]) -> None:
    path, secret = tmp_path / "ks", tmp_path / "host.key"
    keystore = Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF)

    def prepare(step: int) -> Callable[[], object]:
        disable_all(path)
        bind_auto_open(keystore, "host-secret", {"file": str(secret)}, "full")
        keystore.enable_auto_open()
        return partial(disable_all, path)

    def check() -> None:
        # What was being removed opens nothing from the moment on at which the key log says so.
        problems = [way.problem for way in ways_to_open(path, trying=True) if way.problem]
        assert all("was removed, by line" in problem for problem in problems), problems
        Keystore.open(path, PASSPHRASE).close()

    happen(prepare, check)
    assert not opens_by_itself(path)
