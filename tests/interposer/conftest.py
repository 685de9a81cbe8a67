"""Fixtures of the interposer tests: compiled drivers, a keystore, twin data directories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tde.keystore import Keystore
from tests.interposer.harness import (
    VARIANTS,
    Harness,
    build_driver,
    make_data_directory,
    make_keystore,
)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    directory = tmp_path_factory.mktemp("drivers")
    built: dict[tuple[str, str], Path] = {}

    def get(variant: str = "plain", program: str = "postgres") -> Path:
        key = (variant, program)
        if key not in built:
            built[key] = build_driver(directory, variant, program)
        return built[key]

    return get


@pytest.fixture(params=VARIANTS)
def driver(request: pytest.FixtureRequest, build: Callable[..., Path]) -> Path:
    return build(request.param)


@pytest.fixture(scope="session")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keystore]:
    with make_keystore(tmp_path_factory.mktemp("keystore") / "ks") as opened:
        yield opened


@dataclass(frozen=True)
class Twins:
    """The same operations on an encrypted and on a plain directory must look the same."""

    encrypted: Harness
    plain: Harness

    def run(self, driver: Path, script: str) -> str:
        """Run a script in both and return the output they agree on."""
        expected = self.plain.run(driver, script)
        assert self.encrypted.run(driver, script).splitlines() == expected.splitlines()
        return expected


@pytest.fixture
def twins(tmp_path: Path, keystore: Keystore) -> Twins:
    return Twins(
        encrypted=Harness(make_data_directory(tmp_path / "encrypted"), keystore),
        plain=Harness(make_data_directory(tmp_path / "plain"), None),
    )
