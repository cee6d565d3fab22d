"""An orthonormal basis that grows by products with a symmetric operator: the ground under every Lanczos method here.

The invariant kept throughout, with Q the basis, its first m vectors *expanded* (multiplied by the operator A) and the
other p *pending*:

    A Q_m = Q_{m+p} P,    P of shape (m + p, m).

With one start vector p is 1 and P is the Lanczos tridiagonal with its last row; with several it is band Lanczos; after
a thick restart P is a diagonal with a border (Wu and Simon 2000). All of it is one data structure because P is computed
as what it is, Q^T A Q, by full reorthogonalisation, and never inferred from a recurrence. A Ritz pair (theta, s) of the
leading m x m block then has the residual norm ||P[m:] s||, without another product.
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

# Held vectors are orthonormal to so many roundings: a solve leaves up to some hundred, a vector given twice 1/eps.
_HELD = 1000


@dataclass(frozen=True)
class Expansion:
    """What one product with a basis vector q added.

    Attributes:
        alpha: q^T A q.
        beta: norm of the part of A q outside the basis. Where that is below the level of rounding it is this level:
            what hides there can't be larger, and isn't known to be smaller. 0 where nothing can hide, since the basis
            spans the space or all products were zero.
        pending: index of that part as a new basis vector, or None where A q lay within the basis, up to rounding.
    """

    alpha: float
    beta: float
    pending: int | None


class KrylovBasis:
    """The basis Q, stored as rows, and the projection P; see the module's docstring.

    Args:
        operator: A.
        capacity: the most vectors it holds.
        seed: of the random ones.
        memory: bytes that they may take in memory; default: what the operator leaves, but for a few vectors.

    Attributes:
        rows: the vectors.
        expanded: m.

    Raises:
        InputError: there is no room for it; see `BasisStore`.
    """

    def __init__(self, operator: SymmetricOperator, capacity: int, seed: int, memory: int | None = None) -> None:
        self.operator = operator
        self.capacity = capacity
        self.expanded = 0
        few = 4 * operator.dim * operator.dtype.itemsize
        if memory is None and operator.memory is not None:
            memory = operator.memory - few
            if memory < 0:
                raise InputError(
                    f"a chain of vectors of {operator.dim:,} parameters takes {amount(few)} beside its basis, and "
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
        """How many vectors there are, m + p."""
        return self.rows.size

    @property
    def projection(self) -> np.ndarray:
        """(m, m), symmetric: Q_m^T A Q_m."""
        return self._projection[: self.expanded, : self.expanded]

    @property
    def border(self) -> np.ndarray:
        """(p, m): the part of A Q_m along the pending vectors."""
        return self._projection[self.expanded : self.size, : self.expanded]

    @property
    def relation(self) -> np.ndarray:
        """P, (m + p, m): the products A Q_m in coordinates of the whole basis."""
        return self._projection[: self.size, : self.expanded]

    @property
    def full(self) -> bool:
        return self.size == self.capacity

    def append_random(self) -> int | None:
        """Add a fresh random vector, orthogonal to the basis, as pending; None when the basis spans the whole space."""
        if self.size == self.operator.dim:
            return None
        vector = torch.randn(self.operator.dim, dtype=torch.float64, generator=self._generator)
        vector = vector.to(self.operator.device, self.operator.dtype)
        _, outside, _ = self.rows.orthogonalise(vector / torch.linalg.vector_norm(vector))
        assert outside is not None, "a random vector doesn't lie within fewer dimensions"
        return self._append(outside)

    def lock(self, values: np.ndarray, vectors: Tensor) -> None:
        """Begin an empty basis with known eigenpairs, (l,) and (n, l), as expanded.

        Chains that follow run in their complement: they see the operator compressed to it, since every product is
        orthogonalised against the pairs too. Deflating the operator alone would leave rounding in their span, which
        a chain amplifies until it takes it for an eigenvalue.

        Raises:
            InputError: the vectors aren't orthonormal, such as where one is given twice.
        """
        self.rows.extend(vectors)
        defect = self.orthogonality_defect()
        if not defect <= _HELD * self._eps:
            raise InputError(
                f"the eigenvectors to hold aren't orthonormal: max |V^T V - I| is {defect:.2g}, beyond rounding; give "
                "each eigenpair once, as a solve returns it"
            )
        self.expanded = self.size
        self._projection[range(self.size), range(self.size)] = values
        self._largest_product = float(np.abs(values).max(initial=0.0))

    def start(self, vector: Tensor) -> int | None:
        """Add a given vector's part outside the basis, normalised, as pending.

        Args:
            vector: (n,), of any finite length.

        Returns:
            Its index, or None when nothing is left of it but rounding: it is zero or within the basis.

        Raises:
            InputError: an entry is NaN or infinite.
        """
        vector = vector.to(self.operator.device, torch.float64)
        length = float(torch.linalg.vector_norm(vector))
        if not math.isfinite(length):
            raise InputError("a start vector has entries that are NaN or infinite, or too large to be squared")
        if length == 0 or self.size == self.operator.dim:
            return None
        _, outside, left = self.rows.orthogonalise((vector / length).to(self.operator.dtype))
        if outside is None or left <= 4 * math.sqrt(self.operator.dim) * self._eps:
            return None
        return self._append(outside)

    def expand(self, pending: int, *, follow_noise: bool = False) -> Expansion:
        """Multiply one pending vector and take the part of the product outside the basis as a new one.

        Args:
            pending: its index.
            follow_noise: take that part even where it is below the level of rounding. That part is mostly noise
                then, but may hide a direction that a search must not overlook, which later products make larger.

        Raises:
            InputError: the product isn't finite, or all are so small that their squares underflow.
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
        """Ritz values ascending (m,), their coordinates (m, m) by columns, and their residual norms (m,)."""
        values, coordinates = np.linalg.eigh(self.projection)
        return values, coordinates, np.linalg.norm(self.border @ coordinates, axis=0)

    def combine(self, coordinates: np.ndarray) -> Tensor:
        """The vectors (n, l) with given coordinates (m, l) in the expanded basis, normalised."""
        vectors = self.rows.combine(coordinates)
        vectors /= torch.stack([norm(each) for each in vectors.unbind(1)]).to(vectors.dtype)
        return vectors

    def restart(self, values: np.ndarray, coordinates: np.ndarray, pending: int) -> None:
        """Keep l Ritz pairs, values (l,) and coordinates (m, l), in place of the expanded basis (thick restart).

        The residuals of the pairs lie in the span of the pending vectors; of that span at most ``pending`` directions
        are kept, the strongest, and none that is at the level of rounding. The estimated residuals know nothing of the
        others; the projection stays what it is.
        """
        directions, coefficients = self._remaining(coordinates)
        kept, added = len(values), min(pending, len(coefficients))
        self.rows.replace(scipy.linalg.block_diag(coordinates, directions[:, :added]))
        self._projection[:] = 0
        self._projection[range(kept), range(kept)] = values
        self._projection[kept : kept + added, :kept] = coefficients[:added]
        self.expanded = kept

    def residual_block(self, coordinates: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """What is left of the products with Ritz vectors outside the expanded basis, but for what is rounding.

        Args:
            coordinates: (m, l).

        Returns:
            Orthonormal rows (r, n), and the remainders' coefficients (r, l) along them.
        """
        directions, coefficients = self._remaining(coordinates)
        return self.rows.combine(directions, self.expanded).T, coefficients

    def append_residual_block(self, rows: Tensor, coefficients: np.ndarray) -> None:
        """Take up again the `residual_block` of the first l vectors, which a restart without pending vectors let go.

        Of their part within the basis the expanded vectors' share is in the projection already, as that is symmetric.
        """
        for row, part in zip(rows, coefficients, strict=True):
            within, outside, beta = self.rows.orthogonalise(row)
            pending = slice(self.expanded, self.size)
            self._projection[pending, : len(part)] += within[pending, None] * part
            strong = beta * np.linalg.norm(part) > self._noise
            if outside is not None and strong and self.size < self.operator.dim:
                self._projection[self._append(outside), : len(part)] = beta * part

    def orthogonality_defect(self) -> float:
        """Max |Q Q^T - I|: at the level of rounding, or the Ritz values have ghosts."""
        return self.rows.defect()

    def strongest(self, coordinates: np.ndarray) -> int:
        """The pending vector that contributes most to the residuals of the Ritz vectors with these coordinates."""
        contributions = np.abs(self.border @ coordinates).max(axis=1)
        return self.expanded + int(np.argmax(contributions))

    def _remaining(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Orthonormal directions (p, r) among the pending vectors and the remainders' coefficients (r, l) along them.

        The strongest first, and none at the level of rounding.
        """
        directions, strengths, residuals = np.linalg.svd(self.border @ coordinates, full_matrices=False)
        strong = strengths > self._noise
        return directions[:, strong], strengths[strong, None] * residuals[strong]

    @property
    def _noise(self) -> float:
        """The size of what rounding leaves of a product."""
        return 4 * self._rounding(self._largest_product)

    def _rounding(self, length: float) -> float:
        """The rounding of a vector of this length, of which numbers below the smallest normal one have a larger share.

        0 of a product that is zero: a matrix of such products has nothing to hide.
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
