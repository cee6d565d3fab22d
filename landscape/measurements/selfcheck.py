"""Check that products are linear and symmetric, and that those of a Hessian agree with differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import starmap
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.curvature.kinds import kind_of
from landscape.measurements.base import Flag, RowData, variable
from landscape.measurements.cost import Cost
from landscape.measurements.matrix import Matrix, OfMatrix, kept_route
from landscape.measurements.run import History
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.checks.products import ProductCheck
    from landscape.problem import Problem

_ERRORS = {
    "repeatability": "||A u - (A u again)||",
    "linearity": "||A (u + v / 3) - A u - A v / 3||",
    "symmetry": "|u^T A v - v^T A u|",
    "differences": "||A u - d||, d central differences of the gradient",
}

_SLOPES = {
    "found": "slope of the loss by central differences of the loss",
    "expected": "the same by the gradient",
    "allowed": "what the two may differ by: the differences' own error, rounding",
}


@dataclass(frozen=True)
class SelfCheck(OfMatrix):
    """Four products with random vectors, compared with each other and with central differences of the gradient.

    Attributes:
        seed: seed of the random vectors. Default: 0.
        matrix: the matrix whose products are checked. Default: the Hessian.
    """

    seed: int = 0
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "self_check"
    flag: ClassVar[Flag] = Flag("self_check", "Check products against finite differences.")

    @property
    def exact(self) -> bool:
        """See `OfMatrix.exact`."""
        return False

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Resolve the matrix."""
        return self.with_matrix(problem)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: products, and differences of gradients and losses."""
        return Cost(4, 40, "about", self.operator)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.checks.products import check_products
        from landscape.curvature.differences import DifferenceHessian
        from landscape.curvature.reduced import ReducedHessian

        operator, base = self.matrix.operator(problem, kept_route(history.choices), 4)
        hessian = kind_of(self.matrix.kind).differentiable and self.matrix.precondition is None
        error = base.error if isinstance(base, DifferenceHessian | ReducedHessian) else 0.0
        check = check_products(problem, operator, hessian=hessian, error=error, seed=self.seed)
        errors = {name: getattr(check, name) for name in _ERRORS}
        variables = {
            name: variable((), float("nan") if value is None else value, f"{_ERRORS[name]}, as a share of a product")
            for name, value in errors.items()
        }
        variables["rounding"] = variable((), check.rounding, "what rounding may make of the first three")
        variables["allowed"] = variable((), check.allowed, "what differences may be off by: their own error, rounding")
        slopes = "slope", [each.direction for each in check.slopes]
        variables["slope"] = variable(*slopes, "direction in which the loss was differentiated")
        for name, meaning in _SLOPES.items():
            values = [getattr(each, name) for each in check.slopes]
            variables[f"slope_{name}"] = variable("slope", values, meaning, "loss / parameter")
        variables["reason"] = variable((), check.reason, "why there are no differences")
        return RowData(variables, {"route": base.route.plain()})

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for each fault; missing differences are no fault."""
        return list(_found(row).faults)

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line for the products, and a line for each slope of the loss."""
        check = _found(row)
        parts = [f"{name} {getattr(check, name):.1e}" for name in ("repeatability", "linearity", "symmetry")]
        if check.differences is not None:
            parts.append(
                f"from differences of the gradient {check.differences:.1e} (their own error: {check.allowed:.1e})"
            )
        elif check.reason:
            parts.append(f"NOT compared with differences: {check.reason}")
        lines: list[RenderableType] = [
            f"self-check of products ({self.matrix.title}), errors as shares: {', '.join(parts)}"
        ]
        return lines + [f"self-check of the gradient: {slope}" for slope in check.slopes]


def _found(row: xr.Dataset) -> ProductCheck:
    from landscape.checks.products import ProductCheck
    from landscape.checks.slope import Slope

    value = float(row.differences)
    return ProductCheck(
        float(row.repeatability),
        float(row.linearity),
        float(row.symmetry),
        None if np.isnan(value) else value,
        float(row.rounding),
        float(row.allowed),
        str(row.reason.values),
        tuple(starmap(Slope, zip(*(row[f"slope_{name}"].values for name in _SLOPES), row.slope.values, strict=True))),
    )
