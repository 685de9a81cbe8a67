"""The statistics of interleaved rounds: paired ratios, their interval, and the noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats

Values = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 9999
# The interval of a median never reaches beyond the smallest and the largest value. With n values,
# all of them lie on the same side of the true median in 2 / 2**n of all experiments, and then
# even the widest interval misses it. Only from six values on is that less than 5 %.
MINIMUM_VALUES = 6

# For normally distributed values, 1.4826 times the median absolute deviation estimates the
# standard deviation, so the noise reads like a coefficient of variation that shrugs off outliers.
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Estimate:
    """The median of ``count`` values with its bootstrap interval.

    The bounds are None when one value is all there is.
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


def median_estimate(values: Values, *, seed: int) -> Estimate:
    """Return the median of ``values`` with its percentile-bootstrap 95 % interval.

    The percentile bootstrap of the median assumes nothing about the distribution of rounds,
    which on shared machines has a long tail. ``seed`` makes the interval reproducible.

    Raises:
        ValueError: when ``values`` is empty or holds something that is not finite.
    """
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError("an estimate needs at least one value, all of them finite")
    median = float(np.median(values))
    if values.size == 1:
        return Estimate(median, None, None, 1)
    result = scipy.stats.bootstrap(
        (values,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        # `random_state` is the spelling that every SciPy since 1.7 accepts.
        random_state=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Estimate(median, float(interval.low), float(interval.high), int(values.size))


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
