"""A server under a mix of load, all of it at once: rows, tables, databases, WAL, conflicts."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any, ClassVar

import psycopg2

from tests.power_loss.checks import SEED_ROWS
from tests.power_loss.recording import Notes
from tests.power_loss.scenario import Scenario
from tests.power_loss.site import Site

Step = Callable[["Load"], None]


class Load:
    """What one client has: a connection, random numbers, and the notes of what it was told."""

    _numbers: ClassVar[itertools.count[int]] = itertools.count(1)

    def __init__(self, site: Site, notes: Notes, seed: str, tablespaces: tuple[str, ...]) -> None:
        self.site = site
        self.notes = notes
        self.random = Random(seed)
        self.tablespaces = tablespaces
        self.cursor: Any = site.connect().cursor()
        self.tables: list[str] = []
        self.databases: list[str] = []

    def number(self) -> int:
        return next(self._numbers)

    def run(self, statement: str) -> None:
        self.cursor.execute(statement)


def insert(load: Load) -> None:
    n, table = load.number(), f"rows_{load.random.choice(load.tablespaces)}"
    load.run(f"INSERT INTO {table} VALUES ({n}, repeat('p', {load.random.randrange(400)}))")
    load.notes.write("row", table, n)


def transfer(load: Load) -> None:
    a, b = load.random.sample(range(1, 1001), 2)
    load.run(
        f"BEGIN; UPDATE transfers SET v = v + 1 WHERE id = {a};"
        f" UPDATE transfers SET v = v - 1 WHERE id = {b}; COMMIT"
    )


def draw_number(load: Load) -> None:
    load.run("SELECT nextval('numbers')")
    value, n = load.cursor.fetchone()[0], load.number()
    load.run(f"INSERT INTO rows_pg_default VALUES ({n}, 'drawn')")
    load.notes.write("sequence", value)
    load.notes.write("row", "rows_pg_default", n)


def change_tables(load: Load) -> None:
    """Create, move, rewrite and drop tables."""
    name, tablespace = f"t{load.number()}", load.random.choice(load.tablespaces)
    load.run(
        f"BEGIN; CREATE TABLE {name} (a int, b text) TABLESPACE {tablespace};"
        f" INSERT INTO {name} SELECT g, repeat('y', g) FROM generate_series(1, 100) g;"
        f" CREATE INDEX ON {name} (a) TABLESPACE {tablespace}; COMMIT"
    )
    load.notes.write("table", name, 100)
    load.tables.append(name)
    if load.random.random() < 0.3:
        load.run(f"ALTER TABLE {name} SET TABLESPACE {load.random.choice(load.tablespaces)}")
    if load.random.random() < 0.2:
        load.run(f"VACUUM FULL {name}")
    if len(load.tables) > 5:
        dropped = load.tables.pop(0)
        load.notes.write("dropping table", dropped)
        load.run(f"DROP TABLE {dropped}")
    time.sleep(0.05)


def change_databases(load: Load) -> None:
    """Create databases in both ways, and drop them."""
    name = f"d{load.number()}"
    strategy = load.random.choice(("wal_log", "file_copy"))
    tablespace = load.random.choice(load.tablespaces)
    load.run(f"CREATE DATABASE {name} TEMPLATE seed STRATEGY {strategy} TABLESPACE {tablespace}")
    load.notes.write("database", name)
    load.databases.append(name)
    if len(load.databases) > 1:
        dropped = load.databases.pop(0)
        load.notes.write("dropping database", dropped)
        load.run(f"DROP DATABASE {dropped}")
    time.sleep(0.5)


def lose_a_conflict(load: Load) -> None:
    """Leave the header of a first page in the buffers that no WAL record knows.

    An INSERT initializes the page before it finds that its transaction must fail.
    """
    table = f"c{load.number()}"
    load.run(f"CREATE TABLE {table} (n int)")
    load.notes.write("table", table, 0)
    connections = [load.site.connect() for _ in range(3)]
    try:
        reader, pivot, first = (connection.cursor() for connection in connections)
        for cursor in (reader, pivot, first):
            cursor.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        reader.execute(f"SELECT count(*) FROM {table}")
        pivot.execute("SELECT count(*) FROM conflicts")
        first.execute("SELECT 1")
        first.execute("INSERT INTO conflicts VALUES (1)")
        first.execute("COMMIT")
        try:
            pivot.execute(f"INSERT INTO {table} VALUES (1)")
        except psycopg2.errors.SerializationFailure:
            return
        pivot.execute("ROLLBACK")
    finally:
        for connection in connections:
            connection.close()
        time.sleep(0.2)


def maintain(load: Load) -> None:
    statement = load.random.choice(
        ("CHECKPOINT", "SELECT pg_switch_wal()", "VACUUM transfers", "VACUUM rows_pg_default")
    )
    load.run(statement)
    time.sleep(load.random.choice((0.3, 0.6, 1.0)))


class MixedLoad(Scenario):
    """Everything at once; WAL is recycled every other second."""

    name = "load"
    weight = 6
    steps: ClassVar[tuple[Step, ...]] = (
        *(insert, insert, transfer, draw_number),
        *(change_tables, change_databases, lose_a_conflict, maintain),
    )
    tablespaces: ClassVar[tuple[str, ...]] = ("pg_default", "own")

    def prepare(self, site: Site) -> None:
        site.create_keystore()
        site.init()
        site.start({**self.settings, "fsync": "off"})
        prepare_tables(site, self.tablespaces)
        site.stop()

    def act(self, site: Site, notes: Notes, seconds: float) -> None:
        site.start(self.settings)
        run_load(site, notes, seconds, self.steps, self.tablespaces)


class MixedLoadWithoutFullPageWrites(MixedLoad):
    """As load, on a disk that writes pages undivided: what full_page_writes=off asks of it."""

    name = "load-without-full-page-writes"
    weight = 2
    sectors = (8192,)
    settings: ClassVar[dict[str, str]] = {"full_page_writes": "off"}


def prepare_tables(site: Site, tablespaces: tuple[str, ...]) -> None:
    if "own" in tablespaces:
        site.create_tablespace_with_tde("own")
    for tablespace in tablespaces:
        site.query(
            f"CREATE TABLE rows_{tablespace} (n bigint PRIMARY KEY USING INDEX TABLESPACE"
            f" {tablespace}, x text) TABLESPACE {tablespace}"
        )
        site.query(f"CREATE INDEX ON rows_{tablespace} USING hash (n) TABLESPACE {tablespace}")
    site.query("CREATE TABLE transfers (id int PRIMARY KEY, v bigint, pad text)")
    site.query(
        "INSERT INTO transfers SELECT g, 0, repeat('x', 100) FROM generate_series(1, 1000) g"
    )
    site.query("CREATE TABLE conflicts (n int)")
    site.query("CREATE SEQUENCE numbers")
    site.query("CREATE DATABASE seed")
    site.query(
        "CREATE TABLE seed AS SELECT g, repeat('seed', 20) AS x"
        f" FROM generate_series(1, {SEED_ROWS}) g",
        "seed",
    )


def run_load(
    site: Site,
    notes: Notes,
    seconds: float,
    steps: tuple[Step, ...],
    tablespaces: tuple[str, ...] = ("pg_default",),
) -> None:
    """Run one client for each step, over and over, and pass on the first error of any."""
    deadline = time.monotonic() + seconds
    errors: list[Exception] = []

    def client(step: Step, name: str) -> None:
        try:
            load = Load(site, notes, name, tablespaces)
            while time.monotonic() < deadline and not errors:
                step(load)
                time.sleep(0.003)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=client, args=(step, f"{number} {step.__name__}"))
        for number, step in enumerate(steps)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
