"""Measure the spectral density of a matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.measurements.base import Flag, RowData, arithmetic_in, arithmetic_variable, variable
from landscape.measurements.cost import Cost, of_solve
from landscape.measurements.eigenpairs import known_eigenpairs, known_pairs_note
from landscape.measurements.matrix import Matrix, OfMatrix, kept_route
from landscape.measurements.run import History
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.spectrum.distribution import SpectralDensity
    from landscape.spectrum.eigenpairs import Eigenpairs

# Known eigenpairs are deflated up to this relative residual. The error that remains is of second order in it.
_CLOSE = 1e-3


@dataclass(frozen=True)
class Density(OfMatrix):
    """Spectral density as outliers and quadrature nodes; see `landscape.spectral_density` for the settings.

    A row stores a whole `landscape.SpectralDensity`, and `density_of` rebuilds the density from the row. All
    checkpoints of a run share the probe vectors. Where the record has enough eigenpairs of the matrix, the outliers
    are taken from these instead of being searched for.

    Attributes:
        k: number of outliers to deflate. Default: 10.
        probes: number of probe vectors. Default: None, the default of `spectral_density`.
        steps: Lanczos steps of each probe's chain. Default: 100.
        matrix: the matrix whose density is estimated. Default: the Hessian.
    """

    k: int = 10
    probes: int | None = None
    steps: int = 100
    seed: int = 0
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "density"
    flag: ClassVar[Flag] = Flag("density", "Spectral density, by Lanczos quadrature.")
    figures: ClassVar[tuple[str, ...]] = ("density",)

    @property
    def exact(self) -> bool:
        """See `OfMatrix.exact`."""
        return False

    @property
    def _probes(self) -> int:
        from landscape.spectrum.density import PROBES

        return PROBES if self.probes is None else self.probes

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse the settings that `spectral_density` would refuse, and resolve the matrix."""
        from landscape.spectrum.density import check_arguments

        check_arguments(problem.layout.dim, self._probes, self.steps, self.k, self.seed)
        return self.with_matrix(problem)

    @property
    def _products(self) -> int:
        """About how many products the solve for the outliers, the chains and the measured rounding take."""
        from landscape.spectrum.rounding import COMBINATIONS

        return (of_solve(self.k) if self.k else 0) + self._probes * self.steps + 2 * COMBINATIONS + 3

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`."""
        return Cost(self._products, certainty="about", operator=self.operator, vectors=self.k + self.steps + 1)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; products take the route of an earlier row, if there is one."""
        from landscape.spectrum.density import spectral_density

        operator, base = self.matrix.operator(problem, kept_route(history.choices), self._products)
        known = self._known(history)
        density = spectral_density(operator, self._probes, self.steps, self.k, self.seed, known=known, progress=bar)
        choices = {"route": base.route.plain(), "known": 0 if known is None else len(density.outliers)}
        return RowData(_variables(density, self.matrix), choices)

    def _known(self, history: History) -> Eigenpairs | None:
        """The record's eigenpairs of this matrix, or None: at least k pairs, the first k with small residual norms."""
        pairs = known_eigenpairs(self.matrix, history) if self.k else None
        if pairs is None or len(pairs.eigenvalues) < self.k:
            return None
        residuals, size = pairs.residuals[: self.k], np.abs(pairs.eigenvalues[: self.k])
        return pairs if (residuals <= np.maximum(_CLOSE * size, pairs.rounding)).all() else None

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for outliers that did not converge and so were not deflated."""
        if not row.undeflated:
            return []
        return [
            f"{int(row.undeflated)} of the density's {self.k} outliers did not converge, so they are sampled with the "
            "bulk: ask for fewer outliers (-k)"
        ]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The density's summary, and a line for eigenpairs that the record had already."""
        first, *more = density_of(row).summary
        return [f"{self.matrix.title}: {first}", *known_pairs_note(row), *more]


def density_of(row: xr.Dataset) -> SpectralDensity:
    """Rebuild the spectral density from a row of a record, to draw or to integrate.

    Args:
        row: one checkpoint's row of the group ``density``, or of the density group of another matrix.
    """
    from landscape.spectrum.distribution import SpectralDensity

    present = row.outliers.notnull().values  # the row may be padded to the longest row of its group
    return SpectralDensity(
        outliers=row.outliers.values[present],
        residuals=row.residuals.values[present],
        nodes=row.nodes.values,
        weights=row.weights.values,
        alpha=row.alpha.values,
        beta=row.beta.values,
        dim=int(row["dim"]),
        rounding=float(row.rounding),
        orthogonality=float(row.orthogonality),
        undeflated=int(row.undeflated),
        products=int(row.products),
        products_outliers=int(row.products_outliers),
        arithmetic=arithmetic_in(row),
    )


def _variables(found: SpectralDensity, matrix: Matrix) -> dict[str, xr.Variable]:
    units = matrix.units
    chains = ("probe", "node")
    return {
        "outliers": variable("outlier", found.outliers, "deflated eigenvalue, of mass 1/dim", units),
        "residuals": variable("outlier", found.residuals, "its residual norm", units),
        "nodes": variable(chains, found.nodes, "quadrature node, ascending", units),
        "weights": variable(chains, found.weights, "its weight; those of a probe add up to 1, the mass of the bulk"),
        "alpha": variable(chains, found.alpha, "diagonal of the probe's tridiagonal", units),
        "beta": variable(chains, found.beta, "its off-diagonal, and last the remainder", units),
        "dim": variable((), found.dim, "number of eigenvalues"),
        "width": variable((), found.width, "standard deviation of the Gaussian to smooth with", units),
        "rounding": variable((), found.rounding, "how far rounding may move a node", units),
        **arithmetic_variable(found.arithmetic),
        "orthogonality": variable((), found.orthogonality, "max |Q^T Q - I| of the Lanczos vectors"),
        "undeflated": variable((), found.undeflated, "outliers asked for that did not converge"),
        "products": variable((), found.products, "matrix-vector products made"),
        "products_outliers": variable((), found.products_outliers, "products spent on the outliers"),
    }
