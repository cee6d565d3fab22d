"""Valley hopping: whether a run's steps cross the valley's floor along an eigenvector, or drift along it, or neither.

The components c_t = <theta_{t+1} - theta_t, v> of successive updates along a fixed direction v add up to the position
x_t along v, up to a constant. Changes of sign of c_t alone are no hops: at rest in a quadratic noisy gradient descent
has x_{t+1} = (1 - eta lambda) x_t + noise, so that c_t changes sign at a rate of 1/2 + asin(eta lambda / 2) / pi,
which is 2/3 at eta lambda = 1, though no step crosses the floor by itself. What tells hops from rest is the position:
its correlation from step to step about the floor is 1 - eta lambda, and below zero where a step overshoots the floor.
With heavy-ball momentum b it is 1 - eta lambda / (1 + b). In both cases hops begin at half of the threshold of
stability.

- A direction *hops* where successive positions lie on opposite sides of the floor too often, and too far from it, for
  independent positions. The test is Wilcoxon's signed rank test (1945) on the products of successive offsets from the
  floor. It is exact for positions that scatter independently and symmetrically about a known floor, whatever their
  sizes, which is the boundary; a positive correlation, as of descent with eta lambda < 1, makes it conservative.
- A direction *drifts* where its updates change sign less often than independent ones that are as likely positive as
  negative: the number of their changes is binomial.
- It is *like noise* where neither can be told, at 5 % for all directions of all windows together (Holm 1979).

The floor is a straight line in time, so that one that drifts evenly is followed: Theil's incomplete slope (1950) and a
median, of the means of successive positions, which lie on the floor where positions alternate. A floor that bends by
more than the hops' width hides them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import special, stats

from landscape.dynamics.spectra import orthonormal
from landscape.errors import InputError

Verdict = Literal["hops", "drifts", "like noise", "undecided"]

_LEVEL = 0.05
_SEEN = 1e3  # machine epsilons of the largest component: below it a sign is rounding's
_RANDOM_DIRECTIONS = 200
_EXACT = 100  # up to so many products their ranks' distribution is exact, beyond normal


@dataclass(frozen=True)
class Hops:
    """How often steps cross the floor along k directions, and how often their updates change sign.

    Attributes:
        components: (t, k) of the updates, in the units of the parameters.
        usable: (k,) how many of these are above 1e3 machine epsilons of the largest one; the others are left out, as
            their signs are rounding's.
        rates: (k,) changes of sign by pairs of successive usable components; NaN where there is no pair.
        rate_intervals: (k, 2) 95 % of Clopper and Pearson, as for independent changes.
        crossing_rates: (k,) pairs of successive positions on opposite sides of the floor, by all pairs; NaN without
            one.
        crossing_intervals: (k, 2) 95 % of Clopper and Pearson, as for independent pairs.
        random_rate: the mean of the rates of sign changes along random directions of the whole space.
        random_interval: 95 % of their rates.
        hop_p_values: (k,) of positions that are independent from step to step, one-sided.
        drift_p_values: (k,) of updates that are, one-sided.
    """

    components: np.ndarray
    usable: np.ndarray
    rates: np.ndarray
    rate_intervals: np.ndarray
    crossing_rates: np.ndarray
    crossing_intervals: np.ndarray
    random_rate: float
    random_interval: tuple[float, float]
    hop_p_values: np.ndarray
    drift_p_values: np.ndarray

    @property
    def p_values(self) -> np.ndarray:
        """(k,) of neither hops nor drift, two-sided, each direction by itself; `verdicts` judges them together."""
        return np.minimum(1.0, 2 * np.minimum(self.hop_p_values, self.drift_p_values))

    @property
    def verdicts(self) -> list[Verdict]:
        """(k,) of this window alone; see `landscape.dynamics.verdicts`."""
        return verdicts([self])[0]


def hops(updates: np.ndarray, basis: np.ndarray, *, seed: int = 0) -> Hops:
    """Tell whether successive updates cross the valley's floor along directions.

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
    signs = [_Signs.of(column, _SEEN * epsilon) for column in components.T]
    crossings = [_Crossings.of(column, _SEEN * epsilon) for column in components.T]
    directions = np.random.default_rng(seed).standard_normal((updates.shape[1], _RANDOM_DIRECTIONS))
    random = [_Signs.of(column, _SEEN * epsilon).rate for column in (updates @ directions).T]
    low, high = np.quantile(random, (0.025, 0.975))
    return Hops(
        components=components,
        usable=np.array([each.count for each in signs]),
        rates=np.array([each.rate for each in signs]),
        rate_intervals=np.array([_interval(each.changes, each.pairs) for each in signs]),
        crossing_rates=np.array([each.rate for each in crossings]),
        crossing_intervals=np.array([_interval(each.count, each.pairs) for each in crossings]),
        random_rate=float(np.mean(random)),
        random_interval=(float(low), float(high)),
        hop_p_values=np.array([each.p_value for each in crossings]),
        drift_p_values=np.array([each.p_value for each in signs]),
    )


