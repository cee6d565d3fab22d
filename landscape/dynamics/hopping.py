"""Valley hopping: whether a run's steps cross the valley's floor along an eigenvector, or drift along it, or neither.

Successive updates have the components c_t = <theta_{t+1} - theta_t, v> along a fixed direction v. Their sums are the
positions x_t along v, up to a constant.

Changes of sign of c_t by themselves are no hops. Noisy gradient descent at rest in a quadratic has
x_{t+1} = (1 - eta lambda) x_t + noise. Then c_t changes sign at a rate of 1/2 + asin(eta lambda / 2) / pi, which is 2/3
at eta lambda = 1, though no step crosses the floor by itself. The position distinguishes hops from rest: the
correlation of successive positions about the floor is 1 - eta lambda, and is negative where a step overshoots the
floor. With heavy-ball momentum b the correlation is 1 - eta lambda / (1 + b). In both cases hops begin at half of the
threshold of stability.

- A direction *hops* where successive positions lie on opposite sides of the floor too often, and too far from the
  floor, for independent positions. The test is Wilcoxon's signed rank test (1945) on the products of successive offsets
  from the floor. The test is exact for positions that scatter independently and symmetrically about a known floor,
  whatever their sizes. Such positions are the boundary between hops and rest. A positive correlation, as in descent
  with eta lambda < 1, makes the test conservative.
- A direction *drifts* where its updates change sign less often than independent updates that are as likely positive as
  negative. The number of changes of such updates is binomial.
- A direction is *like noise* where neither is significant at 5 % for all directions of all windows together (Holm
  1979).

The floor is a straight line in time, so a floor that drifts evenly is followed. The line has Theil's incomplete slope
(1950) and a median as its offset, both of the means of successive positions. These means lie on the floor where
positions alternate. A floor that bends by more than the hops' width hides the hops.
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

from landscape.dynamics.inference import holm
from landscape.dynamics.spectra import orthonormal
from landscape.errors import InputError

Verdict = Literal["hops", "drifts", "like noise", "undecided"]

_LEVEL = 0.05
_SEEN = 1e3  # machine epsilons of the largest component; below this, rounding decides the sign
_RANDOM_DIRECTIONS = 200
_EXACT = 100  # up to this many products the distribution of the rank sum is exact, beyond it normal


@dataclass(frozen=True)
class Hops:
    """How often steps cross the floor along k directions, and how often their updates change sign.

    Attributes:
        components: components of the updates, (t, k), in the units of the parameters.
        usable: number of components above 1e3 machine epsilons of the largest component of their direction, (k,).
            Smaller components are left out, since rounding decides their signs.
        rates: changes of sign per pair of successive usable components, (k,); NaN without a pair.
        rate_intervals: 95 % intervals of Clopper and Pearson, (k, 2), as for independent changes.
        crossing_rates: share of pairs of successive positions on opposite sides of the floor, (k,); NaN without a pair.
        crossing_intervals: 95 % intervals of Clopper and Pearson, (k, 2), as for independent pairs.
        random_rate: mean rate of sign changes along random directions of the whole space.
        random_interval: 95 % interval of the rates along these directions.
        hop_p_values: one-sided p-values of positions that are independent from step to step, (k,).
        drift_p_values: one-sided p-values of updates that are independent from step to step, (k,).
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
        """Two-sided p-values of neither hops nor drift, (k,), each direction by itself.

        `verdicts` judges all directions together.
        """
        return np.minimum(1.0, 2 * np.minimum(self.hop_p_values, self.drift_p_values))

    @property
    def verdicts(self) -> list[Verdict]:
        """Verdicts on the k directions by this window only; see `landscape.dynamics.verdicts`."""
        return verdicts([self])[0]


