"""A workload: data, a load, and a check that the data fits the load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tde_bench.measure.statistics import Values
from tde_bench.servers.database import Connection, execute
from tde_bench.servers.server import Server
from tde_bench.workloads.pgbench import Pgbench, PgbenchOptions, Summary

Progress = Callable[[float, float | None], None]


@dataclass(frozen=True)
class LoadOptions:
    """How to drive a load.

    Attributes:
        clients: concurrent sessions.
        jobs: threads or processes of the driving program.
        protocol: "simple", "extended" or "prepared", as pgbench knows them.
        rate: transactions per second of all clients; None for as many as possible.
    """

    clients: int
    jobs: int
    protocol: str = "simple"
    rate: float | None = None


@dataclass(frozen=True)
class Load:
    """What one run of a load achieved.

    Attributes:
        latencies: of every transaction, in milliseconds.
        asked_seconds: how long it was told to run.
        tpm_c: New-Order transactions per minute, of TPC-C only.
    """

    summary: Summary
    latencies: Values
    asked_seconds: int
    tpm_c: float | None = None


@dataclass(frozen=True)
class Driver:
    """What drives a load on one server."""

    server: Server
    pgbench_program: Path

    @property
    def pgbench(self) -> Pgbench:
        """Return pgbench for the server."""
        server = self.server
        return Pgbench(self.pgbench_program, server.dsn, server.client_environment)


class Workload(ABC):
    """One workload.

    Attributes:
        title: what people read above the table.
        scale_unit: what the scale counts.
        tables: what is vacuumed before each turn.
        moves_pages: tells whether the data is meant to be larger than shared_buffers.
        options_apply: tells whether ``--protocol`` and ``--rate`` mean anything.
        any_protocol: tells whether ``--protocol`` may be another than "simple".
    """

    title: ClassVar[str]
    scale_unit: ClassVar[str] = "scale"
    tables: ClassVar[Sequence[str]]
    moves_pages: ClassVar[bool] = True
    options_apply: ClassVar[bool] = True
    any_protocol: ClassVar[bool] = True

    @abstractmethod
    def set_up(self, driver: Driver, scale: int) -> None:
        """Create the tables with identical rows on every server, replacing older ones."""

    @abstractmethod
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
        """Drive the load for that time; equal seeds draw equal random values."""

    def settle(self, connection: Connection) -> None:
        """Bring the tables to the state that every turn starts from.

        Dead row versions of the previous turn are removed. Autovacuum would do the same, but at
        moments of its own choosing.
        """
        for table in self.tables:
            execute(connection, f"VACUUM {table}")

    @abstractmethod
    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Stop the run when the data contradicts the transactions.

        Args:
            connection: to the database.
            label: the configuration, for the message.
            confirmed: transactions that the server has confirmed since :meth:`set_up`.
            in_turn: those of them since :meth:`settle`.

        Raises:
            ConsistencyError: when confirmed changes are missing or the data is inconsistent.
        """


class PgbenchWorkload(Workload):
    """A workload that pgbench drives; ``arguments`` choose its script."""

    arguments: ClassVar[Sequence[str]]

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
        """Run pgbench."""
        result = driver.pgbench.run(
            PgbenchOptions(
                clients=options.clients,
                jobs=options.jobs,
                protocol=options.protocol,
                rate=options.rate,
                arguments=tuple(self.arguments),
                script=self.script(scale),
            ),
            seconds=seconds,
            seed=seed,
            on_progress=on_progress,
        )
        return Load(result.summary, result.latencies, seconds)

    def script(self, scale: int) -> str | None:
        """Return the script, None for one that is built into pgbench."""
        return None
