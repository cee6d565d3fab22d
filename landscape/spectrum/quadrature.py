"""Gauss quadrature of the spectral measure of one random vector.

A unit vector x has the spectral measure mu_x = sum_j (u_j^T x)^2 delta(lambda_j) under A. Lanczos from x gives a
tridiagonal T. Its eigenvalues are the nodes of the Gauss quadrature of mu_x. The squared first components of its
eigenvectors are the weights. After m steps the quadrature is exact for polynomials up to degree 2 m - 1 (Golub and
Meurant 2010, chapters 4 and 6). A normalised Gaussian vector is uniform on the unit sphere, so E mu_x gives every
eigenvalue the weight 1/n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from torch import Tensor

from landscape.operator import SymmetricOperator
from landscape.spectrum.deflation import Deflation
from landscape.spectrum.krylov import Expansion, KrylovBasis
from landscape.spectrum.probes import probe


@dataclass(frozen=True)
class Chain:
    """One Lanczos chain: the tridiagonal T of order m.

    Attributes:
        alpha: diagonal of T, (m,) float64.
        beta: off-diagonal of T and, last, the norm of the remainder, (m,) float64. If the Krylov space was exhausted
            before m = ``steps``, the last is at most the level of rounding. It is 0 if the Krylov space is the whole
            complement.
        orthogonality: max |Q^T Q - I| of the chain's vectors and the deflated vectors.
    """

    alpha: np.ndarray
    beta: np.ndarray
    orthogonality: float


def run_chain(operator: SymmetricOperator, deflation: Deflation, steps: int, seed: int, index: int) -> Chain:
    """A Lanczos chain from Gaussian probe ``index`` of ``seed``; see `chain_from`."""
    return chain_from(operator, deflation, probe(operator.dim, seed, index, "gaussian"), steps, seed)


def chain_from(operator: SymmetricOperator, deflation: Deflation, start: Tensor, steps: int, seed: int = 0) -> Chain:
    """A Lanczos chain from a start vector (n,), in the complement of the deflated vectors.

    Every vector is orthogonalised twice against the deflated vectors and all vectors before it. So the chain is that of
    P A P on the complement, with P = I - Q Q^T for the deflated vectors Q, and has no spurious Ritz values. The chain
    ends before ``steps`` if the Krylov space is exhausted, at the latest after the complement's dimension. The chain
    holds k + m + 1 vectors of length n.

    Raises:
        InputError: a product isn't finite.
    """
    locked = len(deflation.values)
    basis = KrylovBasis(operator, min(operator.dim, locked + steps + 1), seed)
    basis.lock(deflation.values, deflation.vectors)
    pending = basis.start(start)
    if pending is None:  # the start lies within the deflated span: an extremely small chance, or certain if n = k
        pending = basis.append_random()
    expansions: list[Expansion] = []
    while pending is not None and len(expansions) < steps:
        expansions.append(basis.expand(pending))
        pending = expansions[-1].pending
    alpha, beta = np.array([step.alpha for step in expansions]), np.array([step.beta for step in expansions])
    return Chain(alpha, beta, basis.orthogonality_defect())


def gauss(alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (m,), ascending, and weights (m,) of a chain's Gauss rule; the weights add up to 1."""
    nodes, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta[: len(alpha) - 1])
    return nodes, vectors[0] ** 2


def cdf_bounds(alpha: np.ndarray, beta: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on the mass of the chain's spectral measure at or below each point, up to rounding.

    Each bound is the better of two. The first is from the inequalities of Chebyshev, Markov and Stieltjes (Szego 1975,
    section 3.41). On either side of a Gauss node, the mass is at least the weight of the nodes further out.

    The second is from the Ritz vectors z_j: x = sum_j c_j z_j with c_j^2 = w_j. If theta_j < t, the part of z_j above t
    has a norm of at most r_j / (t - theta_j), with the residual norm r_j = beta_m |s_mj|. Let W be the weight of the
    nodes above t. Then the mass above t is at most (sqrt(W) + sum_{theta_j < t} |c_j| min(1, r_j / (t - theta_j)))^2.
    The bound on the mass below t is analogous. If the Krylov space is exhausted, lower and upper bound are equal.

    Args:
        alpha: diagonal of T, (m,).
        beta: off-diagonal of T and, last, the norm of the remainder, (m,).
        grid: (g,) points.

    Returns:
        Lower bounds (g,) and upper bounds (g,); zeros for an empty chain.
    """
    if not len(alpha):
        return np.zeros(len(grid)), np.zeros(len(grid))
    nodes, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta[:-1])
    size, residuals = np.abs(vectors[0]), beta[-1] * np.abs(vectors[-1])
    below = nodes <= grid[:, None]
    distance = np.abs(grid[:, None] - nodes)
    stray = np.divide(residuals, distance, out=np.ones_like(distance), where=distance > residuals)
    stray[(distance == 0) & (residuals == 0)] = 0.0
    inside, astray = np.where(below, size**2, 0.0).sum(1), np.where(below, size * stray, 0.0).sum(1)
    outside, strayed = np.where(below, 0.0, size**2).sum(1), np.where(below, 0.0, size * stray).sum(1)
    upto, place = np.append(0.0, np.cumsum(size**2)), below.sum(1)
    low = np.maximum(1 - (np.sqrt(outside) + astray) ** 2, upto[np.maximum(place - 1, 0)])
    high = np.minimum((np.sqrt(inside) + strayed) ** 2, upto[np.minimum(place + 1, len(nodes))])
    return low, high


def radau(alpha: np.ndarray, beta: np.ndarray, left: float) -> tuple[np.ndarray, np.ndarray]:
    """The Gauss-Radau rule with one node more, at ``left`` (Golub 1973; Golub and Meurant 2010, section 6.2).

    Take a function with negative even and positive odd derivatives on the spectrum, such as the logarithm. If ``left``
    is at or below the spectrum, the Gauss-Radau rule is a lower bound and the Gauss rule an upper bound.

    Args:
        alpha: diagonal of T, (m,).
        beta: off-diagonal of T and, last, the norm of the remainder, (m,). If that norm is 0, the Gauss rule is exact
            and is returned instead.
        left: additional node, below all nodes of the Gauss rule.
    """
    if beta[-1] == 0:
        return gauss(alpha, beta)
    correction = 0.0  # beta_m^2 divided by the last pivot of T - left, which is positive definite
    for diagonal, remainder in zip(alpha, beta, strict=True):
        correction = remainder**2 / (diagonal - left - correction)
    return gauss(np.append(alpha, left + correction), np.append(beta, 0.0))
