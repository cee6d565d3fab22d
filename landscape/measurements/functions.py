"""Measure sums over a spectrum: the logarithm of the determinant, and the effective dimension."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

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
from landscape.measurements.matrix import Matrix, OfMatrix, kept_route
from landscape.measurements.run import History
from landscape.reporting.deprecation import renamed_settings
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.operator import SymmetricOperator
    from landscape.problem import Problem
    from landscape.spectrum.spectral_sum import SpectralSum
    from landscape.spectrum.summation import Settings


@dataclass(frozen=True)
class _SpectralSum(OfMatrix):
    """A sum over the spectrum of a matrix, by random probes: settings, variables and output of both measurements.

    Attributes:
        alpha: shift of the eigenvalues, in the units of the matrix.
        tol_estimate: goal for the half-width of the 95 % interval. Default: None, the goal of the estimator.
        probes: number of probe vectors, instead of a goal. Default: None.
        steps: Lanczos steps of each probe's chain. Default: 100.
        k: number of outliers to deflate. Default: 10.
        matrix: the matrix whose spectrum is summed over. Default: the Hessian.
    """

    alpha: float
    tol_estimate: float | None = None
    probes: int | None = None
    steps: int = 100
    k: int = 10
    seed: int = 0
    max_products: int | None = None
    matrix: Matrix = field(default_factory=Matrix)

    symbol: ClassVar[str]

    @staticmethod
    @abstractmethod
    def _check(dim: int, alpha: float, settings: Settings) -> None:
        """Raise InputError for the settings that the estimator would refuse."""

    @staticmethod
    @abstractmethod
    def _estimate(operator: SymmetricOperator, alpha: float, **settings: Any) -> SpectralSum:
        """Estimate the sum."""

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse the settings that the estimator would refuse before its first product, and resolve the matrix."""
        from landscape.spectrum.summation import Settings

        settings = Settings(self.tol_estimate, self.probes, self.steps, self.k, self.seed, self.max_products)
        self._check(problem.layout.dim, self.alpha, settings)
        return self.with_matrix(problem)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`."""
        products = min(problem.layout.dim + 1, self._products)
        return of_probes(products, self.probes, self.operator, self.k + self.steps + 1)

    @property
    def _products(self) -> int:
        """The products of the first probes and of the shortest solve for the outliers."""
        from landscape.spectrum.estimate import FEWEST_PROBES

        return self.k + (self.probes or FEWEST_PROBES) * self.steps

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; products take the route of an earlier row, if there is one."""
        from landscape.spectrum.functions import NotDefiniteError

        operator, base = self.matrix.operator(problem, kept_route(history.choices), self._products)
        try:
            spectral_sum = self._estimate(
                operator, self.alpha, tol=self.tol_estimate, probes=self.probes, steps=self.steps, k=self.k,
                seed=self.seed, max_products=self.max_products, progress=bar,
            )  # fmt: skip
            remarks = list(spectral_sum.remarks)
        except NotDefiniteError as error:  # the matrix may be definite at the run's other checkpoints
            spectral_sum, remarks = self._without_value(operator.products), [str(error)]
        choices: dict[str, Any] = {"route": base.route.plain(), "remarks": remarks}
        return RowData(self._variables(spectral_sum), choices)

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """The remarks of a sum that has no value, or whose interval missed its goal."""
        # Only the remark on a missing value names the sum itself.
        name = "" if self._has_none(row) else f"{self.symbol}: "
        return [] if row.converged else [name + remark for remark in _remarks(row)]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The sum with its error, and how it was computed."""
        if self._has_none(row):
            return [f"{self.matrix.title}: {self.symbol} has no value, {int(row.products)} products"]
        value, *how = self._found_in(row).outcome
        notes = [f"note: {remark}" for remark in _remarks(row)] if row.converged else []
        return [f"{self.matrix.title}: {self.symbol} = {value}", *how, *notes]

    def _found_in(self, row: xr.Dataset) -> SpectralSum:
        from landscape.spectrum.spectral_sum import SpectralSum

        return SpectralSum(
            **vars(estimate_in(row, self.group)),
            alpha=self.alpha,
            method="exact" if str(row.method.values) == "exact" else "probes",
            tol=self.tol_estimate,
            goal=None,
            converged=bool(row.converged),
            agree=bool(row.agree),
            quadrature_error=float(row.quadrature_error),
            deflation_error=float(row.deflation_error),
            rounding=float(row.rounding),
            deflated=int(row.deflated),
            probes=int(row.probes),
            steps=int(row.steps),
            products=int(row.products),
            samples=row.samples.values,
            arithmetic=arithmetic_in(row),
        )

    def _without_value(self, products: int) -> SpectralSum:
        """A `SpectralSum` of NaN, for a sum that is undefined or may be."""
        from landscape.spectrum.spectral_sum import SpectralSum

        nan = math.nan
        return SpectralSum(
            nan, nan, nan, nan, alpha=self.alpha, method="probes", tol=self.tol_estimate, goal=nan, converged=False,
            agree=False, quadrature_error=nan, deflation_error=nan, rounding=nan, deflated=0, probes=0, steps=0,
            products=products, samples=np.array([]),
        )  # fmt: skip

    def _has_none(self, row: xr.Dataset) -> bool:
        return math.isnan(float(row[self.group]))

    def _variables(self, found: SpectralSum) -> dict[str, xr.Variable]:
        return {
            **estimated(self.group, found, f"{self.symbol} of the {self.matrix.title}"),
            "method": variable((), found.method, "probes, or exact: from the full spectrum", ""),
            "converged": variable((), found.converged, "the goal was reached, or so many probes made"),
            "agree": variable((), found.agree, "all probes gave one number up to rounding"),
            "quadrature_error": variable((), found.quadrature_error, "error of the Gauss rules"),
            "deflation_error": variable((), found.deflation_error, "bound on the error by the outliers' residuals"),
            "rounding": variable((), found.rounding, "what rounding may have done"),
            **arithmetic_variable(found.arithmetic),
            "deflated": variable((), found.deflated, "outliers done exactly"),
            "probes": variable((), found.probes, "random probes"),
            "steps": variable((), found.steps, "products of the longest chain"),
            "products": variable((), found.products, "matrix-vector products made"),
            "samples": variable("probe", found.samples, "independent estimate by each probe"),
        }


@renamed_settings(tol="tol_estimate")
@dataclass(frozen=True)
class LogDet(_SpectralSum):
    """The logarithm of det(A + alpha I); see `landscape.log_det` for the settings."""

    group = "log_det"
    flag: ClassVar[Flag] = Flag("log_det", "Logarithm of det(A + ALPHA I).", sets="alpha")
    symbol = "log det(A + alpha I)"

    @staticmethod
    def _check(dim: int, alpha: float, settings: Settings) -> None:
        from landscape.spectrum.functions import check_log_det

        check_log_det(dim, alpha, settings)

    @staticmethod
    def _estimate(operator: SymmetricOperator, alpha: float, **settings: Any) -> SpectralSum:
        from landscape.spectrum.functions import log_det

        return log_det(operator, alpha, **settings)


@renamed_settings(tol="tol_estimate")
@dataclass(frozen=True)
class EffectiveDimension(_SpectralSum):
    """The sum of lambda / (lambda + alpha) over lambda > 0; see `landscape.effective_dimension` for the settings."""

    group = "effective_dimension"
    flag: ClassVar[Flag] = Flag("effective_dimension", "Sum of l / (l + ALPHA) over eigenvalues l > 0.", sets="alpha")
    symbol = "effective dimension"

    @staticmethod
    def _check(dim: int, alpha: float, settings: Settings) -> None:
        from landscape.spectrum.functions import check_effective_dimension

        check_effective_dimension(dim, alpha, settings)

    @staticmethod
    def _estimate(operator: SymmetricOperator, alpha: float, **settings: Any) -> SpectralSum:
        from landscape.spectrum.functions import effective_dimension

        return effective_dimension(operator, alpha, **settings)


def _remarks(row: xr.Dataset) -> list[str]:
    return list(json.loads(str(row.provenance.values))["remarks"])
