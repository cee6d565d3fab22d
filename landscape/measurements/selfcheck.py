"""Whether products are what they are said to be: of one symmetric matrix, and of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import starmap
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.curvature.kinds import kind_of
from landscape.measurements.base import Flag, RowData, variable
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
    """Four products with random vectors, held to each other and to central differences of the gradient.

    Attributes:
        seed: of the vectors.
        matrix: of which the products are.
    """

    seed: int = 0
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "self_check"
    flag: ClassVar[Flag] = Flag("self_check", "Check products against differences.")

    @property
    def exact(self) -> bool:
        """See `OfMatrix`."""
        return False

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Nothing is open but the matrix."""
        return self.with_matrix(problem)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.checks.products import check_products
        from landscape.curvature.differences import DifferenceHessian
        from landscape.curvature.reduced import ReducedHessian

        operator, made = self.matrix.operator(problem, kept_route(history.choices), 4)
        hessian = kind_of(self.matrix.kind).differentiable and self.matrix.precondition is None
        error = made.error if isinstance(made, DifferenceHessian | ReducedHessian) else 0.0
        found = check_products(problem, operator, hessian=hessian, error=error, seed=self.seed)
        errors = {name: getattr(found, name) for name in _ERRORS}
        variables = {
            name: variable((), float("nan") if value is None else value, f"{_ERRORS[name]}, as a share of a product")
            for name, value in errors.items()
        }
        variables["rounding"] = variable((), found.rounding, "what rounding may make of the first three")
        variables["allowed"] = variable((), found.allowed, "what differences may be off by: their own error, rounding")
        slopes = "slope", [each.direction for each in found.slopes]
        variables["slope"] = variable(*slopes, "direction in which the loss was differentiated")
        for name, meaning in _SLOPES.items():
            values = [getattr(each, name) for each in found.slopes]
            variables[f"slope_{name}"] = variable("slope", values, meaning, "loss / parameter")
        variables["reason"] = variable((), found.reason, "why there are no differences")
        return RowData(variables, {"route": made.route.plain()})

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """Every fault; and differences that couldn't be made count as none."""
        return list(_found(row).faults)

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line."""
        found = _found(row)
        parts = [f"{name} {getattr(found, name):.1e}" for name in ("repeatability", "linearity", "symmetry")]
        if found.differences is not None:
            parts.append(f"from differences of the gradient {found.differences:.1e} (these: {found.allowed:.1e})")
        elif found.reason:
            parts.append(f"NOT held to differences: {found.reason}")
        lines: list[RenderableType] = [
            f"self-check of products ({self.matrix.title}), errors as shares: {', '.join(parts)}"
        ]
        return lines + [f"self-check of the gradient: {slope}" for slope in found.slopes]


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
