"""Phases of a curve over training: candidates with change points, compared with candidates without.

The paper (Gong, Teng and Liu 2025, arXiv 2510.10089) reads *collapse, diversification, stabilisation* off a curve: the
curve falls, rises, and stays. An eye finds this pattern in many curves. So here the pattern has to beat other accounts
of the curve: a level, a monotone curve of any form, one turn, and any other course with two turns.

This comparison has few points and searches for change points. So its false alarms are measured anew on each curve: on
the curve's points in shuffled orders, and on the nearest monotone curve with the noise of this curve. A curve that
wanders looks like phases too. So the gain over the accounts without phases is also compared with the gain of curves
that make this curve's changes from point to point in a random order.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import stats
from scipy.optimize import isotonic_regression

from landscape.errors import InputError

Label = Literal[
    "level", "monotone", "fall, rise", "rise, fall", "collapse, diversification, stabilisation", "other", "undecided"
]

THREE_PHASES: Label = "collapse, diversification, stabilisation"
FEWEST_POINTS = 8

_WITHOUT: tuple[Label, ...] = ("level", "monotone")
_SEGMENT = 3  # least number of points between two change points
_ALARMS = 0.05
# A change point costs three parameters in the criterion, since it is searched for: its place, and the gain of the
# search by chance (Hall, Osborn and Sakkas 2013, "Inference on structural breaks using information criteria").
_CHANGE = 3
_MOST_CHANGES = 2


@dataclass(frozen=True)
class Phases:
    """Course of a curve, and how often the procedure would find phases in a curve without phases.

    Attributes:
        label: ``level`` or ``monotone`` (no phases); ``fall, rise`` or ``rise, fall``; ``collapse, diversification,
            stabilisation``; ``other`` for another course with two turns. It is ``undecided`` where phases are found,
            but also in more than 5 % of curves without phases, of any of the three kinds below.
        found: label by the criterion only.
        change_steps: steps of the change points of ``found``, (c,).
        change_intervals: 95 % intervals of the change points, (c, 2), by resampled residuals. An interval reaches from
            the point before to the point after, since a change may lie anywhere between two points.
        criteria: Bayesian information criterion of each candidate, less that of the best.
        false_alarms_shuffled: share of shuffled orders of this curve's values in which phases are found.
        false_alarms_shuffled_interval: 95 % interval of this share (Clopper and Pearson).
        false_alarms_monotone: share of monotone curves with this curve's noise in which phases are found.
        false_alarms_monotone_interval: 95 % interval of this share (Clopper and Pearson).
        chance_wandering: probability of as large a gain in the criterion over the best account without phases, for a
            curve that makes this curve's changes in a random order.
    """

    label: Label
    found: Label
    change_steps: np.ndarray
    change_intervals: np.ndarray
    criteria: dict[Label, float]
    false_alarms_shuffled: float
    false_alarms_shuffled_interval: tuple[float, float]
    false_alarms_monotone: float
    false_alarms_monotone_interval: tuple[float, float]
    chance_wandering: float


def phases(steps: np.ndarray, values: np.ndarray, *, draws: int = 200, seed: int = 0) -> Phases:
    """Classify the course of a curve.

    The time axis is the order of the points, so unevenly kept checkpoints count alike.

    Args:
        steps: ascending steps, (m,).
        values: values at the steps, (m,), such as the matrix entropy.
        draws: number of curves without phases of each kind, and of resampled residuals; default: 200.
        seed: seed of the draws; default: 0.

    Raises:
        InputError: there are fewer than 8 points, a value isn't finite, or the steps don't ascend.
    """
    steps, values = (np.asarray(each, dtype=np.float64) for each in (steps, values))
    if values.shape != steps.shape or values.ndim != 1 or len(values) < FEWEST_POINTS:
        raise InputError(
            f"phases need at least {FEWEST_POINTS} steps with a value each, not {steps.shape} and {values.shape}"
        )
    if not np.isfinite(values).all() or not (np.diff(steps) > 0).all():
        raise InputError("phases need finite values at steps that ascend")
    unit = (values - values.mean()) / (float(np.ptp(values)) or 1.0)
    fits = _fit(unit[None])
    best, gain = _best(fits)[0], float(_gains(fits)[0])
    curve, changes = fits[best].curves[0], steps[fits[best].changes[0]]
    generator = np.random.default_rng(seed)
    noise = generator.choice(unit - curve, (2, draws, len(unit)))
    shuffled = np.array([generator.permutation(unit) for _ in range(draws)])
    wandering = np.array([np.append(0, generator.permutation(np.diff(unit))).cumsum() for _ in range(draws)])
    alarms = [int((_gains(_fit(each)) > 0).sum()) for each in (shuffled, fits["monotone"].curves[0] + noise[0])]
    chance = (1 + int((_gains(_fit(wandering)) >= gain).sum())) / (1 + draws)
    refitted = _fit(curve + noise[1])[best].changes
    intervals = [stats.binomtest(count, draws).proportion_ci(0.95, "exact") for count in alarms]
    least = min(float(fit.criteria[0]) for fit in fits.values())
    unsure = best not in _WITHOUT and max(*(count / draws for count in alarms), chance) > _ALARMS
    return Phases(
        label="undecided" if unsure else best,
        found=best,
        change_steps=changes,
        change_intervals=_beside(steps, refitted),
        criteria={label: float(fit.criteria[0]) - least for label, fit in fits.items()},
        false_alarms_shuffled=alarms[0] / draws,
        false_alarms_shuffled_interval=(float(intervals[0].low), float(intervals[0].high)),
        false_alarms_monotone=alarms[1] / draws,
        false_alarms_monotone_interval=(float(intervals[1].low), float(intervals[1].high)),
        chance_wandering=chance,
    )


def _beside(steps: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Intervals (c, 2): the steps just outside the central 95 % of places (b, c)."""
    if not places.shape[1]:
        return np.empty((0, 2))
    low = np.quantile(places, 0.025, axis=0, method="lower") - 1
    high = np.quantile(places, 0.975, axis=0, method="higher") + 1
    return np.stack([steps[low], steps[high]], axis=1)  # no change point is at an end


