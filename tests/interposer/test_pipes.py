"""A pipe in the place of a file that the interposer reads by itself is not waited for.

Who may write to the data or to the keystore would else stop every session that opens a table.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tde.postgres.cluster.keymap import KEYMAP_FILE
from tests.interposer.harness import RELATION, Harness, make_data_directory, make_keystore

PATIENCE = 20.0  # Seconds.


@contextmanager
def ended_after(pipe: Path) -> Iterator[list[str]]:
    """Open the other end for who still waits after a while, and tell that somebody did."""
    waited: list[str] = []
    over = threading.Event()

    def end() -> None:
        if not over.wait(PATIENCE):
            waited.append(pipe.name)
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))

    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield waited
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("name", [KEYMAP_FILE, "1663.key"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, build: Callable[..., Path], name: str) -> None:
    with make_keystore(tmp_path / "ks") as keystore:
        harness = Harness(make_data_directory(tmp_path / "data"), keystore)
        script = f"open 0 {RELATION} rw,creat\nclose 0\n"
        harness.run(build(), script)
        place = harness.data if name == KEYMAP_FILE else keystore.path / "keys"
        pipe = place / name
        pipe.unlink()
        os.mkfifo(pipe, 0o600)
        with ended_after(pipe) as waited:
            said = harness.run(build(), script, check=False)
        assert waited == []
        assert "open: -1 Required key not available" in said
