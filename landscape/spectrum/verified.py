"""Ritz pairs with their errors, measured by products in float64.

A solve sees only its own products, and all of these share the rounding of one forward pass. So the wanted vectors are
multiplied in float64: a few random combinations of them, or each vector if rounding matters for the requested accuracy.
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

# In the combinations a vector is divided by its eigenvalue's size, but at least by this share of the largest size.
_SMALLEST = 1e-3
# If rounding exceeds this share of the allowed residual norm, every wanted vector is multiplied in float64.
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
    """The errors of a solve's wanted pairs relative to the matrix in float64.

    Args:
        operator: A, with products in float32.
        k: number of wanted pairs.
        seed: seed of the random combinations.
        memory: bytes that all vectors may take; None for the memory that the operator leaves.
    """

    def __init__(self, operator: SymmetricOperator, k: int, seed: int, memory: int | None) -> None:
        self._operator, self._k, self._seed, self._memory = operator, k, seed, memory
        self._wide: Float64Products | None = None
        self._reason = ""  # why there are no products in float64
        self._off = np.zeros(0)  # norm of the product's error for each combination of wanted vectors
        self._scales = np.zeros(0)  # (k,) divisors of the vectors in the combinations

    def measure(self, basis: KrylovBasis, values: np.ndarray, coordinates: np.ndarray) -> int:
        """Compare the wanted Ritz pairs with products in float64 of Gaussian combinations of their vectors.

        Let D be the matrix of the errors of the products with the k wanted vectors and with one random vector of the
        basis. Each column is divided by the size of its eigenvalue. For g of k + 1 standard normal numbers, ||D g||
        bounds ||D||_2, and so every column of D; see `landscape.spectrum.rounding`. Without the division the columns of
        the largest eigenvalues would dominate the bound. The random vector serves a test of symmetry: the combinations
        show whether the matrix in float64 is symmetric beyond the wanted vectors.

        If there are no more pairs than combinations, only one random vector is multiplied here. `certify` then
        multiplies each wanted vector.

        Args:
            basis: Krylov basis of the pairs.
            values: wanted Ritz values, (k,).
            coordinates: coordinates of the Ritz vectors in the expanded basis, (m, k).

        Returns:
            The number of products made.

        Raises:
            InputError: a product isn't finite, or products contradict one another.
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
        """Norms (m,) of the errors of the products with the m combinations of `measure`."""
        self._scales = np.maximum(sizes, _SMALLEST * sizes.max()) if sizes.any() else np.ones(self._k)
        rng = np.random.default_rng([self._seed, basis.expanded, self._k])
        draws, within = rng.standard_normal((self._k + 1, COMBINATIONS)), rng.standard_normal(len(coordinates))
        within /= np.linalg.norm(within) * self._scales.max()
        along = coordinates / self._scales @ draws[:-1] + np.outer(within, draws[-1])
        error_norms = []
        # A block of columns makes the graph once, if there is room for a block.
        at_once = min(block_size(self._operator), COMBINATIONS)
        for block in np.split(along, range(at_once, COMBINATIONS, at_once), axis=1):
            errors = wide(basis.rows.combine_in_float64(block))
            errors -= basis.rows.combine_in_float64(basis.relation @ block)
            error_norms += [float(norm(each)) for each in errors.unbind(1)]
        return np.array(error_norms)

    def certify(self, verified: Verified, estimated: np.ndarray, tol: float, which: Which) -> Verified:
        """The pairs with the errors that products in float64 show; unchanged errors if there are no such products.

        If the combinations' bound isn't a small part of the allowed residual norm, every wanted vector is multiplied.

        Args:
            verified: the pairs with the errors that products in float32 show.
            estimated: residual norms without rounding, (k,).
            tol: requested relative residual norm.
            which: order of the pairs.
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
        """The pairs with bounds (k,) on the errors of their products; all hold, except with the chance `MISJUDGED`."""
        # In the mean square, a column of D has the norm of D g divided by the root of k + 1.
        column = np.linalg.norm(self._off) / math.sqrt(len(self._off) * (self._k + 1))
        residuals, radius = np.hypot(estimated, column * self._scales), estimated + bounds
        intervals = np.stack([verified.values - radius, verified.values + radius], axis=1)
        converged, rounding = residuals <= limit, float(bounds.max())
        return Verified(verified.values, intervals, residuals, converged, verified.vectors, rounding, MISJUDGED)

    def _multiplied(
        self, verified: Verified, estimated: np.ndarray, tol: float, which: Which, wide: Float64Products
    ) -> Verified:
        """The pairs with Rayleigh quotients and residual norms in float64, by one product for each vector.

        The quotients' errors are the squares of the vectors' rounding errors (Parlett 1998, section 11.7). Quotients
        and residual norms hold for vectors of any length.
        """
        quotients = [_rayleigh(wide, vector.to(torch.float64)) for vector in verified.vectors.unbind(1)]
        values, residuals = np.array(quotients).T
        order = select(values, self._k, which)
        values, residuals = values[order], residuals[order]
        vectors = verified.vectors if (order == np.arange(self._k)).all() else verified.vectors[:, order.tolist()]
        # Rounding in float64 is smaller by 2^29 than the rounding in these residual norms.
        radius = residuals + 4 * torch.finfo(torch.float64).eps * np.abs(values).max()
        intervals = np.stack([values - radius, values + radius], axis=1)
        converged = residuals <= np.maximum(tol * np.abs(values), verified.rounding)
        beyond = np.sqrt((residuals**2 - estimated[order] ** 2).clip(0))
        return Verified(values, intervals, residuals, converged, vectors, max(verified.rounding, float(beyond.max())))


def _rayleigh(wide: Float64Products, vector: Tensor) -> tuple[float, float]:
    """The Rayleigh quotient of a vector (n,) float64 of any length, and the residual norm divided by that length."""
    product, square = wide(vector.unsqueeze(1)).squeeze(1), float(vector @ vector)
    quotient = float(vector @ product) / square
    return quotient, float(norm(product - quotient * vector)) / math.sqrt(square)
