"""What a provider finds of the secrets of the command that runs it, in the child that it gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.keystore import KeyOwner, Keystore
from tde.keystore.crypto.secret import SecretBuffer, SecretBytes, withhold_secrets
from tests.keystore.cheap_passphrase import CHEAP_KDF
from tests.keystore.third_party import Xor

PASSPHRASE = b"zebra quartz 9371 lantern"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at the memory")


def master_key(path: Path) -> bytes:
    with Keystore.open(path, PASSPHRASE) as opened, opened._open_master_key().view as view:
        return bytes(view)


def run(path: Path, xor: Xor, *arguments: str) -> None:
    """Run a command as a shell does, and have the provider keep what it can see."""
    for file in xor.place.glob("seen-*"):
        file.unlink()
    file = path.parent / "passphrase"
    file.touch(mode=0o600)
    file.write_bytes(PASSPHRASE)
    site = os.pathsep.join([str(xor.place.parent / "site"), *sys.path])
    words = [sys.executable, "-c", "from tde.cli.app import main; main()", "keystore", *arguments]
    words += ["--keystore", str(path), "--passphrase-file", str(file)]
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": site}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_provider_has_neither_passphrase_nor_master_key_nor_files(
    tmp_path: Path, xor: Xor
) -> None:
    path = tmp_path / "ks"
    with Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF) as keystore:
        keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
    xor.behave("look")
    run(path, xor, "provider", "add", "xor", "--type", "xor", "-o", f"place={xor.place}")
    first = master_key(path)
    added = memories(xor, 2)  # Wrapping, and unwrapping it.
    run(path, xor, "rotate")
    second = master_key(path)
    assert first != second
    for memory in added + memories(xor, 3):  # The old one is opened before.
        # The search finds what is there: what the provider was told.
        assert b"tde-unlock:1:" in memory
        found = [secret for secret in (PASSPHRASE, first, second) if secret in memory]
        assert found == []
    # Its answer, the standard ones, and the directory in which it looks.
    assert {len(file.read_text().split()) for file in xor.place.glob("seen-files-*")} == {5}


def memories(xor: Xor, children: int) -> list[bytes]:
    """Return what it saw: each wrapping and unwrapping is a child of its own."""
    seen = [file.read_bytes() for file in xor.place.glob("seen-memory-*")]
    assert len(seen) == children
    return seen


def test_what_is_withheld_in_a_child_stays_with_its_parent() -> None:
    text = SecretBytes(b"of the parent")
    with SecretBuffer(8) as private, SecretBuffer(8, shared=True) as shared, SecretBuffer(8) as kek:
        for buffer in (private, shared, kek):
            with buffer.view as view:
                view[:] = b"a secret"
        with shared.view as view:
            child = os.fork()
            if child == 0:
                try:
                    withhold_secrets([kek])
                    left = [bytes(buffer.view) for buffer in (private, shared, kek)]
                    fitting = left == [bytes(8), bytes(8), b"a secret"] and not any(text)
                    os._exit(0 if fitting and bytes(view) == bytes(8) else 1)
                finally:
                    os._exit(2)
            assert os.waitpid(child, 0)[1] == 0
        for buffer in (private, shared, kek):
            assert bytes(buffer.view) == b"a secret"
    assert text == b"of the parent"
