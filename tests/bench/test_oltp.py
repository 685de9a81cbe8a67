"""Whole runs of the command line on ephemeral clusters, finished and interrupted."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

DEADLINE_SECONDS = 120


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the server's user can reach; pytest's own is private to this user."""
    path = Path(tempfile.mkdtemp(prefix="tde-bench-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        # A run that a failing test killed could not stop its servers itself.
        left = _processes_of(path)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=30)
        shutil.rmtree(path)


def _command(directory: Path, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "tde_bench", "oltp", "--aes=256", f"--directory={directory}"),
        *("--scale=1", "--clients=1", "--jobs=1", "--duration=1", "--warmup=0", *arguments),
    ]


def _processes_of(directory: Path) -> list[psutil.Process]:
    """Return the processes whose command lines name the directory, and their children."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["cmdline"]):
        if str(directory) in " ".join(process.info["cmdline"] or []):
            found[process.pid] = process
            # The children of a postmaster name only what they do.
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update({child.pid: child for child in process.children(recursive=True)})
    return list(found.values())


def test_encrypted_run(directory: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "result.json"
    completed = subprocess.run(
        _command(directory, "--rounds=2", f"--json={json_file}"),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert completed.returncode == 0, completed.stderr
    assert "AES-256" in completed.stdout
    document = json.loads(json_file.read_text())
    assert document["status"] == "complete"
    assert document["schema"] == {"name": "tde-bench/oltp", "version": 2}
    assert {speed["configuration"] for speed in document["openssl_speed"]} == {"aes256"}
    assert document["summary"][1]["limit"]["count"] == 2
    assert [run["configuration"] for run in document["runs"]] == [
        *("none", "aes256"),
        *("aes256", "none"),
    ]
    plain, encrypted = document["configurations"]
    assert plain["canary"]["relation_files"]
    assert plain["canary"]["wal_files"]
    assert encrypted["canary"]["files_searched"] > 0
    assert not encrypted["canary"]["relation_files"] + encrypted["canary"]["wal_files"]
    for run in document["runs"]:
        assert (run["wal_bytes_encrypted"] is not None) == (run["configuration"] == "aes256")
        if run["configuration"] == "aes256":
            assert run["relation_bytes_encrypted"] > 0
            assert run["wal_bytes_encrypted"] > 0
    # Encryption must be the one difference, or the comparison is not fair.
    assert not any("differ in more than encryption" in text for text in document["warnings"])
    assert list(directory.iterdir()) == []
    assert _processes_of(directory) == []


def _interrupt(
    process: subprocess.Popen[str], number: signal.Signals, reached: Callable[[], bool]
) -> str:
    """Send a signal once a state is reached; return standard error after the end."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while not reached():
            assert process.poll() is None, "the run ended before it could be interrupted"
            assert time.monotonic() < deadline, "the run did not get far enough"
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        return errors
    finally:
        process.kill()


def _read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    return document


def test_interrupted_run_keeps_results_and_nothing_else(directory: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "result.json"
    with subprocess.Popen(
        _command(directory, "--rounds=1000", f"--json={json_file}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        errors = _interrupt(process, signal.SIGINT, lambda: len(_read(json_file)["runs"]) >= 2)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    document = _read(json_file)
    assert document["status"] == "interrupted"
    assert len(document["runs"]) >= 2
    assert [summary["configuration"] for summary in document["summary"]] == ["none", "aes256"]
    for configuration in document["configurations"]:
        assert not Path(configuration["settings"]["unix_socket_directories"]).exists()
    assert list(directory.iterdir()) == []
    assert _processes_of(directory) == []


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("none/data/PG_VERSION", signal.SIGINT),
        ("none/server.log", signal.SIGTERM),
        ("aes256/data", signal.SIGHUP),
    ],
)
def test_interrupted_set_up_leaves_nothing(
    directory: Path, name: str, number: signal.Signals
) -> None:
    with subprocess.Popen(
        _command(directory), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        errors = _interrupt(process, number, lambda: any(directory.glob(f"*/{name}")))
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert list(directory.iterdir()) == []
    assert _processes_of(directory) == []
