"""``tde-bench batch``: a whole run on real servers, and what follows from its figures."""

from __future__ import annotations

import dataclasses
import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tde_bench.batch.benchmark import BatchParameters, require_same_answers
from tde_bench.batch.chart import write_chart
from tde_bench.batch.phases import phases
from tde_bench.batch.results import TOTAL, BatchResult, BatchRun, PhaseSummary, total_frame
from tde_bench.batch.tables import print_report
from tde_bench.batch.target import recovery_seconds
from tde_bench.cli import app, batch as batch_command
from tde_bench.errors import BenchError, ConsistencyError
from tde_bench.measure.cipher_speed import CipherSpeed
from typer.testing import CliRunner

from tests.bench.whole_runs import interrupt, processes_of, reachable_directory, read_document

PHASES = {"first": "First phase", "second": "Second phase"}


def _run(round_number: int, configuration: str, phase: str, seconds: float, cpu: float) -> BatchRun:
    """Return a phase that moved 1 GB through the cipher, if there is one."""
    moved = None if configuration == "none" else 500_000_000
    return BatchRun(
        round=round_number,
        position=0,
        configuration=configuration,
        phase=phase,
        started="2026-01-01T00:00:00+00:00",
        seconds=seconds,
        cpu_seconds=cpu,
        client_cpu_seconds=0.0,
        bytes_encrypted=moved,
        bytes_decrypted=moved,
        relation_bytes_encrypted=moved,
        relation_bytes_decrypted=moved,
        wal_bytes_encrypted=None if moved is None else 0,
        wal_bytes_decrypted=None if moved is None else 0,
        ephemeral_bytes_encrypted=None if moved is None else 0,
        ephemeral_bytes_decrypted=None if moved is None else 0,
        steal_seconds=0.0,
    )


def _result(rounds: int = 6) -> BatchResult:
    """Return rounds of two phases; the cipher takes 0.5 s of CPU and 0.6 s were added."""
    result = BatchResult(
        parameters={"scale": 16, "rounds": rounds, "seed": 1},
        labels={"none": "no encryption", "aes256": "AES-256 AES-NI"},
        phases=PHASES,
        status="complete",
    )
    for number in range(rounds):
        result.speeds.append(CipherSpeed(number, "aes256", 2e9, 2e9))
        for phase in PHASES:
            result.runs.append(_run(number, "none", phase, seconds=4.0 + number, cpu=3.0))
            result.runs.append(_run(number, "aes256", phase, seconds=4.4 + number, cpu=3.6))
    return result


def _summary(result: BatchResult, phase: str, configuration: str = "aes256") -> PhaseSummary:
    (found,) = (
        s for s in result.summaries() if (s.phase, s.configuration) == (phase, configuration)
    )
    return found


def test_limit_is_what_was_added_by_the_speed_of_the_cipher() -> None:
    summary = _summary(_result(), "first")
    assert summary.cipher_seconds == pytest.approx(0.5)
    assert summary.added_cpu_seconds == pytest.approx(0.6)
    assert summary.limit is not None
    assert summary.limit.median == pytest.approx(1.2)
    assert summary.cpu_ratio is not None
    assert summary.cpu_ratio.median == pytest.approx(1.2)


def test_total_adds_the_phases_of_a_round() -> None:
    summary = _summary(_result(), TOTAL)
    assert summary.seconds == pytest.approx(2 * 6.9)
    assert summary.cpu_seconds == pytest.approx(7.2)
    assert summary.limit is not None
    assert summary.limit.median == pytest.approx(1.2)
    assert summary.bytes_encrypted == 1_000_000_000
    plain = _summary(_result(), TOTAL, "none")
    assert (plain.bytes_encrypted, plain.limit, plain.seconds_ratio) == (None, None, None)


def test_a_round_without_all_phases_has_no_total() -> None:
    result = _result(rounds=2)
    del result.runs[-1]
    totals = total_frame(result.frame(), len(PHASES))
    assert list(zip(totals["round"], totals["configuration"], strict=True)) == [
        *((0, "aes256"), (0, "none"), (1, "none")),
    ]


