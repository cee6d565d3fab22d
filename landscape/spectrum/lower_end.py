"""Bounds on the lowest eigenvalue from one Lanczos chain: is A + alpha I positive definite?

The upper bound is a Ritz value, which is never below the lowest eigenvalue. The lower bound is an edge.
`landscape.spectrum.search` bounds the chance that a chain from a random start doesn't show an eigenvalue beyond the
edge. No eigenvector needs to converge. So the bounds are cheaper than a solve, above all where many eigenvalues cluster
at the lower end. The chain may stop after any step, and the edge may be anywhere: the lower bound is wrong only if the
start vector has an improbably small part in the lowest eigenvector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigvalsh_tridiagonal

from landscape.operator import SymmetricOperator
from landscape.reporting.progress import Progress
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.products import finite_products, measured_rounding
from landscape.spectrum.search import MISSED_AT_MOST, missed_probability

_MEMORY = 2e9  # bytes for the chain's vectors


@dataclass(frozen=True)
class LowerEnd:
    """Bounds on the lowest eigenvalue; both include rounding.

    Attributes:
        low: lower bound; minus infinity if the chain shows none.
        high: upper bound, certain up to rounding.
        steps: number of steps of the chain.
    """

    low: float
    high: float
    steps: int


def lower_end(
    operator: SymmetricOperator,
    alpha: float,
    seed: int,
    max_steps: int,
    progress: Callable[[Progress], None],
    shared: float = 0.0,
) -> LowerEnd:
    """Bounds on the lowest eigenvalue lambda of A, close enough to decide whether lambda + alpha > 0.

    If lambda + alpha seems positive, the chain goes on until lambda + alpha is known to a factor of two. Otherwise the
    chain goes on until lambda is known to a tenth.

    Args:
        operator: A, of dimension n.
        alpha: the shift.
        seed: seed of the start vector.
        max_steps: most steps of the chain. The chain's vectors also stay within 2 GB, or within 100 vectors if these
            take more. Each step takes one product, and measuring the rounding takes two.
        progress: function called at every check of the bounds.
        shared: bound on the norm of the rounding that all products share, default 0.
    """
    steps = _fitting(operator, max_steps)
    basis = KrylovBasis(operator, min(operator.dim, steps + 1), seed)
    alphas: list[float] = []
    betas: list[float] = []
    pending, look, before = basis.append_random(), 1, operator.products
    measured = _measured(operator, basis)
    while True:
        assert pending is not None, "the chain has ended where nothing is pending"
        step = basis.expand(pending, follow_noise=True)
        alphas.append(step.alpha)
        betas.append(step.beta)
        pending, m = step.pending, len(alphas)
        ended = pending is None or m == steps
        if m < look and not ended:
            continue
        look = m + 1 + m // 10  # each check takes a tridiagonal eigensolver
        diagonal, remainders = np.array(alphas), np.array(betas)
        values = eigvalsh_tridiagonal(diagonal, remainders[:-1])
        lowest, lengths = float(values[0]), np.concatenate([diagonal, remainders, remainders[:-1]])
        edge = (lowest - alpha) / 2 if lowest + alpha > 0 else lowest - 0.1 * abs(lowest)
        chance = missed_probability(-diagonal, remainders, -edge, operator.dim)
        progress(Progress("bounding", operator.products - before, np.array([]), _come(chance)))
        if chance <= MISSED_AT_MOST or ended:
            # Each column of T has the measured error, and an error of its own length times a few units of rounding.
            error = math.sqrt(m) * measured + 4 * torch.finfo(operator.dtype).eps * float(np.linalg.norm(lengths))
            rounding = error + shared
            low = edge - rounding if chance <= MISSED_AT_MOST else -math.inf
            return LowerEnd(low, lowest + rounding, m)


def _fitting(operator: SymmetricOperator, max_steps: int) -> int:
    """The most steps of the chain: ``max_steps``, but no more than 2 GB of vectors, or 100 vectors if that is more."""
    return min(max_steps, max(100, int(_MEMORY) // (operator.dim * operator.dtype.itemsize)))


def _measured(operator: SymmetricOperator, basis: KrylovBasis) -> float:
    """The norm of the rounding in the product with the chain's start vector."""
    start = basis.rows[0]
    product = finite_products(operator, start.unsqueeze(1)).squeeze(1).to(torch.float64)
    return measured_rounding(operator, start, product)


def _come(chance: float) -> float:
    """The progress of the chance towards `MISSED_AT_MOST` on a logarithmic scale, 0 to 1."""
    return min(1.0, math.log(max(chance, 1e-300)) / math.log(MISSED_AT_MOST))
