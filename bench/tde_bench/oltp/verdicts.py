"""Verdicts: the meaning of the numbers, in plain English."""

from __future__ import annotations

from collections.abc import Sequence

from tde_bench.configurations import CONTROL
from tde_bench.measure.statistics import MINIMUM_VALUES, Estimate
from tde_bench.oltp.results import OltpResult, Summary


def verdicts(result: OltpResult) -> list[str]:
    """Return the sentences below the table, warnings excluded; a sweep speaks for itself."""
    if result.is_sweep:
        return []
    summaries = result.summaries()
    if len(summaries) < 2:
        return []
    baseline, *others = summaries
    lines = []
    for summary in others:
        if summary.tps_ratio is None:
            lines.append(f"{summary.label}: no round was finished by both it and {baseline.label}.")
            continue
        lines.append(
            _comparison(summary.label, baseline.label, summary.tps_ratio, "transactions per second")
        )
        if summary.cpu_ratio is not None:
            lines.append(
                _comparison(summary.label, baseline.label, summary.cpu_ratio, "CPU per transaction")
            )
    if any(summary.configuration == CONTROL.name for summary in others):
        lines.append(
            f"{CONTROL.label} is a second server without encryption: no difference that is smaller "
            "than its own means anything."
        )
    return lines + _noise_lines(baseline, others)


def _comparison(label: str, baseline: str, ratio: Estimate, quantity: str) -> str:
    """Say how one quantity compares, without claiming more than the interval allows."""
    if ratio.low is None or ratio.high is None:
        return (
            f"{label}: {quantity} {signed_percent(ratio.median)} against {baseline}, from a "
            "single round: too little for an interval."
        )
    if not ratio.is_conclusive:
        return (
            f"{label}: {quantity} {signed_percent(ratio.median)} against {baseline} (range "
            f"{signed_percent(ratio.low)} to {signed_percent(ratio.high)}), from {ratio.count} "
            f"rounds: at least {MINIMUM_VALUES} are needed for a conclusion."
        )
    interval = f"95 % interval {signed_percent(ratio.low)} to {signed_percent(ratio.high)}"
    if ratio.contains(1.0):
        return (
            f"{label}: no difference from {baseline} in {quantity} can be told from these rounds "
            f"(median {signed_percent(ratio.median)}, {interval})."
        )
    direction = "lower" if ratio.median < 1 else "higher"
    return f"{label}: {quantity} {percent(ratio.median)} {direction} than {baseline} ({interval})."


def _noise_lines(baseline: Summary, others: Sequence[Summary]) -> list[str]:
    """Warn when a quantity moves more from round to round than between configurations."""
    lines = []
    for noise, quantity, ratios in (
        (baseline.tps_noise, "transactions per second", [s.tps_ratio for s in others]),
        (baseline.cpu_noise, "CPU per transaction", [s.cpu_ratio for s in others]),
    ):
        effects = [
            (summary.label, abs(ratio.median - 1))
            for summary, ratio in zip(others, ratios, strict=True)
            if ratio is not None
        ]
        small = [f"{label} ({effect:.1%})" for label, effect in effects if effect < (noise or 0)]
        if small:
            lines.append(
                f"Noise: {quantity} of {baseline.label} vary by {noise:.1%} from round to round, "
                f"more than the difference to {', '.join(small)}. Pairing removes drift that is "
                "slower than a slice; trust the interval, not the median, or use more rounds."
            )
    return lines


def signed_percent(ratio: float) -> str:
    """Format a ratio as a difference, for example 0.982 as ``-1.8 %``."""
    return f"{100 * (ratio - 1):+.1f} %"


def percent(ratio: float) -> str:
    """Format the size of a difference, for example 0.982 as ``1.8 %``."""
    return f"{100 * abs(ratio - 1):.1f} %"
