"""The frame of every benchmark: the machine is described, and the result is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from tde_bench.measure.machine import describe_machine
from tde_bench.measure.observer import Observer
from tde_bench.measure.result import BenchmarkResult

Result = TypeVar("Result", bound=BenchmarkResult)


class Benchmark(Generic[Result]):
    """One run of a benchmark; :attr:`result` holds what was measured, also after an exception.

    Args:
        result: grows while the run goes on.
        observer: receives the events of the run.
        save: called with the result after every part of the run, and at the end.
    """

    def __init__(self, result: Result, observer: Observer, save: Callable[[Result], None]) -> None:
        self.result = result
        self._observer = observer
        self._save = save

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Describe the machine, run the ``with`` block, and save the result with how it ended."""
        self.result.status = "failed"
        try:
            # The load of the machine is looked at before the benchmark adds its own.
            describe_machine(self.result)
            yield
            self.result.status = "complete"
        except KeyboardInterrupt:
            self.result.status = "interrupted"
            raise
        finally:
            self._save(self.result)
