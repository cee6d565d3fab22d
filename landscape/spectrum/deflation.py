"""Outliers that are known, and an operator without their directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from landscape.operator import SymmetricOperator
from landscape.spectrum.eigenpairs import top_eigenpairs
from landscape.spectrum.progress import Progress
from landscape.spectrum.rows import outside


@dataclass(frozen=True)
class Deflation:
    """Eigenpairs known already, in whose complement a spectrum is sampled.

    Attributes:
        values: (k,) float64.
        residuals: (k,) float64, their residual norms with what rounding may add.
        vectors: (n, k) torch, orthonormal, on the operator's device and of its dtype.
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: Tensor

    @classmethod
    def none(cls, operator: SymmetricOperator) -> Deflation:
        """Nothing known of an operator."""
        vectors = torch.empty((operator.dim, 0), device=operator.device, dtype=operator.dtype)
        return cls(np.zeros(0), np.zeros(0), vectors)

    @classmethod
    def of_outliers(
        cls, operator: SymmetricOperator, k: int, tol: float, seed: int, progress: Callable[[Progress], None]
    ) -> Deflation:
        """Those of an operator's k eigenpairs of largest magnitude that converge; ``k`` may be 0.

        Raises:
            InputError: a product isn't finite.
        """
        if k == 0:
            return cls.none(operator)
        pairs = top_eigenpairs(operator, k, "LM", tol, seed, progress=progress)
        kept = pairs.converged
        vectors = pairs.eigenvectors[:, torch.as_tensor(kept, device=operator.device)]
        return cls(pairs.eigenvalues[kept], pairs.residuals[kept] + pairs.rounding, vectors)


@final
class Deflated(SymmetricOperator):
    """A compressed to the complement of a subspace: P A P with P = I - Q Q^T.

    On the complement it has the eigenvalues that A has beside those of span Q, exactly where span Q is invariant under
    A; on span Q it is zero. Products are counted here and in A.

    Args:
        operator: A, of dimension n.
        basis: (n, j), orthonormal columns Q, on the operator's device and of its dtype.
    """

    def __init__(self, operator: SymmetricOperator, basis: Tensor) -> None:
        super().__init__(operator.dim, operator.device, operator.dtype, operator.memory, operator.processes)
        self._operator = operator
        self._basis = basis

    def project(self, vectors: Tensor) -> Tensor:
        """The part (n, m) of a block of vectors (n, m) outside span Q."""
        return outside(vectors.T, self._basis.T).T

    def _product(self, vectors: Tensor) -> Tensor:
        return self.project(self._operator.matmat(self.project(vectors)))
