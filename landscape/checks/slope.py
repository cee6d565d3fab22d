"""Check by differences of the loss that the gradient is the derivative of the loss.

The gradient isn't the derivative with a straight-through estimator, a ``detach`` (semi-gradients, targets of other
networks), a layer that reverses gradients, or a wrong backward pass of the code's own. The Hessian is then the
derivative of that gradient. The loss along a slice has another slope and another curvature.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.machine.memory import in_room
from landscape.problem import Problem
from landscape.problem.embeddings import without_padding
from landscape.problem.leaks import Watching

_STEPS = (1.0, 1 / 16, 1 / 256)
_TIMES = 5  # one difference of two numbers shows only the size of an error
_APART = 1e-3  # distance to the point of the slopes, by the parameters' norm: off the kinks at the point itself
_SAMPLES = 4  # for the check that `slope_notes` makes unasked


@dataclass(frozen=True)
class Slope:
    """The slope of the loss along one direction of length 1, in units of the loss per unit of a parameter.

    Attributes:
        found: slope by central differences of the loss.
        expected: slope by the gradient, the gradient's component along the direction.
        allowed: largest allowed difference between the two slopes, a sum of three parts. They are five times the
            difference between two steps, ten times the change from one rounding of the parameters, and half of the
            digits of the gradient.
        direction: name of the direction.
    """

    found: float
    expected: float
    allowed: float
    direction: str

    @property
    def excess(self) -> float:
        """The difference between the two slopes divided by ``allowed``; above 1, the gradient isn't the derivative."""
        off = abs(self.found - self.expected)
        return off / self.allowed if self.allowed > 0 and math.isfinite(off) else 0.0

    def __str__(self) -> str:
        return (
            f"along {self.direction} the slope of the loss is {self.found:.4g} by differences, off by at most "
            f"{self.allowed:.1e}, and {self.expected:.4g} by the gradient"
        )


def check_slopes(problem: Problem, seed: int = 0) -> list[Slope]:
    """Slopes of the loss along its gradient and along a random direction, by some fifteen losses and two gradients.

    The slopes are computed in float64 where the model can be evaluated in float64. Steps and errors follow the least
    precise numbers that the model computes with. The point of the slopes lies off the problem's point in a random
    direction, by a thousandth of the parameters' norm. An ordinary network (ReLU, max-pooling) is differentiable at
    almost every point, but perhaps not at weights of zero. The random direction covers parameters behind a ``detach``,
    where the gradient is zero.

    Raises:
        InputError: the losses have no gradient, or aren't finite.
    """
    with contextlib.suppress(InputError, RuntimeError, TypeError):  # keep the problem as it is if it has no float64
        problem = problem.to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(problem.layout.dim, generator=generator, dtype=torch.float64).to(problem.vector)

    size = float(torch.linalg.vector_norm(problem.vector, dtype=torch.float64)) or 1.0
    problem = problem.at(problem.vector + _APART * size / math.sqrt(problem.layout.dim) * normal())
    eps = _precision(problem)
    gradient, loss = problem.gradient(), _loss(problem, problem.vector)
    rounded = problem.at(problem.vector * (1 + eps * normal().sign()))
    gradient_moved = rounded.gradient() - gradient
    rounding = abs(_loss(rounded, rounded.vector) - loss) + eps * abs(loss)
    norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
    slopes = []
    for name, direction in (
        ("the gradient", gradient),
        ("a random direction", without_padding(problem.model, problem.layout, normal())),
    ):
        if not (length := float(torch.linalg.vector_norm(direction, dtype=torch.float64))):
            continue
        unit = direction / length
        steps = [step * eps ** (1 / 3) * (1 + size) for step in _STEPS]
        quotients = [(_loss(problem, problem.vector + h * unit) - _loss(problem, problem.vector - h * unit)) / (2 * h)
                     for h in steps]  # fmt: skip
        moved = abs(float(unit @ gradient_moved))
        errors = [
            _TIMES * abs(quotients[i] - quotients[i + 1])
            + 2 * _TIMES * (rounding / steps[i + 1] + moved)
            + eps**0.5 * norm
            for i in range(len(steps) - 1)
        ]
        best = min(range(len(errors)), key=errors.__getitem__)
        slopes.append(Slope(quotients[best + 1], float(unit @ gradient), errors[best], name))
    return slopes


def slope_notes(problem: Problem) -> tuple[str, ...]:
    """A note where the gradient isn't the derivative of the loss, from a few samples; empty where no check is possible.

    The check is cheap enough to be made unasked: about twenty losses and a few gradients of four samples.
    """
    try:
        slopes = in_room(lambda samples: check_slopes(problem.first_samples(samples)), _SAMPLES, list[Slope]())
    except InputError:
        return ()
    return tuple(f"{fault_in(slope)}; matrices are of this gradient, slices of the loss" for slope in _worst(slopes))


def fault_in(slope: Slope) -> str:
    """The sentence about a slope that isn't the gradient's."""
    return (
        "THE GRADIENT ISN'T THE DERIVATIVE OF THE LOSS (a straight-through estimator, a detach, or a backward pass of "
        f"the code's own): {slope}"
    )


def _worst(slopes: list[Slope]) -> list[Slope]:
    """The slope that is farthest from the gradient's, in a list; an empty list where all slopes agree."""
    return sorted((each for each in slopes if each.excess > 1), key=lambda each: -each.excess)[:1]


def _loss(problem: Problem, vector: Tensor) -> float:
    with torch.no_grad(), problem.evaluating():
        return problem.sums_at(vector).mean


def _precision(problem: Problem) -> float:
    """The relative rounding of the least precise floating-point type that an evaluation uses."""
    with torch.no_grad(), problem.evaluating(), Watching() as seen:
        problem.sums_at(problem.vector)
    return max(torch.finfo(dtype).eps for dtype in (*seen.precisions, problem.dtype))
