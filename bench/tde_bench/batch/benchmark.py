"""Running the batch: every phase on every server before the next phase begins."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tde.postgres import find_binaries
from tde_bench.batch.phases import Phase, phases, write_data
from tde_bench.batch.results import BatchResult, BatchRun
from tde_bench.batch.target import Answer, Measurement, Target
from tde_bench.configurations import Configuration
from tde_bench.errors import ConsistencyError
from tde_bench.measure.cipher_speed import measure_speeds
from tde_bench.measure.machine import check_steal
from tde_bench.measure.observer import Observer
from tde_bench.measure.parameters import Parameters
from tde_bench.measure.schedule import Slot, rotated
from tde_bench.servers.benchmark import ServerBenchmark
from tde_bench.servers.description import (
    compare_settings,
    describe_server,
    encrypting_libraries,
)
from tde_bench.servers.ephemeral import EphemeralServer, ephemeral_settings
from tde_bench.servers.running import Place
from tde_bench.servers.server import Server

# More of a table in the page cache, and a scan of it is not cold.
_MAXIMUM_CACHED = 0.01
_DATA_FILE = "rows.copy"


@dataclass(frozen=True)
class BatchParameters(Parameters):
    """How much to run; the defaults suit a machine with two cores.

    Scale 5 is a table of about 80 MB, five times the default shared_buffers; with its copy,
    its indexes and its dead rows, the data is more than ten times as large.
    """

    scale: int = 5
    rounds: int = 6
    shared_buffers: str = "16MB"
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def quick(cls) -> BatchParameters:
        """Return values that keep a whole run with five configurations under 90 seconds."""
        return cls(scale=1, rounds=2, shared_buffers="4MB")


class BatchBenchmark(ServerBenchmark[BatchResult]):
    """One run of the benchmark.

    Args:
        configurations: what to compare; the first one is the baseline.
        save: called with the result after every measured phase and at the end.
    """

    def __init__(
        self,
        configurations: Sequence[Configuration],
        parameters: BatchParameters,
        observer: Observer,
        save: Callable[[BatchResult], None],
    ) -> None:
        self._parameters = parameters
        self._phases = phases()
        result = BatchResult(
            parameters=asdict(parameters),
            labels={configuration.name: configuration.label for configuration in configurations},
            phases={phase.name: phase.label for phase in self._phases},
        )
        super().__init__(configurations, result, observer, save)

    def run(self, *, bindir: Path | None, directory: Path | None, keep: bool) -> None:
        """Run everything; :attr:`result` holds what was measured, also after an exception.

        Raises:
            BenchError: when the run cannot start or its results could not be trusted.
            KeyboardInterrupt: after an interruption, once servers and files are gone.
        """
        parameters = self._parameters
        settings = ephemeral_settings(parameters.shared_buffers) | parameters.settings
        place = Place(directory, find_binaries(bindir), settings, keep)
        with self._recorded(), self._running(place) as servers:
            self._measure_all(servers)

    def _measure_all(self, servers: Sequence[Server]) -> None:
        with contextlib.ExitStack() as stack:
            targets: list[Target] = []
            for server in servers:
                assert isinstance(server, EphemeralServer)
                self._check(server)
                # The first server writes the file for all of them, into its own folder.
                file = targets[0].data_file if targets else server.folder / _DATA_FILE
                targets.append(Target(server, file))
                stack.callback(targets[-1].close)
            self._observer.step("writing the file to load")
            write_data(targets[0], self._parameters.scale)
            for number in range(self._parameters.rounds):
                libraries = encrypting_libraries(servers)
                self.result.speeds += measure_speeds(libraries, number, self.result, self._observer)
                self._round(number, targets)
        check_steal(
            self.result,
            stolen=sum(run.steal_seconds for run in self.result.runs),
            seconds=sum(run.seconds for run in self.result.runs),
        )
        kept = max(target.still_cached for target in targets)
        if kept > _MAXIMUM_CACHED:
            self.result.warn(
                f"The page cache kept up to {kept:.0%} of the table that the cold scan was to "
                "read from the disk, so that scan was not cold."
            )

    def _round(self, number: int, targets: Sequence[Target]) -> None:
        for index, phase in enumerate(self._phases):
            # Each phase starts with the next configuration, and each round as well.
            answers: dict[str, Answer] = {}
            for position, target in enumerate(rotated(targets, number + index)):
                slot = Slot(number, position, target)
                answers[target.server.configuration.label] = self._measure(slot, phase)
            require_same_answers(phase, answers)
            if not self.result.facts:
                self._describe_servers(targets)

    def _describe_servers(self, targets: Sequence[Target]) -> None:
        """Describe the servers once they hold the data, of which the size is a part."""
        for target in targets:
            server = target.server
            describe_server(self.result, server, self._canaries[server.configuration.name])
        compare_settings(self.result)

    def _measure(self, slot: Slot[Target], phase: Phase) -> Answer:
        """Give one server its turn in one phase."""
        target = slot.item
        configuration = target.server.configuration
        title = (
            f"round {slot.round + 1}/{self._parameters.rounds}, {phase.label}, "
            f"{configuration.label}"
        )
        self._observer.step(f"{title}: preparing")
        phase.prepare(target)
        self._observer.load_started(title, 1)
        started = datetime.datetime.now(datetime.timezone.utc)
        measurement = phase.measure(target)
        self.result.runs.append(_make_run(slot, phase, started, measurement))
        self._observer.load_finished(None)
        phase.clean_up(target)
        self._save(self.result)
        return measurement.answer


def turns(configurations: Sequence[Configuration], parameters: BatchParameters) -> int:
    """Return the number of measurements of a whole run."""
    return len(configurations) * len(phases()) * parameters.rounds


def require_same_answers(phase: Phase, answers: dict[str, Answer]) -> None:
    """Stop the run when the servers do not agree about the data.

    Raises:
        ConsistencyError: with all answers.
    """
    if len(set(answers.values())) > 1:
        raise ConsistencyError(f"{phase.label}: the servers give different answers: {answers}")


def _make_run(
    slot: Slot[Target], phase: Phase, started: datetime.datetime, measurement: Measurement
) -> BatchRun:
    """Put the measurements of one phase together."""
    return BatchRun(
        round=slot.round,
        position=slot.position,
        configuration=slot.item.server.configuration.name,
        phase=phase.name,
        started=started.isoformat(timespec="seconds"),
        seconds=measurement.seconds,
        cpu_seconds=measurement.usage.cpu_seconds,
        client_cpu_seconds=measurement.client_cpu_seconds,
        **measurement.usage.cipher_bytes(),
        steal_seconds=measurement.usage.steal_seconds,
    )
