"""The rounding errors of an operator's products, measured by products in float64.

All products at a point share the stored forward pass, which was rounded once. So comparing products with each other
doesn't show that part of their error. Products in float64 do. Let E be the matrix of the errors. Products in float64
give E g for random vectors g, and the norms of E g bound the norm of E. For independent standard normal g_1, ..., g_m
and S = sum_l ||E g_l||^2:

- S is at least ||E||_2^2 times a chi^2 variable with m degrees of freedom. So ||E||_2^2 <= S / q, wrong with a chance
  of p, where q is the p-quantile of that distribution.
- The expectation of exp(-t S) is at most (1 + 2 t ||E||_F^2)^(-m/2), because log(1 + 2 t w) is concave in w. By
  Chernoff's inequality ||E||_F^2 <= S / q', wrong with a chance of p, where (q' e / m)^(m/2) exp(-q'/2) = p.
- tr E is the expectation of g^T E g. The mean of g^T E g over the m draws is off by at most
  2 sqrt(x/m) ||E||_F + 2 (x/m) ||E||_2. That is wrong with a chance of 2 exp(-x) (Laurent and Massart 2000, lemma 1).

Vectors of signs would bound nothing: two equal errors cancel in half of all draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import gammaincinv
from torch import Tensor

from landscape.machine.widened import NoFloat64Error
from landscape.operator import SymmetricOperator
from landscape.spectrum.probes import probe, probe_block
from landscape.spectrum.products import (
    block_size,
    finite_products,
    norm,
    refuse_asymmetric,
    refuse_asymmetry,
    refuse_underflow,
    rounding_between,
)

MISJUDGED = 1e-3
"""The chance that a bound on rounding from random combinations is too small."""
COMBINATIONS = 3
IN_FLOAT64 = "in float64"
# Number of the first Gaussian vector. A measurement's probes are numbered from 0 and never get that far.
_FIRST = 1 << 40


def gaussians(operator: SymmetricOperator, seed: int, count: int) -> Tensor:
    """Standard normal vectors (n, count) of the operator's type, independent of all probes of the seed."""
    return probe_block(operator, seed, range(_FIRST, _FIRST + count), "gaussian")


def arithmetic_note(arithmetic: str) -> list[str]:
    """A line that names the matrix to which errors refer; no line for the matrix in float64."""
    return [] if arithmetic == IN_FLOAT64 else [f"all errors are those of the matrix {arithmetic}"]


WIDE_VECTORS = 18
"""Memory of a product in float64 and its comparison, in vectors of float32."""


def bytes_in_float64(operator: SymmetricOperator, memory: int) -> int:
    """Bytes that products in float64 take of the memory for vectors; 0 for an operator that works in float64.

    Also 0 if they would take more than half of the memory. Then no products in float64 are made, and errors refer to
    the matrix as its products compute it.
    """
    needed = WIDE_VECTORS * operator.dim * operator.dtype.itemsize + operator.float64_bytes
    return needed if memory >= 2 * needed and not operator.in_float64 else 0


class Float64Products:
    """Products of an operator's matrix in full precision; they count as products of the operator.

    Args:
        operator: A.
        memory: bytes that vectors may take; default: the memory that the operator leaves.

    Attributes:
        operator: A in full precision, see `SymmetricOperator.full_precision`.

    Raises:
        NoFloat64Error: there are no products in float64, or no room for them; the message has the reason.
    """

    def __init__(self, operator: SymmetricOperator, memory: int | None = None) -> None:
        memory = operator.memory if memory is None else memory
        if memory is not None and not (operator.in_float64 or bytes_in_float64(operator, memory)):
            raise NoFloat64Error("no room for products in float64: allow more memory")
        self._counted = operator
        self._first: tuple[Tensor, Tensor] | None = None
        self.operator = operator.full_precision()

    def __call__(self, vectors: Tensor) -> Tensor:
        """The products (n, m) float64 with vectors (n, m), in blocks of fewer columns if n is large.

        Each block is checked for symmetry, within itself and against the first vector of all calls.

        Raises:
            InputError: a product isn't finite, or two products contradict each other.
        """
        size = block_size(self.operator)
        products = [self._block(each) for each in vectors.split(size, 1)]
        return torch.cat(products, 1) if len(products) > 1 else products[0]

    def _block(self, vectors: Tensor) -> Tensor:
        float64_vectors = vectors.to(self.operator.dtype)
        products = finite_products(self.operator, float64_vectors)
        self._counted.products += float64_vectors.shape[1] * (self.operator is not self._counted)
        refuse_asymmetric(self.operator, float64_vectors, products)
        self._first = self._first or (vectors[:, :1].clone(), products[:, :1].clone())
        refuse_asymmetric(self.operator, float64_vectors, products, self._first)
        return products.to(torch.float64)


def spectral_bound(norms: np.ndarray) -> float:
    """Bound on ||E||_2 from the norms (m,) of E g for standard normal g, wrong with the chance `MISJUDGED`."""
    return float(np.linalg.norm(norms) / math.sqrt(2 * gammaincinv(len(norms) / 2, MISJUDGED)))


def frobenius_bound(norms: np.ndarray) -> float:
    """Bound on ||E||_F from the norms (m,) of E g for standard normal g, wrong with the chance `MISJUDGED`."""
    return float(np.linalg.norm(norms) / math.sqrt(_chernoff(len(norms))))


@cache
def _chernoff(m: int) -> float:
    """The number q' of the module's docstring, for m draws."""
    return float(brentq(lambda q: m / 2 * math.log(q * math.e / m) - q / 2 - math.log(MISJUDGED), 1e-12 * m, m))


