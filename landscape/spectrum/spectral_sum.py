"""A sum of a function over a spectrum, tr f(A) = sum_i f(lambda_i): the function, the result, and the exact sum."""

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
    """A nowhere decreasing function f of an eigenvalue."""

    @abstractmethod
    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The function of each value."""

    @abstractmethod
    def slope(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The steepest that f is on the part of each interval [low, high] where an eigenvalue can lie."""

    @abstractmethod
    def quadrature(self, alpha: np.ndarray, beta: np.ndarray) -> tuple[float, float]:
        """x^T f(C) x from the chain of the unit vector x, and what the quadrature may be off by.

        Args:
            alpha: (m,) the diagonal of the tridiagonal T.
            beta: (m,) its off-diagonal and the last remainder; see `landscape.spectrum.quadrature.Chain`.
        """

    @abstractmethod
    def measure(self, value: float, dim: int) -> float:
        """What the tolerance of a sum is relative to, given the sum and n."""


@dataclass(frozen=True)
class SpectralSum(HasSummary, Estimate):
    """tr f(A) with its 95 % interval: 1.96 standard errors over the probes, and the three errors that probes share.

    Attributes:
        alpha: of the function.
        method: ``probes``, or ``exact``: from the full spectrum.
        tol: the goal for the interval's half-width, relative to what the function says; None where the number of probes
            was given.
        goal: this half-width itself; None with ``tol``.
        converged: the goal was reached, or the given number of probes made.
        agree: all samples are one number up to rounding; see ``remarks``.
        quadrature_error: of the Gauss rules, on average over the probes: a bound or an estimate, as the function says.
        deflation_error: bound on what the outliers' residuals do.
        rounding: what rounding may have done: by Cauchy and Schwarz ||f'(A)||_F ||E||_F, for the matrix E of the
            products' errors, whose norm is measured.
        deflated: k, how many outliers were done exactly.
        probes: how many.
        steps: products of the longest chain.
        products: made in all: chains, outliers, those that measure the rounding, and whatever else was needed.
        samples: (probes,) float64, independent estimates of the sum, probe by probe; the same probes are used at
            another point with the same seed, so that differences can be taken in pairs.
        arithmetic: of which matrix the interval is, see `landscape.Eigenpairs`. Of one in float64 the rounding is
            bounded but for a chance of a thousandth.
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
        """What more probes don't reduce."""
        return self.quadrature_error + self.deflation_error + self.rounding

    @property
    def outcome(self) -> list[str]:
        """The number with its error, and how it was made."""
        how = f"exact, from {self.products} products"
        if self.method == "probes":
            how = (
                f"{self.probes} probes of up to {self.steps} steps beside {self.deflated} outliers done exactly, "
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
        """What a reader has to know of the interval, a sentence each."""
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
        """What would narrow the interval."""
        assert self.goal is not None, "a number of probes is always reached"
        if self.shared_error < self.goal / 2:
            return "allow more products, or accept a larger tolerance"
        errors = {
            "the quadrature is not exact enough: make more steps": self.quadrature_error,
            "the outliers are not exact enough: deflate fewer": self.deflation_error,
            "rounding stands in the way: compute in float64, or take a larger alpha": self.rounding,
        }
        return max(errors, key=errors.__getitem__)


def exact_sum(
    spectrum: FullSpectrum, function: SpectralFunction, alpha: float, tol: float | None, products: int
) -> SpectralSum:
    """The sum over a full spectrum.

    Args:
        spectrum: all eigenvalues.
        function: f.
        alpha: its parameter.
        tol: the goal.
        products: made in all.
    """
    values = spectrum.eigenvalues
    # In Frobenius norm: the products' errors are measured in it, those of the dense solver are relative to it.
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
    """The rounding of a sum of function values, each off by some units in the last place."""
    return 4 * np.finfo(np.float64).eps * float(np.abs(terms).sum())
