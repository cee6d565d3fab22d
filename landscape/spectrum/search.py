"""How surely a Lanczos chain from a random start would have shown an eigenvalue that lies beyond an edge.

Let x be the start vector, uniform on the unit sphere of an n-dimensional space, alpha_i and beta_i the recurrence's
coefficients after s steps, and u a unit eigenvector whose eigenvalue mu lies above all Ritz values. Lanczos vector
number i is q_i = p_i(A) x, with polynomials p_0 = 1 and beta_i p_i(t) = (t - alpha_i) p_{i-1}(t) - beta_{i-1}
p_{i-2}(t), and the q_i are orthonormal, so

    |u^T x|^2 sum_{i=0..s} p_i(mu)^2 = sum_i |u^T q_i|^2 <= 1.

A chain that has not seen u therefore had a start with |u^T x| <= (sum_i p_i(mu)^2)^(-1/2), and a random start has so
small a part with a probability of at most sqrt(2 n / pi) times that number. Above the Ritz values every p_i grows with
mu, so what is said of an edge holds for all that lies beyond. Nothing is assumed of the spectrum, and a Ritz value
close to the edge weakens the bound by one factor only: unlike a priori bounds (Kuczynski and Wozniakowski 1992), this
one sees how far the chain has come. It is a p-value: whenever a chain is stopped, the chance that it claims less than
delta while something was missed is at most delta, since all its bounds are on the one number |u^T x|. For the same
reason the edge at which the chance is delta, `unseen_edge`, bounds all that was missed, after every step at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from landscape.spectrum.ends import Edges
from landscape.spectrum.krylov import Expansion

# The chance of a missed eigenvalue that a search must reach to count as complete.
MISSED_AT_MOST = 1e-3
_FIRST = 0.9


def missed_probability(alpha: np.ndarray, beta: np.ndarray, edge: float, dim: int) -> float:
    """Bound on the chance that an eigenvalue above ``edge`` exists and the chain doesn't show it.

    Args:
        alpha: (j,) the diagonal of the tridiagonal.
        beta: (j,) the norms of the remainders; the first j - 1 are its off-diagonal.
        edge: 1 is returned unless it lies above all Ritz values.
        dim: n, of the space in which the start was random.
    """
    if edge == math.inf or beta[-1] == 0:  # every eigenspace has shown itself, since a random start has a part in each
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
    """The number above which no eigenvalue lies but with this chance.

    Args:
        alpha: (j,) the diagonal of the tridiagonal.
        beta: (j,) the norms of the remainders; the first j - 1 are its off-diagonal.
        dim: n, of the space in which the start was random.
        chance: of being wrong.
    """
    low = float(eigvalsh_tridiagonal(alpha, beta[:-1])[-1])
    if beta[-1] == 0:
        return low
    # There prod (edge - theta_i) / beta_i, the last polynomial alone, is large enough.
    decades = np.log(beta).sum() + math.log(2 * dim / math.pi) / 2 - math.log(chance)
    high = low + math.exp(decades / len(beta)) * (1 + 1e-6)
    while high - low > 1e-6 * (high - alpha.min()):  # from above, so that it errs on the safe side
        middle = (low + high) / 2
        if not low < middle < high:  # neighbouring numbers
            break
        low, high = (low, middle) if missed_probability(alpha, beta, middle, dim) <= chance else (middle, high)
    return high


def coefficients(steps: list[Expansion]) -> tuple[np.ndarray, np.ndarray]:
    """Alpha and beta, (j,) each, of a chain's steps."""
    return np.array([step.alpha for step in steps]), np.array([step.beta for step in steps])


def together(claims: Sequence[float]) -> float:
    """The chance that one chain after another misses something, each from a start of its own.

    All m chains claim at most c with a chance of at most c^m, whatever the later ones were begun for. One looks after
    each chain, so the looks share: the first has nine tenths of the chance, each later one half of what is left. Their
    sum (Bonferroni's) holds whenever one stops.

    Args:
        claims: what each chain says, `missed_probability` of either end added.
    """
    if len(claims) == 1:
        return min(1.0, claims[0] / _FIRST)
    return min(1.0, max(claims) ** len(claims) * 2 ** (len(claims) - 1) / (1 - _FIRST))


class Chain:
    """A plain Lanczos chain in a complement of dimension ``dim``, watched for eigenvalues beyond two edges.

    Args:
        dim: of the space in which the start vector was random.
        edges: an eigenvalue above the first or below the second would matter.
    """

    def __init__(self, dim: int, edges: Edges) -> None:
        self.dim = dim
        self.edges = edges
        self.steps: list[Expansion] = []

    @property
    def beyond(self) -> bool:
        """Whether it has met something at an edge or beyond, and so proves nothing."""
        alpha, beta = coefficients(self.steps)
        values = eigvalsh_tridiagonal(alpha, beta[:-1])
        above, below = self.edges
        return bool(values[-1] >= above or values[0] <= below)

    def add(self, step: Expansion) -> float:
        """Take up the next step; returns the bound on the chance that something beyond an edge was missed."""
        self.steps.append(step)
        alpha, beta = coefficients(self.steps)
        above, below = self.edges
        chance = missed_probability(alpha, beta, above, self.dim) + missed_probability(-alpha, beta, -below, self.dim)
        return min(1.0, chance)
