"""log det(A + alpha I) and the effective dimension of an operator, with 95 % intervals.

Both are sums over the spectrum, estimated by `landscape.spectrum.summation`. The logarithm needs A + alpha I to be
positive definite. A certified lower end of the spectrum decides that, never the sampled eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from landscape.errors import InputError
from landscape.operator import SymmetricOperator, as_exact_operator
from landscape.reporting.progress import Progress, part
from landscape.spectrum.full import full_spectrum
from landscape.spectrum.lower_end import LowerEnd, lower_end
from landscape.spectrum.quadrature import gauss, radau
from landscape.spectrum.rounding import distance
from landscape.spectrum.spectral_sum import SpectralFunction, SpectralSum, exact_sum
from landscape.spectrum.summation import STEPS, K, Settings, Summation

TOL_LOG_DET = 0.01
TOL_EFFECTIVE_DIMENSION = 0.05


# ---------------------------------------------------------------------- log det


class NotDefiniteError(InputError):
    """A + alpha I isn't positive definite, or it is undecided whether A + alpha I is: there is no log det."""


def log_det(
    operator: SymmetricOperator | Tensor | np.ndarray,
    alpha: float,
    *,
    tol: float | None = None,
    probes: int | None = None,
    steps: int = STEPS,
    k: int = K,
    seed: int = 0,
    max_products: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SpectralSum:
    """The logarithm of the determinant of a positive definite A + alpha I.

    The error is relative to n, because a common factor c of A and alpha adds n log c. With a half-width of 0.01 n, the
    geometric mean of the eigenvalues of A + alpha I is known to one per cent.

    First a Lanczos chain gives a lower bound on the spectrum, which is wrong with a chance of at most a thousandth.
    Then every Gauss rule is an upper bound on its sample. Every Gauss-Radau rule with its extra node at the spectrum's
    lower bound is a lower bound (Golub and Meurant 2010, chapter 6). The samples are the midpoints of the two, and
    ``quadrature_error`` bounds the remaining error.

    If the full spectrum takes no more products than the probes, the exact sum is computed instead.

    Args:
        operator: a symmetric operator or dense symmetric matrix A of dimension n.
        alpha: shift, at least 0, in the unit of A; 0 is enough if A itself is positive definite.
        tol: goal for the half-width of the 95 % interval, in units of n; default 0.01.
        probes: a given number of probes, at least 2, instead of a goal.
        steps: most products of each Lanczos chain, default 100.
        k: number of outliers of largest magnitude that are deflated, default 10.
        seed: seed of the probes and of the solves, which are independent of the probes; default 0.
        max_products: most products for adding probes; the first ten probes are made in any case. Default 10,000. Only
            with ``tol``.
        progress: function called as products are made.

    Raises:
        NotDefiniteError: A + alpha I isn't positive definite, or so close to singular that it is undecided.
        InputError: an argument is out of range, or a product isn't finite.
    """
    operator, settings = as_exact_operator(operator), Settings(tol, probes, steps, k, seed, max_products)
    check_log_det(operator.dim, alpha, settings)
    tell, before = progress or (lambda _: None), operator.products
    if settings.exact(operator):
        spectrum = full_spectrum(operator, progress=tell)
        lowest, error = float(spectrum.eigenvalues[-1]), spectrum.rounding
        function = _definite(alpha, LowerEnd(lowest - error, lowest + error, 0))
        goal = None if probes else tol or TOL_LOG_DET
        return exact_sum(spectrum, function, alpha, goal, operator.products - before)
    measured = distance(operator, seed)
    end = lower_end(operator, alpha, seed, settings.allowed, part(tell, 0.0, 0.2), measured.spectral)
    function = _definite(alpha, end)
    summation = Summation(operator, function, alpha, settings, TOL_LOG_DET, before, part(tell, 0.2, 1.0))
    return summation.run(measured)


def check_log_det(dim: int, alpha: float, settings: Settings) -> None:
    """Raise the InputError that `log_det` would raise for an operator of dimension ``dim`` before any product."""
    if not 0 <= alpha < math.inf:
        raise InputError(f"alpha must be a finite number that isn't negative, not {alpha:g}")
    settings.check(dim)


@dataclass(frozen=True)
class ShiftedLogarithm(SpectralFunction):
    """The function log(lambda + alpha).

    Attributes:
        alpha: the shift.
        low: lower bound on the eigenvalues, with low + alpha > 0.
    """

    alpha: float
    low: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """See `SpectralFunction`.

        Raises:
            NotDefiniteError: a value contradicts the certified lower end.
        """
        if len(values) and values.min() + self.alpha <= 0:
            raise self._undecided(float(values.min()))
        return np.log(values + self.alpha)

    def slope(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """See `SpectralFunction`; the slope is steepest at an interval's lower end."""
        return np.where(high < self.low, 0.0, 1 / (np.maximum(low, self.low) + self.alpha))

    def quadrature(self, alpha: np.ndarray, beta: np.ndarray) -> tuple[float, float]:
        """The midpoint of the Gauss rule and the Gauss-Radau rule, and half their distance, which bounds the error."""
        nodes, weights = gauss(alpha, beta)
        if nodes[0] <= self.low:
            raise self._undecided(float(nodes[0]))
        upper = float(weights @ self(nodes))
        nodes, weights = radau(alpha, beta, self.low)
        lower = float(weights @ self(nodes))
        return (upper + lower) / 2, abs(upper - lower) / 2

    def measure(self, value: float, dim: int) -> float:
        """The dimension n, because the sum itself may be zero and depends on the unit of A."""
        return dim

    def _undecided(self, shown: float) -> NotDefiniteError:
        return NotDefiniteError(
            f"log det(A + alpha I) is undecided for alpha = {self.alpha:g}: the products show an eigenvalue of A at or "
            f"below {shown:.3g}, the search for the lowest excluded any below {self.low:.3g}; take a larger alpha, "
            "float64 or another seed"
        )


def _definite(alpha: float, end: LowerEnd) -> ShiftedLogarithm:
    """The function log(lambda + alpha), if the lower end of the spectrum of A shows that A + alpha I is definite.

    Raises:
        NotDefiniteError: A + alpha I isn't positive definite, or it is undecided whether A + alpha I is.
    """
    if end.low + alpha > 0:
        return ShiftedLogarithm(alpha, end.low)
    bounded = math.isfinite(end.low)
    within = (
        f"is between {end.low:.3g} and {end.high:.3g}" if bounded else f"is at most {end.high:.3g}, perhaps far lower"
    )
    would_do = (
        f"alpha = {_rounded_up(-end.low):g} would do" if bounded else "more products, float64 or a larger alpha may do"
    )
    raise NotDefiniteError(
        f"log det(A + alpha I) is {'not defined' if end.high + alpha < 0 else 'undecided'} for alpha = {alpha:g}: the "
        f"lowest eigenvalue of A {within}; {would_do}, or a matrix that has no negative ones (--matrix ggn)"
    )


def _rounded_up(number: float) -> float:
    """A positive number rounded up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return math.ceil(number / unit) * unit


# ---------------------------------------------------------------------- effective dimension


def effective_dimension(
    operator: SymmetricOperator | Tensor | np.ndarray,
    alpha: float,
    *,
    tol: float | None = None,
    probes: int | None = None,
    steps: int = STEPS,
    k: int = K,
    seed: int = 0,
    max_products: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SpectralSum:
    """The sum of lambda / (lambda + alpha) over the positive eigenvalues lambda of A.

    The number of directions that curvature determines against a prior, or a weight decay, of curvature alpha. MacKay
    (1992) calls it the number of well-determined parameters, Maddox, Benton and Wilson (2020) the effective
    dimensionality. Eigenvalues that aren't positive add nothing. So the function has a kink at zero, and no bound on
    the quadrature error holds there. ``quadrature_error`` is therefore an estimate: the change between the chain and
    somewhat shorter chains.

    Args:
        operator: a symmetric operator or dense symmetric matrix A of dimension n.
        alpha: curvature of the prior, above 0, in the unit of A. At 0 the sum would be the number of positive
            eigenvalues, which is no continuous function of them.
        tol: goal for the half-width of the 95 % interval relative to the value; default 0.05.
        probes: a given number of probes, at least 2, instead of a goal.
        steps: most products of each Lanczos chain, default 100.
        k: number of outliers of largest magnitude that are deflated, default 10.
        seed: seed of the probes and of the solve for outliers, default 0.
        max_products: most products for adding probes, see `log_det`; default 10,000. Only with ``tol``.
        progress: function called as products are made.

    Raises:
        InputError: an argument is out of range, or a product isn't finite.
    """
    operator, settings = as_exact_operator(operator), Settings(tol, probes, steps, k, seed, max_products)
    check_effective_dimension(operator.dim, alpha, settings)
    tell, before = progress or (lambda _: None), operator.products
    summation = Summation(operator, DeterminedShare(alpha), alpha, settings, TOL_EFFECTIVE_DIMENSION, before, tell)
    return summation.full() if settings.exact(operator) else summation.run(distance(operator, seed))


def check_effective_dimension(dim: int, alpha: float, settings: Settings) -> None:
    """Raise the InputError that `effective_dimension` would raise for an operator of dimension ``dim``."""
    if not 0 < alpha < math.inf:
        raise InputError(f"alpha must be a finite positive number, not {alpha:g}")
    settings.check(dim)


@dataclass(frozen=True)
class DeterminedShare(SpectralFunction):
    """The function lambda / (lambda + alpha) for positive lambda, and 0 otherwise."""

    alpha: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """See `SpectralFunction`."""
        positive = np.maximum(values, 0.0)
        return positive / (positive + self.alpha)

    def slope(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """See `SpectralFunction`; the slope is steepest at zero, and zero below zero."""
        return np.where(high <= 0, 0.0, (self.alpha / (np.maximum(low, 0.0) + self.alpha)) ** 2 / self.alpha)

    def quadrature(self, alpha: np.ndarray, beta: np.ndarray) -> tuple[float, float]:
        """The Gauss rule, and an estimate of its error from shorter chains.

        The estimate is the largest difference from eight chains of two thirds of the steps or more. One difference,
        such as from half the steps, is often too small: the kink makes the error change its sign from step to step.
        If the Krylov space is exhausted, that estimate is far too large. So the remainder's norm times the steepest
        slope replaces any larger estimate.
        """
        value = self._gauss(alpha, beta)
        lengths = np.unique(np.linspace(2 * len(alpha) // 3, len(alpha) - 1, 8).astype(int))
        shorter = [abs(value - self._gauss(alpha[:m], beta[:m])) for m in lengths if m]
        return value, min([beta[-1] / self.alpha, max(shorter, default=math.inf)])

    def measure(self, value: float, dim: int) -> float:
        """The value itself, which is never negative."""
        return value

    def _gauss(self, alpha: np.ndarray, beta: np.ndarray) -> float:
        nodes, weights = gauss(alpha, beta)
        return float(weights @ self(nodes))
