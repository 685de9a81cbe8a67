"""The statistics of interleaved rounds: paired ratios, their interval, and the noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.stats

Values = npt.NDArray[np.float64]

CONFIDENCE = 0.95
# With n values, all of them lie on the same side of the true median in 2 / 2**n of all experiments,
# and then even the interval from the smallest to the largest misses it. Only from six values on
# is that less than 5 %.
MINIMUM_VALUES = 6

# For normally distributed values, 1.4826 times the median absolute deviation estimates the
# standard deviation, so the noise reads like a coefficient of variation that shrugs off outliers.
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Estimate:
    """The median of ``count`` values with its 95 % interval.

    Of fewer than :data:`MINIMUM_VALUES` the bounds are the smallest and the largest value, which
    is no such interval (:attr:`is_conclusive`); of a single value they are None.
    """

    median: float
    low: float | None
    high: float | None
    count: int

    @property
    def is_conclusive(self) -> bool:
        """Tell whether there are enough values for the interval to mean what it says."""
        return self.count >= MINIMUM_VALUES

    def contains(self, value: float) -> bool:
        """Tell whether the interval holds ``value``; an unknown interval rules nothing out."""
        if self.low is None or self.high is None:
            return True
        return self.low <= value <= self.high


def median_estimate(values: Values) -> Estimate:
    """Return the median of ``values`` with its exact 95 % interval.

    The interval is that of the sign test, from one order statistic to another: each value lies
    above the true median with probability 1/2, whatever the distribution, so the number of those
    that do is binomial. It covers the true median at least as often as it says. The percentile
    bootstrap, which needs many values, does not: in simulations with 6, 7 and 12 values its
    "95 %" were 93, 88 and 93 %, and 85 to 91 % where rounds consist of slices.

    Raises:
        ValueError: when ``values`` is empty or holds something that is not finite.
    """
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError("an estimate needs at least one value, all of them finite")
    median = float(np.median(values))
    if values.size == 1:
        return Estimate(median, None, None, 1)
    ordered = np.sort(values)
    # So many values at either end may be left out.
    rank = int(scipy.stats.binom.ppf((1 - CONFIDENCE) / 2, values.size, 0.5))
    outside = max(rank - 1, 0)
    return Estimate(median, float(ordered[outside]), float(ordered[-1 - outside]), int(values.size))


def relative_noise(values: Values) -> float | None:
    """Return the robust spread of ``values`` relative to their median (0.02 means 2 %).

    None when there are fewer than three values: the spread of two rounds says nothing.
    """
    if values.size < 3:
        return None
    median = float(np.median(values))
    if median == 0:
        return None
    deviation = float(np.median(np.abs(values - median)))
    return MAD_TO_SIGMA * deviation / abs(median)


def paired(
    frame: pd.DataFrame,
    metric: str,
    configuration: str,
    baseline: str,
    index: Sequence[str] = ("round", "slice"),
) -> pd.DataFrame:
    """Return the metric of both configurations in every round (and slice) that has both.

    The columns are the two names. What is paired ran within seconds of each other and shares the
    state of the machine; that state cancels in a ratio or difference of the two, and does not
    in those of two medians.
    """
    table = frame.pivot(index=list(index), columns="configuration", values=metric)
    if configuration == baseline:
        table = table.iloc[:0]  # Nothing is compared with itself.
    names = dict.fromkeys((configuration, baseline))
    both: pd.DataFrame = table.reindex(columns=list(names)).astype(float).dropna()
    return both


def round_estimate(values: pd.Series[float]) -> Estimate | None:
    """Return the estimate of values that are indexed by round, and maybe by slice; None of none.

    Slices of one round may depend on each other, so each round counts as one value, the median
    of its slices.
    """
    if values.empty:
        return None
    return median_estimate(values.groupby(level="round").median().to_numpy(dtype=np.float64))


def median_or_none(values: Iterable[Any]) -> float | None:
    """Return the median of values that may be None, which is the answer when all are."""
    known = pd.Series(list(values), dtype=object).dropna()
    return float(known.astype(float).median()) if len(known) else None
