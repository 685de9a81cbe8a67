"""Measuring what ``check`` compares: less than two minutes on two servers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tde import Algorithm
from tde.postgres import find_binaries
from tde_bench.check.quantities import CheckRun
from tde_bench.check.replays import Replays, replay_units
from tde_bench.check.results import CheckResult
from tde_bench.check.verdict import Comparison
from tde_bench.check.works import (
    CipherWork,
    ServerWork,
    cipher_works,
    create_table,
    server_works,
    settle,
)
from tde_bench.configurations import Configuration, ephemeral
from tde_bench.errors import BenchError
from tde_bench.io.player import player_directory
from tde_bench.measure.cipher_speed import measure_speed, note_program
from tde_bench.measure.libraries import (
    SpeedProgram,
    find_openssl,
    speed_program,
    used_library,
)
from tde_bench.measure.machine import check_steal
from tde_bench.measure.observer import Observer
from tde_bench.measure.parameters import Parameters
from tde_bench.measure.usage import read_usage, steal_seconds
from tde_bench.servers.benchmark import ServerBenchmark
from tde_bench.servers.database import Connection
from tde_bench.servers.description import describe_server
from tde_bench.servers.ephemeral import ephemeral_settings
from tde_bench.servers.running import Place
from tde_bench.servers.server import Server

_SHARED_BUFFERS = "16MB"
# Only CPU time is compared. Waiting for the disk would take most of the two minutes.
_SETTINGS = {"fsync": "off", "max_parallel_workers_per_gather": "0", "jit": "off"}


@dataclass(frozen=True)
class CheckParameters(Parameters):
    """How much to run; fewer than six rounds decide nothing.

    With nine, the 95 % interval leaves out the smallest and the largest ratio: one disturbed round
    cannot hide a regression.
    """

    rounds: int = 9


class CheckBenchmark(ServerBenchmark[CheckResult]):
    """One run of the check.

    Args:
        save: called with the result after every round and at the end.
        comparison: what the result is compared with, if with anything.
    """

    def __init__(
        self,
        parameters: CheckParameters,
        observer: Observer,
        save: Callable[[CheckResult], None],
        comparison: Comparison | None = None,
    ) -> None:
        self._parameters = parameters
        configurations = ephemeral([Algorithm.AES256])
        units = {work.name: (f"{work.label} ÷ openssl", "byte") for work in cipher_works()}
        units |= {work.name: (f"{work.label} ÷ plain", work.unit) for work in server_works()}
        units |= replay_units()
        result = CheckResult(
            parameters={**asdict(parameters), "shared_buffers": _SHARED_BUFFERS},
            labels={configuration.name: configuration.label for configuration in configurations},
            units=units,
            comparison=comparison,
        )
        super().__init__(configurations, result, observer, save)

    def run(self, *, bindir: Path | None, directory: Path | None) -> None:
        """Run everything; :attr:`result` holds what was measured, also after an exception.

        Raises:
            BenchError: when the run cannot start, encryption is not on, or ``openssl speed`` does
                not work with the library that encrypts pages.
            KeyboardInterrupt: after an interruption, once servers and files are gone.
        """
        openssl = find_openssl()
        if openssl is None:
            raise BenchError(
                "there is no openssl program to compare the cipher with",
                remedy="Install it: apt-get install openssl",
            )
        settings = {**ephemeral_settings(_SHARED_BUFFERS), **_SETTINGS}
        place = Place(directory, find_binaries(bindir), settings, keep=False)
        with self._recorded(), speed_program(openssl, used_library()) as program:
            note_program(self.result, program)
            with self._running(place) as (plain, encrypted):
                self._measure_all(plain, encrypted, program)

    def _measure_all(self, plain: Server, encrypted: Server, program: SpeedProgram) -> None:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(player_directory())
            replays = stack.enter_context(Replays(folder))
            turns = []
            for server in (plain, encrypted):
                turns.append(_Turn(server, self._set_up(server)))
                stack.callback(turns[-1].connection.close)
            self.result.warn_of_other_environment()
            started, stolen = time.monotonic(), steal_seconds()
            for number in range(self._parameters.rounds):
                self._round(number, turns[0], turns[1], program)
                self._observer.step(f"round {number + 1}: recorded calls")
                self.result.runs.extend(replays.round(number))
                self._save(self.result)
            check_steal(self.result, steal_seconds() - stolen, time.monotonic() - started)

    def _set_up(self, server: Server) -> Connection:
        label = server.configuration.label
        self._check(server)
        self._observer.step(f"{label}: creating the table")
        connection = server.connect()
        create_table(connection)
        settle(connection)
        # The first scan after a load sets hint bits, and the first rewrite makes the table grow.
        for work in server_works():
            work.run(connection, self._parameters.rounds)
            settle(connection)
        describe_server(self.result, server, self._canaries[server.configuration.name])
        return connection

    def _round(self, number: int, plain: _Turn, encrypted: _Turn, program: SpeedProgram) -> None:
        title = f"round {number + 1}/{self._parameters.rounds}"
        for algorithm in Algorithm:
            works = [work for work in cipher_works() if work.algorithm is algorithm]
            self._observer.load_started(f"{title}, {algorithm.label}", len(works))
            self.result.runs.extend(_cipher_runs(works, algorithm, program, number))
            self._observer.load_finished(None)
        for work in server_works():
            self._observer.load_started(f"{title}, {work.label}", 1)
            self.result.runs.append(_server_run(work, number, plain, encrypted))
            self._observer.load_finished(None)


@dataclass(frozen=True)
class _Turn:
    """A server and its open connection."""

    server: Server
    connection: Connection

    def cpu_per_unit(self, work: ServerWork, number: int) -> float:
        """Do the work once; return the server's CPU seconds per unit."""
        before = read_usage(self.server)
        work.run(self.connection, number)
        used = read_usage(self.server).since(before)
        settle(self.connection)
        if used.cpu_seconds is None:
            raise BenchError("the CPU time of the server cannot be read")
        return used.cpu_seconds / work.units


def _server_run(work: ServerWork, number: int, plain: _Turn, encrypted: _Turn) -> CheckRun:
    """Run the plain server before and after the encrypted one, so that drift cancels."""
    first = plain.cpu_per_unit(work, number)
    measured = encrypted.cpu_per_unit(work, number)
    second = plain.cpu_per_unit(work, number)
    return CheckRun(number, work.name, measured, (first + second) / 2, first, second)


def _cipher_runs(
    works: list[CipherWork], algorithm: Algorithm, program: SpeedProgram, number: int
) -> list[CheckRun]:
    """Run the core before and after ``openssl speed``, which measures both directions."""
    first = [1 / work.bytes_per_second() for work in works]
    # The core works in this process; openssl must have the same CPU's instructions.
    same_cpu = Configuration("openssl", "openssl speed", algorithm, software=None)
    speed = measure_speed(program, same_cpu, number)
    runs = []
    for work, before in zip(works, first, strict=True):
        after = 1 / work.bytes_per_second()
        rate = speed.decrypt_bytes_per_second if work.decrypt else speed.encrypt_bytes_per_second
        runs.append(CheckRun(number, work.name, (before + after) / 2, 1 / rate, before, after))
    return runs


def steps(parameters: CheckParameters) -> int:
    """Return the number of measurements of a whole run."""
    return parameters.rounds * (len(cipher_works()) + len(server_works()))
