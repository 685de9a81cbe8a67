"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from tde_bench.measure.statistics import MINIMUM_VALUES, Estimate

# Stands where a value is not known.
UNKNOWN = "–"

# In lists of lines and columns it is replaced by :func:`spread_name`.
SPREAD = "95 % interval"
_RANGE = "range"


def spread_name(estimates: Iterable[Estimate | None]) -> str:
    """Return what the bounds of estimates are: an interval, or of fewer rounds only a range.

    Where both are, as with peers that were left out of rounds, the name says that.
    """
    known = {estimate.is_conclusive for estimate in estimates if estimate is not None}
    if known == {True, False}:
        return f"{_RANGE} or {SPREAD}"
    return _RANGE if known == {False} else SPREAD


def spread_words(estimates: Iterable[Estimate | None]) -> str:
    """Return the same for a sentence, where a range is explained."""
    name = spread_name(estimates)
    if _RANGE not in name:
        return name
    return name.replace(
        _RANGE, f"{_RANGE}, smallest to largest, of fewer than {MINIMUM_VALUES} rounds"
    )


def format_ratio(ratio: Estimate | None) -> str:
    """Format the median of a ratio, for example ``0.987``."""
    return UNKNOWN if ratio is None else f"{ratio.median:.3f}"


def format_interval(ratio: Estimate | None, *, digits: int = 3) -> str:
    """Format the interval of a ratio, for example ``0.971–1.002``."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return UNKNOWN
    return f"{ratio.low:.{digits}f}–{ratio.high:.{digits}f}"


def format_cpu(milliseconds: float | None) -> str:
    """Format CPU milliseconds per transaction."""
    return UNKNOWN if milliseconds is None else f"{milliseconds:.3f}"


def human_bytes(count: int | None) -> str:
    """Format a number of bytes with a decimal unit."""
    if count is None:
        return UNKNOWN
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