def test_no_limit_where_the_cipher_has_no_share() -> None:
    result = _result()
    result.speeds = [dataclasses.replace(s, encrypt_bytes_per_second=1e12) for s in result.speeds]
    result.speeds = [dataclasses.replace(s, decrypt_bytes_per_second=1e12) for s in result.speeds]
    assert _summary(result, "first").limit is None


def test_no_limit_without_openssl() -> None:
    result = _result()
    result.speeds.clear()
    summary = _summary(result, "first")
    assert (summary.cipher_seconds, summary.limit) == (None, None)
    assert summary.added_cpu_seconds == pytest.approx(0.6)


def test_report_and_chart(tmp_path: Path) -> None:
    result = _result()
    output = io.StringIO()
    print_report(result, Console(file=output, width=80))
    text = output.getvalue()
    for part in ("First phase", "All phases", "AES-256 AES-NI", "1.20 (1.2–1.2)", "1,000"):
        assert part in text
    assert "…" not in text
    write_chart(result, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_first_round_is_reported(tmp_path: Path) -> None:
    result = _result(rounds=1)
    del result.runs[1:]
    output = io.StringIO()
    print_report(result, Console(file=output, width=80))
    write_chart(result, tmp_path / "chart.svg")
    result.runs.clear()
    print_report(result, Console(file=output))
    assert "nothing to report" in output.getvalue()


def test_different_answers_end_the_run() -> None:
    phase = phases()[0]
    require_same_answers(phase, {"a": (1, 2), "b": (1, 2)})
    with pytest.raises(ConsistencyError, match="different answers"):
        require_same_answers(phase, {"a": (1, 2), "b": (1, 3)})


_LOG = """\
2026-11-22 23:59:59.500 UTC [10] LOG:  starting PostgreSQL 15.18
2026-11-22 23:59:59.700 UTC [13] LOG:  redo starts at 0/1528
2026-11-23 00:00:01.100 UTC [13] LOG:  redo done at 0/9528 system usage: CPU: user: 1.00 s
2026-11-23 00:00:01.750 UTC [10] LOG:  database system is ready to accept connections
"""


def test_recovery_is_timed_by_the_log() -> None:
    assert recovery_seconds(_LOG) == pytest.approx(2.25)
    for missing in ("starting PostgreSQL", "redo done", "ready to accept"):
        with pytest.raises(BenchError, match="recovery"):
            recovery_seconds(_LOG.replace(missing, "something else"))


@pytest.mark.parametrize(
    ("cipher", "names"),
    [
        ("both", ["none", "aes128-software", "aes128", "aes256-software", "aes256"]),
        ("hardware", ["none", "aes128", "aes256"]),
        ("software", ["none", "aes128-software", "aes256-software"]),
    ],
)
def test_bars(cipher: str, names: list[str]) -> None:
    chosen = batch_command._configurations([], batch_command.Cipher(cipher))
    assert [configuration.name for configuration in chosen] == names
    assert [configuration.software for configuration in chosen] == ["soft" in n for n in names]


# There are none unless they are given.
FIELDS = [f.name for f in dataclasses.fields(BatchParameters) if f.name != "settings"]


@pytest.mark.parametrize("field", FIELDS)
def test_help_states_the_defaults_in_use(field: str) -> None:
    environment = {"COLUMNS": "200", "TERM": "dumb"}
    text = CliRunner().invoke(app, ["batch", "--help"], env=environment).output
    full, quick = (getattr(p, field) for p in (BatchParameters(), BatchParameters.quick()))
    expected = f"Default: {full}." if full == quick else f"Default: {full}; quick: {quick}."
    option = f"--{field.replace('_', '-')}"
    line = next(line for line in text.splitlines() if re.search(rf"{option}\s", line))
    assert expected in line


@pytest.fixture
def directory() -> Iterator[Path]:
    with reachable_directory() as path:
        yield path


def _batch(directory: Path, json_file: Path, *arguments: str) -> dict[str, Any]:
    """Run a batch to its end and return its document."""
    command = [sys.executable, "-m", "tde_bench", "batch", "--rounds=1", *arguments]
    command += [f"--directory={directory}", f"--json={json_file}"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert "All phases" in completed.stdout
    document = read_document(json_file)
    assert document["status"] == "complete"
    assert list(directory.iterdir()) == []
    assert processes_of(directory) == []
    return document


def test_whole_run(directory: Path, tmp_path: Path) -> None:
    arguments = ("--aes=256", "--cipher=hardware", "--scale=1", "--shared-buffers=2MB")
    csv_file = tmp_path / "r.csv"
    document = _batch(directory, tmp_path / "r.json", *arguments, f"--csv={csv_file}")
    assert document["schema"] == {"name": "tde-bench/batch", "version": 1}
    names = [configuration["name"] for configuration in document["configurations"]]
    assert names == ["none", "aes256"]
    runs = {(run["phase"], run["configuration"]): run for run in document["runs"]}
    assert runs.keys() == {(phase.name, name) for phase in phases() for name in names}
    assert all(run["cpu_seconds"] > 0 for run in runs.values())
    assert not any(run["bytes_encrypted"] for (_, name), run in runs.items() if name == "none")
    encrypted = {phase.name: runs[phase.name, "aes256"] for phase in phases()}
    size = 100_000 * 100
    assert encrypted["copy"]["relation_bytes_encrypted"] > size
    assert encrypted["copy"]["wal_bytes_encrypted"] > size
    for phase in ("cold_scan", "warm_scan", "dump"):
        assert encrypted[phase]["relation_bytes_decrypted"] > size
    for phase in ("ctas", "update", "alter", "vacuum_full"):
        assert encrypted[phase]["relation_bytes_encrypted"] > size
        assert encrypted[phase]["wal_bytes_encrypted"] > size
    for phase in ("sort", "join"):
        assert encrypted[phase]["ephemeral_bytes_encrypted"] > size
        assert encrypted[phase]["ephemeral_bytes_decrypted"] > size
    assert encrypted["recovery"]["wal_bytes_decrypted"] > size
    assert encrypted["recovery"]["relation_bytes_encrypted"] > size
    # A base backup sends pages as they are on disk.
    assert encrypted["basebackup"]["relation_bytes_decrypted"] < size
    assert not any("differ in more than encryption" in text for text in document["warnings"])
    assert csv_file.read_text().count("\n") == 1 + len(runs)


@pytest.mark.slow
def test_five_bars(directory: Path, tmp_path: Path) -> None:
    """Software means software: both the cipher alone and the server take clearly more CPU."""
    document = _batch(directory, tmp_path / "r.json", "--quick")
    names = [configuration["name"] for configuration in document["configurations"]]
    assert names == ["none", "aes128-software", "aes128", "aes256-software", "aes256"]
    speeds = {s["configuration"]: s["encrypt_bytes_per_second"] for s in document["openssl_speed"]}
    total = {
        s["configuration"]: s["cpu_seconds"] for s in document["summary"] if s["phase"] == "total"
    }
    for name in ("aes128", "aes256"):
        assert speeds[name] > 2 * speeds[f"{name}-software"]
        assert total[f"{name}-software"] > total[name]


@pytest.mark.slow
def test_interrupted_run_keeps_results_and_nothing_else(directory: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "r.json"
    command = [sys.executable, "-m", "tde_bench", "batch", "--aes=256", "--scale=1"]
    command += [f"--directory={directory}", "--cipher=hardware", f"--json={json_file}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        errors = interrupt(
            process, signal.SIGTERM, lambda: len(read_document(json_file)["runs"]) >= 3
        )
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    document = read_document(json_file)
    assert document["status"] == "interrupted"
    assert {entry["phase"] for entry in document["summary"]} >= {"copy"}
    assert list(directory.iterdir()) == []
    assert processes_of(directory) == []
