"""Statistics with answers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from tde_bench.measure.statistics import Estimate, median_estimate, relative_noise


def test_median_and_interval_of_known_values() -> None:
    # Of seven values, all seven are on one side of the true median in 2 of 128 experiments.
    estimate = median_estimate(np.array([0.9, 1.0, 1.1, 1.05, 0.95, 1.2, 0.8]))
    assert estimate == Estimate(1.0, 0.8, 1.2, 7)
    # Of twelve, fewer than three are on one side in 158 of 4096, 3.9 %; fewer than four in 14.6 %.
    assert median_estimate(np.arange(12.0)) == Estimate(5.5, 2.0, 9.0, 12)


@pytest.mark.parametrize("count", [6, 7, 9, 12, 20])
def test_interval_covers_the_true_median_as_often_as_it_says(count: int) -> None:
    generator = np.random.default_rng(11)
    # Skewed and with a long tail, as times of a busy machine are; its median is 1.
    experiments = generator.lognormal(0.0, 0.8, (4000, count))
    covered = [median_estimate(values).contains(1.0) for values in experiments]
    assert np.mean(covered) >= 0.945


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert median_estimate(np.full(6, 0.97)) == Estimate(0.97, 0.97, 0.97, 6)


def test_one_value_has_no_interval_and_rules_nothing_out() -> None:
    estimate = median_estimate(np.array([0.5]))
    assert estimate == Estimate(0.5, None, None, 1)
    assert estimate.contains(1.0)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_values_that_cannot_be_estimated_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        median_estimate(np.array(values))


def test_contains_includes_the_bounds() -> None:
    estimate = Estimate(0.98, 0.96, 1.0, 12)
    assert estimate.contains(1.0)
    assert estimate.contains(0.96)
    assert not estimate.contains(1.001)


@pytest.mark.parametrize(("count", "conclusive"), [(5, False), (6, True)])
def test_few_values_are_not_conclusive(count: int, conclusive: bool) -> None:
    assert median_estimate(np.arange(float(count))).is_conclusive is conclusive


def test_noise_is_the_scaled_median_absolute_deviation() -> None:
    # Median 100, absolute deviations 0, 1, 1, 2, 50: their median is 1.
    noise = relative_noise(np.array([99.0, 100.0, 101.0, 102.0, 50.0]))
    assert noise == pytest.approx(1.4826 / 100)


def test_noise_estimates_the_coefficient_of_variation() -> None:
    values = np.random.default_rng(1).normal(1000.0, 30.0, 100_000)
    assert relative_noise(values) == pytest.approx(0.03, rel=0.03)


def test_noise_of_two_rounds_is_unknown() -> None:
    assert relative_noise(np.array([1.0, 2.0])) is None
