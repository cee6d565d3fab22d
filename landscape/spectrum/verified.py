"""Ritz pairs with their errors, and what products in float64 say of these errors.

A solve sees its own products alone, and all of them share the rounding of one forward pass. So the wanted vectors are
multiplied in float64: a few random combinations of them, or each of them where rounding matters to what was asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from landscape.machine.widened import NoFloat64Error
from landscape.operator import SymmetricOperator
from landscape.spectrum.ends import Which, select
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.products import block_size, norm
from landscape.spectrum.rounding import (
    COMBINATIONS,
    IN_FLOAT64,
    MISJUDGED,
    Float64Products,
    arithmetic,
    gaussians,
    spectral_bound,
)

# The least size of an eigenvalue that its vector is divided by, as a share of the largest.
_SMALLEST = 1e-3
# The share of what is asked for from which on rounding is worth products in float64 with every wanted vector.
_MATTERS = 0.3


@dataclass(frozen=True)
class Verified:
    """The wanted Ritz pairs with their errors; see `landscape.Eigenpairs` for the fields."""

    values: np.ndarray
    intervals: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    vectors: Tensor
    rounding: float
    misjudged: float = 0.0
    arithmetic: str = IN_FLOAT64


class Float64Errors:
    """How far the wanted pairs of a solve are from those of the matrix in float64.

    Args:
        operator: A, by products in float32.
        k: how many pairs are wanted.
        seed: of the combinations.
        memory: bytes that all vectors may take; None for what the operator leaves.
    """

    def __init__(self, operator: SymmetricOperator, k: int, seed: int, memory: int | None) -> None:
        self._operator, self._k, self._seed, self._memory = operator, k, seed, memory
        self._wide: Float64Products | None = None
        self._reason = ""  # why there are no products in float64
        self._off = np.zeros(0)  # of each combination of wanted vectors, by how much its product is off
        self._scales = np.zeros(0)  # (k,) what the vectors were divided by in the combinations

    def measure(self, basis: KrylovBasis, values: np.ndarray, coordinates: np.ndarray) -> int:
        """Hold the wanted Ritz pairs to products in float64 with Gaussian combinations of their vectors.

        With D the matrix of what the products with the wanted vectors and with a random vector of the basis are off by,
        its columns divided by the sizes of the eigenvalues, and g of k + 1 standard normal numbers, ||D g|| bounds
        ||D||_2, and so every column of D; see `landscape.spectrum.rounding`. Undivided, the columns of the largest
        eigenvalues would be all that the bound is of. The random vector is there for the combinations to show, by each
        other, whether the matrix in float64 is symmetric beyond the wanted vectors. Of no more pairs than there are
        combinations each vector is multiplied itself, by `certify`, after a vector outside the basis.

        Args:
            basis: in which the pairs are.
            values: (k,) the wanted Ritz values.
            coordinates: (m, k) of their vectors.

        Returns:
            The products made.

        Raises:
            InputError: a product isn't finite, or they contradict one another.
        """
        before = self._operator.products
        try:
            self._wide = self._wide or Float64Products(self._operator, self._memory)
        except NoFloat64Error as error:
            self._reason = str(error)
            return 0
        if self._k <= COMBINATIONS:
            self._wide(gaussians(self._operator, self._seed, 1))
        else:
            self._off = self._combined(self._wide, basis, np.abs(values), coordinates)
        return self._operator.products - before

    def _combined(
        self, wide: Float64Products, basis: KrylovBasis, sizes: np.ndarray, coordinates: np.ndarray
    ) -> np.ndarray:
        """(m,) what the products with the combinations of `measure` are off by."""
        self._scales = np.maximum(sizes, _SMALLEST * sizes.max()) if sizes.any() else np.ones(self._k)
        rng = np.random.default_rng([self._seed, basis.expanded, self._k])
        draws, within = rng.standard_normal((self._k + 1, COMBINATIONS)), rng.standard_normal(len(coordinates))
        within /= np.linalg.norm(within) * self._scales.max()
        along = coordinates / self._scales @ draws[:-1] + np.outer(within, draws[-1])
        off = []
        # The graph is made once for a block, where there is room for one.
        at_once = min(block_size(self._operator), COMBINATIONS)
        for block in np.split(along, range(at_once, COMBINATIONS, at_once), axis=1):
            errors = wide(basis.rows.combine_in_float64(block))
            errors -= basis.rows.combine_in_float64(basis.relation @ block)
            off += [float(norm(each)) for each in errors.unbind(1)]
        return np.array(off)

    def certify(self, verified: Verified, estimated: np.ndarray, tol: float, which: Which) -> Verified:
        """The pairs with the errors that products in float64 show; as they are where there are no such products.

        Where the bound of the combinations is no small part of what was asked for, every vector is multiplied.

        Args:
            verified: the pairs with their errors as products in float32 show them.
            estimated: (k,) their residuals without rounding.
            tol: the relative residual asked for.
            which: the order of the pairs.
        """
        if self._wide is None:
            return replace(verified, arithmetic=arithmetic(self._operator, self._reason))
        limit = np.maximum(tol * np.abs(verified.values), verified.rounding)
        if len(self._off):
            bounds = spectral_bound(self._off) * self._scales
            if (bounds <= _MATTERS * limit).all():
                return self._bounded(verified, estimated, limit, bounds)
        return self._multiplied(verified, estimated, tol, which, self._wide)

    def _bounded(self, verified: Verified, estimated: np.ndarray, limit: np.ndarray, bounds: np.ndarray) -> Verified:
        """The pairs with bounds (k,) on what their products are off by; all hold but for the chance `MISJUDGED`."""
        # In the mean square a column of D is as large as D g is by the root of k + 1.
        column = np.linalg.norm(self._off) / math.sqrt(len(self._off) * (self._k + 1))
        residuals, radius = np.hypot(estimated, column * self._scales), estimated + bounds
        intervals = np.stack([verified.values - radius, verified.values + radius], axis=1)
        converged, rounding = residuals <= limit, float(bounds.max())
        return Verified(verified.values, intervals, residuals, converged, verified.vectors, rounding, MISJUDGED)

    def _multiplied(
        self, verified: Verified, estimated: np.ndarray, tol: float, which: Which, wide: Float64Products
    ) -> Verified:
        """The pairs with their vectors' Rayleigh quotients and residuals in float64, by a product each.

        Quotients are off by the square of what rounding has put the vectors off by (Parlett 1998, section 11.7). What
        is told holds for the vectors as they are, whatever their length.
        """
        quotients = [_rayleigh(wide, vector.to(torch.float64)) for vector in verified.vectors.unbind(1)]
        values, residuals = np.array(quotients).T
        order = select(values, self._k, which)
        values, residuals = values[order], residuals[order]
        vectors = verified.vectors if (order == np.arange(self._k)).all() else verified.vectors[:, order.tolist()]
        # In float64 rounding is smaller by 2^29 than what it has put into these residuals.
        radius = residuals + 4 * torch.finfo(torch.float64).eps * np.abs(values).max()
        intervals = np.stack([values - radius, values + radius], axis=1)
        converged = residuals <= np.maximum(tol * np.abs(values), verified.rounding)
        beyond = np.sqrt((residuals**2 - estimated[order] ** 2).clip(0))
        return Verified(values, intervals, residuals, converged, vectors, max(verified.rounding, float(beyond.max())))


def _rayleigh(wide: Float64Products, vector: Tensor) -> tuple[float, float]:
    """The Rayleigh quotient of a vector (n,) float64 of any length, and the norm of what remains, by its length."""
    product, square = wide(vector.unsqueeze(1)).squeeze(1), float(vector @ vector)
    quotient = float(vector @ product) / square
    return quotient, float(norm(product - quotient * vector)) / math.sqrt(square)
