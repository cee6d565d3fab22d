"""log det(A + alpha I) and the effective dimension of an operator, with 95 % intervals.

Both are sums over the spectrum, estimated by `landscape.spectrum.spectral_sum`. The logarithm needs A + alpha I to be
positive definite, which is decided by a certified lower end of the spectrum and never by a lucky sample.
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
    """A + alpha I isn't positive definite, or can't be told to be: there is no log det to estimate."""


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

    Its error is measured against n, as a common factor c of A and alpha adds n log c: a half-width of 0.01 n knows the
    geometric mean of the eigenvalues of A + alpha I to one per cent.

    First a lower bound of the spectrum is found, which is wrong with a chance of at most a thousandth. Then every Gauss
    rule is an upper bound, and every Gauss-Radau rule with its node at that lower end a lower one (Golub and Meurant
    2010, chapter 6): samples are their midpoints, and ``quadrature_error`` bounds what is left.

    Where the full spectrum takes no more products than the probes, it is made instead.

    Args:
        operator: a symmetric operator or dense symmetric matrix A of dimension n.
        alpha: at least 0, in the unit of A; 0 will do where A itself is positive definite.
        tol: goal for the half-width of the 95 % interval, in units of n; default 0.01.
        probes: make this many, at least 2, in place of a goal.
        steps: products of each chain.
        k: outliers of largest magnitude done exactly.
        seed: of the probes and, independent of them, of the searches.
        max_products: add no probes beyond so many products; the first ten are made whatever the rest took. Default
            10,000. Only with ``tol``.
        progress: called as products are made.

    Raises:
        NotDefiniteError: A + alpha I isn't positive definite, or so nearly not that it is undecided.
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
    """log(lambda + alpha).

    Attributes:
        alpha: the shift.
        low: no eigenvalue is below this, and low + alpha > 0.
    """

    alpha: float
    low: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """See `SpectralFunction`.

        Raises:
            NotDefiniteError: an eigenvalue contradicts the lower end that was found.
        """
        if len(values) and values.min() + self.alpha <= 0:
            raise self._undecided(float(values.min()))
        return np.log(values + self.alpha)

    def slope(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """See `SpectralFunction`; steepest at the low end."""
        return np.where(high < self.low, 0.0, 1 / (np.maximum(low, self.low) + self.alpha))

    def quadrature(self, alpha: np.ndarray, beta: np.ndarray) -> tuple[float, float]:
        """The middle between the Gauss rule and the Gauss-Radau rule, and half their distance: a bound."""
        nodes, weights = gauss(alpha, beta)
        if nodes[0] <= self.low:
            raise self._undecided(float(nodes[0]))
        upper = float(weights @ self(nodes))
        nodes, weights = radau(alpha, beta, self.low)
        lower = float(weights @ self(nodes))
        return (upper + lower) / 2, abs(upper - lower) / 2

    def measure(self, value: float, dim: int) -> float:
        """n: the sum itself may be zero, and depends on the unit of A."""
        return dim

    def _undecided(self, shown: float) -> NotDefiniteError:
        return NotDefiniteError(
            f"log det(A + alpha I) is undecided for alpha = {self.alpha:g}: the products show an eigenvalue of A at or "
            f"below {shown:.3g}, the search for the lowest excluded any below {self.low:.3g}; take a larger alpha, "
            "float64 or another seed"
        )


def _definite(alpha: float, end: LowerEnd) -> ShiftedLogarithm:
    """The logarithm, where the lower end of the spectrum of A allows it.

    Raises:
        NotDefiniteError: A + alpha I isn't positive definite, or it is undecided.
    """
    if end.low + alpha > 0:
        return ShiftedLogarithm(alpha, end.low)
    found = math.isfinite(end.low)
    within = (
        f"is between {end.low:.3g} and {end.high:.3g}" if found else f"is at most {end.high:.3g}, perhaps far lower"
    )
    would_do = (
        f"alpha = {_rounded_up(-end.low):g} would do" if found else "more products, float64 or a larger alpha may do"
    )
    raise NotDefiniteError(
        f"log det(A + alpha I) is {'not defined' if end.high + alpha < 0 else 'undecided'} for alpha = {alpha:g}: the "
        f"lowest eigenvalue of A {within}; {would_do}, or a matrix that has no negative ones (--matrix ggn)"
    )


def _rounded_up(number: float) -> float:
    """The next number of two digits above a positive one."""
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

    How many directions curvature determines against a prior, or a weight decay, of curvature alpha: MacKay (1992) calls
    it the number of well-determined parameters, Maddox, Benton and Wilson (2020) the effective dimensionality.
    Eigenvalues that aren't positive count nothing, which makes a kink at zero that no quadrature bound allows for:
    ``quadrature_error`` is therefore an estimate, from what somewhat fewer steps give.

    Args:
        operator: a symmetric operator or dense symmetric matrix A of dimension n.
        alpha: above 0, in the unit of A. At 0 the number would be that of the positive eigenvalues, a jump at each.
        tol: goal for the half-width of the 95 % interval relative to the value; default 0.05.
        probes: see `log_det`, as for all others.
        steps: of each chain.
        k: outliers done exactly.
        seed: of probes and outliers.
        max_products: only with ``tol``.
        progress: called as products are made.

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
    """lambda / (lambda + alpha) of a positive lambda, and 0 of any other."""

    alpha: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """See `SpectralFunction`."""
        positive = np.maximum(values, 0.0)
        return positive / (positive + self.alpha)

    def slope(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """See `SpectralFunction`; steepest at zero, flat below it."""
        return np.where(high <= 0, 0.0, (self.alpha / (np.maximum(low, 0.0) + self.alpha)) ** 2 / self.alpha)

    def quadrature(self, alpha: np.ndarray, beta: np.ndarray) -> tuple[float, float]:
        """The Gauss rule, and an estimate of its error from how far shorter chains were from it.

        The largest difference to eight chains of two thirds of the steps or more. The difference to one alone, such as
        to half the steps, is too small in one case of ten: the kink makes the error change its sign from step to step.
        Where the chain came to its end that is far too large: then what remains, times the steepest slope.
        """
        value = self._gauss(alpha, beta)
        lengths = np.unique(np.linspace(2 * len(alpha) // 3, len(alpha) - 1, 8).astype(int))
        shorter = [abs(value - self._gauss(alpha[:m], beta[:m])) for m in lengths if m]
        return value, min([beta[-1] / self.alpha, max(shorter, default=math.inf)])

    def measure(self, value: float, dim: int) -> float:
        """The value itself, which isn't negative."""
        return value

    def _gauss(self, alpha: np.ndarray, beta: np.ndarray) -> float:
        nodes, weights = gauss(alpha, beta)
        return float(weights @ self(nodes))
