"""``tde-bench oltp``: a transactional workload on every configuration, in interleaved rounds."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tde.postgres import find_binaries
from tde_bench import tpcb
from tde_bench.canary import CanaryReport
from tde_bench.configurations import Configuration
from tde_bench.machine import (
    check_steal,
    compare_settings,
    describe_canary,
    describe_filesystem,
    describe_machine,
    describe_server,
)
from tde_bench.parameters import OltpParameters
from tde_bench.pgbench import clean_environment
from tde_bench.progress import Observer
from tde_bench.results import OltpResult, OltpRun, Point
from tde_bench.runner import Place, check_canary, running_servers
from tde_bench.schedule import Slot, rotated_rounds
from tde_bench.servers import Server, server_settings
from tde_bench.speed import find_openssl, measure_speed
from tde_bench.usage import Usage, read_usage
from tde_bench.workloads import Driver, Load, WorkloadName, workload


class OltpBenchmark:
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
        self._configurations = configurations
        self._parameters = parameters
        self._observer = observer
        self._save = save
        self._workload = workload(WorkloadName(parameters.workload))
        # Transactions that each server has confirmed since its tables were made.
        self._confirmed: dict[str, int] = {}
        self._canaries: dict[str, CanaryReport | None] = {}
        self.result = OltpResult(
            parameters=parameters.document(),
            labels={configuration.name: configuration.label for configuration in configurations},
        )

    def run(self, *, bindir: Path | None, directory: Path | None, keep: bool) -> None:
        """Run everything; :attr:`result` holds what was measured, also after an exception.

        Raises:
            BenchError: when the run cannot start or its results could not be trusted.
            KeyboardInterrupt: after an interruption, once servers and files are gone.
        """
        binaries = find_binaries(bindir)
        # Ephemeral servers must not see the user's PG* variables; existing ones may need them.
        ephemeral_only = all(configuration.dsn is None for configuration in self._configurations)
        environment = clean_environment() if ephemeral_only else dict(os.environ)
        pgbench = binaries.program("pgbench")
        settings = server_settings(self._parameters.shared_buffers, max(self._parameters.clients))
        place = Place(directory, binaries, settings, keep)
        self.result.status = "failed"
        try:
            # The load of the machine is looked at before the benchmark adds its own.
            describe_machine(self.result)
            with running_servers(self._configurations, place, self._observer) as running:
                if running.folder is not None:
                    describe_filesystem(self.result, running.folder)
                self._measure_all(
                    [Driver(server, pgbench, environment) for server in running.servers]
                )
            self.result.status = "complete"
        except KeyboardInterrupt:
            self.result.status = "interrupted"
            raise
        finally:
            self._save(self.result)

    def _measure_all(self, drivers: Sequence[Driver]) -> None:
        for driver in drivers:
            self._check(driver.server)
        for scale in self._parameters.scale:
            for driver in drivers:
                self._set_up(driver, scale)
            compare_settings(self.result)
            for driver in drivers:
                self._warm_up(driver, scale)
            self._measure_scale(drivers, scale)
        check_steal(
            self.result,
            stolen=sum(run.steal_seconds for run in self.result.runs),
            seconds=sum(run.seconds for run in self.result.runs),
        )

    def _measure_scale(self, drivers: Sequence[Driver], scale: int) -> None:
        """Measure all rounds; each of them takes every number of clients in turn."""
        rounds = self._parameters.rounds
        self._measure_speeds(0)
        for number, group in itertools.groupby(
            rotated_rounds(drivers, rounds), key=lambda slot: slot.round
        ):
            slots = list(group)
            for clients in self._parameters.clients:
                for slot in slots:
                    self.result.runs.append(self._measure(slot, Point(scale, clients)))
                    self._save(self.result)
            if number + 1 in (rounds // 2, rounds):
                self._measure_speeds(number)

    def _measure_speeds(self, number: int) -> None:
        """Measure the cipher alone at the beginning, in the middle and at the end."""
        openssl = find_openssl()
        encrypted = [c for c in self._configurations if c.algorithm is not None]
        if openssl is None and encrypted:
            self.result.warn("There is no openssl program, so the limit cannot be computed.")
        for configuration in encrypted if openssl is not None else []:
            assert openssl is not None
            self._observer.step(f"openssl speed, {configuration.label}")
            self.result.speeds.append(measure_speed(openssl, configuration, number))

    def _check(self, server: Server) -> None:
        """Look for the canary row."""
        label = server.configuration.label
        self._observer.step(f"{label}: looking for a canary row on disk")
        report = check_canary(server)
        self._observer.note(f"{label}: {describe_canary(report)}")
        self._canaries[server.configuration.name] = report

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

    def _measure(self, slot: Slot[Driver], point: Point) -> OltpRun:
        """Give one server its turn in one round."""
        driver, parameters = slot.item, self._parameters
        server = driver.server
        label = server.configuration.label
        title = f"round {slot.round + 1}/{parameters.rounds}, {label}"
        if parameters.points > 1:
            title += f", {self._workload.scale_unit} {point.scale}, clients {point.clients}"
        self._observer.step(f"{title}: settling")
        with contextlib.closing(server.connect()) as connection:
            self._workload.settle(connection)
            if server.can_checkpoint:
                tpcb.write_checkpoint(connection)
            started = datetime.datetime.now(datetime.timezone.utc)
            before = read_usage(server)
            # All configurations of a round draw the same random values.
            load = self._load(
                driver,
                point,
                title=title,
                seconds=parameters.duration,
                seed=parameters.seed + slot.round + 1,
            )
            if server.can_checkpoint:
                tpcb.write_checkpoint(connection)
            usage = read_usage(server).since(before)
            self._workload.verify(
                connection,
                label=label,
                confirmed=self._confirmed[server.configuration.name],
                in_turn=load.summary.transactions,
            )
        run = _make_run(slot, point, parameters, started, load, usage)
        self._observer.load_finished(describe_run(title, run))
        return run


def _make_run(
    slot: Slot[Driver],
    point: Point,
    parameters: OltpParameters,
    started: datetime.datetime,
    load: Load,
    usage: Usage,
) -> OltpRun:
    """Put the measurements of one turn together."""
    cpu_ms = None
    if usage.cpu_seconds is not None:
        cpu_ms = 1000 * usage.cpu_seconds / load.summary.transactions
    cipher = usage.cipher
    return OltpRun(
        round=slot.round,
        position=slot.position,
        configuration=slot.item.server.configuration.name,
        started=started.isoformat(timespec="seconds"),
        seconds=parameters.duration,
        transactions=load.summary.transactions,
        failed=load.summary.failed,
        tps=load.summary.tps,
        latency_mean_ms=load.latency.mean,
        latency_p50_ms=load.latency.p50,
        latency_p95_ms=load.latency.p95,
        latency_p99_ms=load.latency.p99,
        latency_max_ms=load.latency.maximum,
        cpu_seconds=usage.cpu_seconds,
        cpu_ms_per_transaction=cpu_ms,
        bytes_encrypted=cipher.bytes_encrypted if cipher else None,
        bytes_decrypted=cipher.bytes_decrypted if cipher else None,
        relation_bytes_encrypted=cipher.relation_bytes_encrypted if cipher else None,
        relation_bytes_decrypted=cipher.relation_bytes_decrypted if cipher else None,
        wal_bytes_encrypted=cipher.wal_bytes_encrypted if cipher else None,
        wal_bytes_decrypted=cipher.wal_bytes_decrypted if cipher else None,
        steal_seconds=usage.steal_seconds,
        clients=point.clients,
        scale=point.scale,
        ephemeral_bytes_encrypted=cipher.ephemeral_bytes_encrypted if cipher else None,
        ephemeral_bytes_decrypted=cipher.ephemeral_bytes_decrypted if cipher else None,
        tpm_c=load.tpm_c,
    )


def describe_run(title: str, run: OltpRun) -> str:
    """Say in one line what a turn measured."""
    cpu = (
        ""
        if run.cpu_ms_per_transaction is None
        else (f", {run.cpu_ms_per_transaction:.3f} CPU ms per transaction")
    )
    tpm_c = "" if run.tpm_c is None else f", {run.tpm_c:,.0f} tpmC"
    return f"{title}: {run.tps:,.0f} TPS{tpm_c}, p95 {run.latency_p95_ms:.2f} ms{cpu}"
