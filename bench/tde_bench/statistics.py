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
    """A median with its bootstrap interval.

    The bounds are None when one value is all there is. ``count`` is the number of values that are
    independent of each other: of rounds, however many slices each of them has.
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


def median_estimate(
    values: Values, *, seed: int, rounds: npt.NDArray[np.int64] | None = None
) -> Estimate:
    """Return the median of ``values`` with its percentile-bootstrap 95 % interval.

    The percentile bootstrap of the median assumes nothing about the distribution of rounds,
    which on shared machines has a long tail. ``seed`` makes the interval reproducible.

    Args:
        values: one per round, or several when ``rounds`` is given.
        rounds: the round that each value belongs to. Values of one round may depend on each
            other, so whole rounds are drawn (a cluster bootstrap).

    Raises:
        ValueError: when ``values`` is empty or holds something that is not finite.
    """
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError("an estimate needs at least one value, all of them finite")
    median = float(np.median(values))
    if rounds is not None and (clusters := np.unique(rounds)).size < values.size:
        return _cluster_estimate(median, [values[rounds == number] for number in clusters], seed)
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


def _cluster_estimate(median: float, clusters: list[Values], seed: int) -> Estimate:
    """Return the estimate of a median over all clusters, resampled by whole clusters."""
    count = len(clusters)
    if count == 1:
        return Estimate(median, None, None, 1)
    # Rounds of unequal size (one was cut short) are filled up with what the median passes over.
    table = np.full((count, max(cluster.size for cluster in clusters)), np.nan)
    for row, cluster in zip(table, clusters, strict=True):
        row[: cluster.size] = cluster
    chosen = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    middle = np.nanmedian if np.isnan(table).any() else np.median
    medians = middle(table[chosen].reshape(RESAMPLES, -1), axis=1)
    low, high = np.percentile(medians, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Estimate(median, float(low), float(high), count)


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
