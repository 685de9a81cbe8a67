"""io_uring moves data inside the kernel, so a server with keys cannot set it up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from harness import Harness, preload

from tde.keystore import Keystore
from tde.postgres.server.interposer import find_interposer
from tde.postgres.server.symbols import unhandled_symbols

SOURCE = Path(__file__).with_name("uring.c")
REACHED = "11 25 38 45\n"
EPERM = "-1 -1 -1 -1\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that is linked with liburing, as a server built --with-liburing is."""
    directory = tmp_path_factory.mktemp("uring")
    library, program = directory / "liburing.so.2", directory / "postgres"
    subprocess.run(
        [
            "cc",
            "-shared",
            "-fPIC",
            "-DIN_LIBRARY",
            SOURCE,
            "-o",
            library,
            "-Wl,-soname=liburing.so.2",
        ],
        check=True,
    )
    subprocess.run(
        ["cc", "-rdynamic", SOURCE, library, f"-Wl,-rpath,{directory}", "-o", program], check=True
    )
    return program


def test_a_server_with_keys_is_refused(server: Path, tmp_path: Path, keystore: Keystore) -> None:
    run = Harness(tmp_path, keystore).execute(server, [])
    assert run.stdout == EPERM
    assert run.stderr.count("tde: refused to set up io_uring") == 4
    assert "io_method = worker" in run.stderr


@pytest.mark.parametrize("environment", [{}, {"LD_PRELOAD": preload()}], ids=["alone", "preload"])
def test_without_keys_liburing_works(
    server: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    assert Harness(tmp_path, None).execute(server, [], environment=environment).stdout == REACHED


def test_a_server_that_is_linked_with_liburing_is_accepted(server: Path) -> None:
    """Distributions build with it, and io_method decides whether it is used."""
    assert unhandled_symbols(server, find_interposer()) == []
