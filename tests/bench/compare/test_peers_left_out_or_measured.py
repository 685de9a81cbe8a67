"""``tde-bench compare``: peers run side by side, or are reported with the reason why not."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg2
import pytest
from rich.console import Console
from rich.table import Table
from tde_bench.compare import peers
from tde_bench.compare.benchmark import _VOLUMES, CompareBenchmark
from tde_bench.compare.peers import Peer, all_peers
from tde_bench.compare.results import CompareResult
from tde_bench.compare.tables import compare_table
from tde_bench.compare.volumes import Volume
from tde_bench.configurations import GOCRYPTFS, LUKS, NO_ENCRYPTION, PGCRYPTO, Configuration
from tde_bench.errors import BenchError, CanaryError
from tde_bench.measure.result_files import write_json
from tde_bench.measure.schedule import Slot
from tde_bench.oltp.benchmark import OltpBenchmark
from tde_bench.oltp.parameters import OltpParameters
from tde_bench.oltp.results import Point
from tde_bench.oltp.sliced_turn import SlicedTurn
from tde_bench.present.progress import LiveProgress, live_progress
from tde_bench.report.page import read_all, render_html, render_markdown
from tde_bench.servers.database import Connection
from tde_bench.servers.server import Server
from tde_bench.workloads.base import Driver

from tde import Algorithm
from tde.errors import ServerStartError
from tde.postgres import find_binaries
from tests.bench.runs import make_result
from tests.bench.whole_runs import reachable_directory

DEADLINE_SECONDS = 900


def _peers() -> list[Peer]:
    return all_peers([Algorithm.AES256], ["host=/nowhere=other"], find_binaries(None))


def _reasons() -> dict[str, str | None]:
    return {peer.configuration.name: peer.reason for peer in _peers()}


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


@contextmanager
def _plain_volume(folder: Path) -> Iterator[Volume]:
    """Stands in for a LUKS volume: a directory that is not encrypted."""
    mounted = folder / "luks-mounted"
    mounted.mkdir(mode=0o700)
    yield Volume(mounted, kernel_threads=True)


def _run(peers: list[Peer], directory: Path) -> CompareResult:
    """Run the comparison in this process, with the least of everything."""
    parameters = OltpParameters(
        scale=(1,), clients=(1,), duration=1, rounds=1, warmup=0, shared_buffers="2MB"
    )
    with live_progress(Console(stderr=True), 1) as observer:
        benchmark = CompareBenchmark(peers, parameters, observer, lambda result: None)
        benchmark.run_peers(find_binaries(None), directory)
    return benchmark.result


@pytest.fixture(scope="module")
def mixed() -> Iterator[CompareResult]:
    """A run with a server that cannot be reached, and a volume for which the kernel works."""
    peers = [
        Peer(NO_ENCRYPTION),
        Peer(Configuration("gone", "gone", dsn="host=/nonexistent")),
        Peer(Configuration(LUKS, "LUKS"), note="a note"),
    ]
    with pytest.MonkeyPatch.context() as patch, reachable_directory() as path:
        patch.setitem(_VOLUMES, LUKS, _plain_volume)
        yield _run(peers, path)


def test_server_that_cannot_be_reached_is_left_out(mixed: CompareResult) -> None:
    assert mixed.status == "complete"
    assert [summary.configuration for summary in mixed.summaries()] == ["none", LUKS]
    ((label, reason),) = mixed.absent()
    assert label == "gone"
    assert reason.startswith("cannot connect: ")
    assert "/nonexistent" in reason
    assert "\n" not in reason


def test_no_cpu_is_shown_where_threads_of_the_kernel_do_the_work(mixed: CompareResult) -> None:
    plain, encrypted = mixed.summaries()
    assert plain.cpu_ms_per_transaction
    assert encrypted.tps_ratio is not None
    assert encrypted.cpu_ms_per_transaction is None
    assert encrypted.cpu_ratio is None
    cells = [list(column.cells) for column in compare_table(mixed).columns]
    # CPU, its ratio, and what was added beyond the cipher.
    assert [column[1] for column in cells[5:]] == ["–", "–", "–"]


class FakeServer:
    """A server of which only the end is of interest."""

    def __init__(self, configuration: Configuration, error: Exception | None = None) -> None:
        self.configuration = configuration
        self.closed = 0
        self._error = error

    def close(self) -> None:
        self.closed += 1
        if self._error is not None:
            raise self._error


class FakeDriver:
    """What drives the load of a fake server."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server


