"""Measure all eigenvalues of a small model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from landscape.measurements.base import Flag, RowData, arithmetic_in, arithmetic_variable, variable
from landscape.measurements.cost import Cost
from landscape.measurements.matrix import Matrix, OfMatrix, kept_route
from landscape.measurements.run import History
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.spectrum.full import FullSpectrum


LEADING = 32  # leading eigenvectors stored with each spectrum of a run, for overlaps and the joint information


@dataclass(frozen=True)
class Spectrum(OfMatrix):
    """The exact spectrum; see `landscape.full_spectrum`.

    Attributes:
        leading: number of stored eigenvectors, in the order of their eigenvalues' magnitude; `Dynamics` reads these.
            Default: 0.
        matrix: the matrix whose spectrum is computed. Default: the Hessian.
    """

    leading: int = 0
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "spectrum"
    flag: ClassVar[Flag] = Flag("spectrum", "All eigenvalues, of at most 10,000 parameters.")
    figures: ClassVar[tuple[str, ...]] = ("spectrum",)

    @classmethod
    def asked(cls, options: Mapping[str, Any]) -> list[Self]:
        """The spectra that the command asks for.

        ``--dynamics`` asks for the Hessian's spectrum with leading eigenvectors. That spectrum also answers a request
        for the Hessian's spectrum by itself.
        """
        of_run = [cls(LEADING)] if options.get("dynamics") else []
        if not cls.flag.given(options) or (of_run and not options["matrix"].group("")):
            return of_run
        return [*of_run, cls.of(options)]

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse a model with too many parameters, and resolve the matrix."""
        from landscape.spectrum.full import refuse_large

        refuse_large(problem.layout.dim)
        return replace(self, leading=min(self.leading, problem.layout.dim)).with_matrix(problem)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: every column and a check, and the matrix in float64."""
        dim = problem.layout.dim
        return Cost(dim + 1, operator=self.operator, vectors=8 * dim // problem.vector.itemsize)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.spectrum.full import full_spectrum

        operator, base = self.matrix.operator(problem, kept_route(history.choices), problem.layout.dim)
        spectrum = full_spectrum(operator, eigenvectors=self.leading > 0, progress=bar)
        units = self.matrix.units
        return RowData(
            self._leading(spectrum, problem, history)
            | {
                "eigenvalues": variable("index", spectrum.eigenvalues, f"eigenvalue of the {self.matrix.title}", units),
                "asymmetry": variable((), spectrum.asymmetry, "||A - A^T||_F / 2 of the matrix as computed", units),
                "rounding": variable((), spectrum.rounding, "what rounding may have done to an eigenvalue", units),
                **arithmetic_variable(spectrum.arithmetic),
                "positive": variable((), spectrum.positive, "eigenvalues above the rounding"),
                "negative": variable((), spectrum.negative, "eigenvalues below minus the rounding"),
                "null": variable((), spectrum.null, "eigenvalues that can't be told from zero"),
                "zero_columns": variable(
                    (), spectrum.zero_columns, "parameters without influence: columns exactly zero"
                ),
                "symmetry_null": variable((), spectrum.symmetry_null, "null directions without those of zero columns"),
                "trace": variable((), spectrum.trace, "trace", units),
                "frobenius": variable((), spectrum.frobenius, "Frobenius norm", units),
                "products": variable((), spectrum.products, "matrix-vector products made"),
            },
            {"route": base.route.plain()},
        )

    def _leading(self, found: FullSpectrum, problem: Problem, history: History) -> dict[str, xr.Variable]:
        """Variables: the leading eigenvectors, and the share of tr |A| along those of the checkpoint before."""
        import torch

        if found.eigenvectors is None:
            return {}
        magnitudes = np.abs(found.eigenvalues)
        order = np.argsort(-magnitudes, kind="stable")[: self.leading]
        mass, previous = np.full(self.leading, np.nan), ""
        if history.previous is not None:
            previous = str(history.previous.sha256.values)
            before = history.previous.leading_vectors.values.astype(np.float64)
            mass = (before @ found.eigenvectors) ** 2 @ magnitudes / (magnitudes.sum() or np.nan)
        vectors = torch.from_numpy(found.eigenvectors[:, order].T.copy()).to(problem.dtype).numpy()
        return {
            "leading_index": variable("leading", order, "position of the eigenvalues of largest magnitude"),
            "leading_vectors": variable(("leading", "parameter"), vectors, "their unit eigenvectors, flat layout"),
            "mass_on_previous": variable(
                "leading", mass, "v^T |A| v / tr |A| with the leading eigenvectors v of the checkpoint before"
            ),
            "previous": variable((), previous, "sha256 of that checkpoint; empty for the first", ""),
        }

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """No lines: the spectrum is exact, and an asymmetric matrix was refused."""
        return []

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The largest and the smallest eigenvalue, counts by sign, and the errors."""
        from landscape.spectrum.full import FullSpectrum

        first, *more = FullSpectrum(
            row.eigenvalues.values,
            float(row.asymmetry),
            float(row.rounding),
            int(row.zero_columns),
            int(row.products),
            arithmetic=arithmetic_in(row),
        ).summary
        return [f"{self.matrix.title}: {first}", *more]
