"""Measure a looped module: curvature in its tied weights against curvature in untied weights for each pass."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.errors import InputError
from landscape.measurements.base import Flag, RowData, arithmetic_variable, variable
from landscape.measurements.cost import Cost, of_solve
from landscape.measurements.matrix import Matrix, OfMatrix, kept_routes
from landscape.measurements.run import History
from landscape.reporting.deprecation import renamed_settings
from landscape.reporting.display import to_error
from landscape.reporting.messages import listed
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType
    from rich.table import Table

    from landscape.curvature.products.route import Route
    from landscape.loops import LoopCurvature, Share
    from landscape.operator import SymmetricOperator
    from landscape.problem import Problem
    from landscape.spectrum.eigenpairs import Eigenpairs


@renamed_settings(tol_trace="tol_estimate", module="loop_module")
@dataclass(frozen=True)
class Loops(OfMatrix):
    """The tied matrix of a loop and the blocks of the untied one; see `landscape.loop_curvature` for the settings.

    Attributes:
        loop_module: name of the looped module. Default: None, which finds the module.
        tol_estimate: goal for twice the standard error of the trace's cross-loop share. Default: None, the goal of
            `landscape.estimate_trace`.
        probes: largest number of probe vectors. Default: None, the default of `landscape.loop_curvature`.
        matrix: the kind of curvature. Default: the Hessian.
    """

    loop_module: str | None = None
    k: int = 3
    tol: float = 1e-3
    tol_estimate: float | None = None
    probes: int | None = None
    seed: int = 0
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "loops"
    flag: ClassVar[Flag] = Flag("loops", "Tied against untied weights of a looped module.")

    @property
    def _probes(self) -> int:
        from landscape.loops import PROBES

        return PROBES if self.probes is None else self.probes

    @property
    def _error(self) -> float:
        from landscape.spectrum.trace import TOL

        return (TOL if self.tol_estimate is None else self.tol_estimate) / 2

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse the settings and models that `loop_curvature` would refuse, and resolve the matrix."""
        from landscape.loops import check_arguments
        from landscape.loops.untied import untied

        check_arguments(self.k, self.tol, self._probes, self._error, self.seed)
        if self.matrix.precondition is not None:
            raise InputError(
                "--loops can't be preconditioned, because the separate weights have no second moments: "
                "leave out --precondition"
            )
        untied(problem, self.loop_module)
        return self.with_matrix(problem)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: three solves (tied weights, untied weights, passes), and the probes."""
        return Cost(3 * of_solve(self.k) + self._probes, 0, "about", self.operator, of_solve(self.k))

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; products take the routes of an earlier row, if there is one."""
        from landscape.loops import loop_curvature

        routes: list[Route] = []
        earlier_routes = kept_routes(history.choices, 2)

        def operator(posed: Problem) -> SymmetricOperator:  # called for the tied problem, then for the untied one
            matrix, batched = self.matrix.operator(posed, earlier_routes[len(routes)])
            routes.append(batched.route)
            return matrix

        curvature = loop_curvature(
            problem, self.loop_module, k=self.k, tol=self.tol, probes=self._probes, error=self._error, seed=self.seed,
            operator=operator, progress=bar,
        )  # fmt: skip
        return RowData(
            _variables(curvature, self.matrix),
            {"routes": [route.plain() for route in routes], "loop_notes": curvature.loop.notes},
        )

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for eigenvalues that did not converge, and a line if the share of the trace missed its goal."""
        lines = []
        if open_ones := sum(int((~row[f"{name}_converged"]).sum()) for name in ("tied", "untied", "own")):
            lines.append(f"{open_ones} eigenvalues of the loop did not converge: raise --tol")
        if not row.trace_converged:
            wanting = f"has a standard error above {self._error:g}"
            if math.isnan(float(row.trace_share)):
                wanting = (
                    f"is undefined, because the trace is {float(row.total):.2g} ± "
                    f"{float(row.total_standard_error):.1g},"
                )
            lines.append(
                f"the cross-loop share of the trace {wanting} after {int(row.probes)} probes: raise --probes or "
                "--tol-estimate"
            )
        return lines

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """Tied and untied eigenvalues side by side, the cross-loop shares, and tables of the blocks."""
        from rich.table import Table

        uses = row.sizes["use"]
        table = Table("#", "tied", "untied", "untied times T")
        for column in table.columns:
            column.justify = "right"
        for i in range(row.sizes["index"]):
            tied, untied_value = (_value(row, name, i) for name in ("tied", "untied"))
            table.add_row(str(i + 1), tied, untied_value, f"{uses * float(row.untied.values[i]):.4g}")
        own = ", ".join(_value(row, "own", i) for i in range(uses))
        low, high = row.ratio_interval.values
        total, total_error = float(row.total), float(row.total_standard_error)
        norms, squares = row.norms.values, row.squared_norms_standard_error.values
        norm_errors = np.divide(squares, 2 * norms, out=np.zeros_like(norms), where=norms > 0)
        return [
            *(f"note: {note}" for note in json.loads(str(row.provenance.values))["loop_notes"]),
            f"{self.matrix.title} of {listed(row.module.values)}, used T = {uses} times, {int(row.parameters):,} "
            f"shared parameters; {int(row.tied_products)} tied and {int(row.untied_products)} untied products",
            table,
            f"tied / untied top eigenvalue: {float(row.ratio):.4g} [{low:.4g}, {high:.4g}], at most T for a positive "
            "matrix",
            f"top eigenvalue of each use's own block: {own}",
            f"cross-loop share of the trace: {_share(row, 'trace_share')}",
            f"cross-loop share of the top eigenvalue: {_share(row, 'top_share')}",
            f"tied trace: {to_error(total, total_error)} ± {total_error:.1g}",
            f"trace of each block H_ij, ± {row.traces_standard_error.values.max():.1g} at most:",
            _blocks(row.traces.values),
            f"Frobenius norm of each block H_ij, ± {norm_errors.max():.1g} at most:",
            _blocks(norms),
        ]


def _value(row: xr.Dataset, name: str, i: int) -> str:
    """An eigenvalue, rounded to the digits that its interval allows."""
    low, high = row[f"{name}_intervals"].values[i]
    return to_error(float(row[name].values[i]), (high - low) / 2)


def _share(row: xr.Dataset, name: str) -> str:
    """A share with its interval, or the reason why the share is undefined."""
    value, (low, high) = float(row[name]), row[f"{name}_interval"].values
    if math.isnan(value):
        return "undefined: the total can't be distinguished from zero"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _blocks(values: np.ndarray) -> Table:
    """A table (T, T) with one number for each pair of uses."""
    from rich.table import Table

    table = Table("i \\ j", *map(str, range(1, len(values) + 1)))
    for i, row in enumerate(values, 1):
        table.add_row(str(i), *(f"{value:.3g}" for value in row))
    return table


def _variables(found: LoopCurvature, matrix: Matrix) -> dict[str, xr.Variable]:
    units, blocks, pair = matrix.units, found.blocks, ("use", "other_use")
    norms = np.sqrt(blocks.squared_norms)
    return {
        "module": variable("module", list(found.loop.modules), "module that is used several times", ""),
        "shared": variable("tensor", list(found.loop.parameters), "parameter tensor that its uses share", ""),
        "parameters": variable((), found.loop.dim, "number of shared parameters"),
        **_eigenvalues("tied", "index", [found.tied], "eigenvalue with tied weights, descending", units),
        **_eigenvalues("untied", "index", [found.untied], "eigenvalue with separate weights, descending", units),
        **_eigenvalues("own", "use", found.own, "largest eigenvalue of the use's own block H_ii", units),
        **arithmetic_variable(found.tied.arithmetic),
        "ratio": variable((), found.ratio, "tied by untied top eigenvalue"),
        "ratio_interval": variable("bound", found.ratio_interval, "its interval"),
        "traces": variable(pair, blocks.traces, "trace of the block H_ij", units),
        "traces_standard_error": variable(pair, blocks.trace_errors, "its standard error, over probes", units),
        "norms": variable(pair, norms, "Frobenius norm of the block H_ij", units),
        "squared_norms": variable(pair, blocks.squared_norms, "its square", f"({units})^2"),
        "squared_norms_standard_error": variable(
            pair, blocks.squared_norm_errors, "standard error of the square, over probes", f"({units})^2"
        ),
        "total": variable((), blocks.total, "trace with tied weights", units),
        "total_standard_error": variable((), blocks.total_error, "its standard error, over probes", units),
        **_share_variables("trace_share", blocks.share, "cross-loop share of the trace, sum of i != j"),
        "trace_converged": variable((), blocks.converged, "the share is as certain as asked for, or exact"),
        "probes": variable((), blocks.probes, "random probes; 0 where exact"),
        "exact": variable((), blocks.exact, "traces and norms are exact up to rounding"),
        "top_table": variable(pair, found.top.table, "v^T H_ij v / lambda at the tied top eigenvector v"),
        **_share_variables("top_share", found.top.share, "cross-loop share of the tied top eigenvalue"),
        "defect": variable((), found.defect, "||H_tied v - sum_ij H_ij v|| / sum_ij ||H_ij v||"),
        "tied_products": variable((), found.products[0], "matrix-vector products with tied weights"),
        "untied_products": variable((), found.products[1], "matrix-vector products with separate weights"),
    }


def _eigenvalues(name: str, dim: str, solved: Sequence[Eigenpairs], meaning: str, units: str) -> dict[str, xr.Variable]:
    return {
        name: variable(dim, np.concatenate([each.eigenvalues for each in solved]), meaning, units),
        f"{name}_intervals": variable(
            (dim, "bound"), np.concatenate([each.intervals for each in solved]), "bounds of an exact eigenvalue", units
        ),
        f"{name}_converged": variable(
            dim, np.concatenate([each.converged & each.complete for each in solved]), "the solve reached its goal"
        ),
    }


def _share_variables(name: str, share: Share, meaning: str) -> dict[str, xr.Variable]:
    return {
        name: variable((), share.value, f"{meaning}; NaN where undefined"),
        f"{name}_error": variable((), share.error, f"error of {name}"),
        f"{name}_interval": variable("bound", share.interval, f"interval of {name}"),
    }
