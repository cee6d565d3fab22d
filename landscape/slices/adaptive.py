"""A surface on a grid from a part of its points: evaluated where it is uncertain, interpolated elsewhere.

The interpolant is a sum of cubic radial functions r^3 and a plane through the evaluated points (Duchon 1977), with r in
grid steps. Each round has these steps:

- Compute each known point's leave-one-out error: the error of predicting the point from all others (Rippa 1999 gives
  these errors without a fit for each point).
- Take these errors as the doubt about nearby points. The doubt is smaller the nearer a point is to a known point.
- Evaluate the points of largest doubt. Evaluate some random points too, which see what no neighbour shows.
- Compare the values at these points with the values predicted before.

The error is therefore measured, not estimated by a formula: on the points where it was expected to be largest.

An interpolant of the whole grid fails on kinks, along which the loss of networks bends. This interpolant only needs
more points there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from landscape.errors import InputError

_COARSE = 9  # points of each axis at the start
_BATCH = 0.015  # fraction of all points that a round evaluates
_AT_RANDOM = 0.2  # fraction of a round that is drawn at random
_CALM = 2  # rounds in a row that must find small errors
_SAFETY = 0.7  # fraction of the tolerance that these errors may reach: other points may be worse
_ADJACENT = 1.5  # grid steps, diagonals included
_MOST = 4000  # known points: the time of a round goes with their cube, the memory with their square
_ROUNDING = 1e-10  # rounding of a fit, relative to the values
_NEIGHBOURS = 8  # known points whose errors make the doubt about one point


@dataclass(frozen=True)
class Adapted:
    """A surface on a grid.

    Attributes:
        values: values of the surface, (q, p): evaluated where ``evaluated``, else interpolated and clipped to the range
            of the finite evaluated ones; NaN among points that aren't finite.
        evaluated: whether each point was evaluated, (q, p).
        error: largest difference between predicted and evaluated values in the last two rounds, in the unit of the
            values; 0 where every point was evaluated. These rounds took the points of largest doubt and some random
            points. On surfaces with kinks the largest error of all points is 1.4 times ``error`` in the median, and up
            to 2.2 times (tests/slices/test_adaptive.py).
        points: number of evaluated points.
    """

    values: np.ndarray
    evaluated: np.ndarray
    error: float

    @property
    def points(self) -> int:
        """Number of evaluated points."""
        return int(self.evaluated.sum())


def adapt(
    evaluate: Callable[[int, int], float],
    shape: tuple[int, int],
    centre: tuple[int, int],
    tol: float,
    seed: int = 0,
) -> Adapted:
    """Evaluate points of a grid until predicted values are right to a tolerance.

    Args:
        evaluate: ``evaluate(row, column)`` gives the value at a point, which may be NaN or infinite.
        shape: numbers of rows and columns of the grid, (q, p).
        centre: a row and a column that the first points include.
        tol: largest error, relative to the range of the finite values; above 0 and below 1.
        seed: seed of the random points; default: 0.

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
        others = np.setdiff1d(np.flatnonzero(~evaluated), chosen)
        chosen = np.append(chosen, generator.permutation(others)[: batch - len(chosen)])
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
    """Raise InputError for a tolerance that isn't above 0 and below 1."""
    if not 0 < tol < 1:
        raise InputError(f"an adaptive plane's error is a share of the loss's range, above 0 and below 1, not {tol}")


def span(values: np.ndarray) -> float:
    """Range (largest less smallest) of the finite values; 0 where no value is finite."""
    finite = values[np.isfinite(values)]
    return float(np.ptp(finite)) if len(finite) else 0.0


def _coarse(shape: tuple[int, int], centre: tuple[int, int]) -> np.ndarray:
    """Indices of a coarse grid, with the first, the last and the centre's row and column among its own."""
    rows, columns = (
        np.unique([*np.round(np.linspace(0, length - 1, min(_COARSE, length))).astype(int), middle])
        for length, middle in zip(shape, centre, strict=True)
    )
    return (rows[:, None] * shape[1] + columns).ravel()