class Steps(CompareBenchmark):
    """A comparison of fake servers, in which one step of one of them fails."""

    def __init__(self, step: str, name: str, error: Exception, *, at_end: Exception | None) -> None:
        configurations = [NO_ENCRYPTION, Configuration("a", "A"), Configuration("b", "B")]
        self._failing = (step, name, error)
        self.measured: list[str] = []
        parameters = OltpParameters(scale=(1,))
        observer = LiveProgress(Console(stderr=True), 1)
        super().__init__([Peer(c) for c in configurations], parameters, observer, lambda r: None)
        self.fakes = [FakeServer(c, at_end if c.name == name else None) for c in configurations]
        self._servers.extend(cast("list[Server]", self.fakes))

    def measure(self) -> None:
        self._measure_all(cast("list[Driver]", [FakeDriver(server) for server in self.fakes]))

    def _fail(self, step: str, server: Server) -> None:
        if (step, server.configuration.name) == self._failing[:2]:
            raise self._failing[2]

    def _check(self, server: Server) -> None:
        self._fail("canary", server)

    def _set_up(self, driver: Driver, scale: int) -> None:
        self.result.facts[driver.server.configuration.name] = {"settings": {}}
        self._fail("set-up", driver.server)

    def _warm_up(self, driver: Driver, scale: int) -> None:
        self._fail("warm-up", driver.server)

    def _measure_scale(self, drivers: Sequence[Driver], scale: int) -> None:
        self.measured = [driver.server.configuration.name for driver in drivers]


@pytest.mark.parametrize("step", ["canary", "set-up", "warm-up"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BenchError("A: no space", remedy="Make some."), "no space (Make some.)"),
        (ServerStartError("pg_ctl failed:\nsee the log."), "pg_ctl failed: see the log"),
        (psycopg2.OperationalError("connection\nlost\n"), "connection lost"),
    ],
)
def test_peer_that_fails_is_closed_and_listed(step: str, error: Exception, reason: str) -> None:
    run = Steps(step, "a", error, at_end=None)
    run.measure()
    assert run.measured == ["none", "b"]
    assert run.result.unavailable == {"a": ("A", reason)}
    assert list(run.result.facts) == list(run.result.labels) == ["none", "b"]
    assert [server.closed for server in run.fakes] == [0, 1, 0]


def test_peer_that_cannot_be_closed_is_a_warning() -> None:
    run = Steps("set-up", "a", BenchError("lost"), at_end=BenchError("A: cannot connect"))
    run.measure()
    assert run.measured == ["none", "b"]
    assert run.result.warnings == ["What was made for a peer may be left behind. A: cannot connect"]


def test_failing_baseline_is_fatal() -> None:
    run = Steps("set-up", "none", psycopg2.OperationalError("lost"), at_end=None)
    with pytest.raises(BenchError, match=r"^no encryption: lost$"):
        run.measure()
    assert run.measured == []


def test_plaintext_of_a_peer_is_no_footnote() -> None:
    run = Steps("canary", "a", CanaryError("A is not encrypted"), at_end=None)
    with pytest.raises(CanaryError, match=r"^A is not encrypted$"):
        run.measure()
    assert run.measured == []


def test_server_that_fails_in_a_round_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: object) -> None:
        raise psycopg2.OperationalError("connection lost")

    monkeypatch.setattr(OltpBenchmark, "_measure_slice", lost)
    run = Steps("", "", BenchError(""), at_end=None)
    driver = FakeDriver(run.fakes[1])
    turn = SlicedTurn(Slot(0, 0, cast("Driver", driver)), Point(1, 1), cast("Connection", None))
    with pytest.raises(BenchError, match=r"^A: connection lost$"):
        run._measure_slice(turn, 0, 1)


def test_note_says_why_luks_has_no_cpu() -> None:
    notes = {peer.configuration.name: peer.note for peer in _peers()}
    assert "its CPU is not shown" in (notes[LUKS] or "")
    assert "each fsync written, a second time" in (notes[LUKS] or "")


def _result(tps: list[float]) -> CompareResult:
    """Return a made-up result with a peer of each kind."""
    return CompareResult(
        **vars(make_result(tps, [0.98 * value for value in tps], cpu_ms=12.345)),
        unavailable={PGCRYPTO: ("pgcrypto columns", "this PostgreSQL has no extension pgcrypto")},
        notes={"aes256": "CPU includes a daemon.", PGCRYPTO: "some columns only."},
    )


def _rendered(table: Table) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_figure_is_cut_in_80_columns() -> None:
    result = _result([12345.0 + number for number in range(6)])
    result.labels["aes256"] = "another server with a label that is longer than any of ours"
    text = _rendered(compare_table(result))
    assert "…" not in text
    for figure in ("12,348", "12,101", "0.980–0.980", "2.00", "12.345", "12.839", "1.040"):
        assert figure in text
    assert re.search(r"^ pgcrypto +not measured +– +–", text, re.MULTILINE)


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_notes_and_reasons_are_in_reports(
    tmp_path: Path, render: Callable[[Sequence[tuple[str, Any]]], str]
) -> None:
    file = tmp_path / "compare.json"
    for tps in ([1000.0] * 6, []):
        write_json(_result(tps), file)
        text = render(read_all([file]))
        assert "AES-256: CPU includes a daemon." in text
        assert "pgcrypto columns: not measured: this PostgreSQL has no extension pgcrypto." in text
        # A note on figures that are not there helps nobody.
        assert "some columns only." not in text


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
