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
        positions: positions a, (m,) float64, ascending, with 0 among them.
        losses: values of the objective, (m,) float64; they may be NaN or infinite.
        standard_errors: standard errors of the objective as a mean over samples, (m,).
        accuracies: weighted share of terms that are right, (m,); NaN where the loss has no classes.
        sample_losses: each sample's mean loss over its own terms, (samples, m); NaN for a masked sample.
        sample_weights: weights of the samples in the objective, (samples,): sum_i w_i l_i / sum_i w_i is ``losses``.
        slope: d^T g, with g the gradient at theta with theta's buffers, from a gradient in the problem's precision.
        curvature: d^T H d at theta with theta's buffers, from a product in the operator's precision.
        norm: length of the direction, ||d||.
        notes: notes on the buffers along the line, a sentence each.
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
        """Losses of the quadratic model, (m,): L + a d^T g + a^2 d^T H d / 2."""
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

    Each point is one axpy from the stored centre. No error accumulates along the line, and the model isn't touched.

    Args:
        problem: the problem at the point theta.
        direction: direction d, or a function that makes it of the problem, such as `toward` another.
        positions: positions a, (m,); see `landscape.slices.grid.positions`.
        buffers: rule for the buffers at the points, see `landscape.slices.buffers.Points`; default: ``interpolate``.
        operator: Hessian at theta for the quadratic model; default: the problem's Hessian, made here.
        model: whether to make the quadratic model (default), which takes a gradient and a product. Without it slope and
            curvature are NaN.
        progress: function that is called after every point.

    Raises:
        InputError: the Hessian's product with d isn't finite, or the buffers can't follow the rule.
    """
    direction = aimed(problem, direction)
    points, sums = Points(problem, [direction], buffers), []
    with torch.no_grad(), problem.evaluating():
        for index, position in enumerate(positions):
            point = torch.add(problem.vector, direction.vector, alpha=float(position))
            sums.append(points.sums_at(point, [position]))
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
    """The progress of a slice."""
    return Progress("slicing", points, np.empty(0), points / total, "points")


def quadratic_form(problem: Problem, direction: Direction, operator: SymmetricOperator | None) -> tuple[float, float]:
    """d^T g and d^T H d in float64, from a product with d scaled to length 1, which can't overflow.

    Raises:
        InputError: the product isn't finite.
    """
    scaled = direction.vector / direction.norm
    product = finite_products(operator or problem.hessian(), scaled.unsqueeze(1)).squeeze(1)
    float64_direction = scaled.to(torch.float64)
    slope = float(float64_direction @ problem.gradient().to(torch.float64)) * direction.norm
    curvature = float(float64_direction @ product.to(torch.float64)) * direction.norm**2
    return slope, curvature if math.isfinite(curvature) else math.nan
