"""A backend whose descriptors are all in use: what a plain server reads and drops, this one does.

PostgreSQL closes a file and tries again, but only if it is told that there is no descriptor left.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.postgres import create_tablespace
from tde.postgres.server.os_user import run_as
from tests.postgres.cluster_copies import make_directory
from tests.postgres.crashes.file_rewrites import wait_until_restarted

LIMIT = 50  # Descriptors of a backend; it needs about 20 before it opens a table.
# A session opens these first, so that none is left when it opens the first of the tablespace.
OTHERS = 60
DROPPED = 30  # One after the other, before all that are left.

OPTIONS = {
    "autovacuum": "off",
    "max_locks_per_transaction": "256",
    "shared_buffers": "64MB",  # A statement on 3,000 partitions holds a buffer of each.
    # Shared memory for workers and a compiler need descriptors; PostgreSQL closes no file for them.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


def make_tables(made, count: int) -> None:
    """Make one table with partitions in the tablespace, and tables elsewhere."""
    for number in range(OTHERS):
        made.query(f"CREATE TABLE other{number} AS SELECT {number} AS x")
    made.query("CREATE TABLE t (x int) PARTITION BY LIST (x) TABLESPACE space")
    # In batches, because each transaction locks all that it makes.
    for first in range(0, count, 500):
        last = min(first + 500, count) - 1
        made.query(
            f"DO $$ BEGIN FOR n IN {first}..{last} LOOP EXECUTE format("
            "'CREATE TABLE t%s PARTITION OF t FOR VALUES IN (%s) TABLESPACE space', n, n); "
            "END LOOP; END $$"
        )
    made.query(f"INSERT INTO t SELECT n FROM generate_series(0, {count - 1}) n")
    made.query("CHECKPOINT")


@contextlib.contextmanager
def exhausted_session(made) -> Iterator[Any]:
    """Open a session that has less descriptors than its server believes."""
    limit = ["prlimit", f"--pid={made.cluster.pid}", f"--nofile={LIMIT}:{LIMIT}"]
    assert run_as(made.cluster.os_user, limit).returncode == 0
    connection = psycopg2.connect(**made.cluster.connection_parameters())
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for number in range(OTHERS):
                cursor.execute(f"SELECT x FROM other{number}")
            yield cursor
    finally:
        connection.close()


def outcome(cursor, statement: str) -> object:
    """Return the rows of a statement, or the code and the words of its error."""
    try:
        cursor.execute(statement)
    except psycopg2.Error as error:
        return error.pgcode, str(error)
    return cursor.fetchall() if cursor.description else None


def outcomes(made, count: int) -> list[object]:
    statements = [f"SELECT x FROM t{number}" for number in range(count)]
    statements += ["SELECT count(*), sum(x) FROM t", "INSERT INTO t SELECT x FROM t"]
    statements += [f"DROP TABLE t{number}" for number in range(DROPPED)]
    statements += ["SELECT count(*), sum(x) FROM t", "DROP TABLE t", "CHECKPOINT"]
    with exhausted_session(made) as cursor:
        return [outcome(cursor, statement) for statement in statements]


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["in-sql", "by-tde"])
def test_the_same_tables_are_read_and_dropped_as_without_tde(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, kind, count
):
    factory = encrypted_cluster_factory
    seen = []
    for name, make in (("plain", factory.plain), ("encrypted", factory)):
        made = make(any_binaries, name=name, options=OPTIONS)
        location = os_user_tmp_path / f"{name}-space"
        if kind == "in-sql" or name == "plain":
            made.query(f"CREATE TABLESPACE space LOCATION '{make_directory(made, location)}'")
        else:
            create_tablespace(made.cluster, made.keystore, "space", location, Algorithm.AES256)
        make_tables(made, count)
        # No key is in memory: the first who opens a file of the tablespace looks into the map.
        made.cluster.stop()
        made.start(OPTIONS)
        pid = made.cluster.pid
        seen.append(outcomes(made, count))
        assert made.cluster.pid == pid
        log = made.cluster.default_log.read_text()
        assert not [line for line in log.splitlines() if "PANIC" in line or "tde: " in line]
        made.cluster.stop()
    assert seen[0][: count + 1] == [[(n,)] for n in range(count)] + [
        [(count, count * (count - 1) // 2)]
    ]
    assert seen[1] == seen[0]


def test_recovery_needs_no_more_descriptors_than_without_tde(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """After a crash of a child the postmaster starts all others anew, with its low limit."""
    count = 60
    for name in ("plain", "encrypted"):
        make = encrypted_cluster_factory if name == "encrypted" else encrypted_cluster_factory.plain
        made = make(any_binaries, name=name, options=OPTIONS)
        location = make_directory(made, os_user_tmp_path / f"{name}-space")
        made.query(f"CREATE TABLESPACE space LOCATION '{location}'")
        make_tables(made, count)
        log = made.cluster.default_log
        position = log.stat().st_size
        with exhausted_session(made) as cursor:
            cursor.execute("UPDATE t SET x = x")
            cursor.execute("SELECT pg_backend_pid()")
            os.kill(cursor.fetchone()[0], signal.SIGKILL)
        wait_until_restarted(made, position)
        assert made.query("SELECT count(*), sum(x) FROM t") == [(count, count * (count - 1) // 2)]
        made.query("CHECKPOINT")
        alarms = [
            line for line in log.read_text().splitlines() if "PANIC" in line or "tde: " in line
        ]
        assert alarms == []
        made.cluster.stop()
