"""A surface on a grid from a part of its points: looked at where it isn't known yet, interpolated elsewhere.

The surface through the points that were looked at is a sum of cubic radial functions r^3 and a plane (Duchon 1977), in
grid steps. Each round asks how badly every known point would be predicted by the others (Rippa 1999 has it without a
fit for each), takes that for the doubt about the points around it, less the nearer they are to a known one, and looks
where the doubt is largest, and at some points at random, which see what no neighbour tells of. What was predicted there
is then held against what is found. So the error isn't estimated by a formula: it is measured, on the points where it
was believed to be largest.

An interpolant of the whole grid fails on kinks, along which the loss of networks bends; this one only needs more points
there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from landscape.errors import InputError

_COARSE = 9  # points of each axis at the start
_BATCH = 0.015  # of all points in a round
_AT_RANDOM = 0.2  # of a round
_CALM = 2  # rounds in a row that must find small errors
_SAFETY = 0.7  # of the tolerance, which they must not exceed: what wasn't looked at may be worse
_ADJACENT = 1.5  # grid steps, diagonals included
_MOST = 4000  # known points: a round takes their cube in time and their square in memory
_ROUNDING = 1e-10  # of the values, that solving for the surface may leave
_NEIGHBOURS = 8  # known points whose errors make the doubt about one


@dataclass(frozen=True)
class Adapted:
    """A surface on a grid.

    Attributes:
        values: (q, p) found where ``evaluated``, else interpolated, within the range of those found; NaN among points
            that aren't finite.
        evaluated: (q, p) whether a point was looked at.
        error: the largest difference between what was predicted and what was found in the last two rounds, in the unit
            of the values; 0 where every point was looked at. It is of the points that were most in doubt, and some at
            random: on surfaces with kinks the largest error of all is 1.4 times this in the median, and up to 2.2.
        points: how many were looked at.
    """

    values: np.ndarray
    evaluated: np.ndarray
    error: float

    @property
    def points(self) -> int:
        """See the class."""
        return int(self.evaluated.sum())


def adapt(
    evaluate: Callable[[int, int], float],
    shape: tuple[int, int],
    centre: tuple[int, int],
    tol: float,
    seed: int = 0,
) -> Adapted:
    """Look at points of a grid until what is predicted is right to a tolerance.

    Args:
        evaluate: the value at a row and a column; NaN or infinite where it is.
        shape: (q, p) of the grid.
        centre: a row and a column that are looked at first.
        tol: largest error by the range of the finite values, above 0 and below 1.
        seed: of the points at random.

    Raises:
        InputError: the tolerance is out of range.
    """
    refuse_tolerance(tol)
    generator = np.random.default_rng(seed)
    points = np.indices(shape).reshape(2, -1).T.astype(np.float64)
    values, evaluated = np.full(len(points), np.nan), np.zeros(len(points), dtype=bool)

    def look(chosen: np.ndarray) -> None:
        for index in chosen:
            values[index] = evaluate(*divmod(int(index), shape[1]))
        evaluated[chosen] = True

    look(_coarse(shape, centre))
    batch = max(8, round(_BATCH * len(points)))
    errors: list[float] = []
    while not evaluated.all():
        if (evaluated & np.isfinite(values)).sum() > _MOST:
            look(np.flatnonzero(~evaluated))
            break
        predicted, doubt, is_known = _predict(points, values, evaluated)
        chosen = _doubtful(points, evaluated, doubt, batch - round(_AT_RANDOM * batch))
        rest = np.setdiff1d(np.flatnonzero(~evaluated), chosen)
        chosen = np.append(chosen, generator.permutation(rest)[: batch - len(chosen)])
        look(chosen)
        is_settled = is_known and np.isfinite(doubt[~evaluated]).all()
        errors.append(_largest_error(predicted[chosen], values[chosen]) if is_settled else np.inf)
        rounding = _ROUNDING * float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
        if len(errors) >= _CALM and max(errors[-_CALM:]) <= _SAFETY * tol * span(values) + rounding:
            break
    if evaluated.all():
        return Adapted(values.reshape(shape), evaluated.reshape(shape), 0.0)
    predicted, _, _ = _predict(points, values, evaluated)
    return Adapted(
        np.where(evaluated, values, predicted).reshape(shape), evaluated.reshape(shape), max(errors[-_CALM:])
    )


def refuse_tolerance(tol: float) -> None:
    """Raise InputError where a tolerance isn't a share of the range."""
    if not 0 < tol < 1:
        raise InputError(f"an adaptive plane's error is a share of the loss's range, above 0 and below 1, not {tol}")


