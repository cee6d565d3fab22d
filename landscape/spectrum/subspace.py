"""The subspace that a trace estimate deflates: known eigenvectors, and a Krylov sequence in their complement."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from landscape.spectrum.deflation import Deflation
from landscape.spectrum.krylov import KrylovBasis


class Subspace:
    """The span of j orthonormal vectors Q: known eigenvectors V and expanded Krylov vectors K.

    The products are A K = [V K K'] [C; T; B], with K' the pending Krylov vectors.

    Attributes:
        dim: number j of vectors.
        trace: tr Q^T A Q.
        square: ||Q^T A Q||_F^2 + 2 ||P A Q||_F^2.
        rounding: bound on the rounding error of the known eigenvalues' sum.
    """

    def __init__(self, krylov: KrylovBasis, known: Deflation) -> None:
        k = len(known.values)
        self.dim = krylov.expanded
        self.rounding = math.sqrt(k) * known.rounding
        self.trace = float(np.trace(krylov.projection))
        # The projection already has the known residuals' part along the Krylov vectors.
        beyond = (known.residuals - known.rounding) ** 2 - np.sum(krylov.projection[:k, k:] ** 2, axis=1)
        self.square = float(np.sum(krylov.projection**2) + 2 * np.sum(krylov.border**2) + 2 * beyond.clip(0).sum())
        self._held, self._rows = k, krylov.rows
        self._relation = np.vstack([krylov.projection, krylov.border])[:, k:]

    def project(self, vectors: Tensor) -> Tensor:
        """The part of a block (n, m) outside span Q."""
        return self._rows.split(vectors, self.dim)[1]

    def unknown(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """The vector v - V V^T v (n,) without the known eigenvectors' part, and the product A K K^T v (n,)."""
        coordinates = self._rows.split(vector, self.dim)[0].cpu().numpy()[:, None]
        known_part = self._rows.combine(coordinates[: self._held])
        product = self._rows.combine(self._relation @ coordinates[self._held :])
        return vector - known_part.squeeze(1), product.squeeze(1)