def hops(updates: np.ndarray, basis: np.ndarray, *, seed: int = 0) -> Hops:
    """Test whether successive updates cross the valley's floor along directions.

    Args:
        updates: differences of successive points of a run, (t, n), in the order of training and of the points' type.
        basis: orthonormal directions, (n, k), such as valley eigenvectors at one point of the window.
        seed: seed of the random directions; default: 0.

    Raises:
        InputError: shapes don't fit, a number isn't finite, the basis isn't orthonormal, or there are fewer than two
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
    """Judge each direction in each window, at 5 % for all directions of all windows together.

    Returns:
        For each window k verdicts: ``hops``, ``drifts``, ``like noise``, or ``undecided`` where there are too few
        components for any answer.
    """
    usable, hopping, drifting = (
        np.concatenate([getattr(each, name) for each in windows])
        for name in ("usable", "hop_p_values", "drift_p_values")
    )
    in_order = iter(_judged(usable, hopping, drifting))
    return [[next(in_order) for _ in each.rates] for each in windows]


@lru_cache
def fewest_updates(directions: int) -> int:
    """Least number of updates by which ``directions`` directions can be found to hop, if positions alternate."""
    enough = (n for n in itertools.count(2) if 2 * _signed_rank(np.full(n, -1.0)) <= _LEVEL / directions)
    return next(enough)


def checked_updates(updates: np.ndarray) -> tuple[np.ndarray, float]:
    """Check updates (t, n): the updates in float64, and the machine epsilon of their original type."""
    original = np.asarray(updates)
    epsilon = float(np.finfo(original.dtype).eps) if original.dtype.kind == "f" else float(np.finfo(np.float64).eps)
    rows = original.astype(np.float64)
    if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
        raise InputError(f"updates are at least two finite rows (t, n), one for each step, not of shape {rows.shape}")
    return rows, epsilon


@dataclass(frozen=True)
class _Signs:
    """The signs of one sequence of updates: number of signs, and number of changes."""

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
        """Probability of at most this many changes, where each pair changes with probability 1/2."""
        return float(special.bdtr(self.changes, self.pairs, 0.5)) if self.pairs else 1.0


@dataclass(frozen=True)
class _Crossings:
    """Successive positions about the floor: number of pairs, and number of pairs on opposite sides."""

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
    """Offsets (m,) of positions from their floor, a straight line in time."""
    middles = (positions[1:] + positions[:-1]) / 2
    apart = 2 * (len(middles) // 4)  # even, or alternating positions would have a slope
    slope = float(np.median(middles[apart:] - middles[:-apart])) / apart if apart else 0.0
    time = np.arange(len(positions)) - 0.5  # of the positions; the middles are at whole numbers
    return positions - slope * time - np.median(middles - slope * np.arange(len(middles)))


def _signed_rank(products: np.ndarray) -> float:
    """Probability of a rank sum of the positive products at most this small, where every sign is a fair coin's.

    The floor was fitted to the positions. Like the fit of a mean, this takes about sigma^2 from the sum of n products,
    and so sigma^2 / n from each product. The rank sum is the number of pairs of products whose mean is positive, of
    n^2 / 2 pairs. The mean of two products of normal numbers has the density 1 / sigma^2 at zero (Laplace's). So the
    fit takes n / 2 from the rank sum, and n / 2 is added back.
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
    """Probability of each sum of the ranks 1 to n, where each rank is in the sum with probability 1/2."""
    chances = np.zeros(n * (n + 1) // 2 + 1)
    chances[0] = 1.0
    for rank in range(1, n + 1):
        chances[rank:] += chances[:-rank]  # NumPy copies the overlapping right side first
        chances /= 2
    return chances


def _interval(count: int, pairs: int) -> tuple[float, float]:
    """95 % interval of a probability, from ``count`` of ``pairs`` (Clopper and Pearson 1934)."""
    if not pairs:
        return math.nan, math.nan
    low = special.betaincinv(count, pairs - count + 1, 0.025) if count else 0.0
    high = special.betaincinv(count + 1, pairs - count, 0.975) if count < pairs else 1.0
    return float(low), float(high)


def _judged(usable: np.ndarray, hopping: np.ndarray, drifting: np.ndarray) -> list[Verdict]:
    """Verdicts at 5 % for all directions together; see `landscape.dynamics.inference.holm`."""
    needed = fewest_updates(len(usable))
    adjusted = holm(2 * np.minimum(hopping, drifting))
    return [
        "undecided" if usable[index] < needed
        else "like noise" if adjusted[index] > _LEVEL
        else "hops" if hopping[index] < drifting[index] else "drifts"
        for index in range(len(usable))
    ]  # fmt: skip
