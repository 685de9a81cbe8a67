"""Whole runs of the command line on ephemeral clusters, finished and interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.whole_runs import (
    DEADLINE_SECONDS,
    interrupt,
    processes_of,
    reachable_directory,
    read_document,
    when_reached,
)


@pytest.fixture
def directory() -> Iterator[Path]:
    with reachable_directory() as path:
        yield path


def _command(directory: Path, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "tde_bench", "oltp", "--aes=256", f"--directory={directory}"),
        *("--scale=1", "--clients=1", "--jobs=1", "--duration=2", "--warmup=0", *arguments),
    ]


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
    assert document["schema"] == {"name": "tde-bench/oltp", "version": 3}
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
        assert len(run["slices"]) == run["seconds"] == 2
        assert sum(part["transactions"] for part in run["slices"]) == run["transactions"]
        assert 0 < sum(part["cpu_seconds"] for part in run["slices"]) <= run["cpu_seconds"]
        assert (run["wal_bytes_encrypted"] is not None) == (run["configuration"] == "aes256")
        if run["configuration"] == "aes256":
            assert run["relation_bytes_encrypted"] > 0
            assert run["wal_bytes_encrypted"] > 0
    # Encryption must be the one difference, or the comparison is not fair.
    assert not any("differ in more than encryption" in text for text in document["warnings"])
    assert list(directory.iterdir()) == []
    assert processes_of(directory) == []


@pytest.mark.slow
def test_interrupted_run_keeps_results_and_nothing_else(directory: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "result.json"
    with subprocess.Popen(
        _command(directory, "--rounds=1000", f"--json={json_file}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        errors = interrupt(
            process, signal.SIGINT, lambda: len(read_document(json_file)["runs"]) >= 2
        )
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    document = read_document(json_file)
    assert document["status"] == "interrupted"
    assert len(document["runs"]) >= 2
    assert [summary["configuration"] for summary in document["summary"]] == ["none", "aes256"]
    for configuration in document["configurations"]:
        assert not Path(configuration["settings"]["unix_socket_directories"]).exists()
    assert list(directory.iterdir()) == []
    assert processes_of(directory) == []


@pytest.mark.slow
def test_a_server_that_dies_leaves_the_table_of_what_was_measured(
    directory: Path, tmp_path: Path
) -> None:
    json_file, csv_file = tmp_path / "result.json", tmp_path / "result.csv"

    def running_server() -> list[int]:
        """Read its number; between two turns there may be no file, or an empty one."""
        files = directory.glob("*/aes256/data/postmaster.pid")
        with contextlib.suppress(OSError):
            return [int(line) for file in files for line in file.read_text().split()[:1]]
        return []

    def reached() -> bool:
        return len(read_document(json_file)["runs"]) >= 2 and running_server() != []

    def kill() -> None:
        for pid in running_server():
            os.kill(pid, signal.SIGKILL)

    with subprocess.Popen(
        _command(directory, "--rounds=1000", f"--json={json_file}", f"--csv={csv_file}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        output, errors = when_reached(process, reached, kill)
    assert process.returncode == 1, errors
    assert "tde-bench: error: " in errors
    assert "Traceback" not in errors
    assert "CPU ms per transaction" in output
    assert read_document(json_file)["status"] == "failed"
    assert csv_file.read_text().count("\n") >= 3
    assert list(directory.iterdir()) == []
    assert processes_of(directory) == []


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
        errors = interrupt(process, number, lambda: any(directory.glob(f"*/{name}")))
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert list(directory.iterdir()) == []
    assert processes_of(directory) == []
