"""pgbench's own workloads: TPC-B, its reads alone, and its updates without the small tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tde_bench.errors import ConsistencyError
from tde_bench.servers.database import Connection
from tde_bench.workloads.base import Driver, PgbenchWorkload
from tde_bench.workloads.tpcb_tables import TABLES, read_sums, require_consistent


class TpcB(PgbenchWorkload):
    """pgbench's TPC-B: four rows change, one is inserted, in each transaction."""

    title: ClassVar[str] = "pgbench TPC-B"
    tables: ClassVar[Sequence[str]] = TABLES
    arguments: ClassVar[Sequence[str]] = ("--builtin=tpcb-like",)

    def set_up(self, driver: Driver, scale: int) -> None:
        """Let pgbench create its tables."""
        driver.pgbench.initialize(scale)

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Compare the four sums, and the history with what was confirmed."""
        require_consistent(read_sums(connection), label=label, at_least=confirmed)


class SelectOnly(TpcB):
    """Reads of single accounts by primary key; pages of data outside shared_buffers."""

    title: ClassVar[str] = "pgbench select-only"
    arguments: ClassVar[Sequence[str]] = ("--builtin=select-only",)

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Compare the sums, which stay zero."""
        require_consistent(read_sums(connection), label=label, at_least=0)


class Connect(SelectOnly):
    """A new session for each account that is read."""

    title: ClassVar[str] = "a connection for each transaction"
    arguments: ClassVar[Sequence[str]] = ("--builtin=select-only", "--connect")


class SimpleUpdate(TpcB):
    """TPC-B without the branches and tellers for whose few rows sessions wait."""

    title: ClassVar[str] = "pgbench simple-update"
    arguments: ClassVar[Sequence[str]] = ("--builtin=simple-update",)

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Compare accounts and history, the two tables that change."""
        sums = read_sums(connection)
        if sums.accounts != sums.history or sums.tellers or sums.branches:
            raise ConsistencyError(f"the sums of {label} disagree: {sums}")
        if sums.transactions < confirmed:
            raise ConsistencyError(
                f"{label} confirmed {confirmed} transactions but holds {sums.transactions}"
            )
