"""Whether two devices give the same numbers, within the errors that these numbers have.

Losses, gradient and products carry rounding errors, whose size is measured on the CPU: the distance of the float32
result to the float64 one, in units of the float32 rounding unit, is how much the computation amplifies rounding.
Another device adds in another order, so its errors are others of about that size; `MARGIN` times it is allowed.
TF32, whose rounding unit is 8,192 times larger, lies far outside. Eigenvalues carry their own error: the intervals of
the two devices must overlap.
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
        problem: its name.
        dtype: ``float32`` or ``float64``.
        quantity: what was compared.
        difference: relative, in the 2-norm; of eigenvalues, the largest one relative to its eigenvalue.
        allowed: what the errors of the two explain; of eigenvalues, for the one that comes closest to it.
    """

    problem: str
    dtype: str
    quantity: str
    difference: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """The difference is explained; a NaN isn't."""
        return self.difference <= self.allowed


@dataclass(frozen=True)
class RowData:
    """What one device in one precision makes of a problem.

    Attributes:
        vectors: per-term losses, gradient, losses over a plane, and one product of each kind of curvature, on the CPU
            in float64.
        pairs: the top 10 of the Hessian.
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


def measured(problem: Problem) -> RowData:
    """Everything that is compared, from one fixed vector and one fixed seed; of a problem whose model has a loop."""
    vectors = {
        "losses": torch.cat([losses.flatten() for losses, _ in problem.sample_losses()]),
        "gradient": problem.gradient(),
        "plane of losses": _plane(problem),
        **{f"{name} product": operator.matvec(_direction(operator)) for name, operator in _operators(problem).items()},
    }
    vectors = {quantity: value.to("cpu", torch.float64) for quantity, value in vectors.items()}
    return RowData(vectors, top_eigenpairs(problem.hessian(), min(10, problem.layout.dim), seed=0))


def _operators(problem: Problem) -> dict[str, SymmetricOperator]:
    """Every kind of curvature; sampled labels are the same but where rounding decides, for one in some 10^6."""
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
    """Losses over a plane of filter-normalised directions, whose draws are made on the CPU."""
    first, second = orthogonalised([gaussian(problem, 0, index) for index in range(2)])
    return torch.as_tensor(plane(problem, first, second, np.linspace(-0.2, 0.2, 3), np.linspace(-0.2, 0.2, 3)).losses)


def _direction(operator: SymmetricOperator) -> Tensor:
    vector = torch.randn(operator.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return vector.to(operator.device, operator.dtype)


def compare(
    name: str, dtype: torch.dtype, device: RowData, cpu: RowData, amplification: dict[str, float]
) -> list[Agreement]:
    """One line for each quantity.

    Args:
        name: of the problem.
        dtype: in which both were computed.
        device: what the device gave.
        cpu: what the CPU gave.
        amplification: of rounding, for each of the vectors.
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
    """The eigenvalue whose two intervals are nearest to parting: its difference and both errors, relative to it.

    Intervals are compared in the order of the two results, so both solves must be complete; otherwise nothing is
    allowed.
    """
    scale = abs(theirs.eigenvalues)
    difference = abs(ours.eigenvalues - theirs.eigenvalues) / scale
    radii = (ours.residuals + ours.rounding + theirs.residuals + theirs.rounding) / scale
    worst = int((difference / radii).argmax())
    complete = ours.complete and theirs.complete
    return float(difference[worst]), float(radii[worst]) if complete else float("nan")
