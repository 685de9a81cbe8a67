"""What was accepted on this machine, and that commands at the same moment lose none of it."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tde.errors import KeystoreBusyError, KeystoreError, ProviderError
from tde.keystore import Keystore
from tde.keystore.envelopes import accept_envelope, add_envelope
from tde.keystore.providers import acceptance
from tde.keystore.providers.acceptance import accept, is_accepted, withdraw
from tde.keystore.store.contents import list_envelopes
from tde.keystore.store.envelope import EnvelopeHeader
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

KEYSTORE = uuid4()
MANY = 40


@pytest.fixture(autouse=True)
def accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(acceptance.VARIABLE, str(tmp_path / "accepted"))
    return tmp_path / "accepted"


def header(name: str, keystore: UUID = KEYSTORE) -> EnvelopeHeader:
    parameters = {"command": "true"}
    return EnvelopeHeader(
        *(name, keystore, uuid4(), "secret-command", True, "full", 0, parameters), b"-"
    )


def accept_many(prefix: str, begin: float) -> None:
    time.sleep(max(0.0, begin - time.monotonic()))
    for number in range(MANY):
        accept(header(f"{prefix}{number}"))


def test_two_processes_that_accept_at_once_lose_nothing(tmp_path: Path, accepted: Path) -> None:
    begin = time.monotonic() + 0.2
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=accept_many, args=(prefix, begin)) for prefix in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    lost = [
        name
        for name in (f"{prefix}{number}" for prefix in "ab" for number in range(MANY))
        if not is_accepted(tmp_path, header(name))
    ]
    assert lost == []
    assert sorted(file.name for file in accepted.iterdir()) == [".lock", KEYSTORE.hex]


def test_a_withdrawal_takes_its_turn_and_takes_only_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        accept(header(name))
        accept(header(name))
    withdraw(KEYSTORE, "a")
    assert not is_accepted(tmp_path, header("a"))
    assert is_accepted(tmp_path, header("b"))
    assert not is_accepted(tmp_path, header("b", uuid4()))


def test_nothing_is_made_to_withdraw_what_nobody_accepted(accepted: Path) -> None:
    withdraw(KEYSTORE, "a")
    assert not accepted.exists()


def test_who_holds_the_lock_is_not_waited_for_without_end(
    tmp_path: Path, accepted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(header("a"))
    lock = accepted / ".lock"
    # Other users, who may look into this directory, must not be able to hold it.
    assert lock.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(acceptance, "_SECONDS_FOR_LOCK", 0.05)
    fd = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(KeystoreBusyError, match=r"\.lock"):
            accept(header("b"))
    finally:
        os.close(fd)
    assert not is_accepted(tmp_path, header("b"))
    assert is_accepted(tmp_path, header("a"))


def test_an_acceptance_that_would_not_count_is_no_success(accepted: Path) -> None:
    accepted.mkdir()
    accepted.chmod(0o775)
    with pytest.raises(KeystoreError, match="does not count") as caught:
        accept(header("a"))
    assert f"chmod go-w {accepted}" in caught.value.remedy


@pytest.mark.parametrize(
    "command", ["sh {}/unlock/run", "cat </etc/x | '{}/run' -a", "{}/../link/r"]
)
def test_nothing_is_run_that_lies_in_the_keystore(tmp_path: Path, command: str) -> None:
    """Else who can write to the keystore exchanges the program, and keeps the acceptance."""
    directory = tmp_path / "ks"
    (tmp_path / "link").symlink_to(directory)
    with Keystore.create(directory, PASSPHRASE, kdf=CHEAP_KDF) as keystore:
        parameters = {"command": command.format(directory)}
        with pytest.raises(ProviderError, match="which is in the keystore"):
            add_envelope(keystore, "a", "secret-command", parameters, unattended=True)
        assert not list_envelopes(directory)


def test_a_program_beside_the_keystore_may_be_run(tmp_path: Path) -> None:
    secret = tmp_path / "ks-secret"
    secret.write_bytes(os.urandom(32))
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF) as keystore:
        add_envelope(keystore, "a", "secret-command", {"command": f"cat {secret}"})
        accept_envelope(keystore, "a")
