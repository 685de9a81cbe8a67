"""``tde-bench oltp``: pgbench TPC-B on every configuration, in interleaved rounds."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tde.postgres import find_binaries
from tde_bench import tpcb
from tde_bench.configurations import Configuration
from tde_bench.machine import (
    check_steal,
    compare_settings,
    describe_canary,
    describe_filesystem,
    describe_machine,
    describe_server,
)
from tde_bench.pgbench import PgbenchOptions, PgbenchResult, clean_environment
from tde_bench.progress import Observer
from tde_bench.results import OltpResult, OltpRun
from tde_bench.runner import Place, check_canary, running_servers
from tde_bench.schedule import Slot, rotated_rounds
from tde_bench.servers import Server, server_settings
from tde_bench.usage import Usage, read_usage


@dataclass(frozen=True)
class OltpParameters:
    """How much to run. Durations are in seconds; the defaults suit a machine with two cores.

    Scale 20 is about 300 MB of data, nine times the default shared_buffers. Many short rounds
    give a better median of ratios than a few long ones; twelve is a multiple of two and of
    three, so that every configuration takes every position in a round equally often.
    """

    scale: int = 20
    clients: int = 4
    jobs: int = 2
    duration: int = 15
    rounds: int = 12
    warmup: int = 10
    shared_buffers: str = "32MB"
    seed: int = 1

    @classmethod
    def quick(cls) -> OltpParameters:
        """Return values that keep a whole run with three configurations under 90 seconds."""
        return cls(scale=10, duration=4, rounds=3, warmup=2, shared_buffers="16MB")

    def with_given(self, **values: Any) -> OltpParameters:
        """Return a copy with those values replaced that are not None."""
        given = {name: value for name, value in values.items() if value is not None}
        return dataclasses.replace(self, **given)

    def load_seconds(self, configurations: int) -> int:
        """Return the seconds under load of a whole run."""
        return configurations * (self.warmup + self.rounds * self.duration)


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
        self._options = PgbenchOptions(clients=parameters.clients, jobs=parameters.jobs)
        # Transactions that each server has confirmed, which its history must hold.
        self._confirmed = {configuration.name: 0 for configuration in configurations}
        self.result = OltpResult(
            parameters=asdict(parameters),
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
        settings = server_settings(self._parameters.shared_buffers)
        place = Place(directory, binaries, settings, keep)
        self.result.status = "failed"
        try:
            # The load of the machine is looked at before the benchmark adds its own.
            describe_machine(self.result)
            with running_servers(self._configurations, place, self._observer) as running:
                if running.folder is not None:
                    describe_filesystem(self.result, running.folder)
                self._measure_all(running.servers, pgbench, environment)
            self.result.status = "complete"
        except KeyboardInterrupt:
            self.result.status = "interrupted"
            raise
        finally:
            self._save(self.result)

    def _measure_all(
        self, servers: Sequence[Server], pgbench: Path, environment: dict[str, str]
    ) -> None:
        for server in servers:
            self._set_up(server, pgbench, environment)
        compare_settings(self.result)
        for server in servers:
            self._warm_up(server, pgbench, environment)
        for slot in rotated_rounds(servers, self._parameters.rounds):
            self.result.runs.append(self._measure(slot, pgbench, environment))
            self._save(self.result)
        check_steal(
            self.result,
            stolen=sum(run.steal_seconds for run in self.result.runs),
            seconds=sum(run.seconds for run in self.result.runs),
        )

    def _set_up(self, server: Server, pgbench: Path, environment: dict[str, str]) -> None:
        """Check the canary, then create the data and note what a reader must know."""
        configuration = server.configuration
        self._observer.step(f"{configuration.label}: looking for a canary row on disk")
        report = check_canary(server)
        self._observer.note(f"{configuration.label}: {describe_canary(report)}")
        self._observer.step(f"{configuration.label}: creating scale {self._parameters.scale}")
        server.pgbench(pgbench, environment).initialize(self._parameters.scale)
        describe_server(self.result, server, report)

    def _warm_up(self, server: Server, pgbench: Path, environment: dict[str, str]) -> None:
        """Fill the caches and create WAL segments, so that the first round is like the others."""
        if self._parameters.warmup == 0:
            return
        label = server.configuration.label
        self._observer.load_started(f"warm-up, {label}", self._parameters.warmup)
        result = server.pgbench(pgbench, environment).run(
            self._options,
            seconds=self._parameters.warmup,
            seed=self._parameters.seed,
            on_progress=self._observer.load_progress,
        )
        self._confirmed[server.configuration.name] += result.summary.transactions
        self._observer.load_finished(f"warm-up, {label}: not counted")

    def _measure(self, slot: Slot[Server], pgbench: Path, environment: dict[str, str]) -> OltpRun:
        """Give one server its turn in one round."""
        server, parameters = slot.item, self._parameters
        label = server.configuration.label
        title = f"round {slot.round + 1}/{parameters.rounds}, {label}"
        self._observer.step(f"{title}: settling")
        with contextlib.closing(server.connect()) as connection:
            tpcb.settle(connection, checkpoint=server.can_checkpoint)
            started = datetime.datetime.now(datetime.timezone.utc)
            before = read_usage(server)
            self._observer.load_started(title, parameters.duration)
            load = server.pgbench(pgbench, environment).run(
                self._options,
                seconds=parameters.duration,
                # All configurations of a round draw the same random accounts.
                seed=parameters.seed + slot.round + 1,
                on_progress=self._observer.load_progress,
            )
            if server.can_checkpoint:
                tpcb.write_checkpoint(connection)
            usage = read_usage(server).since(before)
            self._confirmed[server.configuration.name] += load.summary.transactions
            sums = tpcb.read_sums(connection)
        tpcb.require_consistent(
            sums, label=label, at_least=self._confirmed[server.configuration.name]
        )
        run = _make_run(slot, parameters, started, load, usage)
        self._observer.load_finished(describe_run(title, run))
        return run


def _make_run(
    slot: Slot[Server],
    parameters: OltpParameters,
    started: datetime.datetime,
    load: PgbenchResult,
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
        configuration=slot.item.configuration.name,
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
    )


def describe_run(title: str, run: OltpRun) -> str:
    """Say in one line what a turn measured."""
    cpu = (
        ""
        if run.cpu_ms_per_transaction is None
        else (f", {run.cpu_ms_per_transaction:.3f} CPU ms per transaction")
    )
    return f"{title}: {run.tps:,.0f} TPS, p95 {run.latency_p95_ms:.2f} ms{cpu}"
