"""Making recorded calls again: through libc alone and through the interposer, one after the other.

All processes are up at the same time and only one of them works at any moment, in turns of a few
milliseconds, so that they share the state of the machine. What counts is the minimum of many turns:
a machine is disturbed into being slower, never into being faster.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tde import _core
from tde.algorithms import Algorithm
from tde.page.libcrypto import choose_libcrypto, find_libcrypto
from tde_bench.configurations import HARDWARE_AES
from tde_bench.io.player import Player, player_directory
from tde_bench.io.results import BARE, CIPHER, CIPHER_PAGES, REPLAY, IoResult, IoRun
from tde_bench.io.trace import Stream, Trace
from tde_bench.measure.benchmark import Benchmark
from tde_bench.measure.machine import check_steal
from tde_bench.measure.metadata import filesystem_of
from tde_bench.measure.observer import Observer
from tde_bench.measure.parameters import Parameters
from tde_bench.measure.usage import steal_seconds

_BASELINE = "none"


@dataclass(frozen=True)
class IoParameters(Parameters):
    """How much to run.

    Attributes:
        rounds: turns of each stream.
        repeats: of a stream in a turn, of which the fastest counts: the first one brings into the
            caches what the process before has thrown out.
    """

    rounds: int = 40
    repeats: int = 3

    @classmethod
    def quick(cls) -> IoParameters:
        """Return values that keep a whole run under half a minute."""
        return cls(rounds=6, repeats=2)


@dataclass(frozen=True)
class IoConfiguration:
    """What encrypts.

    Attributes:
        algorithm: None without encryption.
        libcrypto: None for the system's.
    """

    name: str
    label: str
    algorithm: Algorithm | None = None
    libcrypto: Path | None = None


def io_configurations(algorithms: Sequence[Algorithm]) -> list[IoConfiguration]:
    """Return the baseline, and per algorithm the chosen libcrypto and, if another, the system's."""
    made = [IoConfiguration(_BASELINE, "no encryption")]
    chosen = find_libcrypto()
    for algorithm in sorted(algorithms, key=lambda each: each.aes_bits):
        name, label = f"aes{algorithm.aes_bits}", f"AES-{algorithm.aes_bits}"
        made.append(IoConfiguration(name, label, algorithm, chosen))
        if chosen is not None:
            made.append(IoConfiguration(f"{name}-system", f"{label}, system's OpenSSL", algorithm))
    return made


class IoBenchmark(Benchmark[IoResult]):
    """One run of the benchmark.

    Args:
        traces: what is made again.
        save: called with the result after every trace and at the end.
    """

    def __init__(
        self,
        configurations: Sequence[IoConfiguration],
        traces: Sequence[Trace],
        parameters: IoParameters,
        observer: Observer,
        save: Callable[[IoResult], None],
    ) -> None:
        self._configurations = configurations
        self._traces = traces
        self._parameters = parameters
        result = IoResult(
            parameters={**asdict(parameters), "traces": ", ".join(t.name for t in traces)},
            labels={each.name: each.label for each in configurations},
        )
        super().__init__(result, observer, save)

    def run(self, directory: Path | None) -> None:
        """Run everything; :attr:`result` holds what was measured, also after an exception.

        Raises:
            BenchError: a call does not work as it did in the server.
            KeyboardInterrupt: after an interruption, once processes and files are gone.
        """
        with self._recorded(), player_directory(directory) as folder:
            self.result.metadata["filesystem"] = vars(filesystem_of(folder))
            choose_libcrypto()
            self.result.metadata["libcrypto"] = _core.openssl_version()
            self.result.metadata["system_openssl"] = _core.linked_openssl_version()
            started, stolen = time.monotonic(), steal_seconds()
            for trace in self._traces:
                own = folder / trace.name
                own.mkdir()
                self._replay(trace, own)
                shutil.rmtree(own)
                self._save(self.result)
            check_steal(self.result, steal_seconds() - stolen, time.monotonic() - started)

    def _replay(self, trace: Trace, folder: Path) -> None:
        self._observer.step(f"{trace.name}: writing its files")
        with ExitStack() as stack:
            turns = [
                _Turn(each, stack.enter_context(_player(each, folder, bare=bare)), bare)
                for each, bare in self._processes()
            ]
            streams = [(stream, _load_all(stream, turns)) for stream in trace.streams]
            self._observer.load_started(trace.name, 1)
            for number in range(self._parameters.rounds):
                for stream, numbers in streams:
                    first = number % len(turns)
                    for at in [*range(first, len(turns)), *range(first)]:
                        runs = self._measure(number, trace, stream, turns[at], numbers[at])
                        self.result.runs.extend(runs)
            self._observer.load_finished(None)

    def _processes(self) -> Iterator[tuple[IoConfiguration, bool]]:
        """Yield what each process is for, and whether it has the cipher alone and no interposer."""
        for each in self._configurations:
            yield each, False
            if each.algorithm is not None:
                yield each, True

    def _measure(
        self, number: int, trace: Trace, stream: Stream, turn: _Turn, loaded: int
    ) -> Iterator[IoRun]:
        name = turn.configuration.name
        repeats = range(self._parameters.repeats)
        fastest = min(turn.run(loaded) for _ in repeats)
        kind = BARE if turn.bare else REPLAY
        counts = (len(stream.calls), stream.units)
        yield IoRun(number, trace.name, stream.name, name, kind, *counts, fastest)
        if turn.bare and turn.configuration.algorithm is not None:
            direction = "decrypt" if stream.decrypts else "encrypt"
            spent = turn.player.cipher(
                turn.configuration.algorithm, decrypts=stream.decrypts, pages=CIPHER_PAGES, span=1
            )
            yield IoRun(number, trace.name, direction, name, CIPHER, 0, CIPHER_PAGES, spent)


@dataclass(frozen=True)
class _Turn:
    """A process and what it is for."""

    configuration: IoConfiguration
    player: Player
    bare: bool

    def run(self, stream: int) -> int:
        if self.bare and self.configuration.algorithm is not None:
            return self.player.run_bare(stream, self.configuration.algorithm)
        return self.player.run(stream)


def _player(configuration: IoConfiguration, folder: Path, *, bare: bool) -> Player:
    own = folder / (f"{configuration.name}-bare" if bare else configuration.name)
    algorithm = None if bare else configuration.algorithm
    return Player(own, algorithm, configuration.libcrypto, HARDWARE_AES)


def _load_all(stream: Stream, turns: Sequence[_Turn]) -> list[int]:
    return [turn.player.load(stream, stream.name) for turn in turns]