@dataclass(frozen=True)
class _Fit:
    """Best fit of one candidate to each of b curves: criteria (b,), curves (b, m), change points (b, c)."""

    criteria: np.ndarray
    curves: np.ndarray
    changes: np.ndarray


def _fit(curves: np.ndarray) -> dict[Label, _Fit]:
    """Best fit of every label to each curve."""
    free = [_Pieces.of(curves, changes, level_end=False) for changes in range(_MOST_CHANGES + 1)]
    level_end = [_Pieces.of(curves, _MOST_CHANGES, level_end=True)]
    return {
        "level": _level(curves),
        "monotone": _better([_isotonic(curves), *(each.best(signs) for each in free for signs in ((1,), (-1,)))]),
        "fall, rise": _better([each.best((-1, 1)) for each in free[1:]]),
        "rise, fall": _better([each.best((1, -1)) for each in free[1:]]),
        THREE_PHASES: _better([each.best((-1, 1, 0)) for each in level_end]),
        "other": _better([each.best(signs) for each in free[2:] for signs in ((1, -1, 1), (-1, 1, -1))]),
    }


def _best(fits: dict[Label, _Fit]) -> list[Label]:
    """Label of the smallest criterion, for each curve."""
    labels = list(fits)
    return [labels[index] for index in np.array([fit.criteria for fit in fits.values()]).argmin(axis=0)]


def _gains(fits: dict[Label, _Fit]) -> np.ndarray:
    """Gain in the criterion of the best account with phases over the best account without, for each curve."""
    without, phased = (
        np.min([fit.criteria for label, fit in fits.items() if (label in _WITHOUT) == wanted], axis=0)
        for wanted in (True, False)
    )
    return np.asarray(without - phased)


def _better(fits: list[_Fit]) -> _Fit:
    """Fit of the smallest criterion, for each curve."""
    best, at = np.array([fit.criteria for fit in fits]).argmin(axis=0), np.arange(len(fits[0].criteria))
    return _Fit(
        *(np.array([getattr(fit, name) for fit in fits])[best, at] for name in ("criteria", "curves", "changes"))
    )


def _criterion(squares: np.ndarray, parameters: np.ndarray | int, points: int) -> np.ndarray:
    """Schwarz's criterion of a normal model; 1e-24, in units of the squared range, stands for the rounding of zero."""
    return np.asarray(points * np.log(squares / points + 1e-24) + parameters * math.log(points))


