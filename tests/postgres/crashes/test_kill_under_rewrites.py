"""kill -9 under everything that rewrites files: nothing that was acknowledged is lost.

    TEST_CRASH_ROUNDS=200 TEST_CRASH_SEED=1 pytest -m slow --log-cli-level=INFO \\
        tests/postgres/crashes/test_kill_under_rewrites.py
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import threading
import time
from pathlib import Path

import pytest

from tde.audit import FindingKind
from tde.errors import TdeError
from tde.postgres import audit, run_program
from tests.postgres.canaries import CANARY, files_with, settle
from tests.postgres.cluster_copies import make_directory
from tests.postgres.crashes.file_rewrites import (
    BATCH,
    SEED_ROWS,
    Ledger,
    kill_backend,
    kill_server,
    running_mix,
    wait_until_ready,
    wait_until_reaped,
)
from tests.postgres.tpcb import pgbench, tpcb_sums

ROUNDS = int(os.environ.get("TEST_CRASH_ROUNDS", "200"))
SEED = int(os.environ.get("TEST_CRASH_SEED", "20261122"))
ROUNDS_BETWEEN_CHECKS = 20  # pg_amcheck reads everything.
START_TIMEOUT = 300  # Seconds; recovery waits for a disk that other tests use too.

BLOCK = 8192
MOVED = "SELECT count(*), md5(string_agg(n || x, ',' ORDER BY n)) FROM moved"
log = logging.getLogger("crash mix")


def options_of_round(major: int, chooser: random.Random) -> dict[str, str]:
    """Settings that choose other ways to write; a server may change them at any start."""
    options = {
        "checkpoint_timeout": "30s",
        "max_wal_size": "64MB",
        "restart_after_crash": "on",
        "autovacuum_naptime": "1s",
        # PostgreSQL keeps the files of a CREATE DATABASE that a crash has ended, more each time.
        "recovery_init_sync_method": "syncfs",
        # kill -9 leaves the page cache alone, so fsync only takes other ways, and more time.
        "fsync": chooser.choices(["on", "off"], [1, 5])[0],
        "wal_compression": chooser.choice(["on", "off"]),
    }
    if chooser.random() < 0.3:  # Files made in a transaction are flushed instead of logged.
        options |= {"wal_level": "minimal", "max_wal_senders": "0", "wal_skip_threshold": "64kB"}
    if major >= 18:
        options["file_copy_method"] = chooser.choice(["copy", "clone"])
    return options


def prepare(cluster, directory) -> tuple[int, str]:
    """Make the tables of the mix; returns what the table that is moved holds."""
    cluster.query(f"CREATE TABLESPACE fast LOCATION '{make_directory(cluster, directory)}'")
    pgbench(cluster, "-i", "-s", "1", "-q")
    cluster.query("CREATE TABLE marker (n int PRIMARY KEY, x text)")
    cluster.query("CREATE TABLE batch (id int, n int, x text)")
    cluster.query("CREATE TABLE moved (n int PRIMARY KEY, x text)")
    # Every tenth row is long enough for the TOAST table, in a form that does not compress.
    cluster.query("ALTER TABLE moved ALTER x SET STORAGE external")
    cluster.query(
        "INSERT INTO moved SELECT n, repeat(%s, CASE n %% 10 WHEN 0 THEN 200 ELSE 1 END)"
        " FROM generate_series(1, 2000) n",
        (CANARY.decode(),),
    )
    cluster.query("CREATE DATABASE seed")
    cluster.query(
        f"CREATE TABLE t AS SELECT n, '{CANARY.decode()}' AS x"
        f" FROM generate_series(1, {SEED_ROWS}) n",
        dbname="seed",
    )
    return cluster.query(MOVED)[0]


def crash_in_recovery(cluster, options: dict[str, str], chooser: random.Random) -> None:
    """Start the server and kill it before, or soon after, it is ready."""

    def start() -> None:
        with contextlib.suppress(TdeError):
            cluster.start(options, timeout=START_TIMEOUT)

    starting = threading.Thread(target=start, daemon=True)
    starting.start()
    while starting.is_alive() and cluster.cluster.pid is None:
        time.sleep(0.01)
    time.sleep(chooser.uniform(0, 0.4))
    kill_server(cluster.cluster.pid)
    starting.join(timeout=START_TIMEOUT)
    assert not starting.is_alive(), "pg_ctl still waits for a server that was killed"


def crash(cluster, ledger: Ledger, chooser: random.Random, options: dict[str, str]) -> str:
    """Kill the server, or one process of it, at a random moment; it runs afterwards."""
    kind = chooser.choices(
        ["server", "child", "child, then server", "server, then recovery"], [5, 2, 1, 2]
    )[0]
    if cluster.cluster.pid is None:
        cluster.start(options, timeout=START_TIMEOUT)
    with running_mix(cluster, ledger, chooser):
        time.sleep(chooser.uniform(0.3, 2.0))
        if kind.startswith("child"):
            killed = kill_backend(cluster.cluster.pid, chooser)
        if kind == "child, then server":
            time.sleep(chooser.uniform(0, 0.3))
        if kind != "child":
            kill_server(cluster.cluster.pid)
    if kind == "server, then recovery":
        crash_in_recovery(cluster, options, chooser)
    if kind == "child":
        wait_until_reaped(killed)
        wait_until_ready(cluster)
    else:
        cluster.start(options, timeout=START_TIMEOUT)
    return kind


def verify(cluster, ledger: Ledger, moved: tuple[int, str]) -> None:
    """Nothing that was acknowledged is lost, and what was not is there as a whole or not at all."""
    assert len(tpcb_sums(cluster)) == 1, "the sums of TPC-B differ"
    markers = {row[0] for row in cluster.query("SELECT n FROM marker")}
    assert markers.issuperset(ledger.markers), "rows lost"
    batches = dict(cluster.query("SELECT id, count(*) FROM batch GROUP BY id"))
    assert set(batches).issuperset(ledger.batches), "rows of COPY lost"
    assert set(batches.values()) <= {BATCH}, "part of a COPY"
    for table in ledger.tables:
        # Once through the index and once through the table.
        sums = cluster.query(
            f"SELECT count(*), sum(n), (SELECT count(*) FROM {table} WHERE n >= 0) FROM {table}"
        )
        assert sums == [(BATCH, BATCH * (BATCH - 1) // 2, BATCH)], f"rows lost in {table}"
    assert cluster.query(MOVED) == [moved]
    for database in ledger.databases:
        rows = cluster.query("SELECT count(*), sum(n) FROM t", dbname=database)
        assert rows == [(SEED_ROWS, SEED_ROWS * (SEED_ROWS + 1) // 2)], f"{database} is damaged"


def check_structure(cluster) -> None:
    """Compare every index with its table, with pg_amcheck if the installation has it."""
    available = cluster.query("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'")
    if not available:
        databases = databases_of(cluster)
        cluster.cluster.stop()
        check_pages(cluster, databases)
        return
    parameters = cluster.cluster.connection_parameters()
    run = run_program(
        cluster.cluster.binaries,
        "pg_amcheck",
        [
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), "--all", "--heapallindexed", "--install-missing"),
        ],
        os_user=cluster.cluster.os_user,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def databases_of(cluster) -> set[str]:
    return {str(oid) for (oid,) in cluster.query("SELECT oid FROM pg_database")}


def may_be_torn(file: str, databases: set[str]) -> bool:
    """Tell whether PostgreSQL lets a page of this file stay torn.

    Recovery writes free space maps without a full image in WAL, and the server replaces a torn page
    of one when it reads it. The directory of a database that a crash kept from being made stays for
    good, as it was then, and with wal_level = minimal no WAL says what was written to it.
    """
    if re.search(r"_fsm(\.\d+)?$", file) is not None:
        return True
    database = Path(file).parent.name
    return database.isdigit() and database not in databases


def check_pages(cluster, databases: set[str]) -> None:
    """Verify the checksum of every page of a server that is stopped.

    For pg_checksums a page that may stay torn has a wrong checksum. The audit knows such a page:
    its beginning decrypts, which that of noise does not.
    """
    drop_half_blocks(cluster.data_directory)
    run = run_program(
        cluster.cluster.binaries,
        "pg_checksums",
        ["--check", "-D", str(cluster.data_directory)],
        keystore=cluster.keystore,
        os_user=cluster.cluster.os_user,
    )
    wrong = re.findall(r'verification failed in file "(.*)", block \d+:', run.stderr)
    if wrong and all(may_be_torn(file, databases) for file in wrong):
        assert len(wrong) == len(run.stderr.splitlines()), run.stderr
        findings = [
            finding
            for finding in audit(cluster.cluster, cluster.keystore).findings
            # Torn, and not noise; of free space maps it says nothing.
            if finding.kind is not FindingKind.BAD_CHECKSUM or str(finding.file) not in wrong
        ]
        assert not findings, [f"{finding.file}: {finding.problem}" for finding in findings]
    else:
        assert run.returncode == 0, run.stdout + run.stderr


def drop_half_blocks(data_directory: Path) -> None:
    """Cut what is behind the last whole block of a relation file.

    On some file systems (tmpfs) Linux ends a write between two pages of memory when its
    process is killed, so a file can end in half a block, encrypted or not. PostgreSQL does not
    count it and will write over it, but pg_checksums does not accept the file.
    """
    for pattern in ("base/*/*", "global/*", "pg_tblspc/*/*/*/*"):
        for path in data_directory.glob(pattern):
            if path.name[0].isdigit() and path.stat().st_size % BLOCK != 0:
                os.truncate(path, path.stat().st_size // BLOCK * BLOCK)


def run_rounds(cluster, directory, rounds: int) -> None:
    """Crash this often, and verify each time."""
    chooser = random.Random(SEED)
    ledger = Ledger()
    major = cluster.cluster.binaries.major
    moved = prepare(cluster, directory)
    kinds: dict[str, int] = {}
    for number in range(1, rounds + 1):
        options = options_of_round(major, chooser)
        kind = crash(cluster, ledger, chooser, options)
        kinds[kind] = kinds.get(kind, 0) + 1
        try:
            verify(cluster, ledger, moved)
            if number % ROUNDS_BETWEEN_CHECKS == 0 or number == rounds:
                check_structure(cluster)
        except AssertionError as error:
            raise AssertionError(f"after crash {number} ({kind}): {error}") from error
        log.info("crash %d (%s): %s", number, kind, ledger.statements)
    log.info("%s", kinds)
    if cluster.cluster.pid is None:
        cluster.start(timeout=START_TIMEOUT)
    settle(cluster)
    assert files_with(CANARY, cluster.data_directory, directory) == []
    databases = databases_of(cluster)
    cluster.cluster.stop()
    check_pages(cluster, databases)


def test_a_torn_page_is_passed_over_only_where_nothing_reads_it(
    any_binaries, encrypted_cluster_factory
):
    cluster = encrypted_cluster_factory(any_binaries)
    cluster.query("CREATE TABLE t AS SELECT n FROM generate_series(1, 10000) n")
    cluster.query("VACUUM t")
    place, catalog = cluster.query(
        "SELECT pg_relation_filepath('t'), pg_relation_filepath('pg_database')"
    )[0]
    databases = databases_of(cluster)
    cluster.cluster.stop()
    for name, start, known, passes in (
        (f"{place}_fsm", BLOCK // 2, databases, True),
        (f"{place}_fsm", 0, databases, False),
        (place, BLOCK // 2, databases, False),
        # As if a crash had kept this database from being made.
        (place, BLOCK // 2, databases - {Path(place).parent.name}, True),
        (place, 0, databases - {Path(place).parent.name}, False),
        (catalog, BLOCK // 2, set(), False),
    ):
        path = cluster.data_directory / name
        content = path.read_bytes()
        with path.open("r+b") as file:  # Its owner stays who it was.
            file.seek(start)
            file.write(random.Random(SEED).randbytes(BLOCK - start))
        with contextlib.nullcontext() if passes else pytest.raises(AssertionError, match=name):
            check_pages(cluster, known)
        with path.open("r+b") as file:
            file.write(content)
    check_pages(cluster, databases)


def test_nothing_acknowledged_is_lost_in_a_few_crashes(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    cluster = encrypted_cluster_factory(any_binaries)
    run_rounds(cluster, os_user_tmp_path / "fast", 4)


@pytest.mark.slow
@pytest.mark.timeout(600 + 20 * ROUNDS)
def test_nothing_acknowledged_is_lost_in_many_crashes(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    cluster = encrypted_cluster_factory(binaries)
    run_rounds(cluster, os_user_tmp_path / "fast", ROUNDS)
