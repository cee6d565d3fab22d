"""Measure the trace and the Frobenius norm of a matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

from landscape.measurements.base import (
    Flag,
    RowData,
    arithmetic_in,
    arithmetic_variable,
    estimate_in,
    estimated,
    variable,
)
from landscape.measurements.cost import Cost, of_probes
from landscape.measurements.eigenpairs import known_eigenpairs, known_pairs_note
from landscape.measurements.matrix import Matrix, OfMatrix, kept_route
from landscape.measurements.run import History
from landscape.reporting.deprecation import renamed_settings
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.spectrum.trace import TraceEstimate


@renamed_settings(tol="tol_estimate")
@dataclass(frozen=True)
class Trace(OfMatrix):
    """Trace and Frobenius norm from random probes; see `landscape.estimate_trace` for the settings.

    All checkpoints of a run share the probe vectors. Differences between checkpoints can therefore be taken probe by
    probe. Converged eigenpairs of the matrix that the record has are among the deflated directions.

    Attributes:
        tol_estimate: goal for the half-width of the trace's 95 % interval, relative to the trace. Default: None, the
            goal of `landscape.estimate_trace`.
        probes: number of probe vectors, instead of a goal. Default: None.
        matrix: the matrix whose trace is estimated. Default: the Hessian.
    """

    tol_estimate: float | None = None
    probes: int | None = None
    seed: int = 0
    max_products: int | None = None
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "trace"
    flag: ClassVar[Flag] = Flag("trace", "Trace and Frobenius norm, by random probes.")

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse the settings that `estimate_trace` would refuse, and resolve the matrix."""
        from landscape.spectrum.trace import check_arguments

        check_arguments(problem.layout.dim, self.tol_estimate, self.probes, self.seed, self.max_products)
        return self.with_matrix(problem)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`."""
        from landscape.spectrum.trace import DEFLATION, fewest_products

        products = fewest_products(problem.layout.dim, DEFLATION, self.probes)
        return of_probes(products, self.probes, self.operator, 2 * DEFLATION)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; products take the route of an earlier row, if there is one."""
        from landscape.spectrum.trace import estimate_trace

        operator, base = self.matrix.operator(problem, kept_route(history.choices), self.probes)
        known = known_eigenpairs(self.matrix, history)
        estimate = estimate_trace(
            operator,
            self.tol_estimate,
            self.probes,
            self.seed,
            known=known,
            max_products=self.max_products,
            progress=bar,
        )
        used = 0 if known is None else int(known.converged[: estimate.deflation].sum())
        return RowData(trace_variables(estimate, self.matrix), {"route": base.route.plain(), "known": used})

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line if the trace's 95 % interval is wider than its goal."""
        from landscape.spectrum.trace import TOL

        if row.converged:
            return []
        remedy = "raise --max-products or --tol-estimate"
        if trace_of(row, self.tol_estimate or TOL).rounding_limited:
            remedy = "rounding alone is as wide, so use --dtype float64"
        wider = f"wider than {self.tol_estimate or TOL:g} of the trace after {int(row.products)} products"
        return [f"the trace's 95 % interval is {wider}: {remedy}"]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The trace and the norm with their errors, and how they were computed."""
        (trace, norm, *how), title = trace_of(row, self.tol_estimate).outcome, self.matrix.title
        agree = "all probes agree up to rounding: the interval covers rounding alone"
        return [f"{title}: {trace}", f"{title}: {norm}", *how, *known_pairs_note(row), *([agree] if row.agree else [])]


def trace_of(row: xr.Dataset, tol: float | None = None) -> TraceEstimate:
    """Rebuild the estimate of a trace from a row of a record.

    Args:
        row: one checkpoint's row of the group ``trace``, or of the trace group of another matrix.
        tol: the goal of the estimate, see `landscape.spectrum.trace.TraceEstimate`.
    """
    from landscape.spectrum.trace import TraceEstimate

    return TraceEstimate(
        trace=estimate_in(row, "trace"),
        frobenius=estimate_in(row, "frobenius"),
        method="exact" if str(row.method.values) == "exact" else "probes",
        tol=tol,
        converged=bool(row.converged),
        agree=bool(row.agree),
        rounding=float(row.rounding),
        deflation=int(row.deflation),
        probes=int(row.probes),
        products=int(row.products),
        samples=row.samples.values,
        squares=row.squares.values,
        arithmetic=arithmetic_in(row),
    )


def trace_variables(found: TraceEstimate, matrix: Matrix) -> dict[str, xr.Variable]:
    """The variables of a row for an estimated trace."""
    units = matrix.units
    return {
        **estimated("trace", found.trace, f"trace of the {matrix.title}", units),
        **estimated("frobenius", found.frobenius, f"Frobenius norm of the {matrix.title}", units),
        "method": variable((), found.method, "probes, or exact: by the product with every unit vector", ""),
        "converged": variable((), found.converged, "the goal of the trace was reached, or so many probes made"),
        "agree": variable((), found.agree, "all probes gave one number up to rounding"),
        "rounding": variable((), found.rounding, "what rounding may have done to the trace", units),
        **arithmetic_variable(found.arithmetic),
        "deflation": variable((), found.deflation, "directions done exactly"),
        "probes": variable((), found.probes, "random probes"),
        "products": variable((), found.products, "matrix-vector products made"),
        "samples": variable("probe", found.samples, "unbiased estimate of the trace by each probe", units),
        "squares": variable("probe", found.squares, "unbiased estimate of its squared norm by each", f"({units})^2"),
    }
