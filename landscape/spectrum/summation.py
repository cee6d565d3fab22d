"""Spectral sums tr f(A) = sum_i f(lambda_i) by stochastic Lanczos quadrature.

The method is Ubaru, Chen and Saad's (2017), with deflation of k outliers as in the spectral density. The outliers'
part is exact. Each probe x is uniform on the unit sphere of the complement. Let C be the operator compressed to the
complement. The independent sample of x is sum_i f(lambda_i) + (n - k) x^T f(C) x, where i runs over the outliers.

The standard error isn't taken from the spread of the samples. For x uniform on the unit sphere of N dimensions

    Var(N x^T F x) = 2 N / (N + 2) (tr F^2 - (tr F)^2 / N).

The chains' nodes and weights give tr f(C)^2. That gives the variance far more exactly than the spread of ten samples.
If a few eigenvalues carry the sum, the samples are skewed like chi^2. Student's interval from ten samples then holds in
fewer than 95 % of cases. ``pytest tests/spectrum/test_functions.py -m slow -k coverage`` measures how often the
interval used here holds. Three errors that all samples share are added to the interval: the quadrature's error, the
error from the outliers' residuals, and rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtri

from landscape.errors import InputError, refuse_fractions
from landscape.operator import SymmetricOperator
from landscape.reporting.progress import Progress, part
from landscape.spectrum.deflation import Deflation
from landscape.spectrum.estimate import FEWEST_PROBES, Sampling
from landscape.spectrum.full import full_spectrum, is_possible
from landscape.spectrum.probes import check_goal, probe
from landscape.spectrum.products import finite_products, measured_rounding
from landscape.spectrum.quadrature import gauss, run_chain
from landscape.spectrum.rounding import Distance
from landscape.spectrum.spectral_sum import SpectralFunction, SpectralSum, exact_sum

STEPS = 100
K = 10
MAX_PRODUCTS = 10_000

# Relative residual norm of the outliers; its effect is of second order (`deflation_error`).
_TOL_OUTLIERS = 1e-4


@dataclass(frozen=True)
class Settings:
    """Settings of the estimation of a spectral sum.

    Attributes:
        tol: goal for the half-width of the 95 % interval, relative to `SpectralFunction.measure`.
        probes: a given number of probes, instead of a goal.
        steps: most steps of each chain.
        k: number of outliers to deflate.
        seed: seed of the probes and of the solves.
        max_products: most products for adding probes; only with a goal.
    """

    tol: float | None
    probes: int | None
    steps: int
    k: int
    seed: int
    max_products: int | None

    def check(self, dim: int) -> None:
        """Raise InputError if the settings are out of range for an operator of dimension ``dim``."""
        check_goal("sum", self.tol, self.probes, self.seed, self.max_products)
        refuse_fractions(steps=self.steps, k=self.k)
        if self.steps < 2:
            raise InputError(f"steps must be at least 2, because one step gives only a mean, not {self.steps}")
        if self.k < 0:
            raise InputError(f"k must not be negative, and {self.k} is; 0 deflates nothing")
        least = min(dim + 1, self.least)
        if self.max_products is not None and self.max_products < least:
            raise InputError(
                f"the first probes take {least} products with k={self.k} and steps={self.steps}, and max_products is "
                f"{self.max_products}"
            )

    @property
    def least(self) -> int:
        """The products of the first probes and of the shortest solve for the outliers."""
        return self.k + (self.probes or FEWEST_PROBES) * self.steps

    @property
    def allowed(self) -> int:
        """The most products for adding probes: the setting, or 10,000, or the products of the first probes if more."""
        return self.max_products or max(self.least, MAX_PRODUCTS)

    def exact(self, operator: SymmetricOperator) -> bool:
        """Whether the full spectrum is possible and takes no more products than the first probes."""
        return operator.dim <= self.least and is_possible(operator)


class Summation(Sampling[SpectralSum]):
    """One estimation: deflate, add probes until the goal is reached, or use the full spectrum if that is cheaper.

    Args:
        operator: A.
        function: f.
        alpha: parameter of f.
        settings: checked settings.
        tol: goal if the settings have none.
        before: the operator's count of products before this measurement.
        progress: function called after every product of the solve for outliers and after every chain.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        function: SpectralFunction,
        alpha: float,
        settings: Settings,
        tol: float,
        before: int,
        progress: Callable[[Progress], None],
    ) -> None:
        self.operator, self.function, self.alpha, self.settings = operator, function, alpha, settings
        self.tol = None if settings.probes else settings.tol or tol
        self._before, self._progress, self._distance = before, progress, Distance()
        self._deflation = Deflation.none(operator)
        self._longest = 0
        self._gauss: list[tuple[np.ndarray, np.ndarray]] = []  # nodes and weights of each chain
        self._means: list[tuple[float, float]] = []  # x^T f(C) x from each chain, and its error

    @property
    def products(self) -> int:
        """Products made in this measurement."""
        return self.operator.products - self._before

    def run(self, measured: Distance) -> SpectralSum:
        """Deflate, measure the rounding, and add probes until the goal is reached.

        Args:
            measured: distance of the operator's products from those in float64.
        """
        self._distance, self._deflation = measured, self.deflate()
        self.measure_rounding()
        return self.sample(self.settings.probes or FEWEST_PROBES)

    def room(self) -> int:
        """See `Sampling.room`."""
        return (self.settings.allowed - self.products) // self.settings.steps

    def exact_instead(self, found: SpectralSum, more: int) -> SpectralSum | None:
        """See `Sampling.exact_instead`."""
        cheaper = self.operator.dim <= more * self.settings.steps and is_possible(self.operator)
        return self.full() if cheaper else None

    def full(self) -> SpectralSum:
        """The sum over the full spectrum; earlier probes are discarded."""
        spectrum = full_spectrum(self.operator, progress=self._progress)
        return exact_sum(spectrum, self.function, self.alpha, self.tol, self.products)

    def converged(self, found: SpectralSum) -> bool:
        """See `Sampling.converged`."""
        return found.converged

    def hopeless(self, found: SpectralSum) -> bool:
        """See `Sampling.hopeless`."""
        return found.agree or found.shared_error >= (found.goal or math.inf)

    def deflate(self) -> Deflation:
        """Deflate the converged outliers, and leave at least one dimension to the probes."""
        k = min(self.settings.k, self.operator.dim - 1)
        share = 10 * k / (10 * k + self.settings.least)  # estimated share of the work
        tell = part(self._progress, 0.0, share)
        return Deflation.of_outliers(self.operator, k, _TOL_OUTLIERS, self.settings.seed, tell)

    def measure_rounding(self) -> None:
        """Measure the norm ||E||_F of the products' errors, from a product with a vector of signs."""
        signs = probe(self.operator.dim, self.settings.seed, 0).to(self.operator.device, self.operator.dtype)
        product = finite_products(self.operator, signs.unsqueeze(1)).squeeze(1).to(torch.float64)
        self._moved = measured_rounding(self.operator, signs, product) + self._distance.frobenius

    def draw(self, wanted: int) -> None:
        """Add chains until there are ``wanted`` chains."""
        steps, seed = self.settings.steps, self.settings.seed
        total = self.products + (wanted - len(self._means)) * steps
        while len(self._means) < wanted:
            chain = run_chain(self.operator, self._deflation, steps, seed, len(self._means))
            self._longest = max(self._longest, len(chain.alpha))
            self._gauss.append(gauss(chain.alpha, chain.beta))
            self._means.append(self.function.quadrature(chain.alpha, chain.beta))
            self._progress(Progress("sampling", self.products, np.array([]), min(1.0, self.products / total)))

    def estimate(self) -> SpectralSum:
        """The sum with its error from all chains so far."""
        complement_dim = self.operator.dim - len(self._deflation.values)
        means, errors = np.array(self._means).T
        samples = float(self.function(self._deflation.values).sum()) + complement_dim * means
        quadrature, rounding = complement_dim * float(errors.mean()), self.rounding()
        deflation = deflation_error(self.function, self._deflation.values, self._deflation.residuals)
        value, standard_error = float(samples.mean()), self.standard_error()
        radius = float(ndtri(0.975)) * standard_error + quadrature + deflation + rounding
        goal = None if self.tol is None else self.tol * self.function.measure(value, self.operator.dim)
        return SpectralSum(
            value=value,
            standard_error=standard_error,
            low=value - radius,
            high=value + radius,
            alpha=self.alpha,
            method="probes",
            tol=self.tol,
            goal=goal,
            converged=goal is None or radius <= goal,
            agree=float(np.ptp(samples)) <= 2 * rounding,
            quadrature_error=quadrature,
            deflation_error=deflation,
            rounding=rounding,
            deflated=len(self._deflation.values),
            probes=len(samples),
            steps=self._longest,
            products=self.products,
            samples=samples,
            arithmetic=self._distance.arithmetic(self.operator),
        )

    def standard_error(self) -> float:
        """Standard error of the mean over the probes, from tr f(C)^2; see the module's docstring."""
        complement_dim = self.operator.dim - len(self._deflation.values)
        rules = [(self.function(nodes), weights) for nodes, weights in self._gauss]
        mean = np.mean([weights @ values for values, weights in rules])
        variance = float(np.mean([weights @ (values - mean) ** 2 for values, weights in rules]))
        return complement_dim * math.sqrt(2 / (complement_dim + 2) * variance / len(rules))

    def rounding(self) -> float:
        """The rounding error ||f'||_F ||E||_F, with f' the largest slope within ||E||_F of each eigenvalue.

        Outliers and chains represent the eigenvalues.
        """
        complement_dim, moved = self.operator.dim - len(self._deflation.values), self._moved

        def slopes(values: np.ndarray) -> np.ndarray:
            return self.function.slope(values - moved, values + moved) ** 2

        square = float(slopes(self._deflation.values).sum()) + complement_dim * np.mean(
            [w @ slopes(nodes) for nodes, w in self._gauss]
        )
        size = float(np.abs(self.function(self._deflation.values)).sum())
        size += complement_dim * np.mean([w @ np.abs(self.function(nodes)) for nodes, w in self._gauss])
        return math.sqrt(square) * moved + 4 * np.finfo(np.float64).eps * float(size)

    def needed(self, found: SpectralSum) -> int:
        """See `Sampling.needed`."""
        if found.goal is None:
            return found.probes
        allowed = found.goal - found.shared_error
        if allowed <= 0:
            return 1 << 62
        return math.ceil(found.probes * ((found.half_width - found.shared_error) / allowed) ** 2)


