"""The loss over a plane through a point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from landscape.problem import Problem
from landscape.slices.directions import Direction, cosine
from landscape.slices.line import points_made
from landscape.spectrum.progress import Progress


@dataclass(frozen=True)
class Plane:
    """L(theta + a d1 + b d2) on a rectangular grid.

    Attributes:
        first: (p,) float64, positions a along d1, ascending, 0 among them.
        second: (q,) positions b along d2.
        losses: (q, p) float64: row j, column i is the loss at a_i, b_j; NaN or infinite where it is.
        standard_errors: (q, p) of the objective as a mean over samples.
        accuracies: (q, p) weighted share of terms that are right; NaN where the loss has no classes.
        norms: ||d1|| and ||d2||.
        cosine: of the angle between d1 and d2.
    """

    first: np.ndarray
    second: np.ndarray
    losses: np.ndarray
    standard_errors: np.ndarray
    accuracies: np.ndarray
    norms: tuple[float, float]
    cosine: float

    @property
    def centre(self) -> tuple[int, int]:
        """Row and column of theta."""
        return int(np.flatnonzero(self.second == 0)[0]), int(np.flatnonzero(self.first == 0)[0])


def plane(
    problem: Problem,
    first: Direction,
    second: Direction,
    first_positions: np.ndarray,
    second_positions: np.ndarray,
    progress: Callable[[Progress], None] | None = None,
) -> Plane:
    """Evaluate the loss over a plane; see `landscape.slices.line.line` for how.

    Args:
        problem: at the point theta.
        first: d1, drawn to the right.
        second: d2, drawn upwards. They need not be orthogonal; see `landscape.slices.orthogonalised`.
        first_positions: (p,) a.
        second_positions: (q,) b.
        progress: called after every point.
    """
    shape = len(second_positions), len(first_positions)
    losses, errors, accuracies = np.empty(shape), np.empty(shape), np.empty(shape)
    with torch.no_grad(), problem.evaluating():
        for row, b in enumerate(second_positions):
            start = torch.add(problem.vector, second.vector, alpha=float(b))
            for column, a in enumerate(first_positions):
                sums = problem.sums_at(torch.add(start, first.vector, alpha=float(a)))
                estimate = sums.estimate()
                losses[row, column], errors[row, column] = estimate.loss, estimate.standard_error
                accuracies[row, column] = sums.accuracy
                if progress is not None:
                    progress(points_made(row * shape[1] + column + 1, losses.size))
    return Plane(
        first=np.asarray(first_positions, dtype=np.float64),
        second=np.asarray(second_positions, dtype=np.float64),
        losses=losses,
        standard_errors=errors,
        accuracies=accuracies,
        norms=(first.norm, second.norm),
        cosine=cosine(first, second),
    )