def span(values: np.ndarray) -> float:
    """The range of the finite ones; 0 where there are none."""
    finite = values[np.isfinite(values)]
    return float(np.ptp(finite)) if len(finite) else 0.0


def _coarse(shape: tuple[int, int], centre: tuple[int, int]) -> np.ndarray:
    """Indices of a grid of few rows and columns, both ends and the centre's among them."""
    rows, columns = (
        np.unique([*np.round(np.linspace(0, length - 1, min(_COARSE, length))).astype(int), middle])
        for length, middle in zip(shape, centre, strict=True)
    )
    return (rows[:, None] * shape[1] + columns).ravel()


def _predict(points: np.ndarray, values: np.ndarray, evaluated: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """What is believed of every point, the doubt about it, and whether anything can be believed.

    Where known points about one are finite and others aren't, the border is in doubt without limit, and so is what
    adjoins it; farther on, where none is finite, it isn't either. Of too few finite points, or points in a row, nothing
    is told but that their neighbours come first.
    """
    known = evaluated & np.isfinite(values)
    predicted, doubt = np.full(len(points), np.nan), np.zeros(len(points))
    if not known.any() or np.linalg.matrix_rank(_plane(points[known])) < 3:
        if known.any():
            doubt = -cKDTree(points[known]).query(points)[0]
        return predicted, doubt, not known.any()
    free = np.flatnonzero(~evaluated)
    coefficients, left_out = _fit(points[known], values[known])
    believed = cdist(points[free], points[known]) ** 3 @ coefficients[:-3] + _plane(points[free]) @ coefficients[-3:]
    believed = believed.clip(values[known].min(), values[known].max())
    wrong = np.full(len(points), np.nan)
    wrong[known] = np.abs(left_out)
    seen = np.flatnonzero(evaluated)
    tree = cKDTree(points[seen])
    distance, nearest = tree.query(points[free], k=_NEIGHBOURS)
    spacing = tree.query(points[seen], k=2)[0][:, 1]
    about = wrong[seen][nearest]  # (free, neighbours), NaN where they aren't finite
    finite = np.isfinite(about)
    doubt[free] = np.nan_to_num(about * np.minimum(1, distance[:, :1] / spacing[nearest])).max(axis=1)
    doubt[free[finite.any(axis=1) & ~finite.all(axis=1)]] = np.inf
    predicted[free] = np.where(finite.any(axis=1), believed, np.nan)
    beyond = free[~finite.any(axis=1)]
    reached = cKDTree(points[known | np.isfinite(predicted)]).query(points[beyond])[0]
    doubt[beyond[reached < _ADJACENT]] = np.inf
    return predicted, doubt, True


def _fit(points: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (m + 3,) of the surface through points (m, 2), and the error of each if it were left out (m,)."""
    count, plane = len(points), _plane(points)
    system = np.block([[cdist(points, points) ** 3, plane], [plane.T, np.zeros((3, 3))]])
    inverse = np.linalg.inv(system)
    coefficients = inverse[:, :count] @ values
    return coefficients, coefficients[:count] / np.diag(inverse)[:count]


def _plane(points: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(points)), points])


def _doubtful(points: np.ndarray, evaluated: np.ndarray, doubt: np.ndarray, most: int) -> np.ndarray:
    """Up to so many points of the largest doubt, none nearer to another than to what is known."""
    free = np.flatnonzero(~evaluated)
    free = free[np.argsort(-doubt[free], kind="stable")]
    reach = cKDTree(points[evaluated]).query(points[free])[0]
    chosen: list[int] = []
    open_ = np.ones(len(free), dtype=bool)
    for place, index in enumerate(free):
        if len(chosen) == most:
            break
        if open_[place]:
            chosen.append(int(index))
            open_ &= np.linalg.norm(points[free] - points[index], axis=1) >= reach[place]
    return np.array(chosen, dtype=np.int64)


def _largest_error(predicted: np.ndarray, found: np.ndarray) -> float:
    """Infinite where one is finite and the other isn't."""
    both, either = np.isfinite(predicted) & np.isfinite(found), np.isfinite(predicted) | np.isfinite(found)
    if (either & ~both).any():
        return float("inf")
    return float(np.abs(predicted - found)[both].max(initial=0.0))
