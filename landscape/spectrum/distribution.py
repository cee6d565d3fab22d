"""A spectrum as a distribution: outliers with their mass, and the quadrature nodes of random probes.

The distribution function with its bounds, the smoothed density, and distances between distributions.
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
    """A spectrum as outliers and quadrature nodes; everything else is computed from these.

    Eigenvalues, nodes and widths have the operator's unit (for a Hessian loss / parameter^2), densities its inverse.
    The measure has total mass 1: each outlier 1/n, and of each of p probes, which are averaged, node j (n - k)/n times
    its weight. A chain that ended early leaves the rest of its row NaN with weight 0.

    Attributes:
        outliers: (k,) float64, the deflated eigenvalues, by magnitude descending.
        residuals: (k,) their residual norms, with what rounding may add. The n eigenvalues of outliers and compressed
            operator together differ from the exact ones by at most twice the sum of these (Lidskii), and to second
            order in them.
        nodes: (p, m) float64, Ritz values of each probe's chain, ascending.
        weights: (p, m) float64, adding up to 1 in each row.
        alpha: (p, m) float64, diagonals of the chains' tridiagonals.
        beta: (p, m) float64, off-diagonals and last the remainder; see `landscape.spectrum.quadrature.Chain`.
        dim: n.
        rounding: how far rounding alone may move a node, but for a chance of a thousandth.
        orthogonality: max |Q^T Q - I| over all chains and the deflated vectors.
        undeflated: outliers asked for that did not converge, and are part of what is sampled.
        products: all products made.
        products_outliers: those of them spent on the outliers.
        arithmetic: from which matrix ``rounding`` may have moved the nodes, see `landscape.Eigenpairs`.
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
        """See `HasSummary`. What is below zero is told where there is something."""
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
            ((least,), (most,)) = self.cdf_interval(at)
            lines.append(
                f"share of eigenvalues below zero from {least:.3f} to {most:.3f}: bounds of the quadrature, with the "
                "probes' sampling at 95 %"
            )
        if len(nodes):
            lines.append(
                f"Wasserstein-1 error: about {self.expected_distance:.1e} by the probes; between all steps and half of "
                f"them {self.quadrature_distance:.1e}"
            )
            if self.rounding > 0.1 * self.expected_distance:
                lines.append(f"rounding may have moved each node by some {self.rounding:.1e}")
        return lines + arithmetic_note(self.arithmetic)

    @property
    def probes(self) -> int:
        return len(self.nodes)

    @property
    def steps(self) -> int:
        return self.nodes.shape[1]

    @property
    def bulk_mass(self) -> float:
        """(n - k)/n: the share of the eigenvalues that is sampled."""
        return (self.dim - len(self.outliers)) / self.dim

    @property
    def bulk(self) -> SpectralDensity:
        """The density of the compressed operator alone, of n - k eigenvalues, with mass 1.

        Raises:
            InputError: all eigenvalues are outliers.
        """
        if len(self.outliers) == self.dim:
            raise InputError(f"all {self.dim} eigenvalues were deflated: there is no bulk; ask for a smaller k")
        nothing = np.zeros(0)
        return replace(self, outliers=nothing, residuals=nothing, dim=self.dim - len(self.outliers))

    @cached_property
    def width(self) -> float:
        """Standard deviation of the Gaussian that the bulk is smoothed with; 0 where it is a point mass or empty.

        Chosen from the nodes, see `landscape.spectrum.bandwidth`.
        """
        return choose_width(self.nodes, self.weights, self.rounding)

    def chain(self, probe: int) -> tuple[np.ndarray, np.ndarray]:
        """The coefficients alpha and beta of one probe's chain, (m,) each, as many as it has."""
        length = int(np.isfinite(self.alpha[probe]).sum())
        return self.alpha[probe, :length], self.beta[probe, :length]

    def truncated(self, steps: int) -> SpectralDensity:
        """What would have been measured with fewer steps.

        Raises:
            InputError: ``steps`` isn't between 1 and the number there is.
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
            (g,) shares and (g,) standard errors: of the probes' sampling, NaN for a single probe. The quadrature's own
            error isn't in them; where the nodes are heavy, as near zero, it is larger: see `cdf_bounds`.
        """
        grid = np.asarray(grid, dtype=np.float64)
        each = np.stack([_step(*_present(*row), grid) for row in zip(self.nodes, self.weights, strict=True)])
        exact = (self.outliers[:, None] <= grid).sum(0) / self.dim
        return exact + self.bulk_mass * each.mean(0), self.bulk_mass * standard_error(each)

    def cdf_bounds(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the quadrature leaves open of the share at or below each point, as these probes see it.

        See `landscape.spectrum.quadrature.cdf_bounds`; the probes' sampling error and ``rounding`` come on top.

        Args:
            grid: (g,) points.

        Returns:
            (g,) lower and (g,) upper bounds; equal where all chains came to their end, and the nodes are eigenvalues.
        """
        low, high = self._bounds_by_probe(grid).mean(axis=1)
        exact = (self.outliers[:, None] <= grid).sum(0) / self.dim
        return exact + self.bulk_mass * low, exact + self.bulk_mass * high

    def cdf_interval(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The share of eigenvalues at or below each point, between bounds that hold with 95 %.

        The expected value of a probe's lower bound is at most the share, and that of its upper one at least: either end
        is their mean by Student's t over probes. ``rounding`` and the outliers' residuals may move the point itself.

        Args:
            grid: (g,) points.

        Returns:
            (g,) lower and (g,) upper ends; of a single probe what the outliers leave.
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
        """(2, p, g) the quadrature's bounds of the bulk's mass at or below each point, as each probe sees it."""
        at = np.asarray(grid, dtype=np.float64)
        return np.stack([chain_bounds(*self.chain(i), at) for i in range(self.probes)], axis=1)

    def smoothed(self, grid: np.ndarray, width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The density convolved with a Gaussian, and its standard error over probes.

        An outlier is a delta of mass 1/n, smoothed like everything else.

        Args:
            grid: (g,) points.
            width: standard deviation of the Gaussian; default `width`.

        Returns:
            (g,) densities and (g,) standard errors, NaN for a single probe.

        Raises:
            InputError: there is no width, since the bulk is a point mass or empty, or the one given isn't positive.
        """
        if width is None and self.width == 0:
            raise InputError(
                "no probe sees two places of the bulk that rounding leaves apart: it is a point mass, and there is no "
                "width to smooth with; give one, or draw the cdf"
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
        """Wasserstein-1 distance to a spectrum, the integral of |F - G| over the two distribution functions.

        Args:
            eigenvalues: (l,), each of mass 1/l; for another density or the bulk alone see `bulk`.

        Returns:
            The distance, in the operator's unit.

        Raises:
            InputError: there are none, or they aren't all finite.
        """
        exact = np.asarray(eigenvalues, dtype=np.float64)
        if not (exact.size and np.isfinite(exact).all()):
            raise InputError("a spectrum to compare with needs at least one eigenvalue, and all finite")
        positions, masses = self._points()
        return _wasserstein(positions, masses, exact, np.full(len(exact), 1 / len(exact)))

    @property
    def expected_distance(self) -> float:
        """The Wasserstein-1 distance to the exact spectrum that the probes' sampling error alone predicts.

        E int |F - G| = int E|N(0, se(x))| dx = sqrt(2/pi) int se(x) dx, with se the standard error of `cdf`: where it
        is normal, and the quadrature exact. NaN for a single probe.
        """
        at = np.unique(self.nodes[np.isfinite(self.nodes)])
        return math.sqrt(2 / math.pi) * float((self.cdf(at)[1][:-1] * np.diff(at)).sum())

    @property
    def quadrature_distance(self) -> float:
        """The Wasserstein-1 distance between this and what half the steps give: an estimate of the quadrature's error.

        Of half the steps, strictly; with all of them it is smaller.
        """
        half = self.truncated(max(1, self.steps // 2))
        return _wasserstein(*self._points(), *half._points())

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        """All positions and their masses."""
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
    """The nodes of one probe that there are, and their weights."""
    present = np.isfinite(nodes)
    return nodes[present], weights[present]


def _step(positions: np.ndarray, masses: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The mass at or below each point of a grid (g,)."""
    order = np.argsort(positions)
    upto = np.concatenate([[0.0], np.cumsum(masses[order])])
    return np.asarray(upto[np.searchsorted(positions[order], grid, side="right")])


def _bumps(positions: np.ndarray, masses: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """The sum of Gaussians with these masses and one standard deviation, on a grid (g,)."""
    standardised = (grid[:, None] - positions) / width
    return np.asarray(np.exp(-0.5 * standardised**2) @ masses / (width * math.sqrt(2 * math.pi)))


def _wasserstein(x: np.ndarray, p: np.ndarray, y: np.ndarray, q: np.ndarray) -> float:
    """The integral of |F - G| for masses p at x and q at y."""
    at = np.sort(np.concatenate([x, y]))
    return float(np.abs(_step(x, p, at) - _step(y, q, at))[:-1] @ np.diff(at))
