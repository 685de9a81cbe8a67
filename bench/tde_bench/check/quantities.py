"""Quantities that a check measures, and their summaries over its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tde_bench.measure.statistics import Estimate, median_estimate


@dataclass(frozen=True)
class CheckRun:
    """One quantity in one round: CPU seconds per unit of work.

    Attributes:
        measured: with encryption; of the page core.
        reference: without encryption; of ``openssl speed``.
        first, second: the two halves of a pair that should be equal: two turns of the plain
            server, two samples of the page core. Their ratio shows the noise.
    """

    round: int
    quantity: str
    measured: float
    reference: float
    first: float
    second: float

    @property
    def ratio(self) -> float:
        """What the unit costs, relative to its reference."""
        return self.measured / self.reference

    @property
    def null_ratio(self) -> float:
        """What would be 1 on a machine without noise."""
        return self.second / self.first


@dataclass(frozen=True)
class Quantity:
    """What the rounds say about one quantity.

    Attributes:
        ratio: the cost relative to its reference; this is what a baseline is compared with.
        null: the same for the pair that should be equal.
        cpu_seconds: per unit; depends on the machine and decides nothing.
    """

    name: str
    label: str
    unit: str
    ratio: Estimate
    null: Estimate
    cpu_seconds: float
    reference_cpu_seconds: float

    @property
    def noise(self) -> float:
        """How far the interval of equal pairs reaches away from 1; 0.02 means 2 %."""
        low = self.null.median if self.null.low is None else self.null.low
        high = self.null.median if self.null.high is None else self.null.high
        return max(high - 1, 1 - low, 0.0)


def summarize(name: str, label: str, unit: str, own: Sequence[CheckRun]) -> Quantity:
    """Put the rounds of one quantity together."""
    return Quantity(
        name=name,
        label=label,
        unit=unit,
        ratio=median_estimate(np.array([run.ratio for run in own])),
        null=median_estimate(np.array([run.null_ratio for run in own])),
        cpu_seconds=float(np.median([run.measured for run in own])),
        reference_cpu_seconds=float(np.median([run.reference for run in own])),
    )
