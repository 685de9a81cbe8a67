"""``tde pg audit`` while the server works: no false alarm, and nothing overlooked."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import pytest

from tde import Algorithm
from tde.postgres import audit, create_tablespace
from tests.postgres.cluster_copies import make_directory
from tests.postgres.tpcb import pgbench

# What makes, rewrites, moves and removes files while they are read.
CHURN = [
    "CHECKPOINT",
    "CREATE TABLE churn TABLESPACE space AS SELECT * FROM pgbench_accounts LIMIT 20000",
    "CREATE INDEX ON churn (aid)",
    "SELECT pg_switch_wal()",
    "VACUUM FULL pgbench_tellers",
    "ALTER TABLE churn SET TABLESPACE pg_default",
    "CREATE DATABASE churn",
    "SELECT count(*) FROM (SELECT * FROM pgbench_accounts ORDER BY md5(aid::text)) AS sorted",
    "NOTIFY churn, 'something'",
    "DROP DATABASE churn",
    "TRUNCATE churn",
    "DROP TABLE churn",
    "REINDEX TABLE pgbench_accounts",
]


@contextmanager
def load(cluster) -> Iterator[subprocess.Popen[bytes]]:
    """Run pgbench, and everything that changes files, until the block ends."""
    parameters = cluster.cluster.connection_parameters()
    stop = threading.Event()
    errors: list[Exception] = []

    def churn() -> None:
        try:
            while not stop.is_set():
                for statement in CHURN:
                    cluster.query(statement)
        except psycopg2.Error as error:
            errors.append(error)

    program = cluster.cluster.binaries.program("pgbench")
    where = ["-h", str(parameters["host"]), "-p", str(parameters["port"])]
    process = subprocess.Popen(
        [program, *where, "-U", str(parameters["user"]), "-c4", "-n", "-T3600", "postgres"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield process
        assert process.poll() is None, "pgbench did not run to the end"
    finally:
        stop.set()
        thread.join()
        process.kill()
        process.wait()
    assert errors == []


def audit_under_load(factory, binaries, directory, times: int) -> None:
    made = factory(binaries, start=False, initdb_args=["--wal-segsize=1"])
    archive = make_directory(made, directory / "archive")
    made.start(
        {
            "archive_mode": "on",
            "archive_command": f"cp %p {archive}/%f",
            "max_wal_size": "8MB",
            "min_wal_size": "4MB",
            "work_mem": "64kB",
            "shared_buffers": "2MB",
            "autovacuum_naptime": "1s",
        }
    )
    create_tablespace(made.cluster, made.keystore, "space", directory / "space", Algorithm.AES128)
    pgbench(made, "-i", "-s2")
    # The catalogs differ with the version and the locales; the two templates come on top.
    pages = made.query("SELECT sum(pg_relation_size(oid)) / 8192 FROM pg_class")[0][0]
    with load(made):
        for _ in range(times):
            report = audit(made.cluster, made.keystore, archives=[archive])
            assert report.running
            assert report.clean, [finding.problem for finding in report.findings]
            assert sum(line.verified for line in report.lines) > pages
            assert sum(line.torn for line in report.lines) == 0


def test_a_working_server_gives_no_false_alarm(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    audit_under_load(encrypted_cluster_factory, binaries_older_slow, os_user_tmp_path, 2)


@pytest.mark.slow
def test_a_working_server_gives_no_false_alarm_in_ten_audits(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    audit_under_load(encrypted_cluster_factory, binaries, os_user_tmp_path, 10)
