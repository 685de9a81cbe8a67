"""More tables than a process may have open: kill -9, and recovery to several points of the archive.

WAL is written with open_datasync, whose writes are synced by the kernel one by one.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from tde.errors import TdeError
from tde.postgres import audit
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import base_backup, configure, make_directory, open_copy
from tests.postgres.crashes.file_rewrites import kill_server
from tests.replication.test_standbys_and_recovery import wait_until

if TYPE_CHECKING:
    from tests.conftest import ClusterFactory, RunningCluster

SESSIONS = 3
OPTIONS = {
    "autovacuum_naptime": "1s",
    "fsync": "on",  # Or the method to sync the WAL does not count.
    "max_files_per_process": "64",
    "max_locks_per_transaction": "512",
    "shared_buffers": "2MB",  # So that files are opened, written and closed all the time.
    "wal_compression": "on",
    "wal_sync_method": "open_datasync",
}


@dataclass
class Crowd:
    """A server with many tables, and what was acknowledged for each."""

    made: RunningCluster
    tables: int
    sums: Counter[int] = field(default_factory=Counter)
    unexpected: list[Exception] = field(default_factory=list)

    def make(self) -> None:
        for first in range(0, self.tables, 250):
            last = min(first + 250, self.tables) - 1
            self.made.query(
                f"DO $$ BEGIN FOR n IN {first}..{last} LOOP EXECUTE format("
                "'CREATE TABLE t%s (a int PRIMARY KEY, b int, x text)', n); END LOOP; END $$"
            )

    def fill(self, rows: int) -> None:
        """Insert rows from several sessions at once, each into tables of its own."""
        threads = [threading.Thread(target=self._insert, args=(n, rows)) for n in range(SESSIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.unexpected == []

    def _insert(self, session: int, rows: int) -> None:
        chooser = random.Random(session)
        mine = range(session, self.tables, SESSIONS)
        parameters = self.made.cluster.connection_parameters()
        try:
            with contextlib.closing(psycopg2.connect(**parameters)) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    for row in range(1, rows + 1):
                        table = chooser.choice(mine)
                        cursor.execute(
                            f"INSERT INTO t{table} VALUES (%s, %s, %s)",
                            (row, row, CANARY.decode()),
                        )
                        self.sums[table] += row
        except Exception as error:
            self.unexpected.append(error)

    def require_all(self, server: RunningCluster) -> None:
        """Every table has what was acknowledged."""
        for first in range(0, self.tables, 250):
            last = min(first + 250, self.tables)
            sums = (f"SELECT {n}, coalesce(sum(b), 0) FROM t{n}" for n in range(first, last))
            found = dict(server.query(" UNION ALL ".join(sums)))
            assert found == {n: self.sums[n] for n in range(first, last)}


@dataclass
class Recovery:
    """A base backup and an archive, from which servers are recovered."""

    crowd: Crowd
    factory: ClusterFactory
    backup: Path
    archive: Path
    number: int = 0

    def run(self, *settings: str) -> RunningCluster:
        """Recover a copy of the backup and promote it."""
        self.number += 1
        directory = self.backup.with_name(f"recovered{self.number}")
        subprocess.run(["cp", "--archive", str(self.backup), str(directory)], check=True)
        server = open_copy(self.factory, self.crowd.made, directory, self.crowd.made.keystore)
        restore = f"restore_command = 'cp {self.archive}/%f %p'"
        configure(server, [restore, "recovery_target_action = promote", *settings])
        (directory / "recovery.signal").touch()
        server.start(OPTIONS)
        wait_until(server, "SELECT pg_is_in_recovery()", False)
        return server

    def events(self, server: RunningCluster) -> list[int]:
        return [n for (n,) in server.query("SELECT n FROM event ORDER BY n")]


def check(factory, binaries, directory: Path, *, tables: int, rows: int, segment: int) -> None:
    made = factory(binaries, start=False, initdb_args=[f"--wal-segsize={segment}"])
    archive = make_directory(made, directory / "archive")
    options = {**OPTIONS, "archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    made.start(options)
    made.query("CREATE TABLE event (n int)")
    base_backup(made, directory / "backup", "--wal-method=none")
    crowd = Crowd(made, tables)
    crowd.make()
    crowd.fill(rows)
    crowd.require_all(made)
    kill_server(made.cluster.pid)
    made.start(options)
    crowd.require_all(made)

    # Three events: before the target, in an archived segment, and in one that never gets there.
    made.query("INSERT INTO event VALUES (1)")
    target = made.query("SELECT pg_current_wal_insert_lsn()")[0][0]
    made.query("INSERT INTO event VALUES (2)")
    archived = made.query("SELECT pg_walfile_name(pg_switch_wal() - 1)")[0][0]
    made.query("INSERT INTO event VALUES (3)")
    last = made.query("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0]
    assert last > archived
    wait_until(made, f"SELECT last_archived_wal >= '{archived}' FROM pg_stat_archiver", True)
    kill_server(made.cluster.pid)
    recover(Recovery(crowd, factory, directory / "backup", archive), target, last)


def recover(recovery: Recovery, target: str, last: str) -> None:
    crowd, archive = recovery.crowd, recovery.archive
    segment = crowd.made.data_directory / "pg_wal" / last
    # To a point in the middle of a segment, where a timeline begins.
    server = recovery.run(f"recovery_target_lsn = '{target}'")
    assert recovery.events(server) == [1]
    crowd.require_all(server)
    server.query("INSERT INTO event VALUES (99)")
    kill_server(server.cluster.pid)
    server.start(OPTIONS)
    assert recovery.events(server) == [1, 99]
    server.cluster.stop()
    report = audit(server.cluster, server.keystore)
    assert report.clean, report.findings
    # To the end of the archive.
    server = recovery.run()
    assert recovery.events(server) == [1, 2]
    crowd.require_all(server)
    server.cluster.stop()
    # Half of the last segment is refused as without tde, and all of it has the last event.
    whole = segment.read_bytes()
    (archive / last).write_bytes(whole[: len(whole) // 2])
    # A server that replays for long is ready for reading before it comes to that.
    with pytest.raises((TdeError, psycopg2.OperationalError)):
        recovery.run()
    log = archive.with_name(f"recovered{recovery.number}.log")
    assert "has wrong size" in log.read_text()
    (archive / last).write_bytes(whole)
    server = recovery.run()
    assert recovery.events(server) == [1, 2, 3]
    crowd.require_all(server)
    server.cluster.stop()
    assert files_with(CANARY, server.data_directory, archive) == []


def test_a_hundred_tables(any_binaries, encrypted_cluster_factory, os_user_tmp_path):
    check(
        encrypted_cluster_factory, any_binaries, os_user_tmp_path, tables=100, rows=100, segment=1
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_tables(binaries, encrypted_cluster_factory, os_user_tmp_path):
    check(encrypted_cluster_factory, binaries, os_user_tmp_path, tables=2500, rows=1500, segment=64)
