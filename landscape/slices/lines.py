"""The loss along a line through a point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.reporting.progress import Progress
from landscape.slices.buffers import BufferRule, Points
from landscape.slices.directions import Aim, Direction, aimed
from landscape.spectrum.products import finite_products


@dataclass(frozen=True)
class Line:
    """L(theta + a d) at positions a, with the buffers that `landscape.slices.buffers` gives each point.

    Attributes:
        positions: (m,) float64, a, ascending, 0 among them.
        losses: (m,) float64, the objective; NaN or infinite where it is.
        standard_errors: (m,) of the objective as a mean over samples.
        accuracies: (m,) weighted share of terms that are right; NaN where the loss has no classes.
        sample_losses: (samples, m), each sample's mean loss over its own terms; NaN for one that is masked.
        sample_weights: (samples,) their weights in the objective: sum_i w_i l_i / sum_i w_i is ``losses``.
        slope: d^T g with the gradient g at theta and its buffers, as computed in the problem's precision.
        curvature: d^T H d with the same buffers, as computed in that precision.
        norm: ||d||.
        notes: what became of the buffers along the line, a sentence each.
    """

    positions: np.ndarray
    losses: np.ndarray
    standard_errors: np.ndarray
    accuracies: np.ndarray
    sample_losses: np.ndarray
    sample_weights: np.ndarray
    slope: float
    curvature: float
    norm: float
    notes: tuple[str, ...] = ()

    @property
    def centre(self) -> int:
        """The index of position 0, which is theta."""
        return int(np.flatnonzero(self.positions == 0)[0])

    @property
    def quadratic(self) -> np.ndarray:
        """(m,) what the quadratic model predicts: L + a d^T g + a^2 d^T H d / 2."""
        along = self.positions
        return np.asarray(self.losses[self.centre] + self.slope * along + self.curvature * along**2 / 2)


def line(
    problem: Problem,
    direction: Aim,
    positions: np.ndarray,
    *,
    buffers: BufferRule = "interpolate",
    operator: SymmetricOperator | None = None,
    model: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Line:
    """Evaluate the loss along a line.

    Each point is one axpy from the stored centre, so that nothing drifts, and the model isn't touched.

    Args:
        problem: at the point theta.
        direction: d, or what makes it of the problem, such as `toward` another.
        positions: (m,) a; see `landscape.slices.grid.positions`.
        buffers: what buffers are at the points; see `landscape.slices.buffers.Points`.
        operator: the Hessian at theta, for the quadratic model; default: made.
        model: make the quadratic model, which takes a gradient and a product; else slope and curvature are NaN.
        progress: called after every point.

    Raises:
        InputError: the Hessian's product with d isn't finite, or the buffers can't follow the rule.
    """
    direction = aimed(problem, direction)
    points, sums = Points(problem, [direction], buffers), []
    with torch.no_grad(), problem.evaluating():
        for index, position in enumerate(positions):
            there = torch.add(problem.vector, direction.vector, alpha=float(position))
            sums.append(points.sums_at(there, [position]))
            if progress is not None:
                progress(points_made(index + 1, len(positions)))
    weights = sums[0].weights.cpu().numpy()
    by_sample = torch.stack([each.losses for each in sums], dim=1).cpu().numpy()
    with np.errstate(invalid="ignore"):
        sample_losses = np.where(weights[:, None] > 0, by_sample / np.where(weights > 0, weights, 1)[:, None], np.nan)
    estimates = [each.estimate() for each in sums]
    slope, curvature = quadratic_form(problem, direction, operator) if model else (math.nan, math.nan)
    return Line(
        positions=np.asarray(positions, dtype=np.float64),
        losses=np.array([each.loss for each in estimates]),
        standard_errors=np.array([each.standard_error for each in estimates]),
        accuracies=np.array([each.accuracy for each in sums]),
        sample_losses=sample_losses,
        sample_weights=weights,
        slope=slope,
        curvature=curvature,
        norm=direction.norm,
        notes=points.notes,
    )


def points_made(points: int, total: int) -> Progress:
    """How far a slice has come."""
    return Progress("slicing", points, np.empty(0), points / total, "points")


def quadratic_form(problem: Problem, direction: Direction, operator: SymmetricOperator | None) -> tuple[float, float]:
    """d^T g and d^T H d, in float64 from a product with the direction made one of length 1, which can't overflow.

    Raises:
        InputError: the product isn't finite.
    """
    scaled = direction.vector / direction.norm
    product = finite_products(operator or problem.hessian(), scaled.unsqueeze(1)).squeeze(1)
    wide = scaled.to(torch.float64)
    slope = float(wide @ problem.gradient().to(torch.float64)) * direction.norm
    curvature = float(wide @ product.to(torch.float64)) * direction.norm**2
    return slope, curvature if math.isfinite(curvature) else math.nan
