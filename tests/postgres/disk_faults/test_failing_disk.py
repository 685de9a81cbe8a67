"""A server whose disk fails: PostgreSQL's own errors, and nothing committed is lost.

The same faults strike an encrypted and a plain server (tests/interposer/faults.c). What both
report must be the same, and after kill -9 and recovery every committed row is there.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from tde.postgres import run_program
from tests.interposer.faults import FOREVER, Call, Faults, build_faults
from tests.postgres.crashes.file_rewrites import kill_server, read_behind, wait_until_restarted
from tests.postgres.tpcb import pgbench, tpcb_sums

if TYPE_CHECKING:
    from tests.conftest import RunningCluster

OPTIONS = {
    "fsync": "on",  # Or there is nothing that can fail.
    "restart_after_crash": "on",
    "autovacuum": "off",
    "wal_recycle": "off",
    "min_wal_size": "32MB",
    "bgwriter_lru_maxpages": "0",  # Only a checkpoint writes, so that each side does the same.
    "wal_writer_delay": "10s",
    "work_mem": "64kB",
    "log_min_messages": "error",
    "max_parallel_workers_per_gather": "0",
}
RELATION = "*/base/*"
SEGMENT = "*/pg_wal/0000*"


@dataclass
class FaultyServer:
    """A server with a table of committed rows, on a disk that fails as planned."""

    cluster: RunningCluster
    faults: Faults
    committed: int = 0

    def start(self) -> None:
        self.faults.clear()
        self.cluster.start(OPTIONS, environment=self.faults.environment)

    def file_of(self, table: str) -> str:
        """Return a pattern for the main fork of a table."""
        path = self.cluster.query("SELECT pg_relation_filepath(%s)", (table,))[0][0]
        return f"*/{path}"

    def commit(self) -> None:
        """Commit a row, which must survive all that follows."""
        self.cluster.query("INSERT INTO kept VALUES (%s)", (self.committed,))
        self.committed += 1

    def require_committed(self) -> None:
        rows = self.cluster.query("SELECT n FROM kept ORDER BY n")
        assert [row[0] for row in rows[: self.committed]] == list(range(self.committed))

    def attempt(self, statement: str) -> str:
        """Run a statement and return the error that it ends with."""
        try:
            self.cluster.query(statement)
        except psycopg2.Error as error:
            return f"{error.pgcode} {without_numbers(str(error))}"
        return "no error"

    def log_since(self, position: int) -> set[str]:
        """Return the errors and panics that the log has behind this position."""
        log = read_behind(self.cluster.cluster.default_log, position)
        found = re.findall(r"(?:ERROR|PANIC): .*", log)
        return {without_numbers(line) for line in found}

    def log_position(self) -> int:
        return self.cluster.cluster.default_log.stat().st_size


def without_numbers(text: str) -> str:
    """Blank numbers of files, blocks and processes, which differ between two servers."""
    return re.sub(r"[0-9A-F]{24}|\d+", "N", text.strip())


@pytest.fixture
def make_server(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path: Path
) -> Callable[[str], FaultyServer]:
    """Make a server that is ``encrypted`` or ``plain``."""
    library = build_faults(os_user_tmp_path)

    def make(kind: str) -> FaultyServer:
        factory = encrypted_cluster_factory
        create = factory if kind == "encrypted" else factory.plain
        cluster = create(binaries_older_slow, name=kind, start=False)
        server = FaultyServer(cluster, Faults(library, os_user_tmp_path / f"{kind}.plan"))
        server.start()
        cluster.query("CREATE TABLE kept (n int)")
        cluster.query(
            "CREATE TABLE t AS SELECT n, repeat('x', 100) AS x FROM generate_series(1, 500) n"
        )
        cluster.query("CHECKPOINT")
        return server

    return make


Scenario = Callable[[FaultyServer], list[str]]


def relation_cannot_grow(server: FaultyServer) -> list[str]:
    server.faults.fail(Call.WRITE | Call.ALLOCATE, server.file_of("t"), errno.ENOSPC, times=FOREVER)
    insert = "INSERT INTO t SELECT n, repeat('y', 100) FROM generate_series(1, 2000) n"
    seen = [server.attempt(insert)]
    server.faults.clear()
    return [*seen, server.attempt(insert)]


def block_cannot_be_written(server: FaultyServer) -> list[str]:
    server.cluster.query("UPDATE t SET x = 'z' WHERE n % 7 = 0")
    server.faults.fail(Call.WRITE, server.file_of("t"), errno.EIO, times=FOREVER)
    seen = [server.attempt("CHECKPOINT")]
    server.faults.clear()
    return [*seen, server.attempt("CHECKPOINT")]


def block_cannot_be_read(server: FaultyServer) -> list[str]:
    """Must follow a panic, after which no block of the table is in memory."""
    server.faults.fail(Call.READ, server.file_of("t"), errno.EIO, times=FOREVER)
    seen = [server.attempt("SELECT count(*) FROM t")]
    server.faults.clear()
    return [*seen, server.attempt("SELECT count(*) FROM t")]


def sort_runs_out_of_space(server: FaultyServer) -> list[str]:
    sort = "SELECT count(*) FROM (SELECT n FROM generate_series(1, 200000) n ORDER BY -n) s"
    server.faults.fail(Call.WRITE, "*/pgsql_tmp/*", errno.ENOSPC, times=FOREVER)
    seen = [server.attempt(sort)]
    server.faults.clear()
    return [*seen, server.attempt(sort)]


def wal_cannot_be_written(server: FaultyServer) -> list[str]:
    server.faults.fail(Call.WRITE, SEGMENT, errno.EIO)
    return panic(server, "INSERT INTO t VALUES (0, 'lost')")


def wal_runs_out_of_space(server: FaultyServer) -> list[str]:
    server.faults.fail(Call.WRITE, SEGMENT, errno.ENOSPC)
    return panic(server, "INSERT INTO t VALUES (0, 'lost')")


def wal_cannot_be_flushed(server: FaultyServer) -> list[str]:
    server.faults.fail(Call.SYNC, SEGMENT, errno.EIO)
    return panic(server, "INSERT INTO t VALUES (0, 'lost')")


def relation_cannot_be_flushed(server: FaultyServer) -> list[str]:
    server.cluster.query("UPDATE t SET x = 'z' WHERE n % 5 = 0")
    server.faults.fail(Call.SYNC, server.file_of("t"), errno.EIO)
    return panic(server, "CHECKPOINT")


def no_room_for_a_segment(server: FaultyServer) -> list[str]:
    # One segment may exist in advance; the second does not.
    server.faults.fail(Call.WRITE, "*/pg_wal/xlogtemp*", errno.ENOSPC)
    fill = "INSERT INTO t SELECT n, repeat('y', 1000) FROM generate_series(1, 40000) n"
    return panic(server, fill)


def panic(server: FaultyServer, statement: str) -> list[str]:
    """Run what ends the server, which restarts by itself."""
    position = server.log_position()
    server.attempt(statement)  # Its words depend on how much the client still receives.
    wait_until_restarted(server.cluster, position)
    return []


SCENARIOS: list[Scenario] = [
    relation_cannot_grow,
    block_cannot_be_written,
    sort_runs_out_of_space,
    wal_cannot_be_written,
    block_cannot_be_read,
    wal_runs_out_of_space,
    wal_cannot_be_flushed,
    relation_cannot_be_flushed,
    no_room_for_a_segment,
]


def test_errors_are_those_of_a_plain_server(make_server) -> None:
    servers = [make_server("plain"), make_server("encrypted")]
    for scenario in SCENARIOS:
        seen, logged = [], []
        for server in servers:
            server.commit()
            position = server.log_position()
            seen.append(scenario(server))
            logged.append(server.log_since(position))
            server.faults.clear()
            server.require_committed()
            server.commit()
        assert seen[1] == seen[0], scenario.__name__
        assert logged[1] == logged[0], scenario.__name__
        assert logged[0], f"{scenario.__name__}: nothing was reported"
    require_undamaged(servers[1])


def test_short_and_interrupted_transfers_go_unnoticed(make_server) -> None:
    """The interposer completes what the disk cuts, so PostgreSQL does not notice."""
    server = make_server("encrypted")
    pgbench(server.cluster, "-i", "-s", "1", "-q")
    for call in (Call.READ, Call.WRITE):
        for pattern, at_most in ((RELATION, 5000), (SEGMENT, 1001)):
            server.faults.shorten(call, pattern, at_most, times=FOREVER)
            server.faults.fail(call, pattern, errno.EINTR, times=FOREVER, every=3)
    pgbench(server.cluster, "-c", "2", "-t", "300", "-n")
    server.cluster.query("CREATE INDEX ON pgbench_accounts (abalance)")
    server.cluster.query("CHECKPOINT")
    server.commit()
    pgbench(server.cluster, "-c", "2", "-t", "100", "-n")
    assert server.faults.hits > 1000
    require_undamaged(server)
    server.start()
    assert len(tpcb_sums(server.cluster)) == 1
    assert server.cluster.query("SELECT count(*) FROM pgbench_history") == [(800,)]


def require_undamaged(server: FaultyServer) -> None:
    """After kill -9 every committed row is there, and every page has its checksum."""
    kill_server(server.cluster.cluster.pid)
    server.start()
    server.require_committed()
    server.cluster.cluster.stop()
    run = run_program(
        server.cluster.cluster.binaries,
        "pg_checksums",
        ["--check", "-D", str(server.cluster.data_directory)],
        keystore=server.cluster.keystore,
        os_user=server.cluster.cluster.os_user,
    )
    assert run.returncode == 0, run.stdout + run.stderr
