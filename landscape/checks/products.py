"""Check that products are those of one symmetric matrix, and of the Hessian, up to what rounding explains."""

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
"""Factor on the estimated error of a difference. Only the size of that error is known, and along one direction."""


@dataclass(frozen=True)
class ProductCheck:
    """Errors of products, as fractions of the size s = max(||A u||, ||A v||) of a product.

    Attributes:
        repeatability: ||A u - (A u again)|| / s.
        linearity: ||A (u + v / 3) - A u - (A v) / 3|| / s.
        symmetry: |u^T A v - v^T A u| / (s ||u||).
        differences: the smaller of ||A u - d_u|| / s and ||A v - d_v|| / s, with d_u and d_v by central differences of
            the gradient; None where A isn't the Hessian, or there are no differences.
        rounding: largest allowed value of the first three: half of the digits of the precision, plus five times the
            stated error of inexact products.
        allowed: largest allowed value of ``differences``: five times the differences' own error, plus ``rounding``.
        reason: why there are no differences; empty if there are, or if none are needed.
        slopes: slopes of the loss along its gradient and a random direction, by differences and by the gradient.
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
        """A sentence for each check that fails."""
        exact = {name: getattr(self, name) for name in ("repeatability", "linearity", "symmetry")}
        failures = [
            f"{name} is off by {value:.1e}, and rounding explains {self.rounding:.1e}"
            for name, value in exact.items()
            if not value <= self.rounding
        ]
        if self.differences is not None and not self.differences <= self.allowed:
            failures.append(
                f"products differ from differences of the gradient by {self.differences:.1e}, whose own error is "
                f"{self.allowed:.1e}: a backward pass in the model or the loss isn't the derivative of its forward pass"
            )
        return (*failures, *(fault_in(slope) for slope in self.slopes if slope.excess > 1))


def check_products(
    problem: Problem, operator: SymmetricOperator, *, hessian: bool = True, error: float = 0.0, seed: int = 0
) -> ProductCheck:
    """Check an operator's products with two random vectors, by four products and differences of gradient and loss.

    Args:
        problem: the problem at whose point the operator is taken.
        operator: an operator of any kind.
        hessian: whether the operator has to be the Hessian of the problem's objective; default: yes.
        error: stated error of inexact products, as a fraction of their size; default: 0, exact products.
        seed: seed of the random vectors; default: 0.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randn(operator.dim, generator=generator, dtype=torch.float64) for _ in range(2))
    u, v = (without_padding(problem.model, problem.layout, each.to(problem.vector)) for each in draws)
    first, again, other, both = (operator.matvec(each).to(torch.float64) for each in (u, u, v, u + v / 3))
    scale, slopes = max(_norm(first), _norm(other)), _slopes(problem, seed)
    if not scale:
        return ProductCheck(0.0, 0.0, 0.0, None, 0.0, 0.0, "all products are zero", slopes)
    length = float(torch.linalg.vector_norm(u))
    float64_u, float64_v = u.to(torch.float64), v.to(torch.float64)
    # Half of the digits, as in other checks: with more rounding, a product would be of no use.
    rounding = torch.finfo(operator.dtype).eps ** 0.5 + _TIMES * error
    difference, allowed, reason = None, 0.0, ""
    if hessian:
        try:
            distances = _from_differences(problem, [(u, first), (v, other)])
            difference, allowed = distances[0], distances[1] + rounding
        except InputError as none:
            reason = str(none)
    return ProductCheck(
        _norm(first - again) / scale,
        _norm(both - first - other / 3) / scale,
        abs(float(float64_u @ other - float64_v @ first)) / (scale * length),
        difference,
        rounding,
        allowed,
        reason,
        slopes,
    )


def _slopes(problem: Problem, seed: int) -> tuple[Slope, ...]:
    try:
        return tuple(check_slopes(problem, seed))
    except InputError:  # the nearby point of the slopes may have no finite loss
        return ()


def _from_differences(problem: Problem, products: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The distance of products from differences, and the distance allowed; in float64 where the model can be evaluated.

    The distance is the smallest over all directions. At a kink differences are wrong along some directions. A wrong
    backward pass is wrong along every direction.
    """
    try:
        precise = problem.to(dtype=torch.float64)
    except (InputError, RuntimeError, TypeError):
        precise = problem
    differences = DifferenceHessian(precise)
    by_differences = [differences.matvec(vector.to(precise.vector)).to(torch.float64) for vector, _ in products]
    scale = max(_norm(product) for _, product in products)
    off = min(_norm(product - each) / scale for (_, product), each in zip(products, by_differences, strict=True))
    return off, _TIMES * differences.error


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))
