"""How far rounding has put products off the matrix that they are meant to be of, measured by products in float64.

All products at a point share what is kept of the forward pass, rounded once: no comparison of products with each other
shows that part of their error. Products in float64 do. Of the matrix of errors E they show E g for some random g, whose
norm bounds that of E. With independent standard normal g_1, ..., g_m and S = sum_l ||E g_l||^2,

- S is at least ||E||_2^2 times a variable of chi^2 with m degrees of freedom, so that ||E||_2^2 <= S / q with a chance
  of p to be wrong, where q is the p-quantile of that distribution;
- E exp(-t S) <= (1 + 2 t ||E||_F^2)^(-m/2), as log(1 + 2 t w) is concave in w: by Chernoff's inequality
  ||E||_F^2 <= S / q' with the same chance, where (q' e / m)^(m/2) exp(-q'/2) = p;
- tr E is the mean of g^T E g, whose mean over the m draws is off by at most 2 sqrt(x/m) ||E||_F + 2 (x/m) ||E||_2 with
  a chance of 2 exp(-x) (Laurent and Massart 2000, lemma 1).

Vectors of signs bound nothing: two equal errors cancel in half of all draws.
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
# Probes of a measurement's seed are numbered from 0; these are far beyond any that a measurement draws.
_FIRST = 1 << 40


def gaussians(operator: SymmetricOperator, seed: int, count: int) -> Tensor:
    """Vectors (n, count) of standard normal numbers, of the operator's type, apart from all probes of the seed."""
    return probe_block(operator, seed, range(_FIRST, _FIRST + count), "gaussian")


def arithmetic_note(arithmetic: str) -> list[str]:
    """A line on the matrix that errors are of, unless that is the one in float64."""
    return [] if arithmetic == IN_FLOAT64 else [f"all errors are those of the matrix {arithmetic}"]


WIDE_VECTORS = 18
"""Vectors of float32, in memory, that a product in float64 takes with what is compared with it."""


def bytes_in_float64(operator: SymmetricOperator, memory: int) -> int:
    """What products in float64 take of the memory for vectors; 0 where less than as much again would be left.

    Then none are made, and errors are told of the matrix as its products compute it.
    """
    needed = WIDE_VECTORS * operator.dim * operator.dtype.itemsize + operator.float64_bytes
    return needed if memory >= 2 * needed and not operator.in_float64 else 0


class Float64Products:
    """Products in full precision of the matrix that an operator's products are meant to be of, counted with its own.

    Args:
        operator: A.
        memory: bytes that vectors may take; default: what the operator leaves.

    Attributes:
        operator: A in full precision, see `SymmetricOperator.full_precision`.

    Raises:
        NoFloat64Error: there are none, or no room for them; says why.
    """

    def __init__(self, operator: SymmetricOperator, memory: int | None = None) -> None:
        memory = operator.memory if memory is None else memory
        if memory is not None and not (operator.in_float64 or bytes_in_float64(operator, memory)):
            raise NoFloat64Error("no room for products in float64: allow more memory")
        self._counted = operator
        self._first: tuple[Tensor, Tensor] | None = None
        self.operator = operator.full_precision()

    def __call__(self, vectors: Tensor) -> Tensor:
        """The products (n, m) float64 with vectors (n, m), in blocks that are small where n is large.

        Each block is held to be of a symmetric matrix, by itself and by the first vector of all.

        Raises:
            InputError: a product isn't finite, or two of them contradict each other.
        """
        size = block_size(self.operator)
        products = [self._block(each) for each in vectors.split(size, 1)]
        return torch.cat(products, 1) if len(products) > 1 else products[0]

    def _block(self, vectors: Tensor) -> Tensor:
        wide = vectors.to(self.operator.dtype)
        products = finite_products(self.operator, wide)
        self._counted.products += wide.shape[1] * (self.operator is not self._counted)
        refuse_asymmetric(self.operator, wide, products)
        self._first = self._first or (vectors[:, :1].clone(), products[:, :1].clone())
        refuse_asymmetric(self.operator, wide, products, self._first)
        return products.to(torch.float64)


def spectral_bound(norms: np.ndarray) -> float:
    """A bound on ||E||_2 from the norms (m,) of E g for standard normal g, wrong with the chance `MISJUDGED`."""
    return float(np.linalg.norm(norms) / math.sqrt(2 * gammaincinv(len(norms) / 2, MISJUDGED)))


def frobenius_bound(norms: np.ndarray) -> float:
    """A bound on ||E||_F from the norms (m,) of E g for standard normal g, wrong with the chance `MISJUDGED`."""
    return float(np.linalg.norm(norms) / math.sqrt(_chernoff(len(norms))))


