"""Means over runs, differences of groups of runs, and Holm's correction; the oracle is scipy.stats."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from landscape import InputError
from landscape.dynamics import difference_of_means, holm, mean_of_runs

RNG = np.random.default_rng(0)


def test_a_mean_has_the_t_interval_of_scipy():
    values = RNG.normal(3, 2, (6, 2, 3))
    found = mean_of_runs(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    np.testing.assert_allclose(found.mean, values.mean(axis=0))
    np.testing.assert_allclose(found.interval[..., 0], expected.low)
    np.testing.assert_allclose(found.interval[..., 1], expected.high)
    np.testing.assert_array_equal(found.runs, 6)


def test_what_is_not_finite_is_left_out_and_one_run_has_no_interval():
    found = mean_of_runs([[1.0, np.nan, np.inf], [3.0, np.nan, 5.0], [np.nan, np.nan, -np.inf]])
    np.testing.assert_array_equal(found.runs, [2, 0, 1])
    np.testing.assert_array_equal(found.mean, [2, np.nan, 5])
    expected = stats.ttest_1samp([1.0, 3.0], 0).confidence_interval()
    np.testing.assert_allclose(found.interval[0], [expected.low, expected.high])
    assert np.isnan(found.interval[1:]).all()


@pytest.mark.parametrize("level", [0.05, 0.001])
def test_pairs_and_welch_are_those_of_scipy(level):
    first, second = RNG.normal(0, 1, (5, 4)), RNG.normal(1, 3, (5, 4))
    more = RNG.normal(1, 3, (9, 4))
    for found, expected in (
        (difference_of_means(first, second, paired=True), stats.ttest_rel(first, second)),
        (difference_of_means(first, more, paired=False), stats.ttest_ind(first, more, equal_var=False)),
    ):
        interval = expected.confidence_interval(1 - level)
        np.testing.assert_allclose(found.p_value, expected.pvalue)
        np.testing.assert_allclose(found.degrees_of_freedom, expected.df)
        np.testing.assert_allclose(found.interval(level), np.stack([interval.low, interval.high], axis=-1))


def test_left_out_values_are_those_that_scipy_omits():
    first, second = RNG.normal(0, 1, (6, 2)), RNG.normal(0, 1, (6, 2))
    first[0, 0], second[3, 0] = np.nan, np.inf
    found = difference_of_means(first, second, paired=True)
    kept = [1, 2, 4, 5]
    assert found.p_value[0] == pytest.approx(stats.ttest_rel(first[kept, 0], second[kept, 0]).pvalue)
    np.testing.assert_array_equal([found.first_runs, found.second_runs], [[4, 6], [4, 6]])
    found = difference_of_means(first, second, paired=False)
    expected = stats.ttest_ind(first[1:, 0], np.delete(second[:, 0], 3), equal_var=False)
    assert found.p_value[0] == pytest.approx(expected.pvalue)
    np.testing.assert_array_equal([found.first_runs, found.second_runs], [[5, 6], [5, 6]])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_values_without_spread_have_no_test(paired, offset):
    """The spread is that of rounding: all runs start from one loss."""
    values = offset + 0.1 * np.ones((3, 1))
    found = difference_of_means(values, values + 1, paired)
    assert np.isnan(found.p_value).all()
    assert np.isnan(found.interval()).all()
    assert found.difference == pytest.approx(-1)


@pytest.mark.parametrize("paired", [True, False])
def test_a_single_run_has_no_test(paired):
    found = difference_of_means([[1.0]], [[2.0]], paired)
    assert found.difference == -1
    assert np.isnan(found.p_value).all()
    one_of_many = difference_of_means([[1.0]], [[2.0], [3.0]], paired=False)
    assert np.isnan(one_of_many.p_value).all()


def test_pairs_of_unequal_numbers_are_refused():
    with pytest.raises(InputError, match="equally many runs, not 2 and 3"):
        difference_of_means(np.ones((2, 1)), np.ones((3, 1)), paired=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0.01], [0.01]),
        ([0.01, 0.04], [0.02, 0.04]),
        ([0.04, 0.01], [0.04, 0.02]),  # in any order
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),  # 4 * 0.01, 3 * 0.02, max(2 * 0.03), max(0.04)
        ([0.03, 0.03, 0.03], [0.09, 0.09, 0.09]),  # ties
        ([0.5, 0.9], [1.0, 1.0]),
        ([np.nan, 0.01, np.nan, 0.04], [np.nan, 0.02, np.nan, 0.04]),  # NaN is no comparison
        ([], []),
        ([[0.01, np.nan], [0.04, 0.03]], [[0.03, np.nan], [0.06, 0.06]]),
    ],
)
def test_holm_by_hand(given, expected):
    np.testing.assert_allclose(holm(given), expected)


def test_intervals_cover_as_often_as_they_say():
    """Of N simulated groups the count of intervals that hold the truth is binomial: within 4 of its deviations."""
    runs, others, count = 4, 7, 20_000
    tolerance = 4 * np.sqrt(0.95 * 0.05 / count)
    first, second = RNG.normal(1, 1, (runs, count)), RNG.normal(-1, 3, (others, count))
    low, high = mean_of_runs(first).interval.T
    assert abs(((low <= 1) & (high >= 1)).mean() - 0.95) < tolerance
    shared = RNG.normal(0, 5, (runs, count))
    paired = difference_of_means(first + shared, second[:runs] + shared, paired=True)
    low, high = paired.interval().T
    assert abs(((low <= 2) & (high >= 2)).mean() - 0.95) < tolerance
    low, high = difference_of_means(first, second, paired=False).interval().T
    assert abs(((low <= 2) & (high >= 2)).mean() - welch_coverage(runs, 1, others, 9)) < tolerance


def welch_coverage(n: int, variance: float, m: int, other: float) -> float:
    """The exact coverage of Welch's 95 % interval for normal data, integrated over both sample variances."""
    middles = (np.arange(1000) + 0.5) / 1000
    one = (variance * stats.chi2.ppf(middles, n - 1) / (n - 1) / n)[:, None]
    two = other * stats.chi2.ppf(middles, m - 1) / (m - 1) / m
    freedom = (one + two) ** 2 / (one**2 / (n - 1) + two**2 / (m - 1))
    half = stats.t.ppf(0.975, freedom) * np.sqrt((one + two) / (variance / n + other / m))
    return float((2 * stats.norm.cdf(half) - 1).mean())


def test_holm_keeps_the_chance_of_any_false_rejection():
    """Of N families without a difference at most 5 % have a rejection, but for 4 deviations of the binomial count."""
    families, size = 2_000, 12
    shared = RNG.normal(0, 1, (5, families, 1))
    first, second = (0.7 * shared + RNG.normal(0, 1, (5, families, size)) for _ in range(2))
    p_values = difference_of_means(first, second, paired=False).p_value
    rejected = np.array([(holm(each) <= 0.05).any() for each in p_values])
    assert rejected.mean() < 0.05 + 4 * np.sqrt(0.05 * 0.95 / families)
    assert (p_values <= 0.05).any(axis=1).mean() > 0.2, "without a correction there are many"
