"""An operator without the directions that are known already."""

from __future__ import annotations

from typing import final

from torch import Tensor

from landscape.operator import SymmetricOperator


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
        super().__init__(operator.dim, operator.device, operator.dtype)
        self._operator = operator
        self._basis = basis

    def project(self, vectors: Tensor) -> Tensor:
        """The part (n, m) of a block of vectors (n, m) outside span Q, by two passes, as one leaves rounding."""
        for _ in range(2):
            vectors = vectors - self._basis @ (self._basis.T @ vectors)
        return vectors

    def _product(self, vectors: Tensor) -> Tensor:
        return self.project(self._operator.matmat(self.project(vectors)))