@cache
def _chernoff(m: int) -> float:
    """The q' of the module's docstring."""
    return float(brentq(lambda q: m / 2 * math.log(q * math.e / m) - q / 2 - math.log(MISJUDGED), 1e-12 * m, m))


def arithmetic(operator: SymmetricOperator, reason: str) -> str:
    """Of which matrix an error is told: that in float64, or that of the products as they are, and why.

    Args:
        operator: whose products were made.
        reason: why there are none in float64; empty where there are.
    """
    return f"as computed in {str(operator.dtype).removeprefix('torch.')} ({reason})" if reason else IN_FLOAT64


def check_symmetry(operator: SymmetricOperator, seed: int) -> None:
    """Refuse an operator whose second derivatives are wrong, by two products, in float64 where there are such.

    Raises:
        InputError: a product isn't finite, or the two contradict each other.
    """
    vectors = gaussians(operator, seed, 2)
    try:
        Float64Products(operator)(vectors)
    except NoFloat64Error:
        refuse_asymmetric(operator, vectors, finite_products(operator, vectors))


@dataclass(frozen=True)
class Distance:
    """Bounds on the matrix E by which the products of an operator are off those in float64.

    Attributes:
        spectral: on ||E||_2, and so on what any eigenvalue is off by (Weyl).
        frobenius: on ||E||_F.
        trace: on |tr E|.
        reason: why there are no products in float64 to measure by; empty where there are. The bounds are then 0: what
            is said of the matrix is said of it as its products compute it.
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
    """How far an operator's products are from those in float64, by `COMBINATIONS` products of either kind.

    Those in float64 are held to be of a symmetric matrix, see `check_symmetry`. Of an operator that works in float64
    there is nothing more to be measured: its products are those that all others are measured by.

    Args:
        operator: A.
        seed: of the vectors.

    Raises:
        InputError: a product isn't finite, or the products contradict one another.
    """
    if operator.in_float64:
        check_symmetry(operator, seed)
        return Distance()
    try:
        wide = Float64Products(operator)
    except NoFloat64Error as missing:
        check_symmetry(operator, seed)
        return Distance(reason=str(missing))
    norms, forms = np.zeros(COMBINATIONS), np.zeros(COMBINATIONS)
    for i in range(COMBINATIONS):  # one at a time, as a block of them may be large
        vector = probe_block(operator, seed, [_FIRST + i], "gaussian")
        error = finite_products(operator, vector).to(torch.float64) - wide(vector)
        norms[i], forms[i] = float(norm(error.squeeze(1))), float((vector.to(torch.float64) * error).sum())
    spectral, frobenius, x = spectral_bound(norms), frobenius_bound(norms), math.log(2 / MISJUDGED) / COMBINATIONS
    return Distance(spectral, frobenius, abs(forms.mean()) + 2 * math.sqrt(x) * frobenius + 2 * x * spectral)


class Columns:
    """Every column of an operator's matrix, in float64 where there are such products, in blocks: n + 1 products.

    Iterating gives the first column's index and the block (n, m). The columns are summed with random signs on the way,
    which is the product with a vector of signs, so that making this product directly shows their rounding: its square
    is, in expectation, the sum of the squares of theirs. Summed with the signs down each column they are the product of
    the transposed matrix, which must be the same.

    Attributes:
        operator: whose columns they are: that in float64, or where there is none the one given.
        reason: why there is none in float64; empty where there is.
        rounding: ||E||_F of the matrix of errors E; measured once all blocks have been taken.

    Raises:
        InputError: a product isn't finite, all are so small that their squares underflow, or the matrix isn't
            symmetric.
    """

    def __init__(self, operator: SymmetricOperator) -> None:
        self._given, self.operator, self.reason, self.rounding = operator, operator, "", 0.0
        self._signs = probe(operator.dim, 0, 0).to(operator.device)
        third = self._signs.unsqueeze(1) / 3
        try:
            wide = Float64Products(operator)
            self._third, self.operator = wide(third).squeeze(1), wide.operator
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
            wide = block.to(torch.float64)
            square += float(wide.square().sum())
            along += wide @ self._signs[start:stop]
            across[start:stop] = wide.T @ self._signs
            yield start, block
        refuse_underflow(largest)
        refuse_asymmetry(operator, float(norm(along - across)), math.sqrt(square))
        self.rounding = rounding_between(self._third, along, torch.finfo(operator.dtype).eps)
