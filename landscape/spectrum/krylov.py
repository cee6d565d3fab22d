"""The Krylov basis of every Lanczos method here: orthonormal vectors, extended by products with a symmetric operator.

Let Q be the basis. Its first m vectors are *expanded*, which means multiplied by the operator A. The other p vectors
are *pending*. The basis keeps the relation

    A Q_m = Q_{m+p} P,    P of shape (m + p, m).

With one start vector, p is 1 and P is the Lanczos tridiagonal with its last row. With several start vectors it is band
Lanczos. After a thick restart P is a diagonal with a border (Wu and Simon 2000). One data structure serves all three,
because P is computed as Q^T A Q, by full reorthogonalisation, and never inferred from a recurrence. A Ritz pair
(theta, s) of the leading m x m block then has the residual norm ||P[m:] s||, without another product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.reporting.messages import amount
from landscape.spectrum.basis_store import BasisStore
from landscape.spectrum.products import LEAST_SQUARED, NOT_FINITE, norm, refuse_underflow

# Locked vectors must be orthonormal to this many units of rounding. A vector given twice is off by 1/eps units.
_HELD = 1000


@dataclass(frozen=True)
class Expansion:
    """The result of one product with a basis vector q.

    Attributes:
        alpha: q^T A q.
        beta: norm of the part of A q outside the basis, at least the level of rounding. A part below that level is
            noise, and may hide a part of at most that size. ``beta`` is 0 if no such part can exist: the basis spans
            the space, or all products were zero.
        pending: index of the part outside as a new basis vector; None if A q is within the basis up to rounding.
    """

    alpha: float
    beta: float
    pending: int | None


class KrylovBasis:
    """The Krylov basis Q, stored as rows, and the projection P; see the module's docstring.

    Args:
        operator: A.
        capacity: most basis vectors.
        seed: seed of random basis vectors.
        memory: bytes that the basis may take in memory. Default: what the operator leaves, less four vectors.

    Attributes:
        rows: the basis vectors.
        expanded: number m of expanded vectors.

    Raises:
        InputError: there is no room for the basis; see `BasisStore`.
    """

    def __init__(self, operator: SymmetricOperator, capacity: int, seed: int, memory: int | None = None) -> None:
        self.operator = operator
        self.capacity = capacity
        self.expanded = 0
        needed = 4 * operator.dim * operator.dtype.itemsize
        if memory is None and operator.memory is not None:
            memory = operator.memory - needed
            if memory < 0:
                raise InputError(
                    f"a chain of vectors of {operator.dim:,} parameters takes {amount(needed)} beside its basis, and "
                    f"{amount(max(0, operator.memory))} are left for it: allow more memory"
                )
        self.memory = memory
        self.rows = BasisStore(
            capacity, operator.dim, operator.dtype, operator.device, self.memory, processes=operator.processes
        )
        self._projection = np.zeros((capacity, capacity))
        self._largest_product = 0.0
        self._eps = torch.finfo(operator.dtype).eps
        # On the CPU in float64, so that one seed gives one start vector on every device.
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def size(self) -> int:
        """Number of basis vectors, m + p."""
        return self.rows.size

    @property
    def projection(self) -> np.ndarray:
        """The projection Q_m^T A Q_m, (m, m), symmetric."""
        return self._projection[: self.expanded, : self.expanded]

    @property
    def border(self) -> np.ndarray:
        """The part of A Q_m along the pending vectors, (p, m)."""
        return self._projection[self.expanded : self.size, : self.expanded]

    @property
    def relation(self) -> np.ndarray:
        """The matrix P, (m + p, m): the products A Q_m in coordinates of the whole basis."""
        return self._projection[: self.size, : self.expanded]

    @property
    def full(self) -> bool:
        return self.size == self.capacity

    def append_random(self) -> int | None:
        """Add a random vector, orthogonal to the basis, as pending; None if the basis spans the whole space."""
        if self.size == self.operator.dim:
            return None
        vector = torch.randn(self.operator.dim, dtype=torch.float64, generator=self._generator)
        vector = vector.to(self.operator.device, self.operator.dtype)
        _, outside, _ = self.rows.orthogonalise(vector / torch.linalg.vector_norm(vector))
        assert outside is not None, "a random vector doesn't lie within fewer dimensions"
        return self._append(outside)

    def lock(self, values: np.ndarray, vectors: Tensor) -> None:
        """Begin an empty basis with known eigenpairs, (l,) and (n, l), as expanded vectors.

        Every product is orthogonalised against the locked vectors too. So later chains run in the complement and see
        the operator compressed to the complement. Deflating only the operator would leave rounding in the locked span.
        A chain would amplify that rounding into a spurious eigenvalue.

        Raises:
            InputError: the vectors aren't orthonormal, for example because one is given twice.
        """
        self.rows.extend(vectors)
        defect = self.orthogonality_defect()
        if not defect <= _HELD * self._eps:
            raise InputError(
                f"the given eigenvectors aren't orthonormal: max |V^T V - I| is {defect:.2g}, beyond rounding; give "
                "each eigenpair once, as a solve returns it"
            )
        self.expanded = self.size
        self._projection[range(self.size), range(self.size)] = values
        self._largest_product = float(np.abs(values).max(initial=0.0))

    def start(self, vector: Tensor) -> int | None:
        """Add the part of a vector outside the basis, normalised, as pending.

        Args:
            vector: the start vector, (n,), of any finite length.

        Returns:
            The new vector's index, or None if ``vector`` is zero or within the basis up to rounding.

        Raises:
            InputError: an entry is NaN or infinite.
        """
        vector = vector.to(self.operator.device, torch.float64)
        length = float(torch.linalg.vector_norm(vector))
        if not math.isfinite(length):
            raise InputError("a start vector has entries that are NaN or infinite, or too large to be squared")
        if length == 0 or self.size == self.operator.dim:
            return None
        _, outside, length_outside = self.rows.orthogonalise((vector / length).to(self.operator.dtype))
        if outside is None or length_outside <= 4 * math.sqrt(self.operator.dim) * self._eps:
            return None
        return self._append(outside)

    def expand(self, pending: int, *, follow_noise: bool = False) -> Expansion:
        """Multiply one pending vector, and add the product's part outside the basis as a new pending vector.

        Args:
            pending: index of the pending vector.
            follow_noise: whether to add the part outside even below the level of rounding; default no. Such a part is
                mostly noise. It may hide a direction that a search must not overlook and that later products enlarge.

        Raises:
            InputError: the product isn't finite, or all products are so small that their squares underflow.
        """
        self._swap(pending, self.expanded)
        product = self.operator.matvec(self.rows[self.expanded])
        coefficients, outside, beta = self.rows.orthogonalise(product)
        if not np.isfinite(beta):
            raise InputError(NOT_FINITE)
        length = float(np.hypot(np.linalg.norm(coefficients), beta))
        self._largest_product = max(self._largest_product, length)
        if self._largest_product < LEAST_SQUARED:  # the norm is a root of squares
            refuse_underflow(float(product.abs().max()))
        self._projection[: self.size, self.expanded] = coefficients
        self._projection[self.expanded, : self.expanded] = coefficients[: self.expanded]
        self.expanded += 1
        alpha = float(coefficients[self.expanded - 1])
        if self.size == self.operator.dim:
            return Expansion(alpha, 0.0, None)
        hidden = self._rounding(length) if follow_noise else self._noise
        if outside is None or (beta <= hidden and not follow_noise):
            return Expansion(alpha, hidden, None)
        added = self._append(outside)
        self._projection[added, self.expanded - 1] = beta
        return Expansion(alpha, max(beta, hidden), added)

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values (m,) ascending, coordinates of the Ritz vectors as columns (m, m), and residual norms (m,)."""
        values, coordinates = np.linalg.eigh(self.projection)
        return values, coordinates, np.linalg.norm(self.border @ coordinates, axis=0)

    def combine(self, coordinates: np.ndarray) -> Tensor:
        """The normalised vectors (n, l) with coordinates (m, l) in the expanded basis."""
        vectors = self.rows.combine(coordinates)
        vectors /= torch.stack([norm(each) for each in vectors.unbind(1)]).to(vectors.dtype)
        return vectors

    def restart(self, values: np.ndarray, coordinates: np.ndarray, pending: int) -> None:
        """Thick restart: l Ritz pairs, values (l,) and coordinates (m, l), replace the expanded basis.

        The residuals of the pairs lie in the span of the pending vectors. At most ``pending`` directions of that span
        are kept, the strongest ones, and none at the level of rounding. The estimated residual norms lack the dropped
        directions. The Ritz vectors' own projection doesn't change.
        """
        directions, coefficients = self._remaining(coordinates)
        kept, added = len(values), min(pending, len(coefficients))
        self.rows.replace(scipy.linalg.block_diag(coordinates, directions[:, :added]))
        self._projection[:] = 0
        self._projection[range(kept), range(kept)] = values
        self._projection[kept : kept + added, :kept] = coefficients[:added]
        self.expanded = kept

    def residual_block(self, coordinates: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The residuals of Ritz vectors: directions outside the expanded basis and coefficients, without rounding.

        Args:
            coordinates: coordinates of the Ritz vectors in the expanded basis, (m, l).

        Returns:
            Orthonormal rows (r, n), and the residuals' coefficients (r, l) along these rows.
        """
        directions, coefficients = self._remaining(coordinates)
        return self.rows.combine(directions, self.expanded).T, coefficients

    def append_residual_block(self, rows: Tensor, coefficients: np.ndarray) -> None:
        """Add the `residual_block` of the first l vectors, after a restart that dropped all pending vectors.

        The residuals may have a part within the present basis. The projection is symmetric, so it already has the part
        along the expanded vectors; the part along the pending vectors is added here.
        """
        for row, part in zip(rows, coefficients, strict=True):
            within, outside, beta = self.rows.orthogonalise(row)
            pending = slice(self.expanded, self.size)
            self._projection[pending, : len(part)] += within[pending, None] * part
            strong = beta * np.linalg.norm(part) > self._noise
            if outside is not None and strong and self.size < self.operator.dim:
                self._projection[self._append(outside), : len(part)] = beta * part

    def orthogonality_defect(self) -> float:
        """Max |Q Q^T - I|; far above the level of rounding, there would be ghosts: spurious copies of Ritz values."""
        return self.rows.defect()

    def strongest(self, coordinates: np.ndarray) -> int:
        """Index of the pending vector with the largest component in the residuals of Ritz vectors (m, l)."""
        contributions = np.abs(self.border @ coordinates).max(axis=1)
        return self.expanded + int(np.argmax(contributions))

    def _remaining(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Orthonormal directions (p, r) among the pending vectors, and the residuals' coefficients (r, l) along them.

        The strongest direction comes first, and there is none at the level of rounding.
        """
        directions, strengths, residuals = np.linalg.svd(self.border @ coordinates, full_matrices=False)
        strong = strengths > self._noise
        return directions[:, strong], strengths[strong, None] * residuals[strong]

    @property
    def _noise(self) -> float:
        """The level of rounding: the norm that rounding leaves of a product."""
        return 4 * self._rounding(self._largest_product)

    def _rounding(self, length: float) -> float:
        """The norm of the rounding of a vector of norm ``length``; 0 for a zero product, which hides no direction.

        Entries below the smallest normal number are rounded by a larger share, hence the lower bound on the norm.
        """
        least = math.sqrt(self.operator.dim) * torch.finfo(self.operator.dtype).tiny
        return self._eps * max(length, least) if length else 0.0

    def _append(self, vector: Tensor) -> int:
        added = self.rows.append(vector)
        self._projection[added] = 0
        return added

    def _swap(self, i: int, j: int) -> None:
        if i != j:
            self.rows.swap(i, j)
            self._projection[[i, j]] = self._projection[[j, i]]
