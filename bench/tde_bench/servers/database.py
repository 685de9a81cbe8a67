"""The few ways in which the benchmarks talk SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.sql import SQL, Composable, Identifier

__all__ = [
    "Connection",
    "connect",
    "create_database",
    "execute",
    "fetch_all",
    "fetch_row",
    "fetch_value",
    "write_checkpoint",
]

Query = str | Composable


def connect(dsn: str, password: str | None = None) -> Connection:
    """Connect in autocommit mode, which VACUUM and CREATE DATABASE need.

    Raises:
        psycopg2.OperationalError: when the server cannot be reached or refuses.
    """
    # A password of None leaves the choice to libpq (PGPASSWORD, ~/.pgpass).
    connection = psycopg2.connect(dsn, password=password)
    connection.autocommit = True
    return connection


def execute(connection: Connection, query: Query, parameters: Sequence[Any] = ()) -> None:
    """Run a statement and ignore what it returns."""
    with connection.cursor() as cursor:
        # None, not an empty sequence: with a sequence, psycopg2 would interpret % in the text.
        cursor.execute(query, parameters or None)


def fetch_all(
    connection: Connection, query: Query, parameters: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """Return all rows of a query."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters or None)
        return cursor.fetchall()


def fetch_row(
    connection: Connection, query: Query, parameters: Sequence[Any] = ()
) -> tuple[Any, ...]:
    """Return the first row of a query that always has one."""
    return fetch_all(connection, query, parameters)[0]


def fetch_value(connection: Connection, query: Query, parameters: Sequence[Any] = ()) -> Any:
    """Return the first column of the first row of a query that always has one."""
    return fetch_row(connection, query, parameters)[0]


def create_database(connection: Connection, name: str) -> None:
    """Create a database of that name, which may be any."""
    execute(connection, SQL("CREATE DATABASE {}").format(Identifier(name)))


def write_checkpoint(connection: Connection) -> None:
    """Write all dirty buffers to disk."""
    execute(connection, "CHECKPOINT")
