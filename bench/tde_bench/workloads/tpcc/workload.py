"""A workload like TPC-C, driven from psycopg2 without think times."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import ClassVar

from tde_bench.servers.database import Connection
from tde_bench.workloads.base import Driver, Load, LoadOptions, Progress, Workload
from tde_bench.workloads.tpcc import schema
from tde_bench.workloads.tpcc.driver import drive


class TpcC(Workload):
    """The five transactions of TPC-C in their mix; not a TPC-C result (see docs)."""

    title: ClassVar[str] = "TPC-C-like"
    scale_unit: ClassVar[str] = "warehouses"
    tables: ClassVar[Sequence[str]] = schema.TABLES
    options_apply: ClassVar[bool] = False

    def set_up(self, driver: Driver, scale: int) -> None:
        """Create and fill the nine tables."""
        with contextlib.closing(driver.server.connect()) as connection:
            schema.create(connection, warehouses=scale)

    def run(
        self,
        driver: Driver,
        options: LoadOptions,
        *,
        scale: int,
        seconds: int,
        seed: int,
        on_progress: Progress,
    ) -> Load:
        """Start worker processes and put together what they measured."""
        return drive(
            driver,
            clients=options.clients,
            jobs=options.jobs,
            warehouses=scale,
            seconds=seconds,
            seed=seed,
            on_progress=on_progress,
        )

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Check the consistency conditions of the specification that tie the tables together."""
        schema.require_consistent(connection, label=label)
