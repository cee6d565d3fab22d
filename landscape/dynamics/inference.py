"""Means over runs with t intervals, differences between groups of runs, and Holm's correction for many comparisons.

Every function takes values with the runs along the first axis and treats each further place (a scalar at a step) by
itself. NaN is a value that is left out. The intervals hold for independent runs whose values, or whose differences in
pairs, are normally distributed.

- One group: Student's t interval of the mean (Student 1908).
- Two groups in pairs: Student's t interval of the mean of the differences.
- Two groups without pairs: Welch's interval, with the degrees of freedom of Welch and Satterthwaite (Welch 1947).
- Many comparisons: p-values adjusted by Holm (1979, "A simple sequentially rejective multiple test procedure"). They
  bound the chance of any false rejection, whatever the dependence between the comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from landscape.errors import InputError

LEVEL = 0.05  # chance of an error that intervals and tests allow
_ROUNDING = 16 * np.finfo(np.float64).eps  # a spread this small, relative to the values, is that of their rounding


@dataclass(frozen=True)
class MeanOfRuns:
    """Mean over runs, of shape (...), where the values are (runs, ...).

    Attributes:
        mean: mean over the finite values; NaN without any.
        interval: 95 % t interval of the mean, (..., 2); NaN for fewer than two runs.
        runs: number of finite values.
    """

    mean: np.ndarray
    interval: np.ndarray
    runs: np.ndarray


@dataclass(frozen=True)
class Difference:
    """Difference of the means of two groups of runs: the first less the second, of shape (...).

    Attributes:
        difference: mean of the first group less that of the second; over complete pairs where the runs are paired.
        standard_error: standard error of the difference; NaN for fewer than two pairs, or than two runs of a group.
        degrees_of_freedom: of the t distribution; those of Welch and Satterthwaite where runs aren't paired.
        p_value: two-sided p-value of no difference; NaN without a standard error, and where the runs have no spread.
        first_runs: number of values of the first group in the difference.
        second_runs: number of values of the second group; equal to ``first_runs`` where runs are paired.
    """

    difference: np.ndarray
    standard_error: np.ndarray
    degrees_of_freedom: np.ndarray
    p_value: np.ndarray
    first_runs: np.ndarray
    second_runs: np.ndarray

    def interval(self, level: float = LEVEL) -> np.ndarray:
        """Interval (..., 2) that misses the difference with probability `level`; NaN where there is no p-value.

        Args:
            level: chance of a miss. With 0.05 / m, m intervals hold all at once with probability 0.95 (Bonferroni).
        """
        error = np.where(np.isnan(self.p_value), np.nan, self.standard_error)
        half = stdtrit(self.degrees_of_freedom, 1 - level / 2) * error
        return np.stack([self.difference - half, self.difference + half], axis=-1)


def mean_of_runs(values: ArrayLike) -> MeanOfRuns:
    """Mean over runs with its t interval.

    Args:
        values: (runs, ...); values that aren't finite are left out.
    """
    mean, variance, count = _moments(_finite(values))
    half = stdtrit(np.where(count > 1, count - 1.0, np.nan), 1 - LEVEL / 2) * np.sqrt(variance / np.maximum(count, 1))
    return MeanOfRuns(mean, np.stack([mean - half, mean + half], axis=-1), count)


def difference_of_means(first: ArrayLike, second: ArrayLike, paired: bool) -> Difference:
    """Difference of the means of two groups of runs, with a t test.

    Values that have no spread but that of rounding (runs that start at equal weights, settings) get no p-value: a t
    test has nothing to say on them.

    Args:
        first: values of the first group (runs, ...); values that aren't finite are left out.
        second: values of the second group (runs, ...).
        paired: whether run i of both groups is a pair. Pairs with a value left out are left out.

    Raises:
        InputError: the runs are paired, and the groups have unequal numbers of runs.
    """
    one, other = _finite(first), _finite(second)
    if not paired:
        return _welch(one, other)
    if one.shape != other.shape:
        raise InputError(f"pairs need equally many runs, not {len(one)} and {len(other)}")
    mean, variance, count = _moments(one - other)
    complete = np.isfinite(one - other)
    rounding = _ROUNDING * np.where(complete, np.maximum(abs(one), abs(other)), 0).max(axis=0, initial=0)
    return _tested(mean, np.sqrt(variance / np.maximum(count, 1)), count - 1.0, rounding, count, count)


def _welch(one: np.ndarray, other: np.ndarray) -> Difference:
    (mean, variance, count), (mean_other, variance_other, count_other) = _moments(one), _moments(other)
    of_one, of_other = variance / np.maximum(count, 1), variance_other / np.maximum(count_other, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = (of_one + of_other) ** 2 / (of_one**2 / (count - 1) + of_other**2 / (count_other - 1))
    largest = [np.where(np.isfinite(each), abs(each), 0).max(axis=0, initial=0) for each in (one, other)]
    rounding = _ROUNDING * np.maximum(*largest)
    return _tested(mean - mean_other, np.sqrt(of_one + of_other), freedom, rounding, count, count_other)


def _tested(
    difference: np.ndarray,
    error: np.ndarray,
    freedom: np.ndarray,
    rounding: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> Difference:
    spread = error > rounding  # False for NaN
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = np.where(spread, -abs(difference) / error, np.nan)
    p_value = 2 * stdtr(np.where(spread, freedom, np.nan), statistic)
    return Difference(difference, error, freedom, p_value, first, second)


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance (NaN for fewer than two values) and number of the values that aren't NaN, over the first axis."""
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    mean = np.where(there, values, 0).sum(axis=0) / np.where(count, count, np.nan)
    squares = (np.where(there, values - mean, 0) ** 2).sum(axis=0)
    return mean, squares / np.where(count > 1, count - 1.0, np.nan), count


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values adjusted by Holm for all of them together; reject those of at most 0.05 (of any level).

    Args:
        p_values: p-values in any shape; NaN is no comparison, and stays NaN.
    """
    given = np.asarray(p_values, dtype=np.float64)
    flat = given.ravel().copy()
    order = np.argsort(flat, kind="stable")[: np.isfinite(flat).sum()]  # NaN is sorted to the end
    flat[order] = np.minimum(np.maximum.accumulate(flat[order] * np.arange(len(order), 0, -1)), 1)
    return flat.reshape(given.shape)
