"""Measure the diagonal of a matrix, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.measurements.base import Flag, RowData, arithmetic_in, arithmetic_variable, tensors_of, variable
from landscape.measurements.cost import Cost, of_probes
from landscape.measurements.matrix import Matrix, OfMatrix, kept_route
from landscape.measurements.run import History
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Diagonal(OfMatrix):
    """Every entry of the diagonal with its standard error; see `landscape.estimate_diagonal` for the settings.

    A row stores one entry for each parameter. The screen and the figure show quantiles over each parameter tensor.

    Attributes:
        tol_estimate: goal for the norm of all standard errors, relative to the diagonal's norm. Default: None, the goal
            of `landscape.estimate_diagonal`.
        probes: number of probe vectors, instead of a goal. Default: None.
        seed: seed of the probe vectors. Default: 0.
        max_products: largest number of products. Default: None, the limit of `landscape.estimate_diagonal`.
        matrix: the matrix whose diagonal is estimated. Default: the Hessian.
    """

    tol_estimate: float | None = None
    probes: int | None = None
    seed: int = 0
    max_products: int | None = None
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "diagonal"
    flag: ClassVar[Flag] = Flag("diagonal", "Diagonal, entry by entry, by random probes.")
    figures: ClassVar[tuple[str, ...]] = ("diagonal",)

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse the settings that `estimate_diagonal` would refuse, and resolve the matrix."""
        from landscape.spectrum.diagonal import check_arguments

        check_arguments(problem.layout.dim, self.tol_estimate, self.probes, self.seed, self.max_products)
        return self.with_matrix(problem)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`."""
        from landscape.spectrum.diagonal import DEFLATION, fewest_products

        products = fewest_products(problem.layout.dim, DEFLATION, self.probes)
        return of_probes(products, self.probes, self.operator, 2 * DEFLATION)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; products take the route of an earlier row, if there is one."""
        from landscape.spectrum.diagonal import estimate_diagonal

        operator, base = self.matrix.operator(problem, kept_route(history.choices), self.probes)
        estimate = estimate_diagonal(
            operator, self.tol_estimate, self.probes, self.seed, max_products=self.max_products, progress=bar
        )
        units, of_tensors = self.matrix.units, np.cumsum(problem.layout.sizes)[:-1]
        quantiles = [np.quantile(part, SHARES) for part in np.split(estimate.values, of_tensors)]
        errors = [float(np.sqrt(np.mean(part**2))) for part in np.split(estimate.standard_errors, of_tensors)]
        return RowData(
            {
                "diagonal": variable("parameter", estimate.values, f"diagonal of the {self.matrix.title}", units),
                "standard_error": variable("parameter", estimate.standard_errors, "of each entry, over probes", units),
                **tensors_of(problem),
                "share": variable("share", SHARES, "of a tensor's entries at or below a quantile"),
                "quantiles": variable(("tensor", "share"), quantiles, "quantiles of a tensor's entries", units),
                "tensor_error": variable("tensor", errors, "root mean square of its standard errors", units),
                "sum": variable((), estimate.values.sum(), "sum of the entries", units),
                "relative_error": variable((), estimate.relative_error, "standard errors together, by the norm"),
                "method": variable((), estimate.method, "probes, or exact: by the product with every unit vector", ""),
                "converged": variable((), estimate.converged, "the goal was reached, or so many probes made"),
                "rounding": variable((), estimate.rounding, "what rounding may add to the error of an entry", units),
                **arithmetic_variable(estimate.arithmetic),
                "deflation": variable((), estimate.deflation, "directions done exactly"),
                "probes": variable((), estimate.probes, "random probes"),
                "products": variable((), estimate.products, "matrix-vector products made"),
            },
            {"route": base.route.plain()},
        )

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line if the standard errors missed their goal."""
        from landscape.spectrum.diagonal import TOL

        if row.converged:
            return []
        goal = f"{self.tol_estimate or TOL:g} of the diagonal's norm after {int(row.products)} products"
        return [
            f"the diagonal's standard errors are {float(row.relative_error):.2g}, above {goal}: raise --max-products "
            "or --tol-estimate"
        ]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The sum of the entries, how the diagonal was computed, and a table of the parameter tensors."""
        from rich.table import Table

        table = Table("tensor", "smallest", "median", "largest", "± (rms)")
        for column in table.columns[1:]:
            column.justify = "right"
        for i in range(row.sizes["tensor"]):
            each = row.isel(tensor=i)
            ends = (f"{float(each.quantiles[SHARES.index(share)]):.4g}" for share in (0.0, 0.5, 1.0))
            table.add_row(str(each.tensor_name.values), *ends, f"{float(each.tensor_error):.1e}")
        how = f"exact, {int(row.products)} products"
        if str(row.method.values) == "probes":
            how = (
                f"{int(row.probes)} probes and {int(row.deflation)} deflated directions, {int(row.products)} "
                f"products; combined standard error {float(row.relative_error):.2g} of the norm"
            )
        title = f"diagonal of the {self.matrix.title}, of the matrix {arithmetic_in(row)}"
        return [f"{title}: sum {float(row['sum']):.5g}, {how}", table]
