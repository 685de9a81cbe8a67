"""The frame of every benchmark on servers: they are started, looked at, and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tde_bench.configurations import Configuration
from tde_bench.measure.benchmark import Benchmark, Result
from tde_bench.measure.machine import describe_filesystem
from tde_bench.measure.observer import Observer
from tde_bench.servers.canary import CanaryReport
from tde_bench.servers.canary_check import look_for_canary
from tde_bench.servers.running import Place, running_servers
from tde_bench.servers.server import Server


class ServerBenchmark(Benchmark[Result]):
    """One run of a benchmark that compares servers.

    Args:
        configurations: what to compare; the first one is the baseline.
        result: grows while the run goes on.
        observer: receives the events of the run.
        save: called with the result after every part of the run, and at the end.
    """

    def __init__(
        self,
        configurations: Sequence[Configuration],
        result: Result,
        observer: Observer,
        save: Callable[[Result], None],
    ) -> None:
        super().__init__(result, observer, save)
        self._configurations = configurations
        self._canaries: dict[str, CanaryReport | None] = {}

    @contextmanager
    def _running(self, place: Place) -> Iterator[Sequence[Server]]:
        """Keep a server per configuration up for the time of a ``with`` block."""
        with running_servers(self._configurations, place, self._observer) as running:
            if running.folder is not None:
                describe_filesystem(self.result, running.folder)
            yield running.servers

    def _check(self, server: Server) -> None:
        """Look for the canary row; what was found goes with the description of the server."""
        self._canaries[server.configuration.name] = look_for_canary(server, self._observer)
