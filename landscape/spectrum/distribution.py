"""A spectrum as a distribution of mass 1: outliers, and the quadrature nodes of random probes.

From it follow the distribution function with its bounds, the smoothed density, and distances between distributions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import stdtrit

from landscape.errors import InputError
from landscape.reporting.display import HasSummary, to_error
from landscape.reporting.messages import counted
from landscape.spectrum.bandwidth import choose_width
from landscape.spectrum.probes import standard_error
from landscape.spectrum.quadrature import cdf_bounds as chain_bounds
from landscape.spectrum.quadrature import gauss
from landscape.spectrum.rounding import IN_FLOAT64, arithmetic_note


@dataclass(frozen=True)
class SpectralDensity(HasSummary):
    """A spectral density as outliers and quadrature nodes; all other numbers are computed from these.

    Eigenvalues, nodes and widths have the operator's unit (for a Hessian loss / parameter^2). Densities have the
    inverse unit. The measure has total mass 1. Each of the k outliers has the mass 1/n. Each of the p probes spreads
    the mass (n - k)/n over its nodes in proportion to their weights, and the probes are averaged. A chain that ended
    early fills its row with NaN nodes of weight 0.

    Attributes:
        outliers: deflated eigenvalues, (k,) float64, by magnitude descending.
        residuals: residual norms of the outliers plus the rounding of their solve, (k,). The outliers and the
            compressed operator together have n eigenvalues. These differ from the exact eigenvalues by at most twice
            the sum of the residual norms (Lidskii). The difference is of second order in the residual norms.
        nodes: Ritz values of each probe's chain, (p, m) float64, ascending.
        weights: quadrature weights, (p, m) float64, adding up to 1 in each row.
        alpha: diagonals of the chains' tridiagonal matrices, (p, m) float64.
        beta: off-diagonals and, last, the remainder's norm, (p, m) float64; see `landscape.spectrum.quadrature.Chain`.
        dim: dimension n of the operator.
        rounding: bound on how far rounding may move a node, wrong with a chance of a thousandth.
        orthogonality: max |Q^T Q - I| over all chains and the deflated vectors.
        undeflated: number of requested outliers that did not converge; these are sampled instead.
        products: number of all products.
        products_outliers: number of the products for the outliers.
        arithmetic: the matrix to which ``rounding`` refers, see `landscape.Eigenpairs`.
    """

    outliers: np.ndarray
    residuals: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    dim: int
    rounding: float
    orthogonality: float
    undeflated: int
    products: int
    products_outliers: int
    arithmetic: str = IN_FLOAT64

    @property
    def summary(self) -> list[str]:
        """See `HasSummary`. The share below zero has a line if a node or an outlier is below zero beyond rounding."""
        lines = [
            f"spectral density from {counted(self.probes, 'probe')} of up to {self.steps} steps, "
            f"{counted(len(self.outliers), 'outlier')} exact, {counted(self.products, 'product')}"
        ]
        if len(self.outliers):
            lines.append(f"outliers from {to_error(self.outliers[0], 0)} to {to_error(self.outliers[-1], 0)}")
        nodes = self.nodes[np.isfinite(self.nodes)]
        if len(nodes):
            lines.append(f"bulk from {nodes.min():.3g} to {nodes.max():.3g}, smoothing width {self.width:.2g}")
        if min([*nodes, *self.outliers]) < -self.rounding:
            at = np.array([np.nextafter(-self.rounding, -np.inf)])
            ((lower,), (upper,)) = self.cdf_interval(at)
            lines.append(
                f"share of eigenvalues below zero from {lower:.3f} to {upper:.3f}: bounds of the quadrature, with the "
                "probes' sampling at 95 %"
            )
        if len(nodes):
            lines.append(
                f"Wasserstein-1 error: about {self.expected_distance:.1e} by the probes; between all steps and half of "
                f"them {self.quadrature_distance:.1e}"
            )
            if self.rounding > 0.1 * self.expected_distance:
                lines.append(f"rounding may have moved each node by about {self.rounding:.1e}")
        return lines + arithmetic_note(self.arithmetic)

    @property
    def probes(self) -> int:
        return len(self.nodes)

    @property
    def steps(self) -> int:
        return self.nodes.shape[1]

    @property
    def bulk_mass(self) -> float:
        """The share (n - k)/n of the eigenvalues that the probes sample."""
        return (self.dim - len(self.outliers)) / self.dim

    @property
    def bulk(self) -> SpectralDensity:
        """The density of the compressed operator: its n - k eigenvalues, without the outliers, with mass 1.

        Raises:
            InputError: all eigenvalues are outliers.
        """
        if len(self.outliers) == self.dim:
            raise InputError(f"all {self.dim} eigenvalues were deflated: there is no bulk; ask for a smaller k")
        nothing = np.zeros(0)
        return replace(self, outliers=nothing, residuals=nothing, dim=self.dim - len(self.outliers))

    @cached_property
    def width(self) -> float:
        """Standard deviation of the Gaussian that smooths the bulk; 0 if the bulk is a point mass or empty.

        The width is chosen from the nodes, see `landscape.spectrum.bandwidth`.
        """
        return choose_width(self.nodes, self.weights, self.rounding)

    def chain(self, probe: int) -> tuple[np.ndarray, np.ndarray]:
        """The coefficients alpha and beta of one probe's chain, (m,) each, without trailing NaN."""
        length = int(np.isfinite(self.alpha[probe]).sum())
        return self.alpha[probe, :length], self.beta[probe, :length]

    def truncated(self, steps: int) -> SpectralDensity:
        """The density that a measurement with fewer steps would give.

        Raises:
            InputError: ``steps`` isn't between 1 and the number of steps made.
        """
        if not 1 <= steps <= self.steps:
            raise InputError(f"a chain of {self.steps} steps can be cut to between 1 and that many, not {steps}")
        pairs = [self.chain(i) for i in range(self.probes)]
        cut = [(alpha[:steps], beta[:steps]) for alpha, beta in pairs]
        saved = sum(len(alpha) for alpha, _ in pairs) - sum(len(alpha) for alpha, _ in cut)
        return replace(self, products=self.products - saved, **tables(cut, steps))

    def cdf(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The share of eigenvalues at or below each point, and its standard error over probes.

        Args:
            grid: (g,) points.

        Returns:
            Shares (g,) and standard errors (g,) of the probes' sampling, NaN for a single probe. The standard errors
            don't contain the quadrature's own error. Where nodes have large weights, such as near zero, the
            quadrature's error is the larger one; see `cdf_bounds`.
        """
        grid = np.asarray(grid, dtype=np.float64)
        each = np.stack([_step(*_present(*row), grid) for row in zip(self.nodes, self.weights, strict=True)])
        exact = (self.outliers[:, None] <= grid).sum(0) / self.dim
        return exact + self.bulk_mass * each.mean(0), self.bulk_mass * standard_error(each)

    def cdf_bounds(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the quadrature on the share of eigenvalues at or below each point, averaged over the probes.

        See `landscape.spectrum.quadrature.cdf_bounds`. The bounds contain neither the probes' sampling error nor
        ``rounding``.

        Args:
            grid: (g,) points.

        Returns:
            Lower bounds (g,) and upper bounds (g,). The two are equal if all chains exhausted their Krylov spaces,
            because the nodes are then eigenvalues.
        """
        low, high = self._bounds_by_probe(grid).mean(axis=1)
        exact = (self.outliers[:, None] <= grid).sum(0) / self.dim
        return exact + self.bulk_mass * low, exact + self.bulk_mass * high

    def cdf_interval(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of the share of eigenvalues at or below each point.

        The expected value of a probe's lower bound is at most the share, and that of its upper bound is at least the
        share. Each end of the interval is the bounds' mean over the probes, widened by Student's t. The interval
        doesn't contain ``rounding`` and the outliers' residual norms, which may move the point itself.

        Args:
            grid: (g,) points.

        Returns:
            Lower ends (g,) and upper ends (g,). With a single probe only the outliers bound the share.
        """
        bounds = self._bounds_by_probe(grid)
        margin = stdtrit(max(1, self.probes - 1), 0.975) * np.stack([standard_error(each) for each in bounds])
        (low, high), (below, above) = bounds.mean(axis=1), np.nan_to_num(margin, nan=1.0)
        exact = (self.outliers[:, None] <= grid).sum(0) / self.dim
        return (
            exact + self.bulk_mass * np.maximum(low - below, 0.0),
            exact + self.bulk_mass * np.minimum(high + above, 1.0),
        )

    def _bounds_by_probe(self, grid: np.ndarray) -> np.ndarray:
        """Lower and upper bounds (2, p, g) of each probe's quadrature on the bulk's mass at or below each point."""
        points = np.asarray(grid, dtype=np.float64)
        return np.stack([chain_bounds(*self.chain(i), points) for i in range(self.probes)], axis=1)

    def smoothed(self, grid: np.ndarray, width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The density convolved with a Gaussian, and its standard error over probes.

        An outlier is a delta of mass 1/n, smoothed by the Gaussian like the nodes.

        Args:
            grid: (g,) points.
            width: standard deviation of the Gaussian; default `width`.

        Returns:
            Densities (g,) and standard errors (g,), NaN for a single probe.

        Raises:
            InputError: `width` is 0 because the bulk is a point mass or empty, or a given width isn't positive.
        """
        if width is None and self.width == 0:
            raise InputError(
                "the bulk is a point mass up to rounding, and there is no width to smooth with; give a width, or draw "
                "the cdf"
            )
        width = self.width if width is None else width
        if not 0 < width < math.inf:
            raise InputError(f"the width of a Gaussian must be positive and finite, not {width}")
        grid = np.asarray(grid, dtype=np.float64)
        rows = zip(self.nodes, self.weights, strict=True)
        each = np.stack([_bumps(*_present(*row), grid, width) for row in rows])
        exact = _bumps(self.outliers, np.full(len(self.outliers), 1 / self.dim), grid, width)
        return exact + self.bulk_mass * each.mean(0), self.bulk_mass * standard_error(each)

    def distance(self, eigenvalues: np.ndarray) -> float:
        """Wasserstein-1 distance to a spectrum: the integral of |F - G| for the two distribution functions F and G.

        Args:
            eigenvalues: the spectrum to compare with, (l,), each eigenvalue of mass 1/l. To compare without the
                outliers, call this method on `bulk`.

        Returns:
            The distance, in the operator's unit.

        Raises:
            InputError: ``eigenvalues`` is empty or not finite.
        """
        exact = np.asarray(eigenvalues, dtype=np.float64)
        if not (exact.size and np.isfinite(exact).all()):
            raise InputError("a spectrum to compare with needs at least one eigenvalue, and all finite")
        positions, masses = self._points()
        return _wasserstein(positions, masses, exact, np.full(len(exact), 1 / len(exact)))

    @property
    def expected_distance(self) -> float:
        """The expected Wasserstein-1 distance to the exact spectrum, from the probes' sampling error only.

        E int |F - G| = int E|N(0, se(x))| dx = sqrt(2/pi) int se(x) dx, with se the standard error of `cdf`. This holds
        if the sampling error is normal and the quadrature exact. NaN for a single probe.
        """
        points = np.unique(self.nodes[np.isfinite(self.nodes)])
        return math.sqrt(2 / math.pi) * float((self.cdf(points)[1][:-1] * np.diff(points)).sum())

    @property
    def quadrature_distance(self) -> float:
        """An estimate of the quadrature's error: the Wasserstein-1 distance to the density from half the steps.

        Strictly, the distance estimates the error with half the steps. The error with all steps is smaller.
        """
        half = self.truncated(max(1, self.steps // 2))
        return _wasserstein(*self._points(), *half._points())

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions of all outliers and nodes, and their masses."""
        present = np.isfinite(self.nodes)
        nodes, weights = self.nodes[present], self.weights[present] * self.bulk_mass / self.probes
        positions = np.concatenate([self.outliers, nodes])
        return positions, np.concatenate([np.full(len(self.outliers), 1 / self.dim), weights])


def tables(chains: Sequence[tuple[np.ndarray, np.ndarray]], steps: int) -> dict[str, Any]:
    """Nodes, weights, alpha and beta of all chains, (p, steps) each."""
    shape = (len(chains), steps)
    tables = {name: np.full(shape, np.nan) for name in ("nodes", "weights", "alpha", "beta")}
    tables["weights"][:] = 0
    for row, (alpha, beta) in enumerate(chains):
        nodes, weights = gauss(alpha, beta) if len(alpha) else (alpha, alpha)
        for name, values in zip(tables, (nodes, weights, alpha, beta), strict=True):
            tables[name][row, : len(alpha)] = values
    return tables


def _present(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The finite nodes of one probe and their weights, without trailing NaN."""
    present = np.isfinite(nodes)
    return nodes[present], weights[present]


def _step(positions: np.ndarray, masses: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The mass at or below each point of a grid (g,)."""
    order = np.argsort(positions)
    upto = np.concatenate([[0.0], np.cumsum(masses[order])])
    return np.asarray(upto[np.searchsorted(positions[order], grid, side="right")])


def _bumps(positions: np.ndarray, masses: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """The sum of Gaussians of given masses and one standard deviation, on a grid (g,)."""
    standardised = (grid[:, None] - positions) / width
    return np.asarray(np.exp(-0.5 * standardised**2) @ masses / (width * math.sqrt(2 * math.pi)))


def _wasserstein(x: np.ndarray, p: np.ndarray, y: np.ndarray, q: np.ndarray) -> float:
    """The integral of |F - G| for the distribution functions F of masses p at x and G of masses q at y."""
    points = np.sort(np.concatenate([x, y]))
    return float(np.abs(_step(x, p, points) - _step(y, q, points))[:-1] @ np.diff(points))