def deflation_error(function: SpectralFunction, outliers: np.ndarray, residuals: np.ndarray) -> float:
    """Bound on the error of a sum from the residual norms r_i, (k,), of the outliers lambda_i, (k,).

    Write A = D + E. D has the outliers and the compressed operator C as diagonal blocks. E has the residuals as
    off-diagonal blocks R and R^T. Along D + s E an eigenvalue mu with eigenvector (x, y) moves by 2 x^T R^T y, and
    x_i = s (R^T y)_i / (mu - lambda_i). The sum of all |movements| is at most 2 sum r_i (Lidskii).

    Take eigenvalues of at most half the smallest outlier's magnitude. For these |mu - lambda_i| is at least
    |lambda_i| / 2. The sum of (R^T y)_i^2 over all y is at most r_i^2 (Bessel). So the sum of their |movements| is at
    most 2 sum r_i^2 / |lambda_i|. The bound is of second order where f is steep, and of first order only where f is
    flat.
    """
    if not len(outliers):
        return 0.0
    magnitudes = np.abs(outliers)
    half, infinity = np.array([magnitudes.min() / 2]), np.array([np.inf])
    beyond = max(float(function.slope(half, infinity)[0]), float(function.slope(-infinity, -half)[0]))
    within = float(function.slope(-infinity, infinity)[0])
    second = residuals * np.minimum(1.0, residuals / np.maximum(magnitudes, np.finfo(np.float64).tiny))
    return 2 * within * float(second.sum()) + 2 * beyond * float(residuals.sum())