def _level(curves: np.ndarray) -> _Fit:
    mean = curves.mean(axis=1, keepdims=True)
    squares = ((curves - mean) ** 2).sum(axis=1)
    return _Fit(_criterion(squares, 1, curves.shape[1]), np.broadcast_to(mean, curves.shape), _none(curves))


def _isotonic(curves: np.ndarray) -> _Fit:
    """Isotonic regression, up or down; its degrees of freedom are its number of levels (Meyer and Woodroofe 2000)."""
    fits = []
    for increasing in (True, False):
        fit = np.array([isotonic_regression(curve, increasing=increasing).x for curve in curves])
        levels = 1 + (np.abs(np.diff(fit, axis=1)) > 1e-12).sum(axis=1)
        squares = ((curves - fit) ** 2).sum(axis=1)
        fits.append(_Fit(_criterion(squares, levels, curves.shape[1]), fit, _none(curves)))
    return _better(fits)


def _none(curves: np.ndarray) -> np.ndarray:
    return np.empty((len(curves), 0), dtype=np.int64)


@dataclass(frozen=True)
class _Pieces:
    """Continuous straight pieces, fitted to b curves for each of g placements of the c change points.

    Attributes:
        squares: sums of squared residuals, (b, g).
        signs: signs of the slopes of the pieces, (b, g, c + 1).
        along: coordinates of the fit in the basis of a placement, (b, g, p).
        places: indices of the change points, (g, c).
        bases: orthonormal bases of the placements, (g, m, p).
    """

    squares: np.ndarray
    signs: np.ndarray
    along: np.ndarray
    places: np.ndarray
    bases: np.ndarray

    @classmethod
    def of(cls, curves: np.ndarray, changes: int, level_end: bool) -> _Pieces:
        places, bases, solvers = _bases(curves.shape[1], changes, level_end)
        along = np.einsum("bm,gmp->bgp", curves, bases)
        squares = np.maximum((curves**2).sum(axis=1)[:, None] - (along**2).sum(axis=2), 0)
        slopes = np.einsum("bgp,gqp->bgq", along, solvers)[:, :, 1:]
        if level_end:
            slopes = np.pad(slopes, ((0, 0), (0, 0), (0, 1)))
        return cls(squares, np.sign(slopes), along, places, bases)

    def best(self, pattern: tuple[int, ...]) -> _Fit:
        """Best fit to each curve whose slopes have the signs of ``pattern``; neighbours of equal sign count as one."""
        turns = self.signs[:, :, 1:] != self.signs[:, :, :-1]
        stage = np.pad(np.cumsum(turns, axis=2), ((0, 0), (0, 0), (1, 0)))
        expected = np.array([*pattern, *[9] * self.signs.shape[2]])[stage]
        allowed = (self.signs == expected).all(axis=2) & (turns.sum(axis=2) == len(pattern) - 1)
        squares = np.where(allowed, self.squares, np.inf)
        best, at = squares.argmin(axis=1), np.arange(len(squares))
        turning = np.argsort(~turns[at, best], axis=1, kind="stable")[:, : len(pattern) - 1]
        parameters = self.bases.shape[2] + _CHANGE * self.places.shape[1]
        return _Fit(
            _criterion(squares[at, best], parameters, self.bases.shape[1]),
            np.einsum("bp,bmp->bm", self.along[at, best], self.bases[best]),
            np.take_along_axis(self.places[best], turning, axis=1),
        )


@lru_cache(maxsize=16)
def _bases(points: int, changes: int, level_end: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Placements of the change points (g, c), orthonormal bases (g, m, p), and matrices to the slopes (g, p, p)."""
    inner = range(_SEGMENT - 1, points - _SEGMENT + 1)
    places = [
        each
        for each in itertools.combinations(inner, changes)
        if all(b - a >= _SEGMENT for a, b in itertools.pairwise(each))
    ]
    t = np.arange(points, dtype=np.float64)
    designs = []
    for each in places:
        ends = (0.0, *each, points - 1.0)
        pieces = [np.clip(t, a, b) - a for a, b in itertools.pairwise(ends)]
        designs.append(np.stack([np.ones(points), *pieces[: len(pieces) - level_end]], axis=1))
    q, r = np.linalg.qr(np.array(designs))
    return np.array(places, dtype=np.int64).reshape(len(places), changes), q, np.linalg.inv(r)
