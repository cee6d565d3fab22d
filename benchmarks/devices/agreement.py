"""Whether two devices give the same numbers, within the errors of these numbers.

Losses, gradient and products carry rounding errors, whose size is measured on the CPU. The distance of the float32
result from the float64 result, in units of the float32 rounding unit, is how much the computation amplifies rounding.
Another device adds in another order, so it makes other errors of about this size. Differences up to `MARGIN` times this
size are allowed. Differences by TF32 are far larger, because its rounding unit is 8,192 times larger. Eigenvalues carry
their own error: the intervals of the two devices must overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.fisher import EmpiricalFisher, ExactFisher, MonteCarloFisher
from landscape.curvature.gauss_newton import GaussNewton
from landscape.curvature.preconditioned import Preconditioned
from landscape.loops.untied import untied
from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.slices import gaussian, orthogonalised, plane
from landscape.spectrum.eigenpairs import Eigenpairs, top_eigenpairs

MARGIN = 10
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Agreement:
    """One quantity of one problem on a device and on the CPU.

    Attributes:
        problem: name of the problem.
        dtype: ``float32`` or ``float64``.
        quantity: name of the quantity.
        difference: relative difference in the 2-norm. For eigenvalues it is the relative difference of the eigenvalue
            that is furthest off in units of its error.
        allowed: largest difference that the two results' errors explain. For eigenvalues it is the sum of the errors of
            the eigenvalue that is furthest off.
    """

    problem: str
    dtype: str
    quantity: str
    difference: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether the errors explain the difference; False if either is NaN."""
        return self.difference <= self.allowed


@dataclass(frozen=True)
class Computed:
    """The results of one problem on one device in one precision.

    Attributes:
        vectors: per-term losses, gradient, losses over a plane, and one product of each kind of curvature; moved to the
            CPU and to float64.
        pairs: top 10 eigenpairs of the Hessian, or all if there are fewer.
    """

    vectors: dict[str, Tensor]
    pairs: Eigenpairs


def agreements(name: str, problem: Problem, device: torch.device) -> list[Agreement]:
    """Compare a device with the CPU on one problem, in float32 and in float64."""
    cpu = {dtype: measured(problem.to("cpu", dtype)) for dtype in DTYPES}
    amplification = {
        quantity: max(1.0, distance(vector, cpu[torch.float64].vectors[quantity]) / torch.finfo(torch.float32).eps)
        for quantity, vector in cpu[torch.float32].vectors.items()
    }
    return [
        row
        for dtype in DTYPES
        for row in compare(name, dtype, measured(problem.to(device, dtype)), cpu[dtype], amplification)
    ]


def measured(problem: Problem) -> Computed:
    """Compute all compared quantities with a fixed vector and a fixed seed; the problem's model must have a loop."""
    vectors = {
        "losses": torch.cat([losses.flatten() for losses, _ in problem.sample_losses()]),
        "gradient": problem.gradient(),
        "plane of losses": _plane(problem),
        **{f"{name} product": operator.matvec(_direction(operator)) for name, operator in _operators(problem).items()},
    }
    vectors = {quantity: value.to("cpu", torch.float64) for quantity, value in vectors.items()}
    return Computed(vectors, top_eigenpairs(problem.hessian(), min(10, problem.layout.dim), seed=0))


def _operators(problem: Problem) -> dict[str, SymmetricOperator]:
    """An operator for every kind of curvature.

    The sampled labels of the Monte-Carlo Fisher matrix are equal on both devices, but for about one in 10^6, where
    rounding decides.
    """
    hessian = problem.hessian()
    return {
        "Hessian": hessian,
        "Gauss-Newton": GaussNewton(problem),
        "exact Fisher": ExactFisher(problem),
        "Monte-Carlo Fisher": MonteCarloFisher(problem),
        "empirical Fisher": EmpiricalFisher(problem),
        "preconditioned": Preconditioned(hessian, 1 + _direction(hessian).square()),
        "untied": untied(problem)[0].hessian(),
    }


def _plane(problem: Problem) -> Tensor:
    """Losses over a plane of filter-normalised directions, whose random numbers are drawn on the CPU."""
    first, second = orthogonalised([gaussian(problem, 0, index) for index in range(2)])
    return torch.as_tensor(plane(problem, first, second, np.linspace(-0.2, 0.2, 3), np.linspace(-0.2, 0.2, 3)).losses)


def _direction(operator: SymmetricOperator) -> Tensor:
    vector = torch.randn(operator.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return vector.to(operator.device, operator.dtype)


def compare(
    name: str, dtype: torch.dtype, device: Computed, cpu: Computed, amplification: dict[str, float]
) -> list[Agreement]:
    """Compare the results of a device and of the CPU, quantity by quantity.

    Args:
        name: name of the problem.
        dtype: precision of both results.
        device: results of the device.
        cpu: results of the CPU.
        amplification: amplification of rounding, for each of the vectors.
    """
    precision = str(dtype).removeprefix("torch.")
    allowed = {quantity: MARGIN * torch.finfo(dtype).eps * factor for quantity, factor in amplification.items()}
    rows = [
        Agreement(name, precision, quantity, distance(device.vectors[quantity], expected), allowed[quantity])
        for quantity, expected in cpu.vectors.items()
    ]
    difference, error = furthest_eigenvalue(device.pairs, cpu.pairs)
    return [*rows, Agreement(name, precision, "top 10 eigenvalues", difference, error)]


def distance(vector: Tensor, expected: Tensor) -> float:
    """||vector - expected|| / ||expected||."""
    return float((vector - expected).norm() / expected.norm())


def furthest_eigenvalue(ours: Eigenpairs, theirs: Eigenpairs) -> tuple[float, float]:
    """Difference and sum of errors of the eigenvalue with the largest ratio of the two, both relative to it.

    Eigenvalues are compared in the order of the two results, so both solves must be complete. Otherwise the sum of
    errors is NaN, which allows no difference.
    """
    scale = abs(theirs.eigenvalues)
    difference = abs(ours.eigenvalues - theirs.eigenvalues) / scale
    radii = (ours.residuals + ours.rounding + theirs.residuals + theirs.rounding) / scale
    worst = int((difference / radii).argmax())
    complete = ours.complete and theirs.complete
    return float(difference[worst]), float(radii[worst]) if complete else float("nan")
