"""The trace and the Frobenius norm of a matrix."""

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

    Over the checkpoints of a run the probes are the same, so that differences between them can be taken in pairs.
    Eigenpairs of the same matrix that the record has are among the directions done exactly.

    Attributes:
        tol_estimate: goal for the half-width of the trace's 95 % interval, relative to it.
        probes: so many, in place of a goal.
        matrix: whose trace.
    """

    tol_estimate: float | None = None
    probes: int | None = None
    seed: int = 0
    max_products: int | None = None
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "trace"
    flag: ClassVar[Flag] = Flag("trace", "Trace and Frobenius norm, by random probes.")

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse what `estimate_trace` would."""
        from landscape.spectrum.trace import check_arguments

        check_arguments(problem.layout.dim, self.tol_estimate, self.probes, self.seed, self.max_products)
        return self.with_matrix(problem)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; the way the products are made is kept from an earlier row."""
        from landscape.spectrum.trace import estimate_trace

        operator, made = self.matrix.operator(problem, kept_route(history.choices), self.probes)
        known = known_eigenpairs(self.matrix, history)
        found = estimate_trace(
            operator,
            self.tol_estimate,
            self.probes,
            self.seed,
            known=known,
            max_products=self.max_products,
            progress=bar,
        )
        used = 0 if known is None else int(known.converged[: found.deflation].sum())
        return RowData(trace_variables(found, self.matrix), {"route": made.route.plain(), "known": used})

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """An interval wider than asked for."""
        from landscape.spectrum.trace import TOL

        if row.converged:
            return []
        remedy = "raise --max-products or --tol-estimate"
        if trace_of(row, self.tol_estimate or TOL).rounding_limited:
            remedy = "rounding alone is as large, which --dtype float64 lessens"
        wider = f"wider than {self.tol_estimate or TOL:g} of it after {int(row.products)} products"
        return [f"the trace's 95 % interval is {wider}: {remedy}"]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """Both numbers with their errors, and how they were made."""
        (trace, norm, *how), title = trace_of(row, self.tol_estimate).outcome, self.matrix.title
        agree = "all probes agree up to rounding: the interval is that of rounding alone"
        return [f"{title}: {trace}", f"{title}: {norm}", *how, *known_pairs_note(row), *([agree] if row.agree else [])]


def trace_of(row: xr.Dataset, tol: float | None = None) -> TraceEstimate:
    """The estimate that is stored in a row of a record.

    Args:
        row: of the group ``trace`` (or that of another matrix), one checkpoint.
        tol: the goal that there was.
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
    """What is stored of an estimated trace."""
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
