"""A primary, a standby, a cascading standby and an archive, under load; see test_soak.py."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

from tde.algorithms import Algorithm
from tde.postgres import audit, install_bin_directory, run_program
from tde.postgres.cluster.wal_rotation import rotate_wal_key
from tests.postgres.canaries import CANARY
from tests.postgres.cluster_copies import base_backup, make_directory, open_copy
from tests.postgres.crashes.file_rewrites import kill_server
from tests.postgres.wal_segments import plain_segment

if TYPE_CHECKING:
    from tests.conftest import ClusterFactory, RunningCluster

OPTIONS = {
    "archive_mode": "on",
    "autovacuum_naptime": "1s",
    "checkpoint_timeout": "30s",
    "hot_standby_feedback": "on",
    "max_wal_size": "8MB",
    "min_wal_size": "2MB",
    "recovery_target_timeline": "latest",
    "shared_buffers": "4MB",  # So that pages are written and read all the time.
    "wal_compression": "on",
    "wal_keep_size": "64MB",
    "wal_retrieve_retry_interval": "200ms",
}
# What no log may say.  Ends of WAL, which look like damage, are in the log of every standby.
ALARMS = re.compile(
    r"PANIC|invalid page|checksum|Required key|tde: (?!this server writes WAL with)|"
    r"incorrect resource manager"
)
SEGMENT = 1 << 20  # Bytes; small, so that there are many.
PATIENCE = 300  # Seconds, for a machine that does something else as well.


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.05)


class Writer(threading.Thread):
    """Repeats a step on the primary, through all its crashes, until it is told to stop."""

    def __init__(self, cluster: RunningCluster, step: Callable[[Any], None]) -> None:
        super().__init__(daemon=True, name=step.__name__)
        self.parameters = cluster.cluster.connection_parameters()
        self.step = step
        self.stop = threading.Event()
        self.unexpected: Exception | None = None

    def run(self) -> None:
        while not self.stop.is_set() and self.unexpected is None:
            try:
                self._repeat()
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                time.sleep(0.1)  # It is down, or has just lost this connection.
            except Exception as error:
                self.unexpected = error

    def _repeat(self) -> None:
        with contextlib.closing(psycopg2.connect(**self.parameters)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while not self.stop.is_set():
                self.step(cursor)


class Family:
    """Three servers in a row and a ``pg_receivewal``; all share a keystore."""

    def __init__(self, factory: ClusterFactory, binaries: Any, directory: Path, seed: int) -> None:
        self.directory = directory
        self.factory = factory
        self.chooser = random.Random(seed)
        self.acknowledged: set[int] = set()
        self._numbers = itertools.count()
        self._tables = itertools.count()
        self._backups = itertools.count()
        self._writers: list[Writer] = []
        segment = f"--wal-segsize={SEGMENT >> 20}"
        self.primary = factory(binaries, start=False, initdb_args=[segment])
        self.keystore = self.primary.keystore
        self.archive = make_directory(self.primary, directory / "archive")
        self.received = make_directory(self.primary, directory / "received")
        self.options = {**OPTIONS, "archive_command": f"cp %p {self.archive}/%f"}
        self.options["restore_command"] = f"cp {self.archive}/%f %p"
        self.primary.start(self.options)
        self.primary.query("CREATE TABLE acknowledged (n bigint PRIMARY KEY, x text)")
        self.primary.query("SELECT pg_create_physical_replication_slot('receiver')")
        self.standby = self._follow(self.primary, "standby")
        self.cascade = self._follow(self.standby, "cascade")
        self.keystore.enable_auto_open()
        self._programs = install_bin_directory(
            directory / "bin", binaries, self.primary.cluster.os_user, keystore=self.keystore
        )
        self._receiver = self._receive()

    @property
    def servers(self) -> tuple[RunningCluster, ...]:
        return self.primary, self.standby, self.cascade

    def _follow(self, source: RunningCluster, name: str) -> RunningCluster:
        target = self.directory / name
        base_backup(source, target, "--write-recovery-conf", "--wal-method=stream")
        server = open_copy(self.factory, source, target, self.keystore)
        server.start(self.options)
        return server

    def _receive(self) -> subprocess.Popen[bytes]:
        parameters = self.primary.cluster.connection_parameters()
        user = self.primary.cluster.os_user
        identity: dict[str, Any] = {}
        if user is not None:
            identity = {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
        command = [
            *(str(self._programs.path / "pg_receivewal"), "--synchronous", "-S", "receiver"),
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), "-D", str(self.received)),
        ]
        with (self.directory / "receiver.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **identity)

    def close(self) -> None:
        self._receiver.kill()
        self._receiver.wait()

    # What clients do.

    def insert(self, cursor: Any) -> None:
        number = next(self._numbers)
        cursor.execute("INSERT INTO acknowledged VALUES (%s, %s)", (number, CANARY.decode()))
        self.acknowledged.add(number)

    def make_and_drop(self, cursor: Any) -> None:
        number = next(self._tables)
        cursor.execute(
            f"CREATE TABLE made{number} AS "
            f"SELECT g AS a, repeat('{CANARY.decode()}', g) AS b FROM generate_series(1, 60) g"
        )
        cursor.execute(f"CREATE INDEX ON made{number} (a)")
        if number >= 20:
            cursor.execute(f"DROP TABLE IF EXISTS made{number - 20}")

    def disturb(self, cursor: Any) -> None:
        cursor.execute(
            self.chooser.choice(
                [
                    "SELECT pg_switch_wal()",
                    "CHECKPOINT",
                    "VACUUM acknowledged",
                    "SELECT pg_logical_emit_message(true, '', repeat('large', 100000))",
                ]
            )
        )
        time.sleep(0.3)

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Keep clients busy on the primary."""
        steps = (self.insert, self.insert, self.make_and_drop, self.disturb)
        self._writers = [Writer(self.primary, step) for step in steps]
        for writer in self._writers:
            writer.start()
        try:
            yield
            self.go_on()
        finally:
            for writer in self._writers:
                writer.stop.set()
            for writer in self._writers:
                writer.join(PATIENCE)

    def go_on(self, rows: int = 30) -> None:
        """Wait until so many more rows were acknowledged."""
        wanted = len(self.acknowledged) + rows

        def is_done() -> bool:
            unexpected = [w.unexpected for w in self._writers if w.unexpected]
            assert unexpected == [], repr(unexpected)
            return len(self.acknowledged) >= wanted

        wait_for(is_done, f"{wanted} rows")

    # What happens to the servers.

    def kill(self, server: RunningCluster) -> None:
        kill_server(server.cluster.pid)
        server.start(self.options)

    def kill_primary(self) -> None:
        self.kill(self.primary)

    def kill_standby(self) -> None:
        self.kill(self.standby)

    def kill_cascade(self) -> None:
        self.kill(self.cascade)

    def kill_receiver(self) -> None:
        """Kill it, even while it fills a new file with zeros, and start it again.

        PostgreSQL's own does not go on with part of such a file: it has to be removed by hand.
        """
        self.close()
        for file in self.received.glob("*.partial"):
            content = file.read_bytes()
            if len(content) != SEGMENT and not any(content):
                file.unlink()
        self._receiver = self._receive()

    def back_up(self) -> None:
        """Take a base backup of the standby, while it replays, and open it."""
        target = self.directory / f"backup{next(self._backups)}"
        base_backup(self.standby, target, "--wal-method=stream")
        copy = open_copy(self.factory, self.standby, target, self.keystore)
        copy.start({**self.options, "archive_mode": "off"})
        copy.query("SELECT count(*) FROM acknowledged WHERE x = %s", (CANARY.decode(),))
        copy.cluster.stop("immediate")
        shutil.rmtree(target)

    def rotate_wal(self) -> None:
        """Let one of the servers write WAL with another key from now on."""
        server = self.chooser.choice(self.servers)
        # All have one keystore; whoever has just been killed comes back with the key.
        rotate_wal_key(server.cluster, self.keystore, Algorithm.AES256, wait=False)

    def audit_primary(self) -> None:
        report = audit(self.primary.cluster, self.keystore)
        assert report.clean, report.findings

    # What must be true then.

    def verify(self) -> None:
        """All servers have all rows, and the same content."""
        position = self.primary.query("SELECT pg_current_wal_flush_lsn()")[0][0]
        for server in (self.standby, self.cascade):
            self.wait_until_replayed(server, position)
        for server in self.servers:
            rows = {n for (n,) in server.query("SELECT n FROM acknowledged")}
            assert rows.issuperset(self.acknowledged), server.data_directory
        assert len({self._dump(server) for server in self.servers}) == 1

    def wait_until_replayed(self, server: RunningCluster, position: str) -> None:
        statement = f"SELECT coalesce(pg_last_wal_replay_lsn() >= '{position}', false)"
        wait_for(lambda: server.query(statement) == [(True,)], f"{position} on {server}")

    def _dump(self, server: RunningCluster) -> str:
        parameters = server.cluster.connection_parameters()
        connection = ["-h", str(parameters["host"]), "-p", str(parameters["port"])]
        run = run_program(
            server.cluster.binaries,
            "pg_dump",
            [*connection, "-U", str(parameters["user"]), "postgres"],
            os_user=server.cluster.os_user,
        )
        assert run.returncode == 0, run.stderr
        # Newer releases write a key that is another one each time.
        content = re.sub(r"(?m)^\\(?:un)?restrict .*$", "", run.stdout)
        return hashlib.sha256(content.encode()).hexdigest()

    def compare_archives(self) -> int:
        """Compare what the server has archived with what was streamed; return how much."""
        wanted = self.primary.query("SELECT pg_walfile_name(pg_switch_wal() - 1)")[0][0]
        wait_for((self.received / wanted).exists, f"streaming of {wanted}")
        wait_for((self.archive / wanted).exists, f"archiving of {wanted}")
        self._receiver.send_signal(signal.SIGINT)
        assert self._receiver.wait(PATIENCE) == 0
        streamed = [file for file in self.received.iterdir() if len(file.name) == 24]
        both = [file for file in streamed if (self.archive / file.name).exists()]
        for file in both:
            pair = (file, self.archive / file.name)
            streamed_wal, archived_wal = (plain_segment(self.keystore, one) for one in pair)
            assert streamed_wal == archived_wal, file.name
        return len(both)

    def require_quiet_logs(self) -> None:
        for server in self.servers:
            log = server.cluster.default_log.read_text(errors="replace")
            assert [line for line in log.splitlines() if ALARMS.search(line)] == []
