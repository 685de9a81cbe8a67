"""Many sessions that update random rows of a table far larger than shared_buffers.

Each turn starts after a checkpoint, so that nearly every update is the first change of its page
since then and puts the whole page into WAL (full_page_writes). A page is decrypted when it is
read, encrypted as part of WAL, and encrypted again when it is written: the worst case of OLTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tde_bench.errors import ConsistencyError
from tde_bench.servers.database import Connection, fetch_value
from tde_bench.workloads.base import Driver, PgbenchWorkload

_ROWS_PER_SCALE = 100_000


class RandomUpdate(PgbenchWorkload):
    """One random row of pgbench_accounts changes in each transaction."""

    title: ClassVar[str] = "random updates with full-page writes"
    tables: ClassVar[Sequence[str]] = ("pgbench_accounts",)
    arguments: ClassVar[Sequence[str]] = ()

    def set_up(self, driver: Driver, scale: int) -> None:
        """Let pgbench create its tables, of which only the accounts are used."""
        driver.pgbench.initialize(scale)

    def script(self, scale: int) -> str:
        """Return the script; each change adds one, so that changes can be counted."""
        return (
            f"\\set aid random(1, {scale * _ROWS_PER_SCALE})\n"
            "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n"
        )

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Compare the number of changes with the transactions."""
        changes = int(fetch_value(connection, "SELECT sum(abalance) FROM pgbench_accounts"))
        if changes < confirmed:
            raise ConsistencyError(f"{label} confirmed {confirmed} updates but holds {changes}")
