"""Fixtures for tests of keystores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keystore.third_party import Xor, install


@pytest.fixture
def xor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Xor]:
    """A provider of somebody else, which is installed while the test runs."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o755)  # As root, it is asked as the keystore's owner.
        install(place / "site")
        monkeypatch.syspath_prepend(str(place / "site"))
        yield Xor(place / "xor")
