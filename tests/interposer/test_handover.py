"""What the interposer does with a hand-over of keys that is not as tde makes it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tde.keystore import Keystore
from tests.interposer.harness import RELATION, SANITIZED, make_data_directory, preload

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
SCRIPT = f"open 0 {RELATION} rw,creat\npwrite 0 8192 1 0\n"

UNKNOWN = "the key hand-over has an unknown format"
DAMAGED = "the key hand-over is damaged"
UNSEALED = "the key hand-over is not a sealed memory file"


def content_of(keystore: Keystore) -> bytes:
    with keystore.hand_over() as keys:
        return os.read(keys.fd, 5000)


def run(data: Path, driver: Path, content: bytes, seals: int) -> subprocess.CompletedProcess[str]:
    """Run SCRIPT with a hand-over of these bytes."""
    environment = {**os.environ, **SANITIZED, "LD_PRELOAD": preload()}
    fd = os.memfd_create("keys", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, content)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        (data / "script.txt").write_text(SCRIPT)
        return subprocess.run(
            [driver, "script.txt"],
            cwd=data,
            env={**environment, "TDE_IO_KEYS_FD": str(fd)},
            pass_fds=[fd],
            capture_output=True,
            text=True,
        )
    finally:
        os.close(fd)


def with_path(content: bytes, path: bytes) -> bytes:
    """Return the hand-over with another path and the lengths that belong to it."""
    before = content[:8] + (82 + len(path)).to_bytes(4, "big") + content[12:80]
    return before + len(path).to_bytes(2, "big") + path


CHANGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "nothing": (UNKNOWN, lambda content: b""),
    "no path": (UNKNOWN, lambda content: content[:81]),
    "of another version": (UNKNOWN, lambda content: content[:7] + b"\2" + content[8:]),
    "with an unknown flag": (UNKNOWN, lambda content: content[:15] + b"\2" + content[16:]),
    "cut": (DAMAGED, lambda content: content[:-1]),
    "too long": (DAMAGED, lambda content: content + b"x"),
    "with an empty path": (DAMAGED, lambda content: with_path(content, b"")),
    "with too long a path": (DAMAGED, lambda content: with_path(content, b"/" * 4097)),
    # Up to the zero byte it names a keystore that is there.
    "with two paths": (DAMAGED, lambda content: with_path(content, content[82:] + b"\0/other")),
}


def assert_closed(data: Path, done: subprocess.CompletedProcess[str], problem: str) -> None:
    assert f"could not open the keystore: {problem}" in done.stderr
    assert "open: -1" in done.stdout
    # Created, perhaps, but nothing was written to it.
    assert not (data / RELATION).exists() or (data / RELATION).stat().st_size == 0


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_hand_over_opens_nothing(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], change: str
) -> None:
    problem, changed = CHANGES[change]
    data = make_data_directory(tmp_path / "data")
    content = content_of(keystore)
    # The test itself makes hand-overs that work.
    assert "pwrite: 8192" in run(data, build(), content, SEALS).stdout
    (data / RELATION).unlink()
    assert_closed(data, run(data, build(), changed(content), SEALS), problem)


@pytest.mark.parametrize("missing", ["SEAL", "SHRINK", "GROW", "WRITE"])
def test_a_hand_over_that_can_still_change_opens_nothing(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], missing: str
) -> None:
    seals = SEALS & ~int(getattr(fcntl, f"F_SEAL_{missing}"))
    data = make_data_directory(tmp_path / "data")
    assert_closed(data, run(data, build(), content_of(keystore), seals), UNSEALED)
