"""A mix of everything that writes files, and servers that are killed in the middle of it.

Each session of the mix writes into the ledger what the server has acknowledged; after a crash
all of it must be there. See test_kill_under_rewrites.py.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg2

from tests.postgres.canaries import CANARY

if TYPE_CHECKING:
    from tests.conftest import RunningCluster

log = logging.getLogger("crash mix")

READY = "database system is ready to accept connections"
BATCH = 200  # Rows of one COPY.
SEED_ROWS = 500  # Rows of the database that CREATE DATABASE copies.
CLIENTS = 2
PAUSE = 0.005  # Seconds between steps, so that the cheap ones leave time to the others.


@dataclass
class Ledger:
    """What the server has acknowledged, and so must still have after every crash.

    Attributes:
        markers: numbers of single rows.
        batches: numbers of COPYs of BATCH rows into an old table.
        tables: tables that were made and filled in one transaction.
        databases: databases that were made, and whose removal has not begun.
        statements: how often each kind of statement was acknowledged.
    """

    markers: set[int] = field(default_factory=set)
    batches: set[int] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    databases: set[str] = field(default_factory=set)
    statements: dict[str, int] = field(default_factory=dict)
    serial: Iterator[int] = field(default_factory=itertools.count)

    def count(self, statement: str) -> None:
        """Count a statement that was acknowledged; each kind belongs to one session."""
        self.statements[statement] = self.statements.get(statement, 0) + 1


Step = Callable[[Any, Ledger, random.Random], None]


class Session(threading.Thread):
    """Repeats one kind of step until the server is gone."""

    def __init__(self, cluster: RunningCluster, step: Step, ledger: Ledger, seed: int) -> None:
        # A daemon, so that a test that fails before it kills the server does not hang at exit.
        super().__init__(daemon=True, name=step.__name__)
        self.parameters = cluster.cluster.connection_parameters()
        self.step = step
        self.ledger = ledger
        self.chooser = random.Random(seed)
        self.unexpected: Exception | None = None

    def run(self) -> None:
        try:
            self._repeat()
        except psycopg2.Error as error:
            # A lost connection has no code, and class 57 is how the server says goodbye.
            if error.pgcode is not None and not error.pgcode.startswith("57"):
                self.unexpected = error
        except SystemError as error:
            # psycopg2 makes this of a connection that is lost in the middle of a COPY.
            if not isinstance(error.__cause__, psycopg2.Error):
                self.unexpected = error
        except Exception as error:
            self.unexpected = error

    def _repeat(self) -> None:
        with contextlib.closing(psycopg2.connect(**self.parameters)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while True:
                time.sleep(PAUSE)
                try:
                    self.step(cursor, self.ledger, self.chooser)
                except (
                    psycopg2.errors.DeadlockDetected,
                    psycopg2.errors.ObjectInUse,
                    psycopg2.errors.LockNotAvailable,
                ):
                    cursor.execute("ROLLBACK")
                except psycopg2.errors.InternalError_ as error:
                    # What PostgreSQL says to who rewrites a catalog while others change its rows.
                    if "tuple concurrently updated" not in str(error):
                        raise
                    cursor.execute("ROLLBACK")


def insert_marker(cursor: Any, ledger: Ledger, _chooser: random.Random) -> None:
    number = next(ledger.serial)
    cursor.execute("INSERT INTO marker VALUES (%s, %s)", (number, CANARY.decode()))
    ledger.markers.add(number)
    ledger.count("INSERT")


def copy_batch(cursor: Any, ledger: Ledger, chooser: random.Random) -> None:
    """COPY into an old table, or into one of the same transaction (which may skip the WAL)."""
    number = next(ledger.serial)
    rows = io.StringIO("".join(f"{number}\t{n}\t{CANARY.decode()}\n" for n in range(BATCH)))
    if chooser.random() < 0.7:
        cursor.copy_expert("COPY batch FROM STDIN", rows)
        ledger.batches.add(number)
        ledger.count("COPY")
        return
    if len(ledger.tables) > 5:
        cursor.execute(f"DROP TABLE {ledger.tables.pop()}")
    place = chooser.choice(["pg_default", "fast"])
    cursor.execute("BEGIN")
    cursor.execute(f"CREATE TABLE made_{number} (LIKE batch) TABLESPACE {place}")
    cursor.copy_expert(f"COPY made_{number} FROM STDIN (FREEZE)", rows)
    cursor.execute(f"CREATE INDEX ON made_{number} (n) TABLESPACE {place}")
    cursor.execute("COMMIT")
    ledger.tables.add(f"made_{number}")
    ledger.count("CREATE TABLE, COPY")


def create_index(cursor: Any, ledger: Ledger, chooser: random.Random) -> None:
    how = chooser.choice(["", "CONCURRENTLY"])
    what = chooser.choice(
        [
            "pgbench_accounts (abalance)",
            "pgbench_history (aid) TABLESPACE fast",
            "pgbench_accounts USING hash (bid)",
            "marker USING gin (to_tsvector('simple', x))",
            "batch (id, n) TABLESPACE fast",
        ]
    )
    cursor.execute("DROP INDEX IF EXISTS mixed")
    cursor.execute(f"CREATE INDEX {how} mixed ON {what}")
    ledger.count("CREATE INDEX")


def vacuum_full(cursor: Any, ledger: Ledger, chooser: random.Random) -> None:
    tables = ["pgbench_branches", "pgbench_tellers", "pgbench_history", "marker", "batch"]
    # Behind sessions that write all the time it could wait for its lock until the crash.
    cursor.execute("SET lock_timeout = '2s'")
    cursor.execute(f"VACUUM FULL {chooser.choice([*tables, 'moved', 'pg_class'])}")
    ledger.count("VACUUM FULL")


def set_tablespace(cursor: Any, ledger: Ledger, chooser: random.Random) -> None:
    """Move a table of which every row is also rewritten, but whose content never changes."""
    cursor.execute("UPDATE moved SET x = x WHERE n %% 10 = %s", (chooser.randrange(10),))
    for relation in chooser.sample(["TABLE moved", "INDEX moved_pkey"], 2):
        for place in chooser.sample(["fast", "pg_default"], 2):
            cursor.execute(f"ALTER {relation} SET TABLESPACE {place}")
            ledger.count("SET TABLESPACE")


def create_database(cursor: Any, ledger: Ledger, chooser: random.Random) -> None:
    strategy = chooser.choice(["wal_log", "file_copy"])
    name = f"copy_{next(ledger.serial)}"
    place = chooser.choice(["", "TABLESPACE fast"])
    cursor.execute(f"CREATE DATABASE {name} TEMPLATE seed STRATEGY {strategy} {place}")
    ledger.databases.add(name)
    ledger.count(f"CREATE DATABASE ({strategy})")
    if len(ledger.databases) > 2:
        cursor.execute(f"DROP DATABASE {ledger.databases.pop()}")
        ledger.count("DROP DATABASE")


STEPS: tuple[Step, ...] = (
    insert_marker,
    copy_batch,
    create_index,
    vacuum_full,
    set_tablespace,
    create_database,
)


@contextlib.contextmanager
def running_pgbench(cluster: RunningCluster, clients: int = 4) -> Iterator[None]:
    """Keep pgbench busy; what it still runs at the end is killed."""
    parameters = cluster.cluster.connection_parameters()
    process = subprocess.Popen(
        [
            str(cluster.cluster.binaries.program("pgbench")),
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), "-c", str(clients), "-T", "60", "-n", "postgres"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running_mix(cluster: RunningCluster, ledger: Ledger, chooser: random.Random) -> Iterator[None]:
    """Run every kind of step and pgbench; the caller kills the server before it leaves."""
    sessions = [Session(cluster, step, ledger, chooser.randrange(2**32)) for step in STEPS]
    with running_pgbench(cluster, CLIENTS):
        for session in sessions:
            session.start()
        yield
    for session in sessions:
        session.join(timeout=30)
        assert not session.is_alive(), f"{session.name} outlived its server"
        if session.unexpected is not None:
            raise session.unexpected


def kill_server(pid: int | None) -> None:
    """End the postmaster and every child at once, as a power cut would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        postmaster = psutil.Process(pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)


