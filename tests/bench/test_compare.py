"""``tde-bench compare``: peers run side by side, or are reported with the reason why not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tde_bench.compare import peers
from tde_bench.compare.peers import GOCRYPTFS, LUKS, PGCRYPTO, all_peers

from tde import Algorithm
from tde.postgres import find_binaries

DEADLINE_SECONDS = 900


def _reasons() -> dict[str, str | None]:
    found = all_peers([Algorithm.AES256], ["host=/nowhere=other"], find_binaries(None))
    return {peer.configuration.name: peer.reason for peer in found}


def test_every_peer_is_listed_and_the_plain_server_is_the_baseline() -> None:
    assert list(_reasons()) == ["none", "aes256", GOCRYPTFS, LUKS, PGCRYPTO, "other"]


def test_missing_programs_are_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    monkeypatch.setattr(peers.os, "geteuid", lambda: 0)
    reasons = _reasons()
    assert "apt-get install gocryptfs" in (reasons[GOCRYPTFS] or "")
    assert reasons[LUKS] == "cryptsetup is not installed"


def test_ordinary_users_cannot_have_luks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.os, "geteuid", lambda: 1000)
    assert peers._luks_missing() == "only root can set up a device"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the server's user can reach; pytest's own is private to this user."""
    path = Path(tempfile.mkdtemp(prefix="tde-compare-test-", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _start(directory: Path, json_file: Path, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tde_bench", "compare", "--scale=1", "--clients=1"]
    command += ["--duration=1", f"--rounds={rounds}", "--shared-buffers=2MB", "--quick"]
    command += [f"--directory={directory}", f"--json={json_file}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def _mounts(directory: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if str(directory) in line]


@pytest.mark.slow
def test_run(directory: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "compare.json"
    with _start(directory, json_file, 1) as process:
        output, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, errors
    document: dict[str, Any] = json.loads(json_file.read_text())
    assert document["status"] == "complete"
    absent = {peer["name"] for peer in document["unavailable"]}
    measured = {summary["configuration"] for summary in document["summary"]}
    assert measured | absent == {"none", "aes256", GOCRYPTFS, LUKS, PGCRYPTO}
    assert {"none", "aes256"} <= measured
    for peer in document["unavailable"]:
        assert f"{peer['label']}: not measured: " in output
    # The filesystem's daemon works for the server, so its CPU is in the figure.
    cpu = {run["configuration"]: run["cpu_ms_per_transaction"] for run in document["runs"]}
    if GOCRYPTFS in measured:
        assert cpu[GOCRYPTFS] > cpu["none"]
    assert list(directory.iterdir()) == []
    assert _mounts(directory) == []


@pytest.mark.slow
def test_interruption_unmounts_and_keeps_what_was_measured(directory: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "compare.json"
    with _start(directory, json_file, 1000) as process:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not json_file.exists() or not json.loads(json_file.read_text())["runs"]:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert _mounts(directory) or not os.access("/dev/fuse", os.W_OK) or not _gocryptfs()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    document = json.loads(json_file.read_text())
    assert document["status"] == "interrupted"
    assert document["runs"]
    assert list(directory.iterdir()) == []
    assert _mounts(directory) == []


def _gocryptfs() -> bool:
    return shutil.which("gocryptfs") is not None