def _predict(points: np.ndarray, values: np.ndarray, evaluated: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Predicted values (NaN for none), the doubt about each point, and whether the prediction can be trusted.

    The border of the finite values has infinite doubt: points some of whose nearest known points are finite and some
    aren't, and points that adjoin a finite one. Farther out, where no nearest known point is finite, the prediction is
    NaN without doubt. Too few finite points, or finite points in one row, give no prediction. The doubt then ranks
    points by how near they are to the finite ones.
    """
    known = evaluated & np.isfinite(values)
    predicted, doubt = np.full(len(points), np.nan), np.zeros(len(points))
    if not known.any() or np.linalg.matrix_rank(_plane(points[known])) < 3:
        if known.any():
            doubt = -cKDTree(points[known]).query(points)[0]
        return predicted, doubt, not known.any()
    free = np.flatnonzero(~evaluated)
    coefficients, left_out = _fit(points[known], values[known])
    surface = cdist(points[free], points[known]) ** 3 @ coefficients[:-3] + _plane(points[free]) @ coefficients[-3:]
    surface = surface.clip(values[known].min(), values[known].max())
    left_out_errors = np.full(len(points), np.nan)
    left_out_errors[known] = np.abs(left_out)
    seen = np.flatnonzero(evaluated)
    tree = cKDTree(points[seen])
    distance, nearest = tree.query(points[free], k=_NEIGHBOURS)
    spacing = tree.query(points[seen], k=2)[0][:, 1]
    errors = left_out_errors[seen][nearest]  # (free, neighbours), NaN for neighbours that aren't finite
    finite = np.isfinite(errors)
    doubt[free] = np.nan_to_num(errors * np.minimum(1, distance[:, :1] / spacing[nearest])).max(axis=1)
    doubt[free[finite.any(axis=1) & ~finite.all(axis=1)]] = np.inf
    predicted[free] = np.where(finite.any(axis=1), surface, np.nan)
    beyond = free[~finite.any(axis=1)]
    reached = cKDTree(points[known | np.isfinite(predicted)]).query(points[beyond])[0]
    doubt[beyond[reached < _ADJACENT]] = np.inf
    return predicted, doubt, True


def _fit(points: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (m + 3,) of the surface through points (m, 2), and the points' leave-one-out errors (m,)."""
    count, plane = len(points), _plane(points)
    system = np.block([[cdist(points, points) ** 3, plane], [plane.T, np.zeros((3, 3))]])
    inverse = np.linalg.inv(system)
    coefficients = inverse[:, :count] @ values
    return coefficients, coefficients[:count] / np.diag(inverse)[:count]


def _plane(points: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(points)), points])


def _doubtful(points: np.ndarray, evaluated: np.ndarray, doubt: np.ndarray, most: int) -> np.ndarray:
    """Up to ``most`` points of largest doubt, none nearer to an earlier one than the earlier one is to known points."""
    free = np.flatnonzero(~evaluated)
    free = free[np.argsort(-doubt[free], kind="stable")]
    reach = cKDTree(points[evaluated]).query(points[free])[0]
    chosen: list[int] = []
    allowed = np.ones(len(free), dtype=bool)
    for place, index in enumerate(free):
        if len(chosen) == most:
            break
        if allowed[place]:
            chosen.append(int(index))
            allowed &= np.linalg.norm(points[free] - points[index], axis=1) >= reach[place]
    return np.array(chosen, dtype=np.int64)


def _largest_error(predicted: np.ndarray, found: np.ndarray) -> float:
    """Largest difference between predicted and evaluated values; infinite where only one of the two is finite."""
    both, either = np.isfinite(predicted) & np.isfinite(found), np.isfinite(predicted) | np.isfinite(found)
    if (either & ~both).any():
        return float("inf")
    return float(np.abs(predicted - found)[both].max(initial=0.0))
