"""What PostgreSQL 19 brought that reads or writes files in a way of its own."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from subprocess import CompletedProcess

import psycopg2
import pytest

from tde.postgres import PostgresBinaries, run_program
from tests.installations import installations
from tests.postgres.canaries import CANARY, files_with, settle
from tests.postgres.cluster_copies import base_backup

TEXT = CANARY.decode()
ROWS = 20000


@pytest.fixture(scope="module")
def binaries_of_19() -> PostgresBinaries:
    found = installations().get(19)
    if found is None:
        pytest.skip("PostgreSQL 19 is not installed")
    return found


@pytest.fixture
def made(binaries_of_19, encrypted_cluster_factory):
    options = {
        "wal_level": "replica",
        "logical_decoding_work_mem": "64kB",  # So that changes are spilled to files.
        "max_repack_replication_slots": "2",
    }
    cluster = encrypted_cluster_factory(binaries_of_19, options=options)
    cluster.query(
        f"CREATE TABLE t AS SELECT g AS id, 0 AS n, '{TEXT}' || g AS x "
        f"FROM generate_series(1, {ROWS}) g"
    )
    cluster.query("ALTER TABLE t ADD PRIMARY KEY (id)")
    return cluster


class Updates(threading.Thread):
    """Updates rows for as long as this is entered."""

    def __init__(self, made) -> None:
        super().__init__()
        self.made = made
        self.done = 0
        self.end = threading.Event()

    def run(self) -> None:
        with closing(psycopg2.connect(**self.made.cluster.connection_parameters())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                while not self.end.is_set():
                    cursor.execute("UPDATE t SET n = n + 1, x = x || '+' WHERE id % 10 = 0")
                    self.done += 1

    def __enter__(self) -> Updates:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.join()


def test_a_table_is_repacked_while_it_changes(made):
    with Updates(made) as updates:
        for _ in range(3):
            before = updates.done
            made.query("REPACK (CONCURRENTLY) t")
            while updates.done == before:
                time.sleep(0.01)
    expected = [(ROWS, updates.done * ROWS // 10)]
    assert made.query("SELECT count(*), sum(n) FROM t") == expected
    settle(made)
    assert files_with(CANARY, made.data_directory) == []
    made.cluster.stop("immediate")
    made.start()
    assert made.query("SELECT count(*), sum(n) FROM t") == expected


def test_changes_that_a_repack_keeps_in_files_are_ciphertext(made):
    """The transactions of others wait in files until the table is swapped."""
    stop = threading.Event()
    places = [made.data_directory / name for name in ("base/pgsql_tmp", "pg_replslot")]
    names: set[str] = set()
    found: list[Path] = []

    def look() -> None:
        while not stop.is_set():
            for place in places:
                names.update(path.name for path in place.rglob("*"))
                with suppress(FileNotFoundError):  # It may end while it is looked at.
                    found.extend(files_with(CANARY, place))

    watcher = threading.Thread(target=look)
    with Updates(made):
        watcher.start()
        made.query("REPACK (CONCURRENTLY) t")
        stop.set()
        watcher.join()
    assert any(name.endswith(".spill") for name in names)
    assert any(name.startswith("pgsql_tmp") for name in names)
    assert found == []


def test_workers_of_a_pool_that_grows(made):
    """Each worker is forked when it is needed, and reads with the keys of the server."""
    made.cluster.stop()
    made.start(
        {
            # Many small reads at once, so that one worker is not enough.
            **{"effective_io_concurrency": "200", "io_combine_limit": "8kB"},
            **{"io_method": "worker", "io_min_workers": "1", "io_max_workers": "8"},
            "io_worker_launch_interval": "1ms",
        }
    )
    made.query("CREATE EXTENSION pg_buffercache")
    workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'io worker'"
    stop = threading.Event()
    counts: list[object] = []

    def scan() -> None:
        with closing(psycopg2.connect(**made.cluster.connection_parameters())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                while not stop.is_set():
                    cursor.execute("SELECT pg_buffercache_evict_relation('t'::regclass)")
                    cursor.execute(f"SELECT count(*) FROM t WHERE x LIKE '{TEXT}%'")
                    counts.append(cursor.fetchone())

    before = made.query(workers)
    scans = [threading.Thread(target=scan) for _ in range(6)]
    for thread in scans:
        thread.start()
    deadline = time.monotonic() + 60
    while made.query(workers) <= before and time.monotonic() < deadline:
        time.sleep(0.01)
    grown = made.query(workers) > before
    stop.set()
    for thread in scans:
        thread.join()
    assert grown
    assert set(counts) == {(ROWS,)}


@pytest.fixture
def unchecked(binaries_of_19, encrypted_cluster_factory) -> Iterator[object]:
    made = encrypted_cluster_factory(binaries_of_19)
    if made.query("SELECT to_regproc('pg_enable_data_checksums')") == [(None,)]:
        pytest.skip("this release has no online checksums")
    made.query("SELECT pg_disable_data_checksums()")
    return made


def test_checksums_are_turned_on_while_the_server_runs(unchecked):
    unchecked.query(f"CREATE TABLE t AS SELECT '{TEXT}' FROM generate_series(1, {ROWS})")
    unchecked.query("SELECT pg_enable_data_checksums()")
    for _ in range(600):
        if unchecked.query("SHOW data_checksums") == [("on",)]:
            break
        time.sleep(0.1)
    assert unchecked.query(f"SELECT count(*) FROM t WHERE t::text LIKE '%{TEXT}%'") == [(ROWS,)]
    unchecked.cluster.stop()
    assert files_with(CANARY, unchecked.data_directory) == []
    checked = run_program(
        unchecked.cluster.binaries,
        "pg_checksums",
        ["--check", "-D", str(unchecked.data_directory)],
        keystore=unchecked.keystore,
        os_user=unchecked.cluster.os_user,
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_wal_in_a_tar_file_is_read_when_it_is_unpacked(
    made, os_user, os_user_tmp_path, compression
):
    """pg_waldump of 19 reads tar files, also for pg_verifybackup, but no ciphertext in them."""
    target = os_user_tmp_path / "backup"
    base_backup(made, target, "-Ft", "--wal-method=stream", f"--compress={compression}")
    assert files_with(CANARY, target) == []

    def verify(*arguments: object) -> CompletedProcess[str]:
        return run_program(
            made.cluster.binaries,
            "pg_verifybackup",
            [str(target), *map(str, arguments)],
            keystore=made.keystore,
            os_user=os_user,
        )

    refused = verify()
    assert refused.returncode == 1
    (archive,) = target.glob("pg_wal.tar*")
    assert f"refused to read {archive}: the WAL in a tar file is ciphertext" in refused.stderr
    assert verify("--no-parse-wal").returncode == 0
    unpacked = os_user_tmp_path / "wal"
    unpacked.mkdir(mode=0o755)
    subprocess.run(["tar", "-xf", archive, "-C", unpacked], check=True)
    unpacked.chmod(0o755)
    whole = verify("--wal-path", unpacked)
    assert whole.returncode == 0, whole.stdout + whole.stderr
