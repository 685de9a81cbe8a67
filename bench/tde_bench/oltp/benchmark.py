"""``tde-bench oltp``: a transactional workload on every configuration, in interleaved slices."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from tde.postgres import PostgresBinaries, find_binaries
from tde_bench.configurations import Configuration
from tde_bench.measure.cipher_speed import measure_speeds
from tde_bench.measure.machine import check_steal
from tde_bench.measure.observer import Observer
from tde_bench.measure.schedule import Slot, rotated, rotated_rounds
from tde_bench.oltp.parameters import OltpParameters
from tde_bench.oltp.results import OltpResult, OltpRun, Point
from tde_bench.oltp.sliced_turn import SlicedTurn
from tde_bench.servers.benchmark import ServerBenchmark
from tde_bench.servers.database import write_checkpoint
from tde_bench.servers.description import (
    compare_settings,
    describe_server,
    disown_shared_servers,
    encrypting_libraries,
)
from tde_bench.servers.ephemeral import ephemeral_settings
from tde_bench.servers.running import Place
from tde_bench.workloads.base import Driver, Load
from tde_bench.workloads.catalogue import workload
from tde_bench.workloads.names import WorkloadName


class OltpBenchmark(ServerBenchmark[OltpResult]):
    """One run of the benchmark.

    Args:
        configurations: what to compare; the first one is the baseline.
        save: called with the result after every measured turn and at the end.
    """

    def __init__(
        self,
        configurations: Sequence[Configuration],
        parameters: OltpParameters,
        observer: Observer,
        save: Callable[[OltpResult], None],
    ) -> None:
        labels = {configuration.name: configuration.label for configuration in configurations}
        result = OltpResult(parameters=parameters.document(), labels=labels)
        super().__init__(configurations, result, observer, save)
        self._parameters = parameters
        self._workload = workload(WorkloadName(parameters.workload))
        # Transactions that each server has confirmed since its tables were made.
        self._confirmed: dict[str, int] = {}

    def run(self, *, bindir: Path | None, directory: Path | None, keep: bool) -> None:
        """Run everything; :attr:`result` holds what was measured, also after an exception.

        Raises:
            BenchError: when the run cannot start or its results could not be trusted.
            KeyboardInterrupt: after an interruption, once servers and files are gone.
        """
        self._run_with(find_binaries(bindir), directory, keep=keep)

    def _run_with(self, binaries: PostgresBinaries, directory: Path | None, *, keep: bool) -> None:
        """Run everything with the programs of one installation."""
        parameters = self._parameters
        pgbench = binaries.program("pgbench")
        settings = ephemeral_settings(parameters.shared_buffers, max(parameters.clients))
        settings |= parameters.settings
        place = Place(directory, binaries, settings, keep)
        with self._recorded(), self._running(place) as servers:
            disown_shared_servers(self.result, servers)
            self._measure_all([Driver(server, pgbench) for server in servers])

    def _measure_all(self, drivers: Sequence[Driver]) -> None:
        drivers = self._prepare(drivers, lambda driver: self._check(driver.server))
        for scale in self._parameters.scale:
            drivers = self._prepare(drivers, functools.partial(self._set_up, scale=scale))
            # Before the warm-up, so that a run which ends there says it as well.
            compare_settings(self.result)
            drivers = self._prepare(drivers, functools.partial(self._warm_up, scale=scale))
            self._measure_scale(drivers, scale)
        check_steal(
            self.result,
            stolen=sum(run.steal_seconds for run in self.result.runs),
            seconds=sum(run.seconds for run in self.result.runs),
        )

    def _prepare(
        self, drivers: Sequence[Driver], step: Callable[[Driver], None]
    ) -> Sequence[Driver]:
        """Take every server through a step before the rounds; return those that are measured."""
        for driver in drivers:
            step(driver)
        return drivers

    def _measure_scale(self, drivers: Sequence[Driver], scale: int) -> None:
        """Measure all rounds; each of them takes every number of clients in turn."""
        for number, group in itertools.groupby(
            rotated_rounds(drivers, self._parameters.rounds), key=lambda slot: slot.round
        ):
            slots = list(group)
            libraries = encrypting_libraries([driver.server for driver in drivers])
            self.result.speeds += measure_speeds(libraries, number, self.result, self._observer)
            for clients in self._parameters.clients:
                self._measure_round(slots, Point(scale, clients))

    def _set_up(self, driver: Driver, scale: int) -> None:
        """Create the data and note what a reader must know."""
        configuration = driver.server.configuration
        unit = self._workload.scale_unit
        self._observer.step(f"{configuration.label}: creating data, {unit} {scale}")
        self._workload.set_up(driver, scale)
        self._confirmed[configuration.name] = 0
        describe_server(
            self.result,
            driver.server,
            self._canaries[configuration.name],
            moves_pages=self._workload.moves_pages,
        )

    def _load(self, driver: Driver, point: Point, *, title: str, seconds: int, seed: int) -> Load:
        """Drive the workload and count what the server confirmed."""
        self._observer.load_started(title, seconds)
        load = self._workload.run(
            driver,
            self._parameters.load_options(point.clients),
            scale=point.scale,
            seconds=seconds,
            seed=seed,
            on_progress=self._observer.load_progress,
        )
        self._confirmed[driver.server.configuration.name] += load.summary.transactions
        return load

    def _warm_up(self, driver: Driver, scale: int) -> None:
        """Fill the caches and create WAL segments, so that the first round is like the others."""
        parameters = self._parameters
        if parameters.warmup == 0:
            return
        title = f"warm-up, {driver.server.configuration.label}"
        point = Point(scale, max(parameters.clients))
        self._load(driver, point, title=title, seconds=parameters.warmup, seed=parameters.seed)
        self._observer.load_finished(f"{title}: not counted")

    def _measure_round(self, slots: Sequence[Slot[Driver]], point: Point) -> None:
        """Give every server its turn; their slices alternate."""
        with contextlib.ExitStack() as stack:
            turns = [self._begin(slot, point, stack) for slot in slots]
            for number, seconds in enumerate(self._parameters.slices):
                for turn in rotated(turns, number):
                    self._measure_slice(turn, number, seconds)
            for turn in turns:
                self.result.runs.append(self._end(turn))
        self._save(self.result)

    def _title(self, turn: SlicedTurn) -> str:
        parameters, point = self._parameters, turn.point
        label = turn.driver.server.configuration.label
        title = f"round {turn.slot.round + 1}/{parameters.rounds}, {label}"
        if parameters.points > 1:
            title += f", {self._workload.scale_unit} {point.scale}, clients {point.clients}"
        return title

    def _begin(self, slot: Slot[Driver], point: Point, stack: contextlib.ExitStack) -> SlicedTurn:
        """Bring a server to the state that every turn starts from.

        It is a new server in each turn: where in memory one lies makes it 1 to 2 % faster or slower
        for as long as it lives, which no number of rounds of the same server would average out.
        """
        self._observer.step(f"starting {slot.item.server.configuration.label} anew")
        slot.item.server.renew()
        connection = stack.enter_context(contextlib.closing(slot.item.server.connect()))
        turn = SlicedTurn(slot, point, connection)
        self._observer.step(f"{self._title(turn)}: settling")
        self._workload.settle(connection)
        if slot.item.server.can_checkpoint:
            write_checkpoint(connection)
        return turn

    def _measure_slice(self, turn: SlicedTurn, number: int, seconds: int) -> None:
        parameters = self._parameters
        turn.take_slice(
            lambda: self._load(
                turn.driver,
                turn.point,
                title=self._title(turn),
                seconds=seconds,
                # All configurations of a slice draw the same random values.
                seed=parameters.seed + 1 + turn.slot.round * len(parameters.slices) + number,
            )
        )
        self._observer.load_finished(None)

    def _end(self, turn: SlicedTurn) -> OltpRun:
        """Write what is left to be written, and check what the turn has left behind."""
        server = turn.driver.server
        turn.read()
        if server.can_checkpoint:
            self._observer.step(f"{self._title(turn)}: checkpoint")
            write_checkpoint(turn.connection)
        turn.read()
        run = turn.run()
        self._workload.verify(
            turn.connection,
            label=server.configuration.label,
            confirmed=self._confirmed[server.configuration.name],
            in_turn=run.transactions,
        )
        self._observer.note(describe_run(self._title(turn), run))
        return run


def describe_run(title: str, run: OltpRun) -> str:
    """Say in one line what a turn measured."""
    cpu = (
        ""
        if run.cpu_ms_per_transaction is None
        else (f", {run.cpu_ms_per_transaction:.3f} CPU ms per transaction")
    )
    tpm_c = "" if run.tpm_c is None else f", {run.tpm_c:,.0f} tpmC"
    return f"{title}: {run.tps:,.0f} TPS{tpm_c}, p95 {run.latency_p95_ms:.2f} ms{cpu}"
