"""The spectral density of a matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.measurements.base import Flag, RowData, arithmetic_in, arithmetic_variable, variable
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

# Relative residuals of known eigenpairs up to which these are deflated: what is left is of second order in them.
_CLOSE = 1e-3


@dataclass(frozen=True)
class Density(OfMatrix):
    """Outliers and quadrature nodes; see `landscape.spectral_density` for the settings.

    All that makes up a `landscape.SpectralDensity` is stored, and `density_of` makes it again from a row of the record.
    Over the checkpoints of a run the probes are the same. Outliers that the record has among the eigenpairs of the same
    matrix aren't searched for again.

    Attributes:
        k: outliers to deflate.
        probes: how many; None for the default of `spectral_density`.
        steps: of each probe's chain.
        matrix: whose density.
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
        """See `OfMatrix`."""
        return False

    @property
    def _probes(self) -> int:
        from landscape.spectrum.density import PROBES

        return PROBES if self.probes is None else self.probes

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse what `spectral_density` would."""
        from landscape.spectrum.density import check_arguments

        check_arguments(problem.layout.dim, self._probes, self.steps, self.k, self.seed)
        return self.with_matrix(problem)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; the way the products are made is kept from an earlier row."""
        from landscape.spectrum.density import spectral_density

        expected = 4 * self.k + self._probes * self.steps
        operator, made = self.matrix.operator(problem, kept_route(history.choices), expected)
        known = self._known(history)
        found = spectral_density(operator, self._probes, self.steps, self.k, self.seed, known=known, progress=bar)
        choices = {"route": made.route.plain(), "known": 0 if known is None else len(found.outliers)}
        return RowData(_variables(found, self.matrix), choices)

    def _known(self, history: History) -> Eigenpairs | None:
        """The record's eigenpairs, where they have all the outliers closely enough."""
        pairs = known_eigenpairs(self.matrix, history) if self.k else None
        if pairs is None or len(pairs.eigenvalues) < self.k:
            return None
        residuals, size = pairs.residuals[: self.k], np.abs(pairs.eigenvalues[: self.k])
        return pairs if (residuals <= np.maximum(_CLOSE * size, pairs.rounding)).all() else None

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """Outliers that could not be deflated."""
        if not row.undeflated:
            return []
        return [
            f"{int(row.undeflated)} of the density's {self.k} outliers did not converge, so they are sampled like the "
            "rest: ask for fewer (-k)"
        ]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """Where the eigenvalues lie, and how surely."""
        first, *more = density_of(row).summary
        return [f"{self.matrix.title}: {first}", *known_pairs_note(row), *more]


def density_of(row: xr.Dataset) -> SpectralDensity:
    """The density that is stored in a row of a record, to be drawn or integrated in any way.

    Args:
        row: of the group ``density`` (or that of another matrix), one checkpoint.
    """
    from landscape.spectrum.distribution import SpectralDensity

    found = row.outliers.notnull().values  # rows of other checkpoints may have more
    return SpectralDensity(
        outliers=row.outliers.values[found],
        residuals=row.residuals.values[found],
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
