"""How surely a Lanczos chain from a random start would have shown an eigenvalue that lies beyond an edge.

Let x be the start vector, uniform on the unit sphere of an n-dimensional space, theta_1..theta_j and beta_1..beta_j the
Ritz values and remainder norms after j steps, and u a unit eigenvector whose eigenvalue mu lies above all Ritz values.
The next Lanczos vector is q = p(A) x / (beta_1 ... beta_j), with p the characteristic polynomial of the tridiagonal, so

    |u^T q| = |u^T x| prod_i (mu - theta_i) / beta_i <= 1.

A chain that has not seen u therefore had a start with |u^T x| <= prod_i beta_i / (mu - theta_i), and a random start has
so small a part with a probability of at most sqrt(2 n / pi) times that number. Nothing is assumed of the spectrum,
and a Ritz value close to the edge weakens the bound by one factor only: unlike a priori bounds (Kuczynski and
Wozniakowski 1992), this one sees how far the chain has come. It is a p-value: whenever a chain is stopped, the chance
that it claims less than delta while something was missed is at most delta, since all its bounds are on the one number
|u^T x|.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from landscape.spectrum.krylov import Expansion

# The chance of a missed eigenvalue that a search must reach to count as complete.
MISSED_AT_MOST = 1e-3


def missed_probability(alpha: np.ndarray, beta: np.ndarray, edge: float, dim: int) -> float:
    """Bound on the chance that an eigenvalue above ``edge`` exists and the chain doesn't show it.

    Args:
        alpha: (j,) the diagonal of the tridiagonal.
        beta: (j,) the norms of the remainders; the first j - 1 are its off-diagonal.
        edge: 1 is returned unless it lies above all Ritz values.
        dim: n, of the space in which the start was random.
    """
    if beta[-1] == 0:
        return (
            0.0  # a closed chain has found an eigenvector in every eigenspace, since a random start has a part in each
        )
    gaps = edge - eigvalsh_tridiagonal(alpha, beta[:-1])
    if gaps.min() <= 0:
        return 1.0
    logarithm = float(np.log(beta).sum() - np.log(gaps).sum()) + math.log(2 * dim / math.pi) / 2
    return math.exp(min(0.0, logarithm))


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

    def add(self, step: Expansion) -> float:
        """Take up the next step; returns the bound on the chance that something beyond an edge was missed."""
        self.steps.append(step)
        alpha = np.array([step.alpha for step in self.steps])
        beta = np.array([step.beta for step in self.steps])
        above, below = self.edges
        chance = 0.0
        if above is not None:
            chance += missed_probability(alpha, beta, above, self.dim)
        if below is not None:
            chance += missed_probability(-alpha, beta, -below, self.dim)
        return min(1.0, chance)
