"""Whether products are those of one symmetric matrix, and of the Hessian: measured, with what rounding explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.checks.slope import Slope, check_slopes, fault_in
from landscape.curvature.differences import DifferenceHessian
from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.problem.embeddings import without_padding

_TIMES = 5
"""A difference's error is known along one direction, so of size alone; the same factor serves each comparison."""


@dataclass(frozen=True)
class ProductCheck:
    """Errors as shares of the size of a product.

    Attributes:
        repeatability: ||A u - (A u again)||.
        linearity: ||A (u + v / 3) - A u - (A v) / 3||.
        symmetry: |u^T A v - v^T A u| by the larger of ||A u|| ||v|| and ||A v|| ||u||.
        differences: ||A u - d||, or the same of v where it is less, d being central differences of the gradient; None
            where A isn't the Hessian, or there are no differences.
        rounding: what the first three may be: half of the digits of the precision.
        allowed: what ``differences`` may be: the differences' own error, and rounding.
        reason: why there are no differences; empty if there are, or needn't be.
        slopes: of the loss along its gradient and a random direction, by differences and by the gradient.
    """

    repeatability: float
    linearity: float
    symmetry: float
    differences: float | None
    rounding: float
    allowed: float
    reason: str = ""
    slopes: tuple[Slope, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """What isn't as it must be."""
        exact = {name: getattr(self, name) for name in ("repeatability", "linearity", "symmetry")}
        found = [f"{name} is off by {value:.1e}, rounding by {self.rounding:.1e}" for name, value in exact.items()
                 if not value <= self.rounding]  # fmt: skip
        if self.differences is not None and not self.differences <= self.allowed:
            found.append(
                f"products differ from differences of the gradient by {self.differences:.1e}, whose own error is "
                f"{self.allowed:.1e}: a backward pass in the model or the loss isn't the derivative of its forward pass"
            )
        return (*found, *(fault_in(slope) for slope in self.slopes if slope.excess > 1))


def check_products(
    problem: Problem, operator: SymmetricOperator, *, hessian: bool = True, error: float = 0.0, seed: int = 0
) -> ProductCheck:
    """Check an operator's products with two random vectors, by four products and differences of gradient and loss.

    Args:
        problem: at whose point the operator is.
        operator: of any kind.
        hessian: whether it is to be the Hessian of the problem's objective.
        error: what its products are off by, as a share, where they aren't exact.
        seed: of the vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randn(operator.dim, generator=generator, dtype=torch.float64) for _ in range(2))
    u, v = (without_padding(problem.model, problem.layout, each.to(problem.vector)) for each in draws)
    first, again, other, both = (operator.matvec(each).to(torch.float64) for each in (u, u, v, u + v / 3))
    scale, slopes = max(_norm(first), _norm(other)), _slopes(problem, seed)
    if not scale:
        return ProductCheck(0.0, 0.0, 0.0, None, 0.0, 0.0, "all products are zero", slopes)
    length = float(torch.linalg.vector_norm(u))
    wide_u, wide_v = u.to(torch.float64), v.to(torch.float64)
    # Half of the digits, as everywhere: rounding that took more would leave no product worth having.
    rounding = torch.finfo(operator.dtype).eps ** 0.5 + _TIMES * error
    difference, allowed, reason = None, 0.0, ""
    if hessian:
        try:
            found = _from_differences(problem, [(u, first), (v, other)])
            difference, allowed = found[0], found[1] + rounding
        except InputError as none:
            reason = str(none)
    return ProductCheck(
        _norm(first - again) / scale,
        _norm(both - first - other / 3) / scale,
        abs(float(wide_u @ other - wide_v @ first)) / (scale * length),
        difference,
        rounding,
        allowed,
        reason,
        slopes,
    )


def _slopes(problem: Problem, seed: int) -> tuple[Slope, ...]:
    try:
        return tuple(check_slopes(problem, seed))
    except InputError:  # beside the point the loss may be none
        return ()


def _from_differences(problem: Problem, products: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """How far products are from differences, and how far these may be off; in float64 where the model can be.

    Of all directions the nearest: at a kink differences are off along some, and a wrong backward pass is along each.
    """
    try:
        wide = problem.to(dtype=torch.float64)
    except (InputError, RuntimeError, TypeError):
        wide = problem
    differences = DifferenceHessian(wide)
    there = [differences.matvec(vector.to(wide.vector)).to(torch.float64) for vector, _ in products]
    scale = max(_norm(product) for _, product in products)
    off = min(_norm(product - each) / scale for (_, product), each in zip(products, there, strict=True))
    return off, _TIMES * differences.error


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))
