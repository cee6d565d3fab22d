"""The number of vectors in the Krylov basis of a solve, and the bytes that they take."""

from __future__ import annotations

import math

from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.reporting.messages import amount
from landscape.spectrum.rounding import bytes_in_float64


def vectors_beside(k: int) -> int:
    """Number of vectors that a solve holds beside its basis: the pairs, some of them twice, and a step's workspace."""
    return k + 6


def basis_capacity(operator: SymmetricOperator, k: int, memory: int | None = None) -> int:
    """The default for the most basis vectors that a solve for k pairs keeps; see `top_eigenpairs`.

    Raises:
        InputError: the vectors beside the basis don't fit into the memory.
    """
    size = operator.dim * operator.dtype.itemsize
    upper_limit = 10 * k + 300
    if memory is None:
        return min(operator.dim, max(2 * k + 20, min(upper_limit, int(2e9) // size)))
    room = memory - bytes_beside(operator, k, memory)
    if room < 0:
        raise InputError(
            f"{k} eigenpairs of {operator.dim:,} parameters need {amount(memory - room)} for vectors beside the basis, "
            f"and {amount(max(0, memory))} are left for them: ask for fewer, or allow more memory"
        )
    for sharing in (1, operator.processes.size):
        capacity = room // (math.ceil(operator.dim / sharing) * operator.dtype.itemsize)
        if capacity >= min(operator.dim, 2 * k + 4):
            return min(operator.dim, upper_limit, capacity)
    return min(operator.dim, 2 * k + 20)  # not more: reading a vector may take longer than a product


def bytes_of_basis(operator: SymmetricOperator, k: int, tol_value: float | None, products: int) -> int:
    """The most bytes that a solve's basis takes on the operator's device after ``products`` products.

    0 if the basis has no room there and goes to host memory or to a file.
    """
    memory = for_one_basis(operator.memory, tol_value)
    capacity, room = basis_capacity(operator, k, memory), math.inf
    if memory is not None:
        room = memory - bytes_beside(operator, k, memory)
    for sharing in (1, operator.processes.size):
        part = math.ceil(operator.dim / sharing) * operator.dtype.itemsize
        if capacity * part <= room:
            return min(capacity, products) * part
    return 0


def for_one_basis(memory: int | None, tol_value: float | None) -> int | None:
    """The memory for one basis: a third of it where eigenvalues are certified, otherwise all of it.

    The search of a certified solve has a basis of its own. That basis holds the locked pairs and the search's chain.
    """
    return memory if memory is None or tol_value is None else memory // 3


def bytes_beside(operator: SymmetricOperator, k: int, memory: int) -> int:
    """Bytes of the vectors beside the basis.

    Where products are in less precision than vectors, the wanted vectors are also multiplied in full precision. Each
    of them then takes three vectors more. If products in float64 take more memory than all these vectors, the result
    is the memory of those products.
    """
    vectors = vectors_beside(k) + 3 * k * operator.reduced
    return max(vectors * operator.dim * operator.dtype.itemsize, bytes_in_float64(operator, memory))
