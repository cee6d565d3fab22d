"""Blocks of products: with every unit vector, held to be finite, and how much rounding is in them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.operator import SymmetricOperator, exactly
from landscape.spectrum.probes import probe

# Columns multiplied at a time: enough for matrix products to be fast, few enough for progress to be seen.
_COLUMNS = 64
_BLOCK_BYTES = 1 << 26
# Squares of what is smaller lose digits, or are zero.
LEAST_SQUARED = 1e-150
NOT_FINITE = (
    "a product of the operator has entries that are NaN or infinite: the loss isn't twice differentiable here, or "
    "overflows"
)


def block_size(operator: SymmetricOperator, most: int = _COLUMNS) -> int:
    """How many columns a block holds: ``most``, or what fits in 64 MB of float64, but at least one."""
    return max(1, min(most, _BLOCK_BYTES // (8 * operator.dim)))


# Numbers summed at a time in float64: torch would make a copy of a whole vector for that.
_PIECE = 1 << 20


def norm(vector: Tensor) -> Tensor:
    """||v|| of a vector (n,), a number in float64."""
    pieces = [torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in vector.split(_PIECE)]
    return torch.linalg.vector_norm(torch.stack(pieces))


def refuse_underflow(largest: float) -> None:
    """Raise InputError where the largest of some products, by a norm, isn't zero and yet its square is."""
    if 0 < largest < LEAST_SQUARED:
        raise InputError(
            f"the products of the operator are of size {largest:.1e}, and their squares are lost below the smallest "
            "number: scale the loss up"
        )


def finite_products(operator: SymmetricOperator, vectors: Tensor) -> Tensor:
    """The products (n, m) with the columns of a block (n, m).

    Raises:
        InputError: one of them isn't finite.
    """
    products = operator.matmat(vectors)
    if not products.isfinite().all():
        raise InputError(NOT_FINITE)
    return products


class Columns:
    """Every column of an operator's matrix, in blocks, and the rounding in them: n + 1 products.

    Iterating gives the first one's index and the block (n, m). The columns are summed with random signs on the way,
    which is the product with a vector of signs, so that making this product directly shows their rounding: its square
    is, in expectation, the sum of the squares of theirs.

    Attributes:
        rounding: ||E||_F of the matrix of errors E; measured once all blocks have been taken.

    Raises:
        InputError: a product isn't finite, or all are so small that their squares underflow.
    """

    def __init__(self, operator: SymmetricOperator) -> None:
        self._operator = operator
        self.rounding = 0.0

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        operator, size = self._operator, block_size(self._operator)
        signs = probe(operator.dim, 0, 0).to(operator.device, operator.dtype)
        largest = 0.0
        signed = torch.zeros(operator.dim, dtype=torch.float64, device=operator.device)
        for start in range(0, operator.dim, size):
            stop = min(start + size, operator.dim)
            unit = torch.zeros(operator.dim, stop - start, device=operator.device, dtype=operator.dtype)
            unit[start:stop].fill_diagonal_(1)
            block = finite_products(operator, unit)
            largest = max(largest, float(block.abs().max()))
            signed += block.to(torch.float64) @ signs[start:stop].to(torch.float64)
            yield start, block
        refuse_underflow(largest)
        self.rounding = measured_rounding(operator, signs, signed)


def measured_rounding(operator: SymmetricOperator, vector: Tensor, product: Tensor) -> float:
    """The rounding in A v, ||3 A (v/3) - A v|| + eps ||A v||, by one product more, as exact as can be.

    At another scale that is no power of two every operation is rounded differently, so the difference is the error;
    the second term is for the operations that happen to be exact at both scales.

    Args:
        operator: A.
        vector: (n,) v.
        product: (n,) float64, A v, however it was obtained.
    """
    with exactly():
        again = finite_products(operator, vector.unsqueeze(1) / 3).squeeze(1).to(torch.float64) * 3
    eps = torch.finfo(operator.dtype).eps
    return float(torch.linalg.vector_norm(again - product) + eps * torch.linalg.vector_norm(product))
