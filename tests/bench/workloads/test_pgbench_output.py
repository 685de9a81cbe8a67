"""Reading what pgbench prints and logs, from texts of real runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tde_bench.errors import BenchError
from tde_bench.workloads.pgbench import (
    Summary,
    parse_progress,
    parse_summary,
    read_latencies,
    summarize_latency,
)

SUMMARY = """\
pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: TPC-B (sort of)>
scaling factor: 20
query mode: simple
number of clients: 4
number of threads: 2
maximum number of tries: 1
duration: 15 s
number of transactions actually processed: 34567
number of failed transactions: 3 (0.009%)
latency average = 1.735 ms
latency stddev = 0.612 ms
initial connection time = 6.421 ms
tps = 2304.871203 (without initial connection time)
"""

LOG = """\
0 1 1520 0 1763834400 100200
1 1 2480 0 1763834400 100900
0 2 skipped 0 1763834400 101200
1 2 failed 0 1763834400 101300
0 3 500 0 1763834400 102500
"""


def test_summary() -> None:
    assert parse_summary(SUMMARY) == Summary(transactions=34567, failed=3, tps=2304.871203)


@pytest.mark.parametrize("missing", ["number of transactions", "tps ="])
def test_a_summary_without_a_needed_line_is_refused(missing: str) -> None:
    text = "".join(line for line in SUMMARY.splitlines(True) if not line.startswith(missing))
    with pytest.raises(BenchError, match="no summary"):
        parse_summary(text)


def test_progress() -> None:
    line = "progress: 3.0 s, 2312.9 tps, lat 1.728 ms stddev 0.561, 0 failed\n"
    assert parse_progress(line) == (3.0, 2312.9)
    assert parse_progress("pgbench: error: connection lost\n") is None


def test_logs_of_all_threads_are_read(tmp_path: Path) -> None:
    (tmp_path / "transactions.1").write_text(LOG)
    (tmp_path / "transactions.1.1").write_text("2 1 1000 0 1763834400 100200\n")
    (tmp_path / "transactions.1.2").write_text("")
    latencies = read_latencies(sorted(tmp_path.iterdir()))
    assert sorted(latencies) == [0.5, 1.0, 1.52, 2.48]


def test_a_log_with_lag_and_retries_has_its_latency_in_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("0 1 1520 0 1763834400 100200 37 2\n")
    assert list(read_latencies([tmp_path / "log"])) == [1.52]


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG + "0 4 x17 0 1763834400 102500\n")
    with pytest.raises(BenchError, match="not transactions"):
        read_latencies([tmp_path / "log"])


def test_latency_percentiles() -> None:
    latency = summarize_latency(np.arange(101.0))
    assert (latency.mean, latency.p50, latency.p95, latency.p99) == (50.0, 50.0, 95.0, 99.0)
    assert latency.maximum == 100.0


def test_no_transaction_is_an_error() -> None:
    with pytest.raises(BenchError, match="no transaction"):
        summarize_latency(np.empty(0))
