"""The extent of a slice: how far it goes on each side for the loss to rise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from landscape.errors import InputError
from landscape.problem import Problem
from landscape.slices.buffers import BufferRule, Points
from landscape.slices.directions import Aim, aimed

_DOUBLINGS = 40
_BISECTIONS = 4  # the end is then known to a tenth


@dataclass(frozen=True)
class Extent:
    """The two ends of a slice, in steps along its direction.

    Attributes:
        low: the lower end, negative.
        high: the upper end, positive.
        rise: rise of the loss that marks an end, in the units of the loss.
        risen: whether the loss rises that far at the lower and at the upper end; where not, the end is the farthest
            position evaluated.
    """

    low: float
    high: float
    rise: float
    risen: tuple[bool, bool]


def natural_scale(problem: Problem) -> float:
    """The loss of a model that has learnt nothing: the unit in which a rise is large or small.

    For cross-entropy over K classes it is log K, the loss of a uniform guess. For the mean squared error it is the
    variance of the targets, the loss of guessing their mean, if the targets vary and have one shape. In all other cases
    it is the loss at the point in absolute value, as a substitute.

    Returns:
        The natural scale, in the units of the loss; 0 where none of these gives one.
    """
    loss = problem.torch_loss
    if isinstance(loss, nn.CrossEntropyLoss):
        with torch.no_grad(), problem.evaluating():
            output = problem.output(problem.vector, problem.batches[0])
        return math.log(output.shape[1])
    if isinstance(loss, nn.MSELoss):
        targets = [batch[1].reshape(len(batch[1]), -1).to(torch.float64) for batch in problem.batches]
        if len({each.shape[1] for each in targets}) == 1:
            together = torch.cat(targets)
            if variance := float((together - together.mean(0)).square().mean()):
                return variance
    return abs(problem.by_sample().mean)


def find_extent(
    problem: Problem, direction: Aim, rise: float | None = None, buffers: BufferRule = "interpolate"
) -> Extent:
    """The first position on each side at which the loss has risen, as far as doubling steps can see.

    The first step is a thousandth of theta's norm, or of 1 where theta is zero. The step is doubled until the loss has
    risen or isn't finite. If the loss has risen after the first step, the step is halved until it hasn't. The position
    is then bisected to a tenth.

    Args:
        problem: the problem at the point theta.
        direction: direction of the slice.
        rise: rise above the loss L at theta; default: max(|L|, a tenth of `natural_scale`), or 1 where both are 0.
        buffers: rule for the buffers at the points, see `landscape.slices.buffers.Points`; default: ``interpolate``.

    Raises:
        InputError: the direction is zero, the rise isn't positive, or the loss at theta isn't finite.
    """
    direction = aimed(problem, direction)
    points = Points(problem, [direction], buffers)
    with torch.no_grad(), problem.evaluating():
        base = points.at(problem.vector, [0.0]).loss()
    if not 0 < direction.norm < math.inf:
        raise InputError(f"{direction.name} has the length {direction.norm:g}, so it is not a direction")
    if rise is not None and not rise > 0:
        raise InputError(f"a loss rises by a positive number, not by {rise}")
    if rise is None:
        rise = max(abs(base), natural_scale(problem) / 10) or 1.0
    length = float(torch.linalg.vector_norm(problem.vector, dtype=torch.float64)) or 1.0

    def above(position: float) -> bool:
        """Whether the loss has risen at a position, or isn't finite."""
        if abs(position) > torch.finfo(problem.dtype).max:
            return True
        value = points.sums_at(torch.add(problem.vector, direction.vector, alpha=position), [position]).mean
        return not value <= base + rise

    first = 1e-3 * length / direction.norm
    with torch.no_grad(), problem.evaluating():
        ends = [_end(lambda step, sign=sign: above(sign * step), first) for sign in (-1.0, 1.0)]  # type: ignore[misc]
    (left, left_risen), (right, right_risen) = ends
    return Extent(-left, right, rise, (left_risen, right_risen))


def _end(above: Callable[[float], bool], step: float) -> tuple[float, bool]:
    """The step at which the loss has risen, to a tenth, and True; else the largest step evaluated, and False."""
    low, high = 0.0, step
    for _ in range(_DOUBLINGS):
        if above(high):
            break
        low, high = high, 2 * high
    else:
        return low, False
    while low == 0.0 and high > step * 2.0**-_DOUBLINGS:  # the first step was beyond it
        if not above(high / 2):
            low = high / 2
        else:
            high /= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return high, True
