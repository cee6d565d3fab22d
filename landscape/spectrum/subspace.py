"""The directions that a trace does exactly: known eigenvectors, and a Krylov sequence in their complement."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from landscape.spectrum.deflation import Deflation
from landscape.spectrum.krylov import KrylovBasis


class Subspace:
    """Q of j vectors: known eigenvectors V, and expanded Krylov vectors K with A K = [V K K'] [C; T; B].

    Attributes:
        dim: j.
        trace: tr Q^T A Q.
        square: ||Q^T A Q||_F^2 + 2 ||P A Q||_F^2.
        rounding: what rounding may have done to the known eigenvalues' part of the trace.
    """

    def __init__(self, krylov: KrylovBasis, known: Deflation) -> None:
        held = len(known.values)
        self.dim = krylov.expanded
        self.rounding = math.sqrt(held) * known.rounding
        self.trace = float(np.trace(krylov.projection))
        # Of the residuals of the known pairs, the projection has the part along the Krylov vectors.
        beyond = (known.residuals - known.rounding) ** 2 - np.sum(krylov.projection[:held, held:] ** 2, axis=1)
        self.square = float(np.sum(krylov.projection**2) + 2 * np.sum(krylov.border**2) + 2 * beyond.clip(0).sum())
        self._held, self._rows = held, krylov.rows
        self._relation = np.vstack([krylov.projection, krylov.border])[:, held:]

    def project(self, vectors: Tensor) -> Tensor:
        """The part of a block (n, m) outside span Q."""
        return self._rows.split(vectors, self.dim)[1]

    def unknown(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """A vector v (n,) without its part V V^T v along what was known, and the product A K K^T v."""
        coordinates = self._rows.split(vector, self.dim)[0].cpu().numpy()[:, None]
        known = self._rows.combine(coordinates[: self._held])
        product = self._rows.combine(self._relation @ coordinates[self._held :])
        return vector - known.squeeze(1), product.squeeze(1)
