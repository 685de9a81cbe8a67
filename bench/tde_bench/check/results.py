"""Results of ``check``: ratios that need no particular machine, and reading them again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tde_bench.check.environment import differences, environment_of
from tde_bench.check.quantities import CheckRun, Quantity, summarize
from tde_bench.check.verdict import Comparison, Finding, judge
from tde_bench.errors import BenchError
from tde_bench.measure.result import BenchmarkResult
from tde_bench.measure.statistics import Estimate

SCHEMA = {"name": "tde-bench/check", "version": 2}
# Version 1 lacks margin and findings; what a baseline needs is the same.
_BASELINE_VERSIONS = (1, 2)


@dataclass
class CheckResult(BenchmarkResult):
    """Everything about one run of ``tde-bench check``.

    Attributes:
        units: the label and the unit of each quantity, in the order of the table.
        comparison: what the run is compared with; None for one that only measures.
    """

    units: dict[str, tuple[str, str]] = field(default_factory=dict)
    runs: list[CheckRun] = field(default_factory=list)
    comparison: Comparison | None = None

    def quantities(self) -> list[Quantity]:
        """Summarize every quantity that has at least one round."""
        found = []
        for name, (label, unit) in self.units.items():
            own = [run for run in self.runs if run.quantity == name]
            if own:
                found.append(summarize(name, label, unit, own))
        return found

    def findings(self) -> list[Finding]:
        """Return the verdicts; there are none on a run that is not complete."""
        if self.comparison is None or self.status != "complete":
            return []
        return judge(self.quantities(), self.comparison)

    def warn_of_other_environment(self) -> None:
        """Say in words where this run and the baseline differ in more than this project."""
        if self.comparison is not None:
            own = environment_of(self.described(SCHEMA))
            for text in differences(self.comparison.environment, own):
                self.warn(text)

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes, which can be a later run's baseline."""
        return {
            **self.described(SCHEMA),
            "runs": [asdict(run) for run in self.runs],
            "quantities": [
                {**asdict(quantity), "noise": quantity.noise} for quantity in self.quantities()
            ],
            "margin": None if self.comparison is None else self.comparison.margin,
            "findings": [finding.to_json() for finding in self.findings()],
        }


def read_baseline(path: Path, margin: float) -> Comparison:
    """Return the comparison with an earlier run.

    Raises:
        BenchError: when the file is not a complete result of ``tde-bench check``.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema, status = document["schema"], document["status"]
        ratios = {quantity["name"]: quantity["ratio"] for quantity in document["quantities"]}
        baseline = {name: Estimate(**ratio) for name, ratio in ratios.items()}
        environment = environment_of(document)
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"the baseline {path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(
            f"{path} is not a result of `tde-bench check`: {error!r}", remedy=_MAKE_BASELINE
        ) from error
    if schema not in [{**SCHEMA, "version": version} for version in _BASELINE_VERSIONS]:
        raise BenchError(
            f"{path} has the schema {schema}, but a baseline has {SCHEMA}", remedy=_MAKE_BASELINE
        )
    if status != "complete":
        raise BenchError(
            f"the run in {path} is {status}, so it is no baseline", remedy=_MAKE_BASELINE
        )
    return Comparison(baseline, margin, environment)


_MAKE_BASELINE = "Make a new one: tde-bench check --json FILE"
