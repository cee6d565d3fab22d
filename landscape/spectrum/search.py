"""Bounds on the chance that a Lanczos chain from a random start vector misses an eigenvalue beyond an edge.

Let x be the start vector, uniform on the unit sphere of an n-dimensional space. Let alpha_i and beta_i be the
recurrence's coefficients after s steps. Let u be a unit eigenvector whose eigenvalue mu lies above all Ritz values.
Lanczos vector number i is q_i = p_i(A) x, with polynomials p_0 = 1 and beta_i p_i(t) = (t - alpha_i) p_{i-1}(t) -
beta_{i-1} p_{i-2}(t). The q_i are orthonormal, so

    |u^T x|^2 sum_{i=0..s} p_i(mu)^2 = sum_i |u^T q_i|^2 <= 1.

If the chain has missed u, its start vector therefore has |u^T x| <= (sum_i p_i(mu)^2)^(-1/2). A random start vector has
so small a component with a probability of at most sqrt(2 n / pi) times that number. Above the Ritz values every p_i
grows with mu, so the bound for an edge holds for every eigenvalue beyond the edge.

The bound assumes nothing about the spectrum. A Ritz value close to the edge weakens the bound by one factor only. A
priori bounds (Kuczynski and Wozniakowski 1992) ignore the coefficients of the chain; this bound uses them.

The bound is a p-value. Suppose that a chain missed an eigenvalue and is stopped after any step. The chance that its
bound is less than delta is at most delta, because the bounds after all steps are on one number, |u^T x|. So the edge at
which the chance is delta, `unseen_edge`, bounds all missed eigenvalues, after every step at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from landscape.spectrum.ends import Edges
from landscape.spectrum.krylov import Expansion

# The largest chance of a missed eigenvalue at which a search counts as complete.
MISSED_AT_MOST = 1e-3
_FIRST = 0.9


def missed_probability(alpha: np.ndarray, beta: np.ndarray, edge: float, dim: int) -> float:
    """Bound on the chance that an eigenvalue above ``edge`` exists and the chain doesn't show it.

    Args:
        alpha: diagonal of the chain's tridiagonal matrix, (j,).
        beta: norms of the remainders, (j,); the first j - 1 are the off-diagonal.
        edge: the edge; the bound is 1 unless the edge lies above all Ritz values.
        dim: dimension n of the space of the random start vector.
    """
    if edge == math.inf or beta[-1] == 0:  # exhausted: a random start has a part in every eigenspace
        return 0.0
    logarithm, ratio = 0.0, math.inf
    squares = [0.0]  # log p_i^2; the p_i themselves could overflow
    for i in range(len(alpha)):
        pivot = edge - alpha[i] - (beta[i - 1] / ratio if i else 0.0)
        if pivot <= 0:  # Sturm: a Ritz value lies at the edge or above
            return 1.0
        ratio = pivot / beta[i]
        logarithm += 2 * math.log(ratio)
        squares.append(logarithm)
    return math.exp(min(0.0, (math.log(2 * dim / math.pi) - float(np.logaddexp.reduce(squares))) / 2))


def unseen_edge(alpha: np.ndarray, beta: np.ndarray, dim: int, chance: float) -> float:
    """The edge above which there is no eigenvalue, except with the chance ``chance``.

    Args:
        alpha: diagonal of the chain's tridiagonal matrix, (j,).
        beta: norms of the remainders, (j,); the first j - 1 are the off-diagonal.
        dim: dimension n of the space of the random start vector.
        chance: probability that the edge is wrong.
    """
    low = float(eigvalsh_tridiagonal(alpha, beta[:-1])[-1])
    if beta[-1] == 0:
        return low
    # At this edge the last polynomial, prod (edge - theta_i) / beta_i, is large enough by itself.
    decades = np.log(beta).sum() + math.log(2 * dim / math.pi) / 2 - math.log(chance)
    high = low + math.exp(decades / len(beta)) * (1 + 1e-6)
    while high - low > 1e-6 * (high - alpha.min()):  # bisection from above, to err on the safe side
        middle = (low + high) / 2
        if not low < middle < high:  # low and high are neighbouring floating-point numbers
            break
        low, high = (low, middle) if missed_probability(alpha, beta, middle, dim) <= chance else (middle, high)
    return high


def coefficients(steps: list[Expansion]) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients alpha and beta of a chain's steps, (j,) each."""
    return np.array([step.alpha for step in steps]), np.array([step.beta for step in steps])


def together(claims: Sequence[float]) -> float:
    """Bound on the chance that a sequence of chains misses an eigenvalue; each chain has a start vector of its own.

    The chance that all m chains wrongly claim at most c is at most c^m, for whatever reason a later chain was begun.
    The result is checked after each chain, so the checks share the chance. The first check gets nine tenths, and each
    later check gets half of the remaining share. The sum over the checks (Bonferroni) holds after any chain.

    Args:
        claims: each chain's `missed_probability`, added over the two ends.
    """
    if len(claims) == 1:
        return min(1.0, claims[0] / _FIRST)
    return min(1.0, max(claims) ** len(claims) * 2 ** (len(claims) - 1) / (1 - _FIRST))


class Chain:
    """A plain Lanczos chain in a complement of dimension ``dim``, with a bound on eigenvalues missed beyond two edges.

    Args:
        dim: dimension of the space of the random start vector.
        edges: upper and lower edge; only eigenvalues above the upper or below the lower edge count as missed.
    """

    def __init__(self, dim: int, edges: Edges) -> None:
        self.dim = dim
        self.edges = edges
        self.steps: list[Expansion] = []

    @property
    def beyond(self) -> bool:
        """Whether the chain has a Ritz value at an edge or beyond, and so proves nothing."""
        alpha, beta = coefficients(self.steps)
        values = eigvalsh_tridiagonal(alpha, beta[:-1])
        above, below = self.edges
        return bool(values[-1] >= above or values[0] <= below)

    def add(self, step: Expansion) -> float:
        """Add the next step; returns the bound on the chance that an eigenvalue beyond an edge was missed."""
        self.steps.append(step)
        alpha, beta = coefficients(self.steps)
        above, below = self.edges
        chance = missed_probability(alpha, beta, above, self.dim) + missed_probability(-alpha, beta, -below, self.dim)
        return min(1.0, chance)