def kill_backend(pid: int, chooser: random.Random) -> psutil.Process | None:
    """End one child and return it; the postmaster restarts all others and recovers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        child = chooser.choice(psutil.Process(pid).children())
        log.debug("killing %s", " ".join(child.cmdline()))
        child.kill()
        return child
    return None


def wait_until_reaped(child: psutil.Process | None) -> None:
    """Wait until a postmaster knows that its child is gone; until then it takes connections."""
    if child is not None:
        child.wait(timeout=300)


def wait_until_restarted(cluster: RunningCluster, log_position: int) -> None:
    """Wait until a server has recovered by itself from what happened after this place of its log.

    A connection is no proof: the postmaster takes connections until it sees that a child is gone.
    """
    deadline = time.monotonic() + 300
    while READY not in read_behind(cluster.cluster.default_log, log_position):
        assert time.monotonic() < deadline, "the server did not recover by itself"
        time.sleep(0.05)
    wait_until_ready(cluster)


def read_behind(path: Path, position: int) -> str:
    with path.open(errors="replace") as file:
        file.seek(position)
        return file.read()


def wait_until_ready(cluster: RunningCluster) -> None:
    """Wait until a server takes connections."""
    deadline = time.monotonic() + 300
    while True:
        try:
            cluster.query("SELECT 1")
            return
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, "the server did not recover by itself"
            time.sleep(0.05)
