"""Deciding whether a quantity has become worse, without being fooled by noise."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tde_bench.check.environment import Environment
from tde_bench.check.quantities import Quantity
from tde_bench.measure.statistics import Estimate


class Verdict(enum.Enum):
    """The outcome for one quantity."""

    OK = "ok"
    REGRESSION = "REGRESSION"
    UNDECIDED = "undecided"
    IMPROVED = "improved"
    NEW = "new"
    MISSING = "MISSING"

    @property
    def fails(self) -> bool:
        """Whether it makes the check fail."""
        return self in (Verdict.REGRESSION, Verdict.MISSING)


@dataclass(frozen=True)
class Comparison:
    """What a run is compared with.

    Attributes:
        baseline: the ratios of an earlier run by name of their quantity.
        margin: how much more a ratio may be, beyond the noise of the run; 0.1 is 10 %.
        environment: where the baseline was made; differences are warned of and decide nothing.
    """

    baseline: Mapping[str, Estimate]
    margin: float
    environment: Environment = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One line of the table; None where baseline or measurement lack the quantity.

    Attributes:
        allowed: the ratio that the whole interval must exceed to be a regression.
    """

    name: str
    label: str
    baseline: Estimate | None
    quantity: Quantity | None
    allowed: float | None
    verdict: Verdict

    @property
    def smallest_slowdown(self) -> float | None:
        """The factor on the baseline's median that this run could have found at best.

        1.2 means that nothing below 20 % more can be called a regression. An interval of some
        width, which must lie wholly above, needs a little more.
        """
        if self.baseline is None or self.allowed is None:
            return None
        return self.allowed / self.baseline.median

    @property
    def reason(self) -> str:
        """Say in one sentence what was found."""
        if self.quantity is None:
            return f"{self.label}: the baseline has it, but it was not measured."
        ratio = self.quantity.ratio
        now = f"{self.label}: {ratio.median:.3f} of its reference ({_interval(ratio)})"
        if self.baseline is None or self.allowed is None:
            return f"{now}; the baseline does not have it."
        return (
            f"{now}; the baseline is {self.baseline.median:.3f}, and with margin and noise up to "
            f"{self.allowed:.3f} is accepted."
        )

    def to_json(self) -> dict[str, Any]:
        """Return what the result file says of this quantity, beside what was measured."""
        return {
            "name": self.name,
            "label": self.label,
            "baseline": None if self.baseline is None else asdict(self.baseline),
            "allowed": self.allowed,
            "smallest_slowdown": self.smallest_slowdown,
            "verdict": self.verdict.value,
            "reason": self.reason,
        }


def judge(quantities: Sequence[Quantity], comparison: Comparison) -> list[Finding]:
    """Compare what was measured with a baseline.

    A regression counts only when the whole interval lies beyond the baseline's own interval plus
    the margin plus the noise that this very run has shown between pairs that should be equal.
    """
    baseline, margin = comparison.baseline, comparison.margin
    findings = [
        _judge_one(quantity, baseline.get(quantity.name), margin) for quantity in quantities
    ]
    measured = {quantity.name for quantity in quantities}
    findings.extend(
        Finding(name, name, estimate, None, None, Verdict.MISSING)
        for name, estimate in baseline.items()
        if name not in measured
    )
    return findings


def _judge_one(quantity: Quantity, baseline: Estimate | None, margin: float) -> Finding:
    if baseline is None:
        return Finding(quantity.name, quantity.label, None, quantity, None, Verdict.NEW)
    high = baseline.median if baseline.high is None else baseline.high
    allowed = high * (1 + margin + quantity.noise)
    return Finding(
        quantity.name,
        quantity.label,
        baseline,
        quantity,
        allowed,
        _verdict(quantity.ratio, allowed, baseline.median * (1 - margin - quantity.noise)),
    )


def _verdict(ratio: Estimate, allowed: float, improved: float) -> Verdict:
    if not ratio.is_conclusive or ratio.low is None or ratio.high is None:
        return Verdict.UNDECIDED
    if ratio.low > allowed:
        return Verdict.REGRESSION
    if ratio.high < improved:
        return Verdict.IMPROVED
    return Verdict.OK if ratio.median <= allowed else Verdict.UNDECIDED


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{estimate.low:.3f} to {estimate.high:.3f}"
