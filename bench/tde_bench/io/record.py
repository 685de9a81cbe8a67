"""Recording what servers do with their files: ``make io-traces`` writes traces/.

A plain server and all its processes run under strace, which needs Debian's package of that name
and root, or a machine that lets a program be traced by its own children.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tde.postgres import PostgresBinaries, find_binaries
from tde_bench.configurations import NO_ENCRYPTION
from tde_bench.errors import BenchError
from tde_bench.io.strace import CALLS, RAW, Recording
from tde_bench.io.trace import Trace
from tde_bench.servers.database import Connection, execute
from tde_bench.servers.ephemeral import EphemeralServer, ephemeral_settings
from tde_bench.servers.workspace import workspace
from tde_bench.workloads.pgbench import Pgbench, PgbenchOptions

# Small enough that pages move.
_SETTINGS = {**ephemeral_settings("4MB"), "max_parallel_workers_per_gather": "0", "jit": "off"}
_SCALE = 4
_CLIENTS = 4
_SECONDS = 10
_ATTACH_SECONDS = 2


def main() -> int:
    """Record each workload on the servers that were named; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make io-traces", description=__doc__)
    parser.add_argument("--bindir", type=Path, action="append", required=True)
    parser.add_argument("directory", type=Path, help="where the traces go")
    options = parser.parse_args()
    for bindir in options.bindir:
        for trace in record(find_binaries(bindir)):
            path = trace.write(options.directory)
            counts = ", ".join(f"{len(s.calls)} {s.name}" for s in trace.streams)
            print(f"{path.name}: {counts}", flush=True)
    return 0


def record(binaries: PostgresBinaries) -> Iterator[Trace]:
    """Run all workloads on one server and yield what it did in each."""
    with workspace(None, keep=False) as folder, tempfile.TemporaryDirectory() as output:
        server = EphemeralServer(NO_ENCRYPTION, folder / "plain", binaries)
        with _traced(Path(output)), contextlib.closing(server):
            server.start(_SETTINGS, keep=False)
            windows = list(_run_all(server, binaries))
        recording = Recording(Path(output), folder / "plain" / "data")
        for workload, sizes, start, end in windows:
            yield Trace(binaries.version_text, workload, recording.streams(sizes, start, end))


@contextlib.contextmanager
def _traced(output: Path) -> Iterator[None]:
    """Record this process's children and theirs, each into a file of its own."""
    command = ["strace", "-qq", "-ff", "--absolute-timestamps=format:unix,precision:ns"]
    command += ["-xx", "-s", "24", "-e", f"trace={CALLS}", "-e", f"raw={RAW}", "-e", "signal=none"]
    command += ["-o", str(output / "calls"), "-p", str(os.getpid())]
    try:
        strace = subprocess.Popen(command)
    except FileNotFoundError as error:
        raise BenchError("strace is missing", remedy="apt-get install strace") from error
    time.sleep(_ATTACH_SECONDS)
    if strace.poll() is not None:
        raise BenchError("strace could not attach to this process", remedy="Run it as root.")
    try:
        yield
    finally:
        strace.terminate()
        strace.wait()


Window = tuple[str, dict[str, int], float, float]


def _run_all(server: EphemeralServer, binaries: PostgresBinaries) -> Iterator[Window]:
    pgbench = Pgbench(binaries.program("pgbench"), server.dsn, server.client_environment)
    pgbench.initialize(_SCALE)
    rows = server.folder / "rows.txt"
    with contextlib.closing(server.connect()) as connection:
        execute(connection, f"COPY pgbench_accounts TO '{rows}'")
        execute(connection, "CREATE TABLE loaded AS TABLE pgbench_accounts WITH NO DATA")
        execute(connection, "CHECKPOINT")
        yield _window(server, "tpcb", lambda: _tpcb(pgbench, connection))
        yield _window(server, "copy", lambda: _copy(connection, rows))
        yield _window(server, "sort", lambda: _sort(connection))
        execute(connection, "CHECKPOINT")
        execute(connection, "UPDATE pgbench_accounts SET abalance = abalance + 1")
    server.crash()
    yield _window(server, "recovery", server.start_again)


def _window(server: EphemeralServer, workload: str, work: Callable[[], None]) -> Window:
    sizes = _sizes(server.folder / "data")
    start = time.time()
    work()
    return workload, sizes, start, time.time()


def _sizes(data: Path) -> dict[str, int]:
    """Return the length of each file, by its path in the data directory."""
    sizes = {}
    for directory, _, names in os.walk(data):
        for name in names:
            path = Path(directory, name)
            with contextlib.suppress(FileNotFoundError):
                sizes[str(path.relative_to(data))] = path.stat().st_size
    return sizes


def _tpcb(pgbench: Pgbench, connection: Connection) -> None:
    options = PgbenchOptions(clients=_CLIENTS, jobs=1, arguments=("--builtin=tpcb-like",))
    pgbench.run(options, seconds=_SECONDS, seed=1, on_progress=lambda done, tps: None)
    execute(connection, "CHECKPOINT")


def _copy(connection: Connection, rows: Path) -> None:
    execute(connection, f"COPY loaded FROM '{rows}'")
    execute(connection, "CREATE INDEX ON loaded (aid)")
    execute(connection, "CHECKPOINT")


def _sort(connection: Connection) -> None:
    execute(connection, "SET work_mem = '1MB'")
    execute(connection, "SELECT * FROM loaded ORDER BY filler, bid, aid DESC OFFSET 1000000")
    execute(connection, "SELECT count(*) FROM loaded a JOIN pgbench_accounts b USING (aid)")


if __name__ == "__main__":
    sys.exit(main())
