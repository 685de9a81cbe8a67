"""Inserts that are bound by WAL: each transaction appends a hundred rows to an empty table."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import ClassVar

from tde_bench.errors import ConsistencyError
from tde_bench.servers.database import Connection, execute, fetch_value
from tde_bench.workloads.base import Driver, PgbenchWorkload

TABLE = "tde_bench_inserts"
ROWS_PER_TRANSACTION = 100
# Short enough to stay in the row, and so uncompressed.
_ROW_BYTES = 200


class WalInsert(PgbenchWorkload):
    """One INSERT of a hundred rows, about 25 kB of WAL, in each transaction."""

    title: ClassVar[str] = "WAL-bound inserts"
    tables: ClassVar[Sequence[str]] = (TABLE,)
    moves_pages: ClassVar[bool] = False
    arguments: ClassVar[Sequence[str]] = ()

    def set_up(self, driver: Driver, scale: int) -> None:
        """Create an empty table without an index; the scale has no meaning here."""
        with contextlib.closing(driver.server.connect()) as connection:
            execute(connection, f"DROP TABLE IF EXISTS {TABLE}")
            execute(connection, f"CREATE TABLE {TABLE} (client integer, number integer, text text)")

    def script(self, scale: int) -> str:
        """Return the script."""
        return (
            f"INSERT INTO {TABLE} SELECT :client_id, g, repeat('x', {_ROW_BYTES}) "
            f"FROM generate_series(1, {ROWS_PER_TRANSACTION}) g;\n"
        )

    def settle(self, connection: Connection) -> None:
        """Remove the rows of the previous turn, which would only fill the disk."""
        execute(connection, f"TRUNCATE {TABLE}")

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Count the rows of the turn."""
        rows = int(fetch_value(connection, f"SELECT count(*) FROM {TABLE}"))
        if rows < in_turn * ROWS_PER_TRANSACTION:
            raise ConsistencyError(
                f"{label} confirmed {in_turn * ROWS_PER_TRANSACTION} rows but holds {rows}"
            )
