"""Starting the processes of the TPC-C-like load and putting their results together."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tde_bench.errors import BenchError
from tde_bench.workloads.base import Driver, Load, Progress
from tde_bench.workloads.pgbench import Summary, stop_process
from tde_bench.workloads.tpcc.worker import Orders

_WORKER = "tde_bench.workloads.tpcc.worker"
# Beyond the time of the load: connecting, and transactions that wait for a lock at its end.
_GRACE_SECONDS = 120


def drive(
    driver: Driver,
    *,
    clients: int,
    jobs: int,
    warehouses: int,
    seconds: int,
    seed: int,
    on_progress: Progress,
) -> Load:
    """Run the load with ``clients`` sessions in at most ``jobs`` processes.

    A Python process uses one CPU at a time, so several are needed to keep a server busy.

    Raises:
        BenchError: when a process fails.
    """
    jobs = min(jobs, clients)
    with tempfile.TemporaryDirectory(prefix="tde-bench-tpcc-") as folder:
        with contextlib.ExitStack() as stack:
            processes = []
            first = 0
            for job in range(jobs):
                share = clients // jobs + (job < clients % jobs)
                orders = Orders(
                    dsn=driver.server.dsn,
                    warehouses=warehouses,
                    clients=share,
                    first_client=first,
                    seconds=seconds,
                    seed=seed,
                    latency_file=f"{folder}/{job}.npy",
                )
                first += share
                process = _start(driver, orders)
                stack.callback(stop_process, process)
                processes.append(process)
            for process in processes:
                _expect_line(process, _GRACE_SECONDS)
            for process in processes:
                _tell(process, "go")
            results = _wait(processes, seconds, on_progress)
        latencies = np.concatenate([np.load(path) for path in sorted(Path(folder).iterdir())])
    transactions = sum(result["transactions"] for result in results)
    elapsed = max(result["seconds"] for result in results)
    return Load(
        Summary(transactions, sum(r["failed"] for r in results), transactions / elapsed),
        latencies,
        seconds,
        tpm_c=60 * sum(result["new_orders"] for result in results) / elapsed,
    )


def _start(driver: Driver, orders: Orders) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=driver.server.client_environment,
        # Ctrl-C in the terminal must reach the parent only, which then stops this process.
        start_new_session=True,
    )
    _tell(process, json.dumps(asdict(orders)))
    return process


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    except BrokenPipeError:
        raise _failure(process) from None


def _expect_line(process: subprocess.Popen[str], timeout: float) -> str:
    """Return the next line of output."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], timeout)[0]:
        raise BenchError(f"a process of the TPC-C load said nothing for {timeout:.0f} s")
    line = process.stdout.readline()
    if not line:
        raise _failure(process)
    return line


def _failure(process: subprocess.Popen[str]) -> BenchError:
    _, messages = process.communicate()
    return BenchError(
        f"a process of the TPC-C load ended with status {process.returncode}:\n{messages.strip()}"
    )


def _wait(
    processes: list[subprocess.Popen[str]], seconds: int, on_progress: Progress
) -> list[dict[str, Any]]:
    """Report progress until the time is up, then collect the results."""
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < seconds:
        on_progress(elapsed, None)
        time.sleep(min(1.0, seconds - elapsed))
        for process in processes:
            if process.poll() not in (None, 0):
                raise _failure(process)
    results: list[dict[str, Any]] = [
        json.loads(_expect_line(process, _GRACE_SECONDS)) for process in processes
    ]
    if problems := [error for result in results for error in result["errors"]]:
        raise BenchError(f"a session of the TPC-C load failed: {problems[0].strip()}")
    return results
