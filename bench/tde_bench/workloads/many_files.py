"""Select-only work on many small relations, where opening files costs more than their pages."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import ClassVar

from tde_bench.errors import ConsistencyError
from tde_bench.servers.database import Connection, execute, fetch_value
from tde_bench.workloads.base import Driver, PgbenchWorkload

_SCHEMA = "tde_bench_many"
_PARTITIONED = "tde_bench_parts"
# Each table takes a lock until its transaction ends.
_TABLES_PER_TRANSACTION = 500
_PER_SCALE = 1000


def _make_tables(driver: Driver, statement: str, count: int) -> None:
    """Run a statement for each number below ``count``, in transactions of a few hundred."""
    with contextlib.closing(driver.server.connect()) as connection:
        for first in range(0, count, _TABLES_PER_TRANSACTION):
            last = min(first + _TABLES_PER_TRANSACTION, count) - 1
            body = f"FOR n IN {first}..{last} LOOP EXECUTE format($${statement}$$, n); END LOOP;"
            execute(connection, f"DO $do$ BEGIN {body} END $do$")


def _drop_tables(connection: Connection) -> None:
    """Remove the tables of an earlier scale, as many at a time as a transaction may lock."""
    some = (
        f"SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('{_SCHEMA}')::oid "
        f"LIMIT {_TABLES_PER_TRANSACTION}"
    )
    while fetch_value(connection, f"SELECT count(*) FROM ({some}) AS found"):
        body = f"FOR t IN {some} LOOP EXECUTE format('DROP TABLE {_SCHEMA}.%I', t); END LOOP;"
        execute(connection, f"DO $do$ DECLARE t name; BEGIN {body} END $do$")
    execute(connection, f"DROP SCHEMA IF EXISTS {_SCHEMA}")


class ManyRelations(PgbenchWorkload):
    """One of thousands of tables is read in each transaction; the scale counts thousands."""

    title: ClassVar[str] = "select-only on many relations"
    any_protocol: ClassVar[bool] = False  # A parameter cannot be part of a name.
    scale_unit: ClassVar[str] = "thousand relations"
    tables: ClassVar[Sequence[str]] = ()
    moves_pages: ClassVar[bool] = False
    arguments: ClassVar[Sequence[str]] = ()

    def set_up(self, driver: Driver, scale: int) -> None:
        """Create the tables with a row each."""
        with contextlib.closing(driver.server.connect()) as connection:
            _drop_tables(connection)
            execute(connection, f"CREATE SCHEMA {_SCHEMA}")
        statement = f"CREATE TABLE {_SCHEMA}.t%1$s AS SELECT 1 AS id, %1$s AS n"
        _make_tables(driver, statement, scale * _PER_SCALE)

    def script(self, scale: int) -> str:
        """Return the script; pgbench puts the number into the table's name."""
        return (
            f"\\set table random(0, {scale * _PER_SCALE - 1})\n"
            f"SELECT n FROM {_SCHEMA}.t:table WHERE id = 1;\n"
        )

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Look at the last table that was made."""
        _require_row(connection, f"{_SCHEMA}.t{_PER_SCALE - 1}", _PER_SCALE - 1, label)


def _require_row(connection: Connection, table: str, expected: int, label: str) -> None:
    found = fetch_value(connection, f"SELECT n FROM {table}")
    if found != expected:
        raise ConsistencyError(f"{table} of {label} holds {found} and not {expected}")


class Partitions(PgbenchWorkload):
    """Every query reads all partitions of a table, more than a process may have files open."""

    title: ClassVar[str] = "queries of many partitions"
    scale_unit: ClassVar[str] = "thousand partitions"
    tables: ClassVar[Sequence[str]] = (_PARTITIONED,)
    moves_pages: ClassVar[bool] = False
    arguments: ClassVar[Sequence[str]] = ()

    def set_up(self, driver: Driver, scale: int) -> None:
        """Create the table with a row in each partition."""
        count = scale * _PER_SCALE
        with contextlib.closing(driver.server.connect()) as connection:
            execute(connection, f"DROP TABLE IF EXISTS {_PARTITIONED}")
            execute(connection, f"CREATE TABLE {_PARTITIONED} (n integer) PARTITION BY LIST (n)")
        statement = (
            f"CREATE TABLE {_PARTITIONED}_%1$s PARTITION OF {_PARTITIONED} FOR VALUES IN (%1$s)"
        )
        _make_tables(driver, statement, count)
        with contextlib.closing(driver.server.connect()) as connection:
            execute(
                connection, f"INSERT INTO {_PARTITIONED} SELECT generate_series(0, {count - 1})"
            )

    def script(self, scale: int) -> str:
        """Return the script."""
        return f"SELECT sum(n) FROM {_PARTITIONED};\n"

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Compare the number of rows with that of the partitions."""
        rows, parts = (
            fetch_value(connection, query)
            for query in (
                f"SELECT count(*) FROM {_PARTITIONED}",
                f"SELECT count(*) FROM pg_inherits WHERE inhparent = '{_PARTITIONED}'::regclass",
            )
        )
        if rows != parts:
            raise ConsistencyError(f"{label} has {rows} rows in {parts} partitions")
