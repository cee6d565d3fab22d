"""The plain Lanczos decomposition, with full reorthogonalisation and no restart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from landscape.errors import InputError, refuse_fractions
from landscape.operator import SymmetricOperator, as_operator
from landscape.reporting.messages import amount
from landscape.spectrum.krylov import Expansion, KrylovBasis
from landscape.spectrum.rounding import check_symmetry


@dataclass(frozen=True)
class LanczosDecomposition:
    """The Lanczos decomposition A Q = Q T + beta_m q_{m+1} e_m^T with T tridiagonal and Q orthonormal.

    Attributes:
        basis: columns of Q, (n, m) torch.
        alpha: diagonal of T, (m,) float64.
        beta: off-diagonal of T (the first m - 1) and the norm of the remainder (the last), (m,) float64. If the Krylov
            space is exhausted before m reaches ``steps``, the last is at most the level of rounding. It is 0 if m is n.
        orthogonality: max |Q^T Q - I|.
    """

    basis: Tensor
    alpha: np.ndarray
    beta: np.ndarray
    orthogonality: float


def lanczos(operator: SymmetricOperator | Tensor | np.ndarray, steps: int, seed: int = 0) -> LanczosDecomposition:
    """Lanczos from a random start vector (Paige 1972), with every vector orthogonalised twice against all before it.

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        steps: number of products. Fewer are made if the Krylov space is exhausted early, at the latest after n.
        seed: seed of the start vector, default 0.

    Raises:
        InputError: ``steps`` isn't positive, a product isn't finite, or two test products contradict each other. Or the
            basis and its returned copy take more memory than the operator leaves for vectors.
    """
    operator = as_operator(operator)
    refuse_fractions(steps=steps, seed=seed)
    if steps < 1:
        raise InputError(f"Lanczos needs at least one step, not {steps}")
    steps = min(steps, operator.dim)
    size = 2 * steps * operator.dim * operator.dtype.itemsize
    if operator.memory is not None and size > operator.memory:
        raise InputError(
            f"a basis of {steps} vectors of {operator.dim:,} parameters, and its copy that is returned, take "
            f"{amount(size)}, and {amount(max(0, operator.memory))} are left: ask for less, or allow more memory"
        )
    check_symmetry(operator, seed)
    basis = KrylovBasis(operator, min(steps + 1, operator.dim), seed)
    pending = basis.append_random()
    expansions: list[Expansion] = []
    while pending is not None and len(expansions) < steps:
        expansions.append(basis.expand(pending))
        pending = expansions[-1].pending
    return LanczosDecomposition(
        basis=basis.rows.stacked(basis.expanded),
        alpha=np.array([step.alpha for step in expansions]),
        beta=np.array([step.beta for step in expansions]),
        orthogonality=basis.orthogonality_defect(),
    )
