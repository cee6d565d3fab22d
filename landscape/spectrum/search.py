"""How surely a Lanczos chain from a random start would have shown an eigenvalue that lies beyond an edge."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import eigh_tridiagonal

from landscape.spectrum.krylov import Expansion

# The chance of a missed eigenvalue that a search must reach to count as complete.
MISSED_AT_MOST = 1e-3


def missed_probability(gap: float, spread: float, dim: int, steps: int) -> float:
    """Bound on the chance that Lanczos from a random start has not come within ``gap`` of the largest eigenvalue.

    1.648 sqrt(n) exp(-sqrt(gap / spread) (2 j - 1)) after j steps, with ``spread`` the width of the spectrum
    (Kuczynski and Wozniakowski 1992, the probabilistic bound for Lanczos, for the matrix shifted to be positive
    semidefinite).
    """
    if gap <= 0:
        return 1.0
    return min(1.0, 1.648 * math.sqrt(dim) * math.exp(-math.sqrt(min(1.0, gap / spread)) * (2 * steps - 1)))


class Chain:
    """A plain Lanczos chain in a complement of dimension ``dim``, watched for eigenvalues beyond two edges.

    Args:
        dim: of the space in which the start vector was random.
        edges: an eigenvalue above the first or below the second would matter; None for an end that isn't wanted.
    """

    def __init__(self, dim: int, edges: tuple[float | None, float | None]) -> None:
        self.dim = dim
        self.edges = edges
        self.steps: list[Expansion] = []

    def add(self, step: Expansion) -> None:
        """Take up the next step of the chain."""
        self.steps.append(step)
        alpha = [step.alpha for step in self.steps]
        beta = [step.beta for step in self.steps]
        values, coordinates = eigh_tridiagonal(alpha, beta[:-1])
        self.extremes = values[[0, -1]]
        self.residuals = np.abs(beta[-1] * coordinates[-1, [0, -1]])

    def missed(self, extent: tuple[float, float]) -> float:
        """The chance that the complement holds an eigenvalue beyond an edge that the chain doesn't show.

        Args:
            extent: of the whole spectrum.
        """
        above, below = self.edges
        chance = 0.0
        if above is not None:
            chance += missed_probability(above - self.extremes[1], above - extent[0], self.dim, len(self.steps))
        if below is not None:
            chance += missed_probability(self.extremes[0] - below, extent[1] - below, self.dim, len(self.steps))
        return min(1.0, chance)

    def settled(self, tol: float, rounding: float) -> bool:
        """Both extreme Ritz pairs of the chain have converged."""
        return bool((self.residuals <= np.maximum(tol * np.abs(self.extremes), rounding)).all())
