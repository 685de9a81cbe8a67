"""The parameters of ``tde-bench oltp``, of which the defaults depend on the workload."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass, field
from typing import Any

from tde_bench.measure.parameters import Parameters, only_given
from tde_bench.workloads.base import LoadOptions
from tde_bench.workloads.catalogue import workload
from tde_bench.workloads.names import WorkloadName

# A session costs some 3 ms of CPU time to connect, so these cost 5 % of a second's slice.
_MOST_CLIENTS_PER_SECOND = 32


@dataclass(frozen=True)
class OltpParameters(Parameters):
    """How much to run. Durations are in seconds; the defaults suit a machine with two cores.

    Scale 20 is about 300 MB of data, nine times the default shared_buffers. Many short rounds
    give a better median of ratios than a few long ones; twelve is a multiple of two and of
    three, so that every configuration takes every position in a round equally often.

    Attributes:
        workload: what the sessions do.
        scale: the sizes of data to sweep over, usually one.
        clients: the numbers of sessions to sweep over, usually one.
        duration: seconds of each configuration in each round.
        slice: seconds of them without a pause, before the next configuration takes over.
        settings: of the ephemeral servers, beyond those that every run has.
    """

    workload: str = WorkloadName.TPCB.value
    scale: tuple[int, ...] = (20,)
    clients: tuple[int, ...] = (4,)
    jobs: int = 2
    protocol: str = "simple"
    rate: float | None = None
    duration: int = 15
    slice: int = 1
    rounds: int = 12
    warmup: int = 10
    shared_buffers: str = "32MB"
    seed: int = 1
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def quick(cls) -> OltpParameters:
        """Return values that keep a whole run with three configurations under 90 seconds."""
        return cls(scale=(10,), duration=4, rounds=3, warmup=2, shared_buffers="16MB")

    @classmethod
    def choose(cls, *, name: WorkloadName, quick: bool, **given: Any) -> OltpParameters:
        """Return the defaults of a workload, with those values replaced that are not None."""
        chosen = cls.quick() if quick else cls()
        changes: dict[str, Any] = {"workload": name.value}
        if name is WorkloadName.TPCC:
            changes["scale"] = (1,) if quick else (3,)
            changes["slice"] = 5  # Its processes take a second to start.
        elif name is WorkloadName.RANDOM_UPDATE:
            changes["clients"] = (16,)
        elif name is WorkloadName.WAL_INSERT:
            changes["scale"] = (1,)
        elif name is WorkloadName.MANY_RELATIONS:
            changes["scale"] = (1,) if quick else (20,)
        elif name is WorkloadName.PARTITIONS:
            changes["scale"] = (1,) if quick else (2,)
        chosen = dataclasses.replace(chosen, **changes)
        sweep = dataclasses.replace(chosen, **only_given(given))
        if sweep.points > 1 and not quick:
            # One point of a sweep needs no more rounds than its interval needs.
            sweep = dataclasses.replace(sweep, duration=8, rounds=6, warmup=5)
        if sweep.rate is not None or max(sweep.clients) > _MOST_CLIENTS_PER_SECOND:
            # Waiting at a fixed rate, or connecting so many sessions, would be much of a second.
            sweep = dataclasses.replace(sweep, slice=5)
        return sweep.with_given(**given)

    @property
    def slices(self) -> list[int]:
        """The seconds of each slice of a turn."""
        whole, rest = divmod(self.duration, self.slice)
        return [self.slice] * whole + [rest] * (rest > 0)

    @property
    def points(self) -> int:
        """The number of points of the sweep; 1 without one."""
        return len(self.scale) * len(self.clients)

    def load_seconds(self, configurations: int) -> int:
        """Return the seconds under load of a whole run."""
        measured = self.points * self.rounds * self.duration
        return configurations * (len(self.scale) * self.warmup + measured)

    def load_options(self, clients: int) -> LoadOptions:
        """Return how to drive the load with so many sessions."""
        return LoadOptions(clients, self.jobs, self.protocol, self.rate)

    def document(self) -> dict[str, Any]:
        """Return the parameters for the JSON document.

        ``clients`` and ``scale`` are those of the first point, as in version 1 of the schema;
        ``sweep`` has all of them.
        """
        return {
            **asdict(self),
            "scale": self.scale[0],
            "clients": self.clients[0],
            "sweep": {"scale": list(self.scale), "clients": list(self.clients)},
            "title": workload(WorkloadName(self.workload)).title,
            "scale_unit": workload(WorkloadName(self.workload)).scale_unit,
        }
