"""Measure the top eigenvalue and the trace of each layer's diagonal block."""

from __future__ import annotations

import glob
from collections.abc import Callable
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
from landscape.reporting.progress import Progress, part
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.curvature.products.route import Route
    from landscape.problem import Problem
    from landscape.spectrum.eigenpairs import Eigenpairs
    from landscape.spectrum.trace import TraceEstimate


@renamed_settings(tol_trace="tol_estimate")
@dataclass(frozen=True)
class Layers(OfMatrix):
    """The eigenvalue of largest magnitude and the trace of each layer's diagonal block of the matrix.

    A layer is a module that has trainable parameters of its own, not only through its children. A parameter that two
    layers share belongs to the first. While one layer is measured, all other parameters are constants.

    Attributes:
        tol: goal for the relative residual of the eigenpair. Default: 1e-3.
        tol_estimate: goal for the half-width of the trace's 95 % interval, relative to the trace. Default: None, the
            goal of `landscape.estimate_trace`.
        probes: number of probe vectors, instead of that goal. Default: None.
        matrix: the matrix whose diagonal blocks are measured. Default: the Hessian.
    """

    tol: float = 1e-3
    tol_estimate: float | None = None
    probes: int | None = None
    seed: int = 0
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "layers"
    flag: ClassVar[Flag] = Flag("per_layer", "Top eigenvalue and trace of each layer.")

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse settings out of range and a preconditioner from a file, and resolve the matrix."""
        from landscape.spectrum.eigenpairs import check_arguments
        from landscape.spectrum.trace import check_arguments as check_trace

        check_arguments(1, 1, "LM", self.tol, self.seed, None)
        check_trace(problem.layout.dim, self.tol_estimate, self.probes, self.seed, None)
        if self.matrix.precondition not in (None, "adam"):
            raise InputError(
                "--per-layer can't use a diagonal of all parameters: give --precondition adam, or leave "
                "out --precondition"
            )
        return self.with_matrix(problem)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: an eigenpair and a trace of each layer, counted as products with the whole matrix."""
        from landscape.spectrum.trace import DEFLATION, fewest_products

        layers = [problem.restricted(map(glob.escape, names)).layout for names in layers_of(problem).values()]
        products = sum(of_solve(1) + fewest_products(layer.dim, DEFLATION, self.probes) for layer in layers)
        return Cost(products, certainty="at least", operator=self.operator, vectors=2 * DEFLATION)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; products take the routes of an earlier row, if there is one."""
        layers = layers_of(problem)
        earlier_routes = kept_routes(history.choices, len(layers))
        results, routes = [], []
        for index, (names, before) in enumerate(zip(layers.values(), earlier_routes, strict=True)):
            tell = part(bar, index / len(layers), (index + 1) / len(layers), f"layer {index + 1} of {len(layers)}")
            pairs, trace, route = self._layer(problem.restricted(map(glob.escape, names)), before, tell)
            results.append((pairs, trace))
            routes.append(route.plain())
        return RowData(_variables(layers, problem, results, self.matrix), {"routes": routes})

    def _layer(
        self, problem: Problem, route: str | None, tell: Callable[[Progress], None]
    ) -> tuple[Eigenpairs, TraceEstimate, Route]:
        """Measure one layer. The operator and its graphs are freed on return, before the next layer's are made."""
        from landscape.spectrum.eigenpairs import top_eigenpairs
        from landscape.spectrum.trace import estimate_trace

        operator, base = self.matrix.operator(problem, route)
        pairs = top_eigenpairs(operator, 1, "LM", self.tol, self.seed, progress=tell)
        return pairs, estimate_trace(operator, self.tol_estimate, self.probes, self.seed, progress=tell), base.route

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for each eigenvalue that did not converge and for each trace that missed its goal."""
        eigenvalues = row.layer.values[~row.converged.values]
        traces = row.layer.values[~row.trace_converged.values]
        lines = [f"the top eigenvalue of {name} did not converge: raise --tol" for name in eigenvalues]
        return lines + [f"the trace of {name} did not reach its goal: raise --tol-estimate" for name in traces]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A table of the layers."""
        from rich.table import Table
        from rich.text import Text

        table = Table("layer", "size", "top eigenvalue", "trace (95 %)", "converged")
        for column in table.columns[1:4]:
            column.justify = "right"
        for i in range(row.sizes["layer"]):
            layer = row.isel(layer=i)
            value, radius = float(layer.eigenvalue), float(np.ptp(layer.interval.values)) / 2
            trace, spread = float(layer.trace), float(np.ptp(layer.trace_interval.values)) / 2
            good = bool(layer.converged and layer.trace_converged)
            table.add_row(
                str(layer.layer.values), f"{int(layer.parameters):,}", f"{to_error(value, radius)} ± {radius:.0e}",
                f"{to_error(trace, spread)} ± {spread:.0e}", "yes" if good else Text("NO", "bold red"),
            )  # fmt: skip
        return [
            f"{self.matrix.title} of each layer, with all other layers constant: {int(row.products)} products",
            table,
        ]


def layers_of(problem: Problem) -> dict[str, list[str]]:
    """Names of each module's own varying parameters, by the module's name; modules without any are left out."""
    varying = set(problem.layout.names)
    own = {
        prefix or "(model)": [name for name, _ in module.named_parameters(prefix, recurse=False) if name in varying]
        for prefix, module in problem.model.named_modules()
    }
    return {layer: names for layer, names in own.items() if names}


def _variables(
    layers: dict[str, list[str]],
    problem: Problem,
    found: list[tuple[Eigenpairs, TraceEstimate]],
    matrix: Matrix,
) -> dict[str, xr.Variable]:
    sizes = dict(zip(problem.layout.names, problem.layout.sizes, strict=True))
    pairs, traces = zip(*found, strict=True)
    units = matrix.units
    bounds = ("layer", "bound")
    return {
        "layer": variable("layer", list(layers), "module with trainable parameters of its own", ""),
        "parameters": variable("layer", [sum(sizes[n] for n in names) for names in layers.values()], "its parameters"),
        "eigenvalue": variable(
            "layer", [each.eigenvalues[0] for each in pairs], "eigenvalue of largest magnitude of its block", units
        ),
        "interval": variable(bounds, [each.intervals[0] for each in pairs], "bounds of an exact eigenvalue", units),
        **arithmetic_variable(pairs[0].arithmetic),
        "converged": variable("layer", [each.complete for each in pairs], "the eigenvalue reached its goal"),
        "trace": variable("layer", [each.trace.value for each in traces], "trace of its block", units),
        "trace_standard_error": variable(
            "layer", [each.trace.standard_error for each in traces], "standard error of the trace, over probes", units
        ),
        "trace_interval": variable(
            bounds, [(each.trace.low, each.trace.high) for each in traces], "95 % interval of the trace", units
        ),
        "trace_converged": variable("layer", [each.converged for each in traces], "the trace reached its goal"),
        "products": variable(
            (),
            sum(each.products for each in (*pairs, *traces)),
            "matrix-vector products made with the layers' blocks",
        ),
    }
