"""Valley hopping: how often a run's steps change their side along an eigenvector, and how often chance would.

The components c_t = <theta_{t+1} - theta_t, v> of successive updates along a fixed direction v either keep their sign
(a drift), alternate (an iterate that jumps from wall to wall), or do neither. Two things would look like something and
are not, so that both are tested, exactly:

- *noise*: independent components, as likely positive as negative, change sign in half of the cases, and the number of
  changes is binomial;
- *order*: whatever signs there are, in a random order the number of runs of equal signs follows Wald and Wolfowitz
  (1940, "On a test whether two samples are from the same population").

A direction *hops* where there are more changes than either explains, *drifts* where there are fewer than noise has, and
is *like noise* where it can't be told from it, at 5 % for all directions of all windows together (Holm 1979).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats
from scipy.special import gammaln

from landscape.dynamics.spectra import orthonormal
from landscape.errors import InputError

Verdict = Literal["hops", "drifts", "like noise", "undecided"]

_LEVEL = 0.05
_SEEN = 1e3  # machine epsilons of the largest component: below it a sign is rounding's
_RANDOM_DIRECTIONS = 200


@dataclass(frozen=True)
class Hops:
    """How often the updates along k directions change sign.

    Attributes:
        components: (t, k) of the updates, in the units of the parameters.
        usable: (k,) how many of these are above 1e3 machine epsilons of the largest one; the others are left out, as
            their signs are rounding's.
        rates: (k,) changes of sign by pairs of successive usable components; NaN where there is no pair.
        rate_intervals: (k, 2) 95 % of Clopper and Pearson, as for independent changes.
        shuffled_intervals: (k, 2) what 95 % of the orders of the same components give.
        random_rate: the mean of the rates along random directions of the whole space.
        random_interval: 95 % of their rates.
        p_values: (k,) of noise, two-sided, each by itself; `verdicts` judges them together.
    """

    components: np.ndarray
    usable: np.ndarray
    rates: np.ndarray
    rate_intervals: np.ndarray
    shuffled_intervals: np.ndarray
    random_rate: float
    random_interval: tuple[float, float]
    p_values: np.ndarray

    @property
    def verdicts(self) -> list[Verdict]:
        """(k,) of this window alone; see `landscape.dynamics.verdicts`."""
        return verdicts([self])[0]


def hops(updates: np.ndarray, basis: np.ndarray, *, seed: int = 0) -> Hops:
    """Count changes of sign of successive updates along directions.

    Args:
        updates: (t, n) differences of successive points of a run, in the order of training, of the points' type.
        basis: (n, k) orthonormal, such as valley eigenvectors at one point of the window.
        seed: of the random directions.

    Raises:
        InputError: shapes don't fit, something isn't finite, the basis isn't orthonormal, or there are fewer than two
            updates.
    """
    updates, epsilon = checked_updates(updates)
    basis, _ = orthonormal(basis, "the basis")
    if len(basis) != updates.shape[1]:
        raise InputError(f"updates of {updates.shape[1]} parameters have no components in a basis of {len(basis)}")
    components = updates @ basis
    counts = [_Signs.of(column, _SEEN * epsilon) for column in components.T]
    directions = np.random.default_rng(seed).standard_normal((updates.shape[1], _RANDOM_DIRECTIONS))
    random = [_Signs.of(column, _SEEN * epsilon).rate for column in (updates @ directions).T]
    low, high = np.quantile(random, (0.025, 0.975))
    return Hops(
        components=components,
        usable=np.array([each.count for each in counts]),
        rates=np.array([each.rate for each in counts]),
        rate_intervals=np.array([each.interval for each in counts]),
        shuffled_intervals=np.array([each.shuffled_interval for each in counts]),
        random_rate=float(np.mean(random)),
        random_interval=(float(low), float(high)),
        p_values=np.array([each.p_value for each in counts]),
    )


def verdicts(windows: Sequence[Hops]) -> list[list[Verdict]]:
    """What each direction does in each window, at 5 % for all directions of all windows together.

    Returns:
        for each window k verdicts: ``hops``, ``drifts``, ``like noise``, or ``undecided`` where there are too few
        components for any answer.
    """
    p_values, usable, rates = (
        np.concatenate([getattr(each, name) for each in windows]) for name in ("p_values", "usable", "rates")
    )
    told = iter(_holm(p_values, usable, rates))
    return [[next(told) for _ in each.rates] for each in windows]


def fewest_updates(directions: int) -> int:
    """The least number of updates with which so many directions can be told from noise: those that all alternate."""
    enough = (n for n in itertools.count(2) if _Signs((n + 1) // 2, n // 2, n - 1).p_value <= _LEVEL / directions)
    return next(enough)


def checked_updates(updates: np.ndarray) -> tuple[np.ndarray, float]:
    """Updates (t, n) in float64, and the machine epsilon of the type that they came in."""
    given = np.asarray(updates)
    epsilon = float(np.finfo(given.dtype).eps) if given.dtype.kind == "f" else float(np.finfo(np.float64).eps)
    wide = given.astype(np.float64)
    if wide.ndim != 2 or len(wide) < 2 or not np.isfinite(wide).all():
        raise InputError(f"updates are at least two finite rows (t, n), one for each step, not of shape {wide.shape}")
    return wide, epsilon


@dataclass(frozen=True)
class _Signs:
    """The signs of one sequence: how many are positive and negative, and how often they change."""

    positive: int
    negative: int
    changes: int

    @classmethod
    def of(cls, components: np.ndarray, least: float) -> _Signs:
        largest = float(np.abs(components).max())
        signs = np.sign(components[np.abs(components) > least * largest])
        return cls(int((signs > 0).sum()), int((signs < 0).sum()), int((signs[1:] != signs[:-1]).sum()))

    @property
    def count(self) -> int:
        return self.positive + self.negative

    @property
    def pairs(self) -> int:
        return max(0, self.count - 1)

    @property
    def rate(self) -> float:
        return self.changes / self.pairs if self.pairs else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        if not self.pairs:
            return math.nan, math.nan
        found = stats.binomtest(self.changes, self.pairs).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)

    @property
    def shuffled_interval(self) -> tuple[float, float]:
        if not self.pairs:
            return math.nan, math.nan
        cumulative = np.cumsum(_changes_of_shuffled(self.positive, self.negative))
        low, high = np.searchsorted(cumulative, (0.025, 0.975))
        return float(low) / self.pairs, float(min(high, self.pairs)) / self.pairs

    @property
    def p_value(self) -> float:
        """Two-sided: fewer changes than noise has, or more than both noise and a random order have."""
        fewer = float(stats.binom.cdf(self.changes, self.pairs, 0.5))
        shuffled = float(_changes_of_shuffled(self.positive, self.negative)[self.changes :].sum())
        more = max(float(stats.binom.sf(self.changes - 1, self.pairs, 0.5)), shuffled)
        return min(1.0, 2 * min(fewer, more))


def _changes_of_shuffled(positive: int, negative: int) -> np.ndarray:
    """The probability of 0, 1, ... changes of sign (count,) in a random order: the distribution of runs."""
    if min(positive, negative) == 0:
        return np.eye(1, max(1, positive + negative))[0]
    changes = np.arange(positive + negative)
    # changes + 1 runs: so many of each sign, beginning with either.
    of_one, of_other = changes // 2 + 1, (changes + 1) // 2

    def ways(first: int, second: int) -> np.ndarray:
        return np.exp(
            _log_choose(first - 1, of_one - 1) + _log_choose(second - 1, of_other - 1)
            - _log_choose(positive + negative, np.array(positive))
        )  # fmt: skip

    return np.asarray(ways(positive, negative) + ways(negative, positive))


def _log_choose(n: int, k: np.ndarray) -> np.ndarray:
    possible = (k >= 0) & (k <= n)
    inside = np.where(possible, k, 0)
    return np.where(possible, gammaln(n + 1) - gammaln(inside + 1) - gammaln(n - inside + 1), -np.inf)


def _holm(p_values: np.ndarray, usable: np.ndarray, rates: np.ndarray) -> list[Verdict]:
    """Holm's procedure: the smallest p-value at 5 % by their number, the next by one less, until one isn't enough."""
    needed = fewest_updates(len(p_values))
    told: list[Verdict] = ["undecided" if count < needed else "like noise" for count in usable]
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > _LEVEL / (len(p_values) - rank):
            break
        if told[index] != "undecided":
            told[index] = "hops" if rates[index] > 0.5 else "drifts"
    return told
