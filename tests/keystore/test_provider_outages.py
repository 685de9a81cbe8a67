"""Providers that are away: what the kernel keeps for that, and what takes it from there."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import ProviderRefusedError, ProviderUnreachableError
from tde.keystore import (
    KeyOwner,
    Keystore,
    forget_cached,
    list_providers,
    read_key_log,
    remove_envelope,
    rotate_master_key,
    try_envelope,
)
from tde.keystore.crypto.secret import random_secret
from tde.keystore.opening import open_keystore
from tde.keystore.providers import keyring
from tde.keystore.providers.envelope_provider import EnvelopeProvider, is_kept
from tde.keystore.providers.passphrase_source import PassphraseSource
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.third_party import Xor


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    made = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    made.create_key(KeyOwner.wal(), Algorithm.AES256)
    return made


def key_by(path: Path, name: str = "xor") -> bytes:
    with open_keystore(path, PassphraseSource(provider=name)) as opened:
        return bytes(opened.unwrap_key(KeyOwner.wal()))


def kernel_keeps_keys(keystore: Keystore) -> bool:

    with random_secret(32) as key:
        try:
            keyring.keep_key(keystore.uuid.hex, key, 10)
        except OSError:
            return False
    return keyring.forget_key(keystore.uuid.hex)


def test_a_cache_bridges_an_outage_and_no_refusal(
    keystore: Keystore, xor: Xor, caplog: pytest.LogCaptureFixture
) -> None:
    if not kernel_keeps_keys(keystore):
        pytest.skip("the kernel keeps no keys for this process")
    xor.add(keystore, cache_seconds=60)
    xor.behave("away")
    # Nothing has been unwrapped for a start yet.
    with pytest.raises(ProviderUnreachableError):
        key_by(keystore.path)
    xor.behave()
    wanted = key_by(keystore.path)
    assert list_providers(keystore.path)[0].is_cached
    xor.behave("away")
    assert key_by(keystore.path) == wanted
    assert "the key that the kernel keeps for that is used" in caplog.text
    log = read_key_log(keystore.path).entries[-1]
    assert log.details["with"] == "provider xor (xor), from the kernel's cache"
    # To try it is to ask it.
    assert "it is away" in try_envelope(keystore.path, "xor").problem
    # Who is shut out does not come in by cutting the line afterwards.
    xor.behave("refuse")
    with pytest.raises(ProviderRefusedError):
        key_by(keystore.path)
    xor.behave("away")
    with pytest.raises(ProviderUnreachableError):
        key_by(keystore.path)


def test_a_cache_ends_by_itself_and_by_command(keystore: Keystore, xor: Xor) -> None:

    if not kernel_keeps_keys(keystore):
        pytest.skip("the kernel keeps no keys for this process")
    xor.add(keystore, cache_seconds=1)
    xor.add(keystore, "long", cache_seconds=3600)
    for name in ("xor", "long"):
        key_by(keystore.path, name)
    while list_providers(keystore.path)[1].is_cached:
        time.sleep(0.1)
    xor.behave("away")
    with pytest.raises(ProviderUnreachableError):
        key_by(keystore.path, "xor")
    key_by(keystore.path, "long")
    assert forget_cached(keystore.path, "long")
    assert not forget_cached(keystore.path, "long")
    with pytest.raises(ProviderUnreachableError):
        key_by(keystore.path, "long")
    # A rotation, and a removal, leave nothing in the kernel that opens older copies.
    xor.behave()
    key_by(keystore.path, "long")
    (before,) = [info.header for info in list_providers(keystore.path) if info.name == "long"]
    rotate_master_key(keystore.path, PASSPHRASE).close()

    assert before is not None
    assert not is_kept(keystore.path, before)
    key_by(keystore.path, "long")
    (now,) = [info.header for info in list_providers(keystore.path) if info.name == "long"]
    remove_envelope(keystore.path, "long")
    assert now is not None
    assert not is_kept(keystore.path, now)


def asked_by_its_owner(path: Path) -> int:
    """Return how many keys the kernel keeps for the keystore's owner, user 65534."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            infos = list_providers(path)
            os._exit(10 + sum(info.is_cached for info in infos))
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - 10


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_acts_on_what_the_kernel_keeps_for_the_owner(place: Path, xor: Xor) -> None:
    path = place / "ks"
    with Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF, owner=(65534, 65534)) as made:
        made.create_key(KeyOwner.wal(), Algorithm.AES256)
        if not kernel_keeps_keys(made):
            pytest.skip("the kernel keeps no keys for this process")
        for name in ("one", "two", "three"):
            xor.add(made, name, cache_seconds=60)
    for name in ("one", "two", "three"):
        key_by(path, name)
    assert asked_by_its_owner(path) == 3
    assert [info.is_cached for info in list_providers(path)] == [True] * 3
    xor.behave("away")
    key_by(path, "one")
    xor.behave()
    assert forget_cached(path, "one")
    assert asked_by_its_owner(path) == 2
    saved = {file: file.read_bytes() for file in (path / "unlock").iterdir()}
    remove_envelope(path, "two")
    rotate_master_key(path, PASSPHRASE).close()
    # They would open copies of the keystore from before; the owner finds nothing for them.
    for file, content in saved.items():
        file.write_bytes(content)
        file.chmod(0o600)
        os.chown(file, 65534, 65534)
    assert asked_by_its_owner(path) == 0


def test_a_kernel_that_keeps_no_keys_is_told_and_does_not_matter(
    keystore: Keystore, xor: Xor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:

    def refused(*arguments: object) -> int:
        raise OSError(1, os.strerror(1))

    monkeypatch.setattr(keyring, "_call", refused)
    xor.add(keystore, cache_seconds=60)
    key_by(keystore.path)
    (record,) = caplog.records
    assert record.getMessage() == (
        "the kernel keeps no key of provider xor, so an outage would not be bridged: "
        "Operation not permitted"
    )
    xor.behave("away")
    with pytest.raises(ProviderUnreachableError):
        key_by(keystore.path)


def test_an_open_keystore_asks_no_provider(keystore: Keystore, xor: Xor) -> None:
    xor.add(keystore)
    with Keystore.open_with(keystore.path, EnvelopeProvider("xor")) as opened:
        before = len(xor.asked)
        xor.behave("away")
        opened.create_named_key(Algorithm.AES256)
        opened.unwrap_key(KeyOwner.wal())
        assert len(xor.asked) == before
