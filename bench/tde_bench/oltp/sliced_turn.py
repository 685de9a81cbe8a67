"""One turn of one configuration in a round, made of slices between those of the others.

A machine's speed changes within seconds: whoever shares the host's cores and caches comes and
goes. Turns of fifteen seconds, one after the other, meet different machines. So a turn is cut
into slices of a second, and those of all configurations alternate; what is compared lies a
second apart.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

import numpy as np

from tde_bench.measure.schedule import Slot
from tde_bench.measure.usage import Usage, read_usage, steal_seconds
from tde_bench.oltp.results import OltpRun, Point, Slice
from tde_bench.servers.database import Connection
from tde_bench.workloads.base import Driver, Load
from tde_bench.workloads.pgbench import summarize_latency


class SlicedTurn:
    """What is known about a turn while it goes on.

    Args:
        connection: an open one to the server, for checkpoints.
    """

    def __init__(self, slot: Slot[Driver], point: Point, connection: Connection) -> None:
        self.slot = slot
        self.point = point
        self.connection = connection
        self._started = datetime.datetime.now(datetime.timezone.utc)
        # One reading before each slice, one before the checkpoint at the end and one after it.
        # A server goes on writing for a moment when its load has ended, so what a slice has used
        # is read as late as possible: when the next slice of the same server begins.
        self._readings: list[Usage] = []
        self._loads: list[Load] = []
        self._steal_seconds = 0.0

    @property
    def driver(self) -> Driver:
        """What drives the load."""
        return self.slot.item

    @property
    def transactions(self) -> int:
        """The transactions that were confirmed so far."""
        return sum(load.summary.transactions for load in self._loads)

    def read(self) -> None:
        """Read what the server has used until now."""
        self._readings.append(read_usage(self.driver.server))

    def take_slice(self, load: Callable[[], Load]) -> None:
        """Run a slice of the load."""
        self.read()
        stolen = steal_seconds()
        self._loads.append(load())
        self._steal_seconds += steal_seconds() - stolen

    def run(self) -> OltpRun:
        """Put the measurements together, after the last reading.

        Raises:
            BenchError: when no transaction was finished.
        """
        latency = summarize_latency(np.concatenate([load.latencies for load in self._loads]))
        usage = self._readings[-1].since(self._readings[0])
        cpu_ms = None
        if usage.cpu_seconds is not None:
            cpu_ms = 1000 * usage.cpu_seconds / self.transactions
        return OltpRun(
            round=self.slot.round,
            position=self.slot.position,
            configuration=self.driver.server.configuration.name,
            started=self._started.isoformat(timespec="seconds"),
            seconds=sum(load.asked_seconds for load in self._loads),
            transactions=self.transactions,
            failed=sum(load.summary.failed for load in self._loads),
            tps=self.transactions / _seconds(self._loads),
            latency_mean_ms=latency.mean,
            latency_p50_ms=latency.p50,
            latency_p95_ms=latency.p95,
            latency_p99_ms=latency.p99,
            latency_max_ms=latency.maximum,
            cpu_seconds=usage.cpu_seconds,
            cpu_ms_per_transaction=cpu_ms,
            **usage.cipher_bytes(),
            steal_seconds=self._steal_seconds,
            clients=self.point.clients,
            scale=self.point.scale,
            tpm_c=_mean_tpm_c(self._loads),
            slices=tuple(
                _slice(load, after.since(before))
                for load, before, after in zip(
                    self._loads, self._readings[:-2], self._readings[1:-1], strict=True
                )
            ),
        )


def _slice(load: Load, usage: Usage) -> Slice:
    latencies = load.latencies
    return Slice(
        transactions=load.summary.transactions,
        tps=load.summary.tps,
        latency_p95_ms=float(np.percentile(latencies, 95)) if latencies.size else None,
        cpu_seconds=usage.cpu_seconds,
        bytes_encrypted=usage.cipher.bytes_encrypted if usage.cipher else None,
        bytes_decrypted=usage.cipher.bytes_decrypted if usage.cipher else None,
    )


def _seconds(loads: Sequence[Load]) -> float:
    """Return how long the loads took, without connecting: what their own rates say."""
    return sum(
        load.summary.transactions / load.summary.tps if load.summary.tps else load.asked_seconds
        for load in loads
    )


def _mean_tpm_c(loads: Sequence[Load]) -> float | None:
    """Return the New-Order transactions per minute of all slices together."""
    rates = [(load.tpm_c, load.asked_seconds) for load in loads if load.tpm_c is not None]
    if not rates:
        return None
    return sum(rate * seconds for rate, seconds in rates) / sum(seconds for _, seconds in rates)
