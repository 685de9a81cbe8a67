"""Fixtures for tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.keystore import KeyOwner, Keystore
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE


@pytest.fixture
def empty_keystore(place: Path) -> Path:
    """A keystore that serves no cluster yet."""
    Keystore.create(place / "ks", PASSPHRASE, kdf=CHEAP_KDF).close()
    return place / "ks"


@pytest.fixture
def keystore(empty_keystore: Path) -> Path:
    """The keystore of a cluster whose tablespaces are in plain text, closed."""
    with Keystore.open(empty_keystore, PASSPHRASE) as opened:
        opened.create_key(KeyOwner.wal(), Algorithm.AES256)
        opened.create_plaintext_entry(1663)
        opened.create_plaintext_entry(1664)
    return empty_keystore


@pytest.fixture
def passphrase(place: Path) -> list[str]:
    """The options with which a command opens the keystore by its passphrase."""
    file = place / "passphrase"
    file.write_bytes(PASSPHRASE + b"\n")
    file.chmod(0o600)
    return ["--passphrase-file", str(file)]