def arithmetic(operator: SymmetricOperator, reason: str) -> str:
    """The name of the matrix to which an error refers: in float64, or as the products compute it and why.

    Args:
        operator: the operator of the products.
        reason: why there are no products in float64; empty if there are.
    """
    return f"as computed in {str(operator.dtype).removeprefix('torch.')} ({reason})" if reason else IN_FLOAT64


def check_symmetry(operator: SymmetricOperator, seed: int) -> None:
    """Refuse an operator that isn't symmetric, for example for wrong second derivatives, by two products.

    The products are in float64 if the operator has products in float64.

    Raises:
        InputError: a product isn't finite, or the two products contradict each other.
    """
    vectors = gaussians(operator, seed, 2)
    try:
        Float64Products(operator)(vectors)
    except NoFloat64Error:
        refuse_asymmetric(operator, vectors, finite_products(operator, vectors))


@dataclass(frozen=True)
class Distance:
    """Bounds on E, the operator's matrix as its products compute it minus the matrix in float64.

    Attributes:
        spectral: bound on ||E||_2, and so on the error of any eigenvalue (Weyl).
        frobenius: bound on ||E||_F.
        trace: bound on |tr E|.
        reason: why there are no products in float64 to compare with; empty if there are. With a reason the bounds are
            0, and results refer to the matrix as its products compute it.
    """

    spectral: float = 0.0
    frobenius: float = 0.0
    trace: float = 0.0
    reason: str = ""

    @property
    def misjudged(self) -> float:
        """The chance that a bound is too small."""
        return MISJUDGED if self.spectral else 0.0

    def arithmetic(self, operator: SymmetricOperator) -> str:
        """See `arithmetic`."""
        return arithmetic(operator, self.reason)


def distance(operator: SymmetricOperator, seed: int) -> Distance:
    """The distance of an operator's products from those in float64, by `COMBINATIONS` products of either kind.

    The products in float64 are checked for symmetry. An operator that works in float64 has distance 0, and only the
    two products of `check_symmetry` are made.

    Args:
        operator: A.
        seed: seed of the random vectors.

    Raises:
        InputError: a product isn't finite, or the products contradict one another.
    """
    if operator.in_float64:
        check_symmetry(operator, seed)
        return Distance()
    try:
        float64_products = Float64Products(operator)
    except NoFloat64Error as missing:
        check_symmetry(operator, seed)
        return Distance(reason=str(missing))
    norms, forms = np.zeros(COMBINATIONS), np.zeros(COMBINATIONS)
    for i in range(COMBINATIONS):  # one at a time: a block may be too large
        vector = probe_block(operator, seed, [_FIRST + i], "gaussian")
        error = finite_products(operator, vector).to(torch.float64) - float64_products(vector)
        norms[i], forms[i] = float(norm(error.squeeze(1))), float((vector.to(torch.float64) * error).sum())
    spectral, frobenius, x = spectral_bound(norms), frobenius_bound(norms), math.log(2 / MISJUDGED) / COMBINATIONS
    return Distance(spectral, frobenius, abs(forms.mean()) + 2 * math.sqrt(x) * frobenius + 2 * x * spectral)


class Columns:
    """Every column of an operator's matrix, in blocks, by n + 1 products; in float64 if there are such products.

    Iterating gives the first column's index and the block (n, m). On the way the columns are added up with random
    signs, which gives the product with a vector of signs. A direct product with that vector shows the rounding: the
    squared norm of the difference is, in expectation, the sum of the columns' squared errors. Adding up each column's
    entries with the signs gives the product of the transposed matrix. For a symmetric matrix the two are equal.

    Attributes:
        operator: the operator of the columns: the one in float64 if there is one, otherwise the given operator.
        reason: why there is no operator in float64; empty if there is.
        rounding: norm ||E||_F of the matrix E of errors; measured when all blocks have been taken.

    Raises:
        InputError: a product isn't finite, all products are so small that their squares underflow, or the matrix isn't
            symmetric.
    """

    def __init__(self, operator: SymmetricOperator) -> None:
        self._given, self.operator, self.reason, self.rounding = operator, operator, "", 0.0
        self._signs = probe(operator.dim, 0, 0).to(operator.device)
        third = self._signs.unsqueeze(1) / 3
        try:
            float64_products = Float64Products(operator)
            self._third, self.operator = float64_products(third).squeeze(1), float64_products.operator
        except NoFloat64Error as error:
            self._third, self.reason = finite_products(operator, third.to(operator.dtype)).squeeze(1), str(error)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        operator, size = self.operator, block_size(self.operator)
        largest = square = 0.0
        along = torch.zeros(operator.dim, dtype=torch.float64, device=operator.device)
        across = torch.zeros_like(along)
        for start in range(0, operator.dim, size):
            stop = min(start + size, operator.dim)
            unit = torch.zeros(operator.dim, stop - start, device=operator.device, dtype=operator.dtype)
            unit[start:stop].fill_diagonal_(1)
            block = finite_products(operator, unit)
            self._given.products += (stop - start) * (operator is not self._given)
            largest = max(largest, float(block.abs().max()))
            float64_block = block.to(torch.float64)
            square += float(float64_block.square().sum())
            along += float64_block @ self._signs[start:stop]
            across[start:stop] = float64_block.T @ self._signs
            yield start, block
        refuse_underflow(largest)
        refuse_asymmetry(operator, float(norm(along - across)), math.sqrt(square))
        self.rounding = rounding_between(self._third, along, torch.finfo(operator.dtype).eps)
