"""Running pgbench, and reading its summary and its per-transaction logs."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tde_bench.errors import BenchError
from tde_bench.measure.statistics import Values

_PROGRESS = re.compile(r"^progress: ([\d.]+) s, ([\d.]+) tps")
_TRANSACTIONS = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)
# With a connection for each transaction it is the other one.
_TPS = re.compile(
    r"^tps = ([\d.]+) \((?:without initial connection time|including reconnection times)\)",
    re.MULTILINE,
)

# What pgbench writes in place of a latency: for a transaction that --rate made it skip, and for
# one that ended with an error.
_NOT_A_LATENCY = frozenset({"skipped", "failed"})
_LATENCY_COLUMN = 2

_STOP_SECONDS = 10


@dataclass(frozen=True)
class Summary:
    """What pgbench itself reports; TPS excludes the time for the initial connections."""

    transactions: int
    failed: int
    tps: float


@dataclass(frozen=True)
class Latency:
    """The distribution of transaction times in milliseconds."""

    mean: float
    p50: float
    p95: float
    p99: float
    maximum: float


@dataclass(frozen=True)
class PgbenchResult:
    """One measured pgbench run.

    Attributes:
        latencies: of every transaction, in milliseconds and no particular order.
    """

    summary: Summary
    latencies: Values


@dataclass(frozen=True)
class PgbenchOptions:
    """How to drive the load.

    Attributes:
        clients: concurrent sessions.
        jobs: threads of pgbench.
        protocol: "simple", "extended" or "prepared".
        rate: transactions per second of all clients, None for as many as possible. Latencies then
            count from when a transaction was due, not from when a session was free for it.
        arguments: what chooses the script, for example ``--builtin=select-only``.
        script: a script of one's own.
    """

    clients: int
    jobs: int
    protocol: str = "simple"
    rate: float | None = None
    arguments: tuple[str, ...] = ()
    script: str | None = None


def parse_summary(output: str) -> Summary:
    """Read the summary that pgbench prints at its end.

    Raises:
        BenchError: when a line is missing, for example because pgbench stopped early.
    """
    transactions = _TRANSACTIONS.search(output)
    failed = _FAILED.search(output)
    tps = _TPS.search(output)
    if transactions is None or tps is None:
        raise BenchError(f"pgbench printed no summary that can be read:\n{output.strip()}")
    return Summary(
        transactions=int(transactions[1]),
        failed=int(failed[1]) if failed else 0,
        tps=float(tps[1]),
    )


def parse_progress(line: str) -> tuple[float, float] | None:
    """Return (seconds since the start, TPS) of a progress line, None for any other line."""
    match = _PROGRESS.match(line)
    return (float(match[1]), float(match[2])) if match else None


def read_latencies(logs: Iterable[Path]) -> Values:
    """Return the times of all logged transactions in milliseconds, in no particular order.

    Raises:
        BenchError: when a log holds something that is not a transaction.
    """
    columns = []
    for log in logs:
        if log.stat().st_size == 0:  # A thread whose clients never finished a transaction.
            continue
        column = pd.read_csv(log, sep=" ", header=None, usecols=[_LATENCY_COLUMN], dtype=str)
        text = column[_LATENCY_COLUMN]
        numbers = pd.to_numeric(text[~text.isin(_NOT_A_LATENCY)], errors="coerce")
        if numbers.isna().any():
            raise BenchError(f"the pgbench log {log} holds lines that are not transactions")
        columns.append(numbers.to_numpy(dtype=np.float64))
    if not columns:
        return np.empty(0)
    return np.concatenate(columns) / 1000.0


def summarize_latency(milliseconds: Values) -> Latency:
    """Return mean and percentiles of transaction times.

    Raises:
        BenchError: when there is no transaction.
    """
    if milliseconds.size == 0:
        raise BenchError(
            "pgbench finished no transaction", remedy="Use a longer --duration or fewer --clients."
        )
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return Latency(
        mean=float(milliseconds.mean()),
        p50=float(p50),
        p95=float(p95),
        p99=float(p99),
        maximum=float(np.max(milliseconds)),
    )


class Pgbench:
    """pgbench against one database.

    Args:
        program: the pgbench executable.
        dsn: libpq connection string of the database, without a password.
        environment: the complete environment, with PGPASSWORD when a password is needed; an
            argument would show it to every user of the machine.
    """

    def __init__(self, program: Path, dsn: str, environment: Mapping[str, str]) -> None:
        self._program = program
        self._dsn = dsn
        # The parsers read the untranslated messages.
        self._environment = {**environment, "LC_ALL": "C"}

    def initialize(self, scale: int) -> None:
        """Create and fill the TPC-B tables: 100 000 accounts, about 15 MB, per unit of scale.

        The server generates the rows (``G``), so every configuration holds identical data.
        """
        arguments = ["--initialize", "--quiet", f"--scale={scale}", "--init-steps=dtGvp"]
        self._execute(arguments, on_line=lambda line: None)

    def run(
        self,
        options: PgbenchOptions,
        *,
        seconds: int,
        seed: int,
        on_progress: Callable[[float, float | None], None],
    ) -> PgbenchResult:
        """Run TPC-B, or another script, and return what was measured.

        Tables are not vacuumed here (``--no-vacuum`` also keeps the history, which the
        consistency check adds up). ``on_progress`` gets seconds since the start and the TPS
        of the last second.

        Raises:
            BenchError: when pgbench fails or its logs do not match its summary.
        """

        def on_line(line: str) -> None:
            if progress := parse_progress(line):
                on_progress(*progress)

        with tempfile.TemporaryDirectory(prefix="tde-bench-log-") as folder:
            arguments = [
                "--no-vacuum",
                f"--client={options.clients}",
                f"--jobs={options.jobs}",
                f"--time={seconds}",
                f"--protocol={options.protocol}",
                f"--random-seed={seed}",
                "--progress=1",
                "--log",
                f"--log-prefix={folder}/transactions",
                *options.arguments,
            ]
            if options.rate is not None:
                arguments.append(f"--rate={options.rate}")
            if options.script is not None:
                file = Path(folder, "script.sql")
                file.write_text(options.script, encoding="utf-8")
                arguments.append(f"--file={file}")
            output = self._execute(arguments, on_line=on_line)
            latencies = read_latencies(sorted(Path(folder).glob("transactions*")))
        summary = parse_summary(output)
        if latencies.size != summary.transactions:
            raise BenchError(
                f"pgbench reports {summary.transactions} transactions, but its logs hold "
                f"{latencies.size}",
                remedy="The filesystem of the temporary directory may be full.",
            )
        return PgbenchResult(summary, latencies)

    def _execute(self, arguments: Sequence[str], *, on_line: Callable[[str], None]) -> str:
        """Run pgbench to its end and return its standard output."""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            process = subprocess.Popen(
                [self._program, *arguments, self._dsn],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                env=self._environment,
                # Ctrl-C in the terminal must reach this program only, which then stops pgbench.
                start_new_session=True,
            )
            try:
                messages = _read_lines(process, on_line)
            finally:
                stop_process(process)
            if process.returncode != 0:
                raise BenchError(
                    f"pgbench ended with status {process.returncode}:\n{messages.strip()}"
                )
            output.seek(0)
            return output.read()


def _read_lines(process: subprocess.Popen[str], on_line: Callable[[str], None]) -> str:
    """Pass on each line of standard error; return the lines that are not progress reports."""
    messages = []
    assert process.stderr is not None
    for line in process.stderr:
        on_line(line)
        if parse_progress(line) is None:
            messages.append(line)
    process.wait()
    return "".join(messages)


def stop_process(process: subprocess.Popen[str]) -> None:
    """End a program if it still runs, which is so only after an interruption or an error."""
    if process.stderr is not None:
        process.stderr.close()
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
