"""All eigenvalues of a small model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import xarray as xr
from rich.console import RenderableType

from landscape.measurements.base import History, Measured, variable
from landscape.measurements.matrix import Matrix, OfMatrix, kept_route
from landscape.problem import Problem
from landscape.progress import ProgressBar
from landscape.spectrum.full import FullSpectrum, full_spectrum, refuse_large


@dataclass(frozen=True)
class Spectrum(OfMatrix):
    """The exact spectrum; see `landscape.full_spectrum`."""

    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "spectrum"

    def settle(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse what is too large."""
        refuse_large(problem.layout.dim)
        return self.with_matrix(problem)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> Measured:
        """See `Measurement.measure`."""
        operator, made = self.matrix.operator(problem, kept_route(history.choices))
        found = full_spectrum(operator, progress=bar)
        units = self.matrix.units
        return Measured(
            {
                "eigenvalues": variable("index", found.eigenvalues, f"eigenvalue of the {self.matrix.title}", units),
                "asymmetry": variable((), found.asymmetry, "||A - A^T||_F / 2 of the matrix as computed", units),
                "rounding": variable((), found.rounding, "what rounding may have done to an eigenvalue", units),
                "positive": variable((), found.positive, "eigenvalues above the rounding"),
                "negative": variable((), found.negative, "eigenvalues below minus the rounding"),
                "null": variable((), found.null, "eigenvalues that can't be told from zero"),
                "zero_columns": variable((), found.zero_columns, "parameters without influence: columns exactly zero"),
                "symmetry_null": variable((), found.symmetry_null, "null directions without those of zero columns"),
                "trace": variable((), found.trace, "trace", units),
                "frobenius": variable((), found.frobenius, "Frobenius norm", units),
                "products": variable((), found.products, "matrix-vector products made"),
            },
            {"route": made.route.plain()},
        )

    def shortfalls(self, row: xr.Dataset) -> list[str]:
        """An exact spectrum has none; a matrix that isn't symmetric was refused."""
        return []

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The counts, both ends, and the errors."""
        first, *more = FullSpectrum(
            row.eigenvalues.values, float(row.asymmetry), float(row.rounding), int(row.zero_columns), int(row.products)
        ).summary
        return [f"{self.matrix.title}: {first}", *more]
