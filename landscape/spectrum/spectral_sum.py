"""Spectral sums tr f(A) = sum_i f(lambda_i): the interface of f, the result with its error, and the exact sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np

from landscape.reporting.display import HasSummary
from landscape.spectrum.estimate import Estimate
from landscape.spectrum.full import FullSpectrum
from landscape.spectrum.rounding import IN_FLOAT64, arithmetic_note


class SpectralFunction(ABC):
    """A non-decreasing function f of an eigenvalue."""

    @abstractmethod
    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The value of f at each eigenvalue."""

    @abstractmethod
    def slope(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The largest slope of f on the part of each interval [low, high] that can contain an eigenvalue."""

    @abstractmethod
    def quadrature(self, alpha: np.ndarray, beta: np.ndarray) -> tuple[float, float]:
        """The quadratic form x^T f(C) x from the chain of the unit vector x, and the quadrature's error.

        Args:
            alpha: diagonal of the tridiagonal T, (m,).
            beta: off-diagonal of T and, last, the norm of the remainder, (m,); see
                `landscape.spectrum.quadrature.Chain`.
        """

    @abstractmethod
    def measure(self, value: float, dim: int) -> float:
        """The number to which the tolerance is relative, given the sum and the dimension n."""


@dataclass(frozen=True)
class SpectralSum(HasSummary, Estimate):
    """A spectral sum tr f(A) with its 95 % interval.

    The half-width is 1.96 standard errors over the probes plus three errors that all probes share.

    Attributes:
        alpha: parameter alpha of f.
        method: ``probes``, or ``exact``: from the full spectrum.
        tol: goal for the interval's half-width, relative to `SpectralFunction.measure`; None if the number of probes
            was given.
        goal: goal for the half-width itself; None if ``tol`` is None.
        converged: whether the goal was reached; true for a given number of probes.
        agree: whether all samples are equal up to rounding; see ``remarks``.
        quadrature_error: error of the Gauss rules, averaged over the probes: a bound or an estimate, depending on f.
        deflation_error: bound on the error from the outliers' residuals.
        rounding: rounding error of the sum: ||f'(A)||_F ||E||_F by Cauchy and Schwarz, where E is the matrix of the
            products' errors. The norm of E is measured.
        deflated: number k of deflated outliers.
        probes: number of probes.
        steps: number of products of the longest chain.
        products: number of all products: for chains, for outliers, for measuring the rounding and for the lower end.
        samples: independent estimates of the sum, one for each probe, (probes,) float64. With one seed another point
            has the same probes, so differences between two points can be taken probe by probe.
        arithmetic: the matrix to which the interval refers, see `landscape.Eigenpairs`. For the matrix in float64, the
            bound on the rounding is wrong with a chance of a thousandth.
    """

    alpha: float
    method: Literal["probes", "exact"]
    tol: float | None
    goal: float | None
    converged: bool
    agree: bool
    quadrature_error: float
    deflation_error: float
    rounding: float
    deflated: int
    probes: int
    steps: int
    products: int
    samples: np.ndarray
    arithmetic: str = IN_FLOAT64

    @property
    def shared_error(self) -> float:
        """The sum of the three errors that more probes don't reduce."""
        return self.quadrature_error + self.deflation_error + self.rounding

    @property
    def outcome(self) -> list[str]:
        """Lines on the sum with its error, on the method, and on the arithmetic if that isn't float64."""
        how = f"exact, from {self.products} products"
        if self.method == "probes":
            how = (
                f"{self.probes} probes of up to {self.steps} steps and {self.deflated} deflated outliers, "
                f"{self.products} products; errors that the probes share: quadrature {self.quadrature_error:.1e}, "
                f"outliers {self.deflation_error:.1e}, rounding {self.rounding:.1e}"
            )
        return [Estimate.__str__(self), how, *arithmetic_note(self.arithmetic)]

    @property
    def summary(self) -> list[str]:
        """See `HasSummary`."""
        return [*self.outcome, *self.remarks]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings about the interval, a sentence each."""
        remarks = []
        if self.agree:
            remarks.append(
                f"the {self.probes} probes agree up to rounding, so the interval has no width but that of the errors "
                "they share: right where deflation left a multiple of the identity"
            )
        if not self.converged:
            remarks.append(
                f"the 95 % interval is +-{self.half_width:.2g} after {self.probes} probes, wider than the "
                f"+-{self.goal:.2g} asked for: {self._remedy}"
            )
        return tuple(remarks)

    @property
    def _remedy(self) -> str:
        """Advice on how to narrow the interval."""
        assert self.goal is not None, "a number of probes is always reached"
        if self.shared_error < self.goal / 2:
            return "allow more products, or accept a larger tolerance"
        errors = {
            "the quadrature is not exact enough: make more steps": self.quadrature_error,
            "the outliers are not exact enough: deflate fewer": self.deflation_error,
            "rounding is the largest error: compute in float64, or take a larger alpha": self.rounding,
        }
        return max(errors, key=errors.__getitem__)


def exact_sum(
    spectrum: FullSpectrum, function: SpectralFunction, alpha: float, tol: float | None, products: int
) -> SpectralSum:
    """The spectral sum over a full spectrum.

    Args:
        spectrum: all eigenvalues.
        function: f.
        alpha: parameter of f.
        tol: goal for the half-width, relative to `SpectralFunction.measure`; None for no goal.
        products: number of all products.
    """
    values = spectrum.eigenvalues
    # In Frobenius norm: the products' errors are measured in that norm, and the dense solver's are relative to it.
    moved = spectrum.rounding + len(values) * np.finfo(np.float64).eps * spectrum.frobenius
    terms = function(values)
    value = float(terms.sum())
    rounding = float(np.linalg.norm(function.slope(values - moved, values + moved))) * moved + _evaluated(terms)
    goal = None if tol is None else tol * function.measure(value, len(values))
    return SpectralSum(
        value=value,
        standard_error=0.0,
        low=value - rounding,
        high=value + rounding,
        alpha=alpha,
        method="exact",
        tol=tol,
        goal=goal,
        converged=goal is None or bool(rounding <= goal),
        agree=False,
        quadrature_error=0.0,
        deflation_error=0.0,
        rounding=rounding,
        deflated=0,
        probes=0,
        steps=0,
        products=products,
        samples=np.array([]),
        arithmetic=spectrum.arithmetic,
    )


def _evaluated(terms: np.ndarray) -> float:
    """The rounding of a sum of function values, each with an error of a few units in the last place."""
    return 4 * np.finfo(np.float64).eps * float(np.abs(terms).sum())
