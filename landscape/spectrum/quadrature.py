"""Gauss quadrature of an operator's spectrum, as one random vector sees it.

A unit vector x has the spectral measure mu_x = sum_j (u_j^T x)^2 delta(lambda_j) under A. Lanczos from x gives a
tridiagonal T whose eigenvalues are the nodes, and the squared first components of whose eigenvectors are the weights,
of the Gauss quadrature of mu_x: exact for polynomials up to degree 2 m - 1 after m steps (Golub and Meurant 2010,
chapters 4 and 6). A Gaussian vector, normalised, is uniform on the unit sphere, so E mu_x gives every eigenvalue the
weight 1/n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from landscape.operator import SymmetricOperator
from landscape.spectrum.deflation import Deflation
from landscape.spectrum.krylov import Expansion, KrylovBasis
from landscape.spectrum.probes import probe


@dataclass(frozen=True)
class Chain:
    """One Lanczos chain: the tridiagonal T of order m.

    Attributes:
        alpha: (m,) float64, the diagonal.
        beta: (m,) float64, the off-diagonal and last the norm of what remained, at most the level of rounding where the
            Krylov space was exhausted before m = ``steps``, and 0 where it is the whole complement.
        orthogonality: max |Q^T Q - I| of its vectors and the deflated ones.
    """

    alpha: np.ndarray
    beta: np.ndarray
    orthogonality: float


def run_chain(operator: SymmetricOperator, deflation: Deflation, steps: int, seed: int, index: int) -> Chain:
    """A chain from Gaussian probe ``index`` of ``seed``, in the complement of what is deflated.

    Every vector is orthogonalised twice against the deflated ones and all before it: the chain is that of P A P on the
    complement, P = I - Q Q^T, without ghosts. It ends before ``steps`` where the Krylov space is exhausted, at the
    latest with the complement, so no values are invented. Holds k + m + 1 vectors of length n.

    Raises:
        InputError: a product isn't finite.
    """
    locked = len(deflation.values)
    basis = KrylovBasis(operator, min(operator.dim, locked + steps + 1), seed)
    basis.lock(deflation.values, deflation.vectors)
    pending = basis.start(probe(operator.dim, seed, index, "gaussian"))
    if pending is None:  # by a chance of rounding size nothing of the probe lies outside; by certainty where n = k
        pending = basis.append_random()
    made: list[Expansion] = []
    while pending is not None and len(made) < steps:
        made.append(basis.expand(pending))
        pending = made[-1].pending
    alpha, beta = np.array([step.alpha for step in made]), np.array([step.beta for step in made])
    return Chain(alpha, beta, basis.orthogonality_defect())


def gauss(alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes ascending (m,) and weights (m,) of the Gauss rule of a chain; the weights add up to 1."""
    nodes, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta[: len(alpha) - 1])
    return nodes, vectors[0] ** 2


def cdf_bounds(alpha: np.ndarray, beta: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on the mass of the chain's measure at or below each point, up to rounding; the better of two.

    By the inequalities of Chebyshev, Markov and Stieltjes (Szego 1975, section 3.41) there is at least the weight of
    the nodes beyond a Gauss node on either side of it. And x = sum_j c_j z_j over the Ritz vectors, c_j^2 = w_j, of
    whose z_j the part above t has a norm of at most r_j / (t - theta_j) where theta_j < t, with the residual norm
    r_j = beta_m |s_mj|. So with W the weight of the nodes above t the mass above t is at most
    (sqrt(W) + sum_{theta_j < t} |c_j| min(1, r_j / (t - theta_j)))^2, and the same from the other side: nothing is
    left open where the chain came to its end.

    Args:
        alpha: (m,) the diagonal of T.
        beta: (m,) the off-diagonal and the last remainder.
        grid: (g,) points.

    Returns:
        (g,) lower and (g,) upper bounds; zeros of an empty chain.
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

    For a function whose even derivatives are negative and odd ones positive on the spectrum, such as the logarithm, and
    ``left`` at or below the spectrum, it is a lower bound where the Gauss rule is an upper one.

    Args:
        alpha: (m,) the diagonal of T.
        beta: (m,) the off-diagonal and the last remainder; where that is 0 the Gauss rule is exact, and is taken.
        left: a number below all nodes of the Gauss rule.
    """
    if beta[-1] == 0:
        return gauss(alpha, beta)
    correction = 0.0  # beta_m^2 by the last pivot of T - left, which is positive definite
    for diagonal, remainder in zip(alpha, beta, strict=True):
        correction = remainder**2 / (diagonal - left - correction)
    return gauss(np.append(alpha, left + correction), np.append(beta, 0.0))
