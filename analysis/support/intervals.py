"""Means over seeds with their intervals, paired differences, and rank correlations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from landscape.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval.

    Attributes:
        value: the number.
        low: lower end of the interval.
        high: upper end of the interval.
        count: number of values, of seeds or of models, that the number is made from.
    """

    value: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 3, sign: str = "", scale: float = 1.0) -> str:
        """The number and its interval as text, such as ``0.512 [0.488, 0.536]``."""
        value, low, high = (f"{scale * each:{sign}.{digits}f}" for each in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def mean_of(values: ArrayLike) -> Interval:
    """The mean of independent values, with its interval by Student's t.

    Raises:
        InputError: there are fewer than two values.
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        raise InputError(f"{len(array)} seeds give no interval; use at least 2")
    half = float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    mean = float(array.mean())
    return Interval(mean, mean - half, mean + half, len(array))


def share_of(values: ArrayLike) -> Interval:
    """The mean of independent shares, with its interval by Student's t cut off at 0 and 1."""
    mean = mean_of(values)
    low, high = np.clip((mean.low, mean.high), 0.0, 1.0)
    return replace(mean, low=float(low), high=float(high))


def difference_of(first: ArrayLike, second: ArrayLike) -> Interval:
    """The mean of first minus second, paired by seed."""
    return mean_of(np.asarray(first, dtype=float) - np.asarray(second, dtype=float))


def paired_effect(first: ArrayLike, second: ArrayLike) -> float:
    """Cohen's d_z: the mean of paired differences divided by their standard deviation; NaN if the latter is zero.

    d_z grows with the correlation of the pairs, so it differs from the d of two independent groups, `pooled_effect`.
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    return _by(float(differences.mean()), float(differences.std(ddof=1)))


def pooled_effect(first: ArrayLike, second: ArrayLike) -> float:
    """Cohen's d: the difference of the means divided by the root of the mean variance; NaN if the latter is zero."""
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    return _by(float(one.mean() - other.mean()), float(np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)))


def _by(mean: float, spread: float) -> float:
    return mean / spread if spread > 0 else float("nan")


def rank_correlation(
    x: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, resamples: int = 5000, seed: int = 0
) -> Interval:
    """Spearman's correlation, with a percentile interval by the bootstrap over groups of pairs.

    Pairs of one group aren't independent, so a group is resampled as a whole.

    Args:
        x: first value of each pair, (n,).
        y: second value of each pair, (n,).
        groups: group of each pair, (n,); default: every pair is a group of its own.
        resamples: number of resamples.
        seed: seed of the resampling.

    Raises:
        InputError: there are fewer than four groups, or the lengths differ.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    _, group = np.unique(np.arange(len(x)) if groups is None else np.asarray(groups), return_inverse=True)
    count = int(group.max()) + 1 if len(group) else 0
    if not len(x) == len(y) == len(group) or count < 4:
        raise InputError(
            f"{len(x)} and {len(y)} values in {count} groups have no rank correlation with an interval; give pairs in "
            "4 groups or more"
        )
    members = [np.flatnonzero(group == each) for each in range(count)]
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    found = [_correlation(*(np.concatenate([values[members[each]] for each in row]) for values in (x, y)))
             for row in drawn]  # fmt: skip
    low, high = np.nanquantile(found, (0.025, 0.975))
    return Interval(_correlation(x, y), float(low), float(high), len(x))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of the ranks of x and y; NaN if x or y is constant."""
    x, y = (ranks - ranks.mean() for ranks in map(stats.rankdata, (x, y)))
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / scale if scale > 0 else float("nan")