def verdicts(windows: Sequence[Hops]) -> list[list[Verdict]]:
    """What each direction does in each window, at 5 % for all directions of all windows together.

    Returns:
        for each window k verdicts: ``hops``, ``drifts``, ``like noise``, or ``undecided`` where there are too few
        components for any answer.
    """
    usable, hopping, drifting = (
        np.concatenate([getattr(each, name) for each in windows])
        for name in ("usable", "hop_p_values", "drift_p_values")
    )
    told = iter(_holm(usable, hopping, drifting))
    return [[next(told) for _ in each.rates] for each in windows]


@lru_cache
def fewest_updates(directions: int) -> int:
    """The least number of updates with which so many directions can be told to hop: those of alternating positions."""
    enough = (n for n in itertools.count(2) if 2 * _signed_rank(np.full(n, -1.0)) <= _LEVEL / directions)
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
    """The signs of one sequence of updates: how many there are, and how often they change."""

    count: int
    changes: int

    @classmethod
    def of(cls, components: np.ndarray, least: float) -> _Signs:
        largest = float(np.abs(components).max())
        signs = np.sign(components[np.abs(components) > least * largest])
        return cls(len(signs), int((signs[1:] != signs[:-1]).sum()))

    @property
    def pairs(self) -> int:
        return max(0, self.count - 1)

    @property
    def rate(self) -> float:
        return self.changes / self.pairs if self.pairs else math.nan

    @property
    def p_value(self) -> float:
        """Of so few changes, where each pair changes with a chance of one half."""
        return float(special.bdtr(self.changes, self.pairs, 0.5)) if self.pairs else 1.0


@dataclass(frozen=True)
class _Crossings:
    """Successive positions about the floor: how many pairs there are, and how many lie on opposite sides."""

    pairs: int
    count: int
    p_value: float

    @classmethod
    def of(cls, components: np.ndarray, least: float) -> _Crossings:
        offsets = _offsets(np.append(0.0, np.cumsum(components)))
        seen = np.abs(offsets) > least * np.abs(components).max()
        products = (offsets[1:] * offsets[:-1])[seen[1:] & seen[:-1]]
        return cls(len(products), int((products < 0).sum()), _signed_rank(products))

    @property
    def rate(self) -> float:
        return self.count / self.pairs if self.pairs else math.nan


def _offsets(positions: np.ndarray) -> np.ndarray:
    """Positions (m,) less the line that is their floor."""
    middles = (positions[1:] + positions[:-1]) / 2
    apart = 2 * (len(middles) // 4)  # an even number, or alternating positions would have a slope
    slope = float(np.median(middles[apart:] - middles[:-apart])) / apart if apart else 0.0
    time = np.arange(len(positions)) - 0.5  # of a position, where middles have whole numbers
    return positions - slope * time - np.median(middles - slope * np.arange(len(middles)))


def _signed_rank(products: np.ndarray) -> float:
    """The chance of so small a sum of the ranks of positive products, where every sign is a fair coin's.

    The floor was fitted to the positions, which takes about sigma^2 from the sum of n products, as a mean would, so
    sigma^2 / n from each. The sum of ranks is the number of pairs of products whose mean is positive, of n^2 / 2 pairs,
    and the mean of two products of normal numbers has a density of 1 / sigma^2 at zero (Laplace's). So the fit takes
    n / 2 from the sum of ranks, which is given back.
    """
    n = len(products)
    if not n:
        return 1.0
    ranks = stats.rankdata(np.abs(products))  # ties share their ranks
    positive = math.ceil(ranks[products > 0].sum() + n / 2)
    if n <= _EXACT:
        return float(_signed_rank_chances(n)[: positive + 1].sum())
    mean, variance = n * (n + 1) / 4, n * (n + 1) * (2 * n + 1) / 24
    return float(special.ndtr((positive + 0.5 - mean) / math.sqrt(variance)))


@lru_cache(maxsize=_EXACT)
def _signed_rank_chances(n: int) -> np.ndarray:
    """The probability of each sum of the ranks 1 to n, where each is in it or not by the toss of a coin."""
    chances = np.zeros(n * (n + 1) // 2 + 1)
    chances[0] = 1.0
    for rank in range(1, n + 1):
        chances[rank:] += chances[:-rank]  # the right side is made first
        chances /= 2
    return chances


def _interval(count: int, pairs: int) -> tuple[float, float]:
    """Of the chance of so many out of so many pairs, 95 % (Clopper and Pearson 1934)."""
    if not pairs:
        return math.nan, math.nan
    low = special.betaincinv(count, pairs - count + 1, 0.025) if count else 0.0
    high = special.betaincinv(count + 1, pairs - count, 0.975) if count < pairs else 1.0
    return float(low), float(high)


def _holm(usable: np.ndarray, hopping: np.ndarray, drifting: np.ndarray) -> list[Verdict]:
    """Holm's procedure: the smallest p-value at 5 % by their number, the next by one less, until one isn't enough."""
    p_values = 2 * np.minimum(hopping, drifting)
    needed = fewest_updates(len(p_values))
    told: list[Verdict] = ["undecided" if count < needed else "like noise" for count in usable]
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > _LEVEL / (len(p_values) - rank):
            break
        if told[index] != "undecided":
            told[index] = "hops" if hopping[index] < drifting[index] else "drifts"
    return told
