"""The lower end of a spectrum, between two numbers, from one Lanczos chain: is A + alpha I positive definite?

From above by a Ritz value, which is never below the lowest eigenvalue; from below by the bound of
`landscape.spectrum.search` on the chance that a chain from a random start doesn't show an eigenvalue beyond an edge. No
eigenvector need converge for that, so it is cheaper than a solve, above all where many eigenvalues crowd at the lower
end. The chain may stop when it likes and put the edge where it likes: a claim is wrong only if the start has an
improbably small part in the one lowest eigenvector.
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
    """Where the lowest eigenvalue lies.

    Attributes:
        low: lower bound; minus infinity while the chain shows none.
        high: upper bound, certain but for rounding, which both include.
        steps: of the chain.
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
    """Bounds on the lowest eigenvalue lambda of A, close enough to tell whether lambda + alpha > 0.

    Where it seems to be, the chain goes on until lambda + alpha is known to a factor of two; where it isn't, until
    lambda is known to a tenth.

    Args:
        operator: A, of dimension n.
        alpha: the shift.
        seed: of the start vector.
        max_steps: at most, and at most what fits in 2 GB, but at least 100. One product each, and two for the rounding.
        progress: called at every look.
        shared: a bound on the norm of the rounding that all products share.
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
        look = m + 1 + m // 10  # looks cost a dense solver each
        diagonal, residual_block = np.array(alphas), np.array(betas)
        values = eigvalsh_tridiagonal(diagonal, residual_block[:-1])
        lowest, lengths = float(values[0]), np.concatenate([diagonal, residual_block, residual_block[:-1]])
        edge = (lowest - alpha) / 2 if lowest + alpha > 0 else lowest - 0.1 * abs(lowest)
        chance = missed_probability(-diagonal, residual_block, -edge, operator.dim)
        progress(Progress("bounding", operator.products - before, np.array([]), _come(chance)))
        if chance <= MISSED_AT_MOST or ended:
            # Each column of T is off by what is measured, and by its own length times a few units of rounding.
            own = math.sqrt(m) * measured + 4 * torch.finfo(operator.dtype).eps * float(np.linalg.norm(lengths))
            rounding = own + shared
            low = edge - rounding if chance <= MISSED_AT_MOST else -math.inf
            return LowerEnd(low, lowest + rounding, m)


def _fitting(operator: SymmetricOperator, max_steps: int) -> int:
    """How many steps there may be."""
    return min(max_steps, max(100, int(_MEMORY) // (operator.dim * operator.dtype.itemsize)))


def _measured(operator: SymmetricOperator, basis: KrylovBasis) -> float:
    """The rounding in the product with the chain's start."""
    start = basis.rows[0]
    product = finite_products(operator, start.unsqueeze(1)).squeeze(1).to(torch.float64)
    return measured_rounding(operator, start, product)


def _come(chance: float) -> float:
    """How far the chance has come on a logarithmic scale."""
    return min(1.0, math.log(max(chance, 1e-300)) / math.log(MISSED_AT_MOST))
