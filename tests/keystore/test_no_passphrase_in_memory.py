"""What root finds of a passphrase in the memory of a command whose work is done."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tde.errors import KeystoreError
from tde.keystore import Keystore
from tde.keystore.crypto import passing_process
from tests import process_memory
from tests.keystore.cheap_passphrase import CHEAP_KDF
from tests.terminal import run_on_terminal

PASSPHRASE = b"zebra quartz 9371 lantern"
WRONG = b"zebra quartz 9371 lanterm"
# As the command line does it, but that it looks at its own memory at the end, from a child.
COMMAND = """
import os, subprocess, sys
from tde.cli.app import main
searcher, needle, *arguments = sys.argv[1:]
sys.argv = ["tde", *arguments]
try:
    main()
except SystemExit as end:
    pass
subprocess.run([sys.executable, searcher, str(os.getpid()), needle], check=True)
"""
# A program: it begins with what reads the memory.
SEARCHER = f"""{inspect.getsource(process_memory)}
import sys
process, needle = sys.argv[1], open(sys.argv[2], "rb").read()
counts = [piece.count(needle) for piece in written_memory(int(process))]
assert len(counts) > 10, len(counts)
print(f"found {{sum(counts)}} times")
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at the memory")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a keystore, its passphrase, a wrong one, and what is looked for."""
    Keystore.create(tmp_path / "keystore", PASSPHRASE, kdf=CHEAP_KDF).close()
    (tmp_path / "searcher").write_text(SEARCHER)
    # A piece: the one that is wrong shares it.
    for name, content in (("right", PASSPHRASE), ("wrong", WRONG), ("needle", PASSPHRASE[:18])):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def command(place: Path, *arguments: str) -> list[str]:
    own = [sys.executable, "-c", COMMAND, str(place / "searcher"), str(place / "needle")]
    return [*own, "keystore", *arguments, "--keystore", str(place / "keystore")]


def test_the_search_finds_what_is_there(place):
    code = "import sys; kept = open(sys.argv[2], 'rb').read(); import subprocess, os; subprocess."
    code += "run([sys.executable, sys.argv[1], str(os.getpid()), sys.argv[2]])"
    words = [sys.executable, "-c", code, place / "searcher", place / "needle"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "found 0 times" not in done.stdout


@pytest.mark.parametrize("file", ["right", "wrong"])
def test_from_a_file(place, file):
    words = command(place, "verify", "--passphrase-file", str(place / file))
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ("wrong passphrase" in done.stderr) == (file == "wrong")
    assert "found 0 times" in done.stdout


def test_from_a_command(place):
    words = command(place, "rotate", "--passphrase-command", f"cat {place / 'right'}")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "wrapped anew" in done.stdout
    assert "found 0 times" in done.stdout


def test_typed_on_a_terminal(place):
    new = PASSPHRASE + b" and more"
    answers = [line + b"\n" for line in (PASSPHRASE, new, new)]
    shown, code = run_on_terminal(command(place, "passphrase"), answers)
    assert code == 0, shown
    assert "found 0 times" in shown
    Keystore.open(place / "keystore", new).close()


def test_a_child_that_is_killed_is_an_error(monkeypatch):
    monkeypatch.setattr(passing_process, "_in_use", True)
    with pytest.raises(KeystoreError, match="was killed"):
        passing_process.pass_on(lambda: os.kill(os.getpid(), 9))


def test_what_a_child_raises_is_raised(monkeypatch):
    monkeypatch.setattr(passing_process, "_in_use", True)

    def work() -> None:
        raise KeystoreError("message", remedy="remedy")

    with pytest.raises(KeystoreError, match="message") as raised:
        passing_process.pass_on(work)
    assert raised.value.remedy == "remedy"
