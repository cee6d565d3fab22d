"""Deflation: known outliers of an operator, and the operator compressed to their complement."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.reporting.progress import Progress
from landscape.spectrum.basis_store import outside
from landscape.spectrum.eigenpairs import Eigenpairs, top_eigenpairs
from landscape.spectrum.products import finite_products, norm


@dataclass(frozen=True)
class Deflation:
    """Known eigenpairs; a spectrum is sampled in their complement.

    Attributes:
        values: eigenvalues, (k,) float64.
        residuals: residual norms of the eigenpairs plus ``rounding``, (k,) float64.
        vectors: eigenvectors, (n, k) torch, orthonormal, on the operator's device and of its dtype.
        rounding: norm of the matrix's rounding errors, as the solve for the eigenpairs measured it.
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: Tensor
    rounding: float

    @classmethod
    def none(cls, operator: SymmetricOperator) -> Deflation:
        """A deflation without eigenpairs, of the operator's dimension, device and dtype."""
        vectors = torch.empty((operator.dim, 0), device=operator.device, dtype=operator.dtype)
        return cls(np.zeros(0), np.zeros(0), vectors, 0.0)

    @classmethod
    def of_outliers(
        cls, operator: SymmetricOperator, k: int, tol: float, seed: int, progress: Callable[[Progress], None]
    ) -> Deflation:
        """Solve for the operator's k eigenpairs of largest magnitude, and keep the pairs that converge; k may be 0.

        Raises:
            InputError: a product isn't finite.
        """
        if k == 0:
            return cls.none(operator)
        return cls._of_converged(operator, top_eigenpairs(operator, k, "LM", tol, seed, progress=progress), k)

    @classmethod
    def of_known(cls, operator: SymmetricOperator, pairs: Eigenpairs, k: int, seed: int) -> Deflation:
        """The converged pairs among the first k of an earlier solve, checked against the operator by one product.

        Raises:
            InputError: the pairs aren't of largest magnitude, are fewer than k, or aren't this operator's.
        """
        if pairs.which != "LM":
            raise InputError(f"outliers are the eigenpairs of largest magnitude (LM), and these are of {pairs.which}")
        if pairs.eigenvectors.shape[0] != operator.dim or len(pairs.eigenvalues) < k:
            raise InputError(
                f"{k} outliers of an operator of dimension {operator.dim} aren't among {len(pairs.eigenvalues)} pairs "
                f"of dimension {pairs.eigenvectors.shape[0]}: give more pairs, or a smaller k"
            )
        deflation = cls._of_converged(operator, pairs, k)
        if len(deflation.values):
            deflation._hold_to(operator, seed)
        return deflation

    @classmethod
    def _of_converged(cls, operator: SymmetricOperator, pairs: Eigenpairs, k: int) -> Deflation:
        chosen = np.flatnonzero(pairs.converged[:k])
        vectors = pairs.eigenvectors[:, torch.as_tensor(chosen, device=pairs.eigenvectors.device)]
        residuals = pairs.residuals[chosen] + pairs.rounding
        return cls(pairs.eigenvalues[chosen], residuals, vectors.to(operator.device, operator.dtype), pairs.rounding)

    def _hold_to(self, operator: SymmetricOperator, seed: int) -> None:
        """Refuse pairs of another operator, by one product with a random combination of the eigenvectors."""
        z = np.random.default_rng(seed).standard_normal(len(self.values))
        z /= np.linalg.norm(z)
        mixed, predicted = (self.vectors @ torch.as_tensor(each).to(self.vectors) for each in (z, self.values * z))
        error = float(norm(finite_products(operator, mixed.unsqueeze(1)).squeeze(1) - predicted))
        # The second term: two machines, or two routes of products, may differ by as much rounding.
        largest = float(np.abs(self.values).max())
        allowed = float(np.abs(z) @ self.residuals) + math.sqrt(torch.finfo(operator.dtype).eps) * largest
        if error > allowed:
            raise InputError(
                f"the eigenpairs aren't of this operator: its product with a combination of them is off by {error:.2g}"
                f", and their residuals explain {allowed:.2g}"
            )


@final
class Deflated(SymmetricOperator):
    """A compressed to the complement of a subspace: P A P with P = I - Q Q^T.

    If span Q is invariant under A, P A P has on the complement exactly the eigenvalues of A that don't belong to span
    Q. On span Q, P A P is zero. Products are counted here and in A.

    Args:
        operator: A, of dimension n.
        basis: orthonormal columns Q, (n, j), on the operator's device and of its dtype.
    """

    def __init__(self, operator: SymmetricOperator, basis: Tensor) -> None:
        super().__init__(operator.dim, operator.device, operator.dtype, operator.memory, operator.processes)
        self.eps = operator.eps
        self._operator = operator
        self._basis = basis

    def project(self, vectors: Tensor) -> Tensor:
        """The part (n, m) of a block of vectors (n, m) outside span Q."""
        return outside(vectors.T, self._basis.T).T

    def _product(self, vectors: Tensor) -> Tensor:
        return self.project(self._operator.matmat(self.project(vectors)))
