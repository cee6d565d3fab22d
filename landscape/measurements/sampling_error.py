"""Measure how far curvature depends on the samples: intervals for the population and for another set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from landscape.errors import InputError
from landscape.measurements.base import Flag, RowData, variable
from landscape.measurements.cost import Cost, of_solve
from landscape.measurements.eigenpairs import known_eigenpairs
from landscape.measurements.matrix import Matrix, OfMatrix
from landscape.measurements.run import History
from landscape.reporting.messages import counted
from landscape.reporting.progress import part
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.operator import SymmetricOperator
    from landscape.problem import Problem
    from landscape.sampling import SampledEstimate

EDGES = {"a tenth of the largest eigenvalue": 0.1, "a hundredth of the largest eigenvalue": 0.01, "zero": 0.0}
DEFECT = 1e-3
"""Largest defect of the groups' sum: rounding makes less, and an objective that isn't a weighted mean makes more."""


@dataclass(frozen=True)
class SamplingError(OfMatrix):
    """Largest eigenvalues, trace, Frobenius norm and shares of the density, as estimates for a population of samples.

    See `landscape.sampling.sample_curvature` and `landscape.sampling.sample_shares`.

    Attributes:
        k: number of largest eigenvalues. Default: 10.
        tol: goal for the relative residual of each eigenpair. Default: 1e-3.
        probes: number of random probes. Default: None, 16 for trace and norm, and 4 for shares of the density.
        shares: whether to measure shares of the spectral density too, which takes nine densities. Default: no; the
            command does where it measures the density.
        steps: Lanczos steps of each probe's chain, for shares of the density. Default: 100.
        seed: seed of the groups of samples, of the probes and of the solve. Default: 0.
        matrix: the matrix. Default: the Hessian.
    """

    k: int = 10
    tol: float = 1e-3
    probes: int | None = None
    shares: bool = False
    steps: int = 100
    seed: int = 0
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "sampling_error"
    flag: ClassVar[Flag] = Flag("sampling_error", "How far curvature depends on the samples.")
    figures: ClassVar[tuple[str, ...]] = ("sampling-error",)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """See `Measurement.of`; ``--density`` asks for shares of the density too."""
        return replace(super().of(options), shares=bool(options.get("density")))

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse samples that can't be taken apart, and settings that the solve or the probes would refuse."""
        from landscape.curvature.kinds import kind_of
        from landscape.sampling.groups import check_independent
        from landscape.spectrum.density import check_arguments as check_density
        from landscape.spectrum.eigenpairs import check_arguments
        from landscape.spectrum.trace import check_arguments as check_probes

        dim = problem.layout.dim
        check_arguments(dim, self.k, "LA", self.tol, self.seed, None)
        check_probes(dim, None, self.probes, self.seed, None)
        check_density(dim, self._density_probes, self.steps, 0, self.seed)
        check_independent(problem)
        if "samples" in kind_of(self.matrix.kind).settings:
            raise InputError(
                f"--matrix {self.matrix.kind} draws labels anew for every group of samples, so no sampling error is "
                "known: give --matrix fisher"
            )
        return self.with_matrix(problem)

    @property
    def _density_probes(self) -> int:
        from landscape.spectrum.density import PROBES

        return PROBES if self.probes is None else self.probes

    @property
    def _probes(self) -> int:
        from landscape.sampling.curvature import PROBES

        return PROBES if self.probes is None else self.probes

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: a solve, two products with all vectors (one by groups), gaps, and densities."""
        from landscape.sampling.curvature import BESIDE, STEPS
        from landscape.sampling.shares import GROUPS

        wanted = min(self.k + BESIDE, problem.layout.dim)
        products = of_solve(wanted) + 2 * (wanted + self._probes) + STEPS * wanted
        densities = GROUPS * self._density_probes * self.steps if self.shares else 0
        vectors = max(of_solve(wanted), 4 * (wanted + self._probes))
        return Cost(products + densities, certainty="about", operator=self.operator, vectors=vectors)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.sampling import sample_curvature, sample_shares

        known = known_eigenpairs(self.matrix, history)
        start = None if known is None else known.eigenvectors.to(problem.vector)
        middle = 0.2 if self.shares else 1.0
        found = sample_curvature(
            problem, self._make, self.k, self._probes, self.tol, self.seed, start=start, progress=part(bar, 0, middle)
        )
        units, title = self.matrix.units, self.matrix.title
        variables = {
            **_estimates("eigenvalue", "index", found.eigenvalues, f"largest eigenvalues of the {title}", units),
            **_estimates("trace", (), [found.trace], f"trace of the {title}", units),
            **_estimates("frobenius", (), [found.frobenius], f"Frobenius norm of the {title}", units),
            "converged": variable((), found.converged, "the solve reached its goal"),
            "defect": variable((), found.defect, "sum of the groups' errors, relative to the products"),
            "samples": variable((), found.samples, "number of samples"),
            "groups": variable((), found.groups, "groups of samples"),
            "products": variable((), found.products, "products with the matrix of all samples"),
            "products_groups": variable((), found.products_groups, "products with matrices of groups"),
        }  # fmt: skip
        if self.shares:
            edges = np.array(list(EDGES.values())) * found.eigenvalues[0].value
            found_shares, width = sample_shares(
                problem, self._make, edges, self._density_probes, self.steps, self.seed, progress=part(bar, middle, 1)
            )
            variables |= {
                **_estimates("share", "edge", found_shares, "share of the smoothed density above an edge", "1"),
                "share_edge": variable("edge", edges, "edge of a share", units),
                "edge_name": variable("edge", list(EDGES), "the edge in words", ""),
                "width": variable((), width, "standard deviation of the Gaussian that smooths the density", units),
            }
        return RowData(variables)

    def _make(self, problem: Problem) -> SymmetricOperator:
        return self.operator(problem, of_solve(self.k))

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line if the solve did not converge, or if the groups don't add up to the whole."""
        lines = []
        if not row.converged:
            lines.append("the eigenvalues whose sampling error was measured did not converge: raise --tol")
        if float(row.defect) > DEFECT:
            lines.append(
                f"the matrices of {int(row.groups)} groups of samples don't add up to that of all samples (defect "
                f"{float(row.defect):.1e}), so the sampling errors don't hold: the loss isn't a weighted mean over "
                "independent samples"
            )
        return lines

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A table of the numbers with both intervals, and what the intervals assume."""
        from rich.table import Table

        samples = counted(int(row.samples), "sample")
        title = f"{self.matrix.title}, sampling error over {samples} in {int(row.groups)} groups"
        table = Table("number", "here", "bias", "population (95 %)", f"another {samples} (95 %)")
        for column in table.columns[1:]:
            column.justify = "right"
        named: list[tuple[str, str, int | None]] = [
            (f"eigenvalue {i + 1}", "eigenvalue", i) for i in range(row.sizes["index"])
        ]
        named += [("trace", "trace", None), ("Frobenius norm", "frobenius", None)]
        if "share" in row:
            named += [(f"share above {edge}", "share", i) for i, edge in enumerate(map(str, row.edge_name.values))]
        for label, name, place in named:
            value, bias, inner, outer = (_at(row, name + suffix, place) for suffix in _SHOWN)
            table.add_row(
                label, f"{value:.4g}", f"{bias:+.2g}", *("{:.4g} to {:.4g}".format(*ends) for ends in (inner, outer))
            )
        return [
            title,
            table,
            "the samples are taken as independent draws, and the weights as independent of them: on data of the "
            "training the intervals are conditional on the weights",
        ]


_SHOWN = ("", "_bias", "_confidence", "_prediction")


def _at(row: xr.Dataset, name: str, place: int | None) -> np.ndarray:
    values = np.asarray(row[name].values)
    return values if place is None else values[place]


def _estimates(
    name: str, dims: str | tuple[()], found: tuple[SampledEstimate, ...] | list[SampledEstimate], title: str, units: str
) -> dict[str, xr.Variable]:
    """Estimates over a population as five variables; the name alone is the value on these samples."""
    shape = (dims,) if dims else ()
    columns = (
        ("", "value", f"{title}, on these samples", shape),
        ("_bias", "bias", "excess over the population's number on average", shape),
        ("_confidence", "confidence", "95 % interval for the population", (*shape, "bound")),
        ("_prediction", "prediction", "95 % interval for another set of this size", (*shape, "bound")),
        ("_standard_error", "standard_error", "standard deviation over sets of this size", shape),
    )
    values = {attribute: [getattr(each, attribute) for each in found] for _, attribute, _, _ in columns}
    return {
        name + suffix: variable(shape_of, values[attribute] if dims else values[attribute][0], text, units)
        for suffix, attribute, text, shape_of in columns
    }
