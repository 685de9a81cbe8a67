"""Measuring the page cipher: every case in every round, next to ``openssl speed``."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tde import Algorithm
from tde_bench.configurations import Configuration
from tde_bench.errors import BenchError
from tde_bench.machine import check_steal, describe_machine
from tde_bench.pages.backends import PAGE_BYTES, Backend, Pages, Work
from tde_bench.pages.results import MEMCPY, OPENSSL, PagesCase, PagesResult, PagesRun
from tde_bench.progress import Observer
from tde_bench.schedule import Slot, rotated_rounds
from tde_bench.speed import find_openssl, openssl_bytes_per_second

IN_PLACE = "in place"
OUT = "out"
_DIRECTIONS = ("encrypt", "decrypt")
# Reading the clock must not weigh on batches of one page.
_BYTES_PER_LOOK = 1 << 20


@dataclass(frozen=True)
class PagesParameters:
    """How much to run.

    Attributes:
        pages: batch sizes; 128 pages are 1 MiB.
        threads: how many threads share a batch, for backends that can.
        sample: seconds of each sample.
    """

    pages: tuple[int, ...] = (1, 16, 128, 512)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 12
    sample: float = 0.1
    seed: int = 1

    @classmethod
    def quick(cls) -> PagesParameters:
        """Return values that keep a whole run under 60 seconds."""
        return cls(pages=(1, 128), rounds=3, sample=0.05)

    def with_given(self, **values: Any) -> PagesParameters:
        """Return a copy with those values replaced that are not None."""
        given = {name: value for name, value in values.items() if value is not None}
        return dataclasses.replace(self, **given)


class PagesBenchmark:
    """One run of the benchmark.

    Args:
        save: called with the result after every round and at the end.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        algorithms: Sequence[Algorithm],
        parameters: PagesParameters,
        observer: Observer,
        save: Callable[[PagesResult], None],
    ) -> None:
        self._parameters = parameters
        self._algorithms = algorithms
        self._observer = observer
        self._save = save
        self._openssl = find_openssl()
        labels = {backend.name: backend.label for backend in backends}
        self.result = PagesResult(
            parameters={key: _plain(value) for key, value in asdict(parameters).items()},
            labels={**labels, OPENSSL: "openssl speed", MEMCPY: "memcpy"},
        )
        self._backends = {}
        for backend in backends:
            if (reason := backend.missing()) is None:
                self._backends[backend.name] = backend
            else:
                self.result.warn(f"{backend.label} was not measured: {reason}.")
        if self._openssl is None:
            self.result.warn("There is no openssl program, so the limit is not known.")

    def run(self) -> None:
        """Run everything; :attr:`result` holds what was measured, also after an exception.

        Raises:
            BenchError: when a backend gives other bytes than the product.
            KeyboardInterrupt: after an interruption.
        """
        self.result.status = "failed"
        try:
            describe_machine(self.result)
            self._observer.step("comparing the backends' ciphertext")
            for algorithm in self._algorithms:
                require_same_bytes(self._backends.values(), algorithm)
            self._measure_all()
            self.result.status = "complete"
        except KeyboardInterrupt:
            self.result.status = "interrupted"
            raise
        finally:
            self._save(self.result)

    def groups(self) -> list[list[PagesCase]]:
        """Return what is measured close together, so that it shares the state of the machine.

        A group is one direction of one algorithm: every backend, and the two limits.
        """
        return [
            list(self._cases(algorithm, direction))
            for algorithm in self._algorithms
            for direction in _DIRECTIONS
        ]

    def _cases(self, algorithm: Algorithm, direction: str) -> Iterator[PagesCase]:
        name = algorithm.label
        if self._openssl is not None:
            yield PagesCase(OPENSSL, name, direction, 1, IN_PLACE, 1)
        for pages in self._parameters.pages:
            if direction == "encrypt":
                yield PagesCase(MEMCPY, name, direction, pages, OUT, 1)
            for backend in self._backends.values():
                threads = self._parameters.threads if backend.threaded else (1,)
                for place, count in itertools.product((IN_PLACE, OUT), threads):
                    yield PagesCase(backend.name, name, direction, pages, place, count)

    def _measure_all(self) -> None:
        started, stolen = time.monotonic(), _steal()
        groups = self.groups()
        for number in range(self._parameters.rounds):
            for cases in groups:
                self._observer.load_started(
                    f"round {number + 1}/{self._parameters.rounds}, {cases[0].algorithm}, "
                    f"{cases[0].direction}",
                    1,
                )
                # Each round starts with another case, so that none always follows openssl.
                first = number * max(1, len(cases) // self._parameters.rounds) % len(cases)
                order = [*cases[first:], *cases[:first]]
                for position, case in enumerate(order):
                    self.result.runs.append(self._sample(Slot(number, position, case)))
                self._observer.load_finished(None)
            self._save(self.result)
        check_steal(self.result, _steal() - stolen, time.monotonic() - started)

    def _sample(self, slot: Slot[PagesCase]) -> PagesRun:
        case = slot.item
        algorithm = next(a for a in self._algorithms if a.label == case.algorithm)
        if case.backend == OPENSSL:
            assert self._openssl is not None
            speed = openssl_speed(self._openssl, algorithm, case.direction)
            moved, seconds, cpu = int(speed), None, 1.0
        else:
            work = self._work(case, algorithm)
            size = case.pages * PAGE_BYTES
            moved, seconds, cpu = time_work(work, size, self._parameters.sample)
        return PagesRun(
            round=slot.round,
            position=slot.position,
            **asdict(case),
            bytes=moved,
            seconds=seconds,
            cpu_seconds=cpu,
        )

    def _work(self, case: PagesCase, algorithm: Algorithm) -> Work:
        pages = random_pages(case.pages)
        out = pages if case.place == IN_PLACE else np.empty_like(pages)
        if case.backend == MEMCPY:
            return lambda: np.copyto(out, pages)
        return self._backends[case.backend].prepare(
            algorithm,
            pages,
            out,
            decrypt=case.direction == "decrypt",
            threads=case.threads,
        )
