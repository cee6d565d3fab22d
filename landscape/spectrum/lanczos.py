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
    """A Q = Q T + beta_m q_{m+1} e_m^T with T tridiagonal and Q orthonormal.

    Attributes:
        basis: (n, m) torch, Q by columns.
        alpha: (m,) float64, the diagonal of T.
        beta: (m,) float64; the first m - 1 are the off-diagonal of T, the last the norm of what remains. Where the
            Krylov space ends before m reaches ``steps`` that is at most the level of rounding, and 0 if m is n.
        orthogonality: max |Q^T Q - I|.
    """

    basis: Tensor
    alpha: np.ndarray
    beta: np.ndarray
    orthogonality: float


def lanczos(operator: SymmetricOperator | Tensor | np.ndarray, steps: int, seed: int = 0) -> LanczosDecomposition:
    """Lanczos from a random start vector (Paige 1972), every vector orthogonalised twice against all before it.

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        steps: products to make. Fewer are made, and m is smaller, where the Krylov space ends before: always at n.
        seed: of the start vector.

    Raises:
        InputError: ``steps`` isn't positive, a product isn't finite, products contradict one another (two more show
            it), or the basis, which is returned, takes more than the operator leaves for vectors.
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
    made: list[Expansion] = []
    while pending is not None and len(made) < steps:
        made.append(basis.expand(pending))
        pending = made[-1].pending
    return LanczosDecomposition(
        basis=basis.rows.stacked(basis.expanded),
        alpha=np.array([step.alpha for step in made]),
        beta=np.array([step.beta for step in made]),
        orthogonality=basis.orthogonality_defect(),
    )
