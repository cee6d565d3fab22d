"""Means over seeds with their intervals, paired differences, and rank correlations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from landscape.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval.

    Attributes:
        value: the number.
        low: lower end.
        high: upper end.
        count: of what it is made: seeds, or models.
    """

    value: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 3, sign: str = "", scale: float = 1.0) -> str:
        """``0.512 [0.488, 0.536]``."""
        value, low, high = (f"{scale * each:{sign}.{digits}f}" for each in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def mean_of(values: ArrayLike) -> Interval:
    """The mean of independent values with its interval by Student's t.

    Raises:
        InputError: there are fewer than two.
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        raise InputError(f"{len(array)} seeds give no interval; use at least 2")
    half = float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    mean = float(array.mean())
    return Interval(mean, mean - half, mean + half, len(array))


def difference_of(first: ArrayLike, second: ArrayLike) -> Interval:
    """The mean of first minus second, paired by seed."""
    return mean_of(np.asarray(first, dtype=float) - np.asarray(second, dtype=float))


def effect_size(first: ArrayLike, second: ArrayLike) -> float:
    """Cohen's d of paired values: the mean of their differences by its standard deviation; NaN where that is zero."""
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    spread = float(differences.std(ddof=1))
    return float(differences.mean()) / spread if spread > 0 else float("nan")


def rank_correlation(x: ArrayLike, y: ArrayLike, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Spearman's correlation with a percentile interval over resampled pairs.

    Raises:
        InputError: there are fewer than four pairs.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) != len(y) or len(x) < 4:
        raise InputError(
            f"{len(x)} and {len(y)} values have no rank correlation with an interval; give 4 pairs or more"
        )
    drawn = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    found = _row_correlations(stats.rankdata(x[drawn], axis=1), stats.rankdata(y[drawn], axis=1))
    low, high = np.nanquantile(found, (0.025, 0.975))
    return Interval(float(stats.spearmanr(x, y).statistic), float(low), float(high), len(x))


def _row_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row; NaN where one of the two is constant."""
    x, y = (each - each.mean(axis=1, keepdims=True) for each in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
