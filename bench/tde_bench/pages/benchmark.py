"""Measuring the page cipher: every case in every round, next to ``openssl speed``."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.backends.openssl import backend as cryptography_backend

from tde import Algorithm, _core
from tde.machine.capabilities import OWN
from tde.page.libcrypto import SYSTEM
from tde_bench.configurations import Configuration
from tde_bench.errors import BenchError
from tde_bench.measure.bare_cipher import BareCipher
from tde_bench.measure.benchmark import Benchmark
from tde_bench.measure.cipher_speed import measure_speed, open_program
from tde_bench.measure.libraries import SpeedProgram, find_openssl, known_libraries
from tde_bench.measure.machine import check_steal
from tde_bench.measure.observer import Observer
from tde_bench.measure.parameters import Parameters
from tde_bench.measure.replay_process import MOST_PAGES
from tde_bench.measure.schedule import Slot
from tde_bench.measure.usage import steal_seconds
from tde_bench.pages.backends import PAGE_BYTES, Backend, Pages, TdeCore, Work
from tde_bench.pages.results import (
    BARE,
    MEMCPY,
    OPENSSL,
    TDE,
    PagesCase,
    PagesResult,
    PagesRun,
)

IN_PLACE = "in place"
OUT = "out"
ENCRYPT = "encrypt"
DECRYPT = "decrypt"
# Reading the CPU's clock is a system call: once in 1 MiB, it was 2 % of AES-128.
_SECONDS_PER_LOOK = 0.001
_PROOF_PAGES = 5


@dataclass(frozen=True)
class PagesParameters(Parameters):
    """How much to run.

    Attributes:
        pages: batch sizes; 128 pages are 1 MiB, 2048 are 16.
        threads: how many threads share a batch, for backends that can.
        sample: seconds of each sample.
    """

    pages: tuple[int, ...] = (1, 16, 128, 512, 2048)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 12
    sample: float = 0.1

    @classmethod
    def quick(cls) -> PagesParameters:
        """Return values that keep a whole run under 60 seconds."""
        return cls(pages=(1, 128), rounds=3, sample=0.05)


class PagesBenchmark(Benchmark[PagesResult]):
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
        self._libraries = known_libraries()
        self._programs: dict[str, SpeedProgram] = {}
        self._bare: dict[str, BareCipher] = {}
        labels = {backend.name: backend.label for backend in backends}
        result = PagesResult(
            parameters={key: _plain(value) for key, value in asdict(parameters).items()},
            labels={**labels, OPENSSL: "openssl speed", BARE: "cipher alone", MEMCPY: "memcpy"},
            libraries={name: library.version for name, library in self._libraries.items()},
        )
        super().__init__(result, observer, save)
        self._backends: dict[tuple[str, str], Backend] = {}
        for backend in itertools.chain.from_iterable(map(self._with_libraries, backends)):
            if (reason := backend.missing()) is None:
                self._backends[backend.name, backend.library] = backend
            else:
                self.result.warn(f"{backend.label} was not measured: {reason}.")
        self._warn_of_library()

    def _with_libraries(self, backend: Backend) -> list[Backend]:
        """Return the product once for each library, the one that it uses first."""
        if backend.name != TDE:
            return [backend]
        used = self.result.used_library
        others = [name for name in self._libraries if name != used]
        return [TdeCore(used), *(TdeCore(name, linked=True) for name in others)]

    def _warn_of_library(self) -> None:
        if len(self._libraries) == 1 and _core.libcrypto_would_gain():
            self.result.warn(
                "OpenSSL 3.5 or newer would be faster on this processor, and none is used: no line "
                "here says what is possible (docs/openssl.md)."
            )

    def run(self) -> None:
        """Run everything; :attr:`result` holds what was measured, also after an exception.

        Raises:
            BenchError: when a backend gives other bytes than the product.
            KeyboardInterrupt: after an interruption.
        """
        with self._recorded(), ExitStack() as stack:
            openssl = find_openssl()
            for name, library in self._libraries.items():
                program = open_program(openssl, library, self.result, stack)
                if program is not None:
                    self._programs[name] = program
            # The wheel of cryptography brings an OpenSSL of its own.
            self.result.metadata["cryptography_openssl"] = (
                cryptography_backend.openssl_version_text()
            )
            if (masked := os.environ.get(OWN.variable)) is not None:
                self.result.warn(f"{OWN.variable} is {masked}: OpenSSL sees less than the CPU has.")
            for name, library in self._libraries.items():
                path = None if name == SYSTEM else library.path
                self._bare[name] = stack.enter_context(BareCipher(path))
            self._observer.step("comparing the backends' ciphertext")
            for algorithm in self._algorithms:
                require_same_bytes([TdeCore(), *self._backends.values()], algorithm)
            self._measure_all()

    def cases(self, algorithm: Algorithm) -> list[PagesCase]:
        """Return what is measured close together, so that it shares the state of the machine."""
        return list(self._cases(algorithm.label))

    def _cases(self, algorithm: str) -> Iterator[PagesCase]:
        for library in self._programs:
            # One sample of openssl measures both directions.
            yield PagesCase(OPENSSL, library, algorithm, ENCRYPT, 1, IN_PLACE, 1)
        for pages in self._parameters.pages:
            yield PagesCase(MEMCPY, "", algorithm, ENCRYPT, pages, OUT, 1)
            if pages <= MOST_PAGES:
                for library, way in itertools.product(self._libraries, (ENCRYPT, DECRYPT)):
                    yield PagesCase(BARE, library, algorithm, way, pages, IN_PLACE, 1)
            for (name, library), backend in self._backends.items():
                # How threads share a batch does not depend on the library.
                shares = backend.threaded and library == self.result.used_library
                threads = self._parameters.threads if shares else (1,)
                for choice in itertools.product((ENCRYPT, DECRYPT), (IN_PLACE, OUT), threads):
                    direction, place, count = choice
                    yield PagesCase(name, library, algorithm, direction, pages, place, count)

    def _measure_all(self) -> None:
        started, stolen = time.monotonic(), steal_seconds()
        rounds = self._parameters.rounds
        for number in range(rounds):
            for algorithm in self._algorithms:
                title = f"round {number + 1}/{rounds}, {algorithm.label}"
                self._observer.load_started(title, 1)
                cases = self.cases(algorithm)
                # Rounds start at places spread over all cases, so that none always follows openssl.
                first = number * len(cases) // rounds
                for position, case in enumerate([*cases[first:], *cases[:first]]):
                    slot = Slot(number, position, case)
                    self.result.runs.extend(self._sample(slot, algorithm))
                self._observer.load_finished(None)
            self._save(self.result)
        check_steal(self.result, steal_seconds() - stolen, time.monotonic() - started)

    def _sample(self, slot: Slot[PagesCase], algorithm: Algorithm) -> list[PagesRun]:
        case = slot.item
        if case.backend == OPENSSL:
            return self._openssl_samples(slot, algorithm)
        if case.backend == BARE:
            return [self._bare_sample(slot, algorithm)]
        size = case.pages * PAGE_BYTES
        timing = time_work(
            self._work(case, algorithm), size, self._parameters.sample, threads=case.threads
        )
        return [_make_run(slot, case.direction, *timing)]

    def _openssl_samples(self, slot: Slot[PagesCase], algorithm: Algorithm) -> list[PagesRun]:
        """Measure both directions for a CPU second each."""
        configuration = Configuration(OPENSSL, "openssl speed", algorithm, software=None)
        speed = measure_speed(self._programs[slot.item.library], configuration, slot.round)
        found = {
            ENCRYPT: speed.encrypt_bytes_per_second,
            DECRYPT: speed.decrypt_bytes_per_second,
        }
        return [_make_run(slot, way, int(rate), None, 1.0) for way, rate in found.items()]

    def _bare_sample(self, slot: Slot[PagesCase], algorithm: Algorithm) -> PagesRun:
        case = slot.item
        cipher = self._bare[case.library]
        decrypts = case.direction == DECRYPT
        # The first pass also brings memory into the caches, as the warm-up of other backends does.
        once = cipher.cpu_seconds(algorithm, decrypts=decrypts, pages=case.pages, passes=1)
        passes = max(1, round(self._parameters.sample / once))
        spent = cipher.cpu_seconds(algorithm, decrypts=decrypts, pages=case.pages, passes=passes)
        return _make_run(slot, case.direction, passes * case.pages * PAGE_BYTES, None, spent)

    def _work(self, case: PagesCase, algorithm: Algorithm) -> Work:
        pages = random_pages(case.pages)
        out = pages if case.place == IN_PLACE else np.empty_like(pages)
        if case.backend == MEMCPY:
            return lambda: np.copyto(out, pages)
        return self._backends[case.backend, case.library].prepare(
            algorithm,
            pages,
            out,
            decrypt=case.direction == DECRYPT,
            threads=case.threads,
        )


def time_work(
    work: Work, size: int, seconds: float, *, threads: int = 1
) -> tuple[int, float, float]:
    """Repeat ``work`` for so many CPU seconds; return bytes, elapsed and CPU seconds.

    CPU time decides when to stop, because on a busy machine a sample of elapsed time could hold
    next to no work. Where one thread works, only its own time counts: the one that draws the
    progress display takes some 3 % of the process.
    """
    clock = time.thread_time if threads == 1 else time.process_time
    repeat = _repetitions(work, clock)
    moved = 0
    wall, cpu = time.perf_counter(), clock()
    while (spent := clock() - cpu) < seconds:
        for _ in range(repeat):
            work()
        moved += repeat * size
    return moved, time.perf_counter() - wall, spent


def _repetitions(work: Work, clock: Callable[[], float]) -> int:
    """Warm up, and return how often to repeat ``work`` between two looks at the clock."""
    repeat = 1
    while True:
        before = clock()
        for _ in range(repeat):
            work()
        if clock() - before >= _SECONDS_PER_LOOK:
            return repeat
        repeat *= 2


def _make_run(
    slot: Slot[PagesCase], direction: str, moved: int, seconds: float | None, cpu_seconds: float
) -> PagesRun:
    case: dict[str, Any] = {**asdict(slot.item), "direction": direction}
    return PagesRun(
        **case,
        round=slot.round,
        position=slot.position,
        bytes=moved,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
    )


def random_pages(count: int) -> Pages:
    """Return pages without one that is all zeros, which would not be encrypted."""
    return np.random.default_rng(1).integers(1, 256, count * PAGE_BYTES, dtype=np.uint8)


def require_same_bytes(backends: Iterable[Backend], algorithm: Algorithm) -> None:
    """Make sure that all backends do the same work, in both directions.

    Raises:
        BenchError: naming a backend that gives other bytes than the first one.
    """
    plain = random_pages(_PROOF_PAGES)
    expected: bytes | None = None
    for backend in backends:
        stored, back = np.empty_like(plain), np.empty_like(plain)
        backend.prepare(algorithm, plain, stored, decrypt=False, threads=1)()
        backend.prepare(algorithm, stored, back, decrypt=True, threads=1)()
        expected = expected or stored.tobytes()
        if stored.tobytes() != expected or not np.array_equal(back, plain):
            raise BenchError(f"{backend.label} does not encrypt as the product does")


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    return list(value) if isinstance(value, tuple) else value
