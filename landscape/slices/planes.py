"""The loss over a plane through a point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
import torch

from landscape.problem import Problem
from landscape.reporting.progress import Progress
from landscape.slices.adaptive import adapt
from landscape.slices.buffers import BufferRule, Points
from landscape.slices.directions import Aim, aimed, cosine
from landscape.slices.lines import points_made


@dataclass(frozen=True)
class Plane:
    """L(theta + a d1 + b d2) on a rectangular grid, with the buffers that `landscape.slices.buffers` gives each point.

    Attributes:
        first: positions a along d1, (p,) float64, ascending, with 0 among them.
        second: positions b along d2, (q,) float64, ascending, with 0 among them.
        losses: losses, (q, p) float64: row j, column i is the loss at a_i, b_j, which may be NaN or infinite.
        standard_errors: standard errors of the objective as a mean over samples, (q, p); NaN where it wasn't evaluated.
        accuracies: weighted share of terms that are right, (q, p); NaN without classes and at points not evaluated.
        norms: lengths of the directions, ||d1|| and ||d2||.
        cosine: cosine of the angle between d1 and d2.
        evaluated: whether the loss was evaluated at each point, (q, p); elsewhere it is interpolated.
        interpolation_error: largest error found in interpolated losses; see `landscape.slices.adaptive.Adapted`.
        notes: notes on the buffers on the plane, a sentence each.
    """

    first: np.ndarray
    second: np.ndarray
    losses: np.ndarray
    standard_errors: np.ndarray
    accuracies: np.ndarray
    norms: tuple[float, float]
    cosine: float
    evaluated: np.ndarray
    interpolation_error: float
    notes: tuple[str, ...] = ()

    @property
    def centre(self) -> tuple[int, int]:
        """Row and column of theta."""
        return int(np.flatnonzero(self.second == 0)[0]), int(np.flatnonzero(self.first == 0)[0])


def plane(
    problem: Problem,
    first: Aim,
    second: Aim,
    first_positions: np.ndarray,
    second_positions: np.ndarray,
    *,
    buffers: BufferRule = "interpolate",
    adaptive: float | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Plane:
    """Evaluate the loss over a plane; see `landscape.slices.lines.line` for the evaluation of a point.

    Args:
        problem: the problem at the point theta.
        first: direction d1, drawn to the right.
        second: direction d2, drawn upwards. It need not be orthogonal to d1; see `landscape.slices.orthogonalised`.
        first_positions: positions a along d1, (p,).
        second_positions: positions b along d2, (q,).
        buffers: rule for the buffers at the points, see `landscape.slices.buffers.Points`; default: ``interpolate``.
        adaptive: tolerance for interpolated losses, as a fraction of the loss's range. Points are evaluated until no
            larger error is found; see `landscape.slices.adaptive`. Default: evaluate all points.
        seed: seed of the random points that ``adaptive`` evaluates; default: 0.
        progress: function that is called after every point.

    Raises:
        InputError: ``adaptive`` isn't above 0 and below 1, or the buffers can't follow the rule.
    """
    first, second = aimed(problem, first), aimed(problem, second)
    points = Points(problem, [first, second], buffers)
    across, up = (np.asarray(each, dtype=np.float64) for each in (first_positions, second_positions))
    shape = len(up), len(across)
    losses, errors, accuracies = (np.full(shape, np.nan) for _ in range(3))
    points_so_far = count(1)

    @lru_cache(maxsize=1)  # for one row at a time: whole planes go row by row
    def start(row: int) -> torch.Tensor:
        return torch.add(problem.vector, second.vector, alpha=float(up[row]))

    def evaluate(row: int, column: int) -> float:
        point = torch.add(start(row), first.vector, alpha=float(across[column]))
        sums = points.sums_at(point, [across[column], up[row]])
        estimate = sums.estimate()
        losses[row, column], errors[row, column] = estimate.loss, estimate.standard_error
        accuracies[row, column] = sums.accuracy
        if progress is not None:
            progress(points_made(next(points_so_far), losses.size))
        return float(estimate.loss)

    evaluated, error = np.ones(shape, dtype=bool), 0.0
    with torch.no_grad(), problem.evaluating():
        if adaptive is None:
            for place in np.ndindex(shape):
                evaluate(*place)
        else:
            centre = int(np.abs(up).argmin()), int(np.abs(across).argmin())
            adapted = adapt(evaluate, shape, centre, adaptive, seed)
            losses, evaluated, error = adapted.values, adapted.evaluated, adapted.error
    return Plane(
        first=across,
        second=up,
        losses=losses,
        standard_errors=errors,
        accuracies=accuracies,
        norms=(first.norm, second.norm),
        cosine=cosine(first, second),
        evaluated=evaluated,
        interpolation_error=error,
        notes=points.notes,
    )
