"""How many vectors the basis of a solve may have, and how many bytes its vectors take."""

from __future__ import annotations

import math

from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.reporting.messages import amount
from landscape.spectrum.rounding import bytes_in_float64


def vectors_beside(k: int) -> int:
    """Vectors that a solve holds beside its basis: the pairs, some of them twice, and what a step works with."""
    return k + 6


def basis_capacity(operator: SymmetricOperator, k: int, memory: int | None = None) -> int:
    """How many vectors a solve for k pairs keeps at most, by default; see `top_eigenpairs`.

    Raises:
        InputError: what a solve holds beside its basis doesn't fit into the memory.
    """
    size = operator.dim * operator.dtype.itemsize
    most = 10 * k + 300
    if memory is None:
        return min(operator.dim, max(2 * k + 20, min(most, int(2e9) // size)))
    left = memory - bytes_beside(operator, k, memory)
    if left < 0:
        raise InputError(
            f"{k} eigenpairs of {operator.dim:,} parameters need {amount(memory - left)} for vectors beside the basis, "
            f"and {amount(max(0, memory))} are left for them: ask for fewer, or allow more memory"
        )
    for sharing in (1, operator.processes.size):
        capacity = left // (math.ceil(operator.dim / sharing) * operator.dtype.itemsize)
        if capacity >= min(operator.dim, 2 * k + 4):
            return min(operator.dim, most, capacity)
    return min(operator.dim, 2 * k + 20)  # not more, as reading a vector may take longer than making products


def bytes_of_basis(operator: SymmetricOperator, k: int, tol_value: float | None, products: int) -> int:
    """What the basis of a solve takes at most, after so many products, where the operator's vectors are."""
    memory = for_one_basis(operator.memory, tol_value)
    capacity, left = basis_capacity(operator, k, memory), math.inf
    if memory is not None:
        left = memory - bytes_beside(operator, k, memory)
    for sharing in (1, operator.processes.size):
        part = math.ceil(operator.dim / sharing) * operator.dtype.itemsize
        if capacity * part <= left:
            return min(capacity, products) * part
    return 0


def for_one_basis(memory: int | None, tol_value: float | None) -> int | None:
    """A third where eigenvalues are certified: a search has a basis of its own, for what it holds and for its chain."""
    return memory if memory is None or tol_value is None else memory // 3


def bytes_beside(operator: SymmetricOperator, k: int, memory: int) -> int:
    """Bytes of the vectors beside the basis; wanted ones are multiplied exactly where others are in less precision."""
    vectors = vectors_beside(k) + 3 * k * operator.reduced
    return max(vectors * operator.dim * operator.dtype.itemsize, bytes_in_float64(operator, memory))
