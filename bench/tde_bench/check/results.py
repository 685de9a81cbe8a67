"""Results of ``check``: ratios that need no particular machine, and reading them again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tde_bench.errors import BenchError
from tde_bench.outcome import Outcome
from tde_bench.statistics import Estimate, median_estimate

SCHEMA = {"name": "tde-bench/check", "version": 1}


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


@dataclass
class CheckResult(Outcome):
    """Everything about one run of ``tde-bench check``.

    Attributes:
        units: the label and the unit of each quantity, in the order of the table.
    """

    units: dict[str, tuple[str, str]] = field(default_factory=dict)
    runs: list[CheckRun] = field(default_factory=list)

    def quantities(self) -> list[Quantity]:
        """Summarize every quantity that has at least one round."""
        found = []
        for name, (label, unit) in self.units.items():
            own = [run for run in self.runs if run.quantity == name]
            if own:
                found.append(_summarize(name, label, unit, own))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes, which can be a later run's baseline."""
        return {
            **self.described(SCHEMA),
            "runs": [asdict(run) for run in self.runs],
            "quantities": [
                {**asdict(quantity), "noise": quantity.noise} for quantity in self.quantities()
            ],
        }


def _summarize(name: str, label: str, unit: str, own: list[CheckRun]) -> Quantity:
    return Quantity(
        name=name,
        label=label,
        unit=unit,
        ratio=median_estimate(np.array([run.ratio for run in own])),
        null=median_estimate(np.array([run.null_ratio for run in own])),
        cpu_seconds=float(np.median([run.measured for run in own])),
        reference_cpu_seconds=float(np.median([run.reference for run in own])),
    )


def read_baseline(path: Path) -> dict[str, Estimate]:
    """Return the ratios of an earlier run by name of their quantity.

    Raises:
        BenchError: when the file is not a complete result of ``tde-bench check``.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema, status = document["schema"], document["status"]
        ratios = {quantity["name"]: quantity["ratio"] for quantity in document["quantities"]}
        baseline = {name: Estimate(**ratio) for name, ratio in ratios.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"the baseline {path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"{path} is not a result of `tde-bench check`: {error!r}", remedy=_MAKE_BASELINE
        ) from error
    if schema != SCHEMA:
        raise BenchError(
            f"{path} has the schema {schema}, but a baseline has {SCHEMA}", remedy=_MAKE_BASELINE
        )
    if status != "complete":
        raise BenchError(
            f"the run in {path} is {status}, so it is no baseline", remedy=_MAKE_BASELINE
        )
    return baseline


_MAKE_BASELINE = "Make a new one: tde-bench check --json FILE"
