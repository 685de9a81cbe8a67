"""Statistics with answers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tde_bench.statistics import Estimate, median_estimate, relative_noise


def test_median_and_interval_of_known_values() -> None:
    estimate = median_estimate(np.array([0.9, 1.0, 1.1, 1.0, 1.0]), seed=1)
    assert estimate.median == 1.0
    assert estimate.low is not None
    assert estimate.high is not None
    # Resampling can only return values that were measured.
    assert 0.9 <= estimate.low <= 1.0 <= estimate.high <= 1.1


def test_interval_of_the_median_matches_its_exact_distribution() -> None:
    # For five distinct values, a resample's median is the smallest one with probability
    # P(Binomial(5, 1/5) >= 3) = 5.8 %, more than 2.5 %. The bounds are thus the extremes.
    estimate = median_estimate(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), seed=7)
    assert (estimate.low, estimate.high) == (1.0, 5.0)
    # With 21 values the extremes are all but impossible: the bounds move inwards.
    estimate = median_estimate(np.arange(21.0), seed=7)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0 < estimate.low < 10 < estimate.high < 20


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(3).normal(1.0, 0.05, 12)
    assert median_estimate(values, seed=5) == median_estimate(values, seed=5)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert median_estimate(np.full(6, 0.97), seed=1) == Estimate(0.97, 0.97, 0.97, 6)


def test_one_value_has_no_interval_and_rules_nothing_out() -> None:
    estimate = median_estimate(np.array([0.5]), seed=1)
    assert estimate == Estimate(0.5, None, None, 1)
    assert estimate.contains(1.0)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_values_that_cannot_be_estimated_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        median_estimate(np.array(values), seed=1)


def test_values_of_one_round_are_drawn_together() -> None:
    # Two rounds that disagree: however many slices they have, nothing between them is known.
    values = np.array([1.0] * 50 + [2.0] * 50)
    rounds = np.repeat([0, 1], 50)
    estimate = median_estimate(values, seed=1, rounds=rounds)
    assert (estimate.median, estimate.low, estimate.high, estimate.count) == (1.5, 1.0, 2.0, 2)


def test_slices_of_equal_rounds_narrow_the_interval() -> None:
    values = np.random.default_rng(5).normal(1.0, 0.1, (12, 15))
    slices = median_estimate(values.ravel(), seed=1, rounds=np.repeat(np.arange(12), 15))
    turns = median_estimate(values[:, 0], seed=1)
    assert slices.count == turns.count == 12
    for estimate in (slices, turns):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= 1.0 <= estimate.high
    assert (slices.high or 0) - (slices.low or 0) < 0.7 * ((turns.high or 0) - (turns.low or 0))


def test_rounds_may_differ_in_length() -> None:
    values, rounds = np.array([1.0, 1.2, 1.1, 0.9, 1.0]), np.array([0, 0, 0, 1, 1])
    estimate = median_estimate(values, seed=1, rounds=rounds)
    assert (estimate.median, estimate.count) == (1.0, 2)
    assert (estimate.low, estimate.high) == (0.95, 1.1)


def test_one_round_with_slices_has_no_interval() -> None:
    estimate = median_estimate(
        np.array([1.0, 2.0, 3.0]), seed=1, rounds=np.zeros(3, dtype=np.int64)
    )
    assert estimate == Estimate(2.0, None, None, 1)


def test_contains_includes_the_bounds() -> None:
    estimate = Estimate(0.98, 0.96, 1.0, 12)
    assert estimate.contains(1.0)
    assert estimate.contains(0.96)
    assert not estimate.contains(1.001)


@pytest.mark.parametrize(("count", "conclusive"), [(5, False), (6, True)])
def test_few_values_are_not_conclusive(count: int, conclusive: bool) -> None:
    assert median_estimate(np.arange(float(count)), seed=1).is_conclusive is conclusive


def test_noise_is_the_scaled_median_absolute_deviation() -> None:
    # Median 100, absolute deviations 0, 1, 1, 2, 50: their median is 1.
    noise = relative_noise(np.array([99.0, 100.0, 101.0, 102.0, 50.0]))
    assert noise == pytest.approx(1.4826 / 100)


def test_noise_estimates_the_coefficient_of_variation() -> None:
    values = np.random.default_rng(1).normal(1000.0, 30.0, 100_000)
    assert relative_noise(values) == pytest.approx(0.03, rel=0.03)


def test_noise_of_two_rounds_is_unknown() -> None:
    assert relative_noise(np.array([1.0, 2.0])) is None
