"""The largest eigenvalues of a symmetric matrix that changes a little from one turn to the next.

A turn begins with the vectors of the turn before: k Ritz vectors, and one explorer. Rayleigh-Ritz in their span needs a
product with each. Then the residual of the explorer and, as long as the interval of the largest eigenvalue is too wide,
the residual of the first Ritz vector join the basis, one product each (a Davidson method without preconditioner). So
do residuals of other wanted vectors above a tenth of the largest eigenvalue.

The lower end of the interval is the first Ritz value, minus rounding; no largest eigenvalue is below a Rayleigh
quotient. The upper end is that of the quadratic bound theta + rho^2 / (theta - theta_2) (Parlett 1998, section 11.7),
with the residual norm rho and the next Ritz value theta_2 in the place of the next eigenvalue, or theta + rho where
this is less. The upper end holds if no eigenvalue outside of the basis is larger. Nothing in a few products proves
that. The explorer, which every turn improves and stirs with a random vector, finds such eigenvalues as they rise.
Certified solves, one in every ``certify_every`` turns, count how often the interval held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.spectrum.eigenpairs import check_arguments, top_eigenpairs
from landscape.spectrum.products import finite_products

_MOST_PRODUCTS = 12  # of a turn, before a certified solve is cheaper
_ROUGH = 0.1  # residual norms of the wanted vectors, by the largest Ritz value: a vector beyond is a mixture of several
_STIRRED = 0.3  # part of a random vector in the explorer: a direction that rises later isn't in the others' span
_LEAST_OVERLAP = 0.5  # of the first vector with the last span; below this the matrix has changed abruptly
_ROUNDING = 8.0  # machine epsilons of the largest Ritz value, before a certificate has measured the rounding


@dataclass(frozen=True)
class Tracked:
    """The k largest eigenvalues at one turn.

    Attributes:
        eigenvalues: Ritz values, (k,) float64, descending.
        intervals: lower and upper ends, (k, 2). At a certified turn see `landscape.Eigenpairs`. Otherwise the first
            interval contains the largest eigenvalue if no eigenvalue outside of the tracked space is larger, and each
            other interval contains an eigenvalue.
        residuals: residual norms, (k,).
        eigenvectors: Ritz vectors, unit columns (n, k), on the operator's device and of its dtype.
        overlaps: norm of each vector's projection on the span of the turn before, (k,); NaN at the first turn.
        converged: whether the half-width of the first interval is at most ``tol`` of the value, or at the level of
            rounding.
        certified: whether this is a certified solve.
        miss_probability: chance that the certified solve missed an eigenvalue; NaN at other turns.
        turns_since_certificate: number of turns since the last certified solve.
        held: certified solves whose interval met the interval that tracking gave at the same turn, and their number.
        products: number of products of this turn.
    """

    eigenvalues: np.ndarray
    intervals: np.ndarray
    residuals: np.ndarray
    eigenvectors: Tensor
    overlaps: np.ndarray
    converged: bool
    certified: bool
    miss_probability: float
    turns_since_certificate: int
    held: tuple[int, int]
    products: int


@dataclass(frozen=True)
class _Ritz:
    """Ritz pairs of a basis: values (j,) descending, vectors (n, j), residual norms (j,), residual vectors (n, j)."""

    values: np.ndarray
    vectors: Tensor
    norms: np.ndarray
    residuals: Tensor

    @classmethod
    def of(cls, basis: Tensor, products: Tensor) -> _Ritz:
        """Rayleigh-Ritz in the span of orthonormal columns, with their products."""
        projected = (basis.T @ products).to(torch.float64)
        values, coordinates = torch.linalg.eigh((projected + projected.T) / 2)
        values, coordinates = values.flip(0), coordinates.flip(1).to(basis)
        vectors = basis @ coordinates
        residuals = products @ coordinates - vectors * values.to(basis)
        norms = torch.linalg.vector_norm(residuals, dim=0, dtype=torch.float64)
        return cls(values.cpu().numpy(), vectors, norms.cpu().numpy(), residuals)

    def bounds(self, rounding: float) -> tuple[float, float]:
        """The interval of the largest eigenvalue, if no eigenvalue outside of the basis is larger."""
        value, norm = float(self.values[0]), float(self.norms[0])
        gap = value - float(self.values[1]) if len(self.values) > 1 else 0.0
        above = min(norm, norm**2 / gap) if gap > 0 else norm
        return value - rounding, value + above + rounding


class EigenvalueTracker:
    """Follows the k largest eigenvalues of a matrix from turn to turn.

    Attributes:
        eigenvectors: vectors of the latest turn, (n, k); None before the first.
    """

    def __init__(self, k: int = 3, tol: float = 0.02, certify_every: int = 50, seed: int = 0) -> None:
        """Choose the settings.

        Args:
            k: number of eigenvalues. Default: 3.
            tol: goal for the relative half-width of the largest eigenvalue's interval. Default: 0.02.
            certify_every: turns from one certified solve to the next. Default: 50.
            seed: seed of the random vectors. Default: 0.

        Raises:
            InputError: a setting is out of range.
        """
        check_arguments(max(k, 1), k, "LA", tol, seed, None)
        if certify_every < 1:
            raise InputError(f"a certified solve is made every so many turns, at least 1, not {certify_every}")
        self.eigenvectors: Tensor | None = None
        self._k, self._tol, self._every, self._seed = k, tol, certify_every, seed
        self._explorer: Tensor | None = None
        self._since, self._turns, self._held = 0, 0, (0, 0)
        self._rounding = 0.0  # relative to the largest eigenvalue, measured by the last certified solve

    def update(self, operator: SymmetricOperator) -> Tracked:
        """Take a turn: the largest eigenvalues of the matrix as it is now.

        Raises:
            InputError: a product isn't finite, there are more eigenvalues than dimensions, or the matrix has another
                dimension than before.
        """
        if self.eigenvectors is not None and len(self.eigenvectors) != operator.dim:
            raise InputError(
                f"the tracked matrix had dimension {len(self.eigenvectors)}, and this one has {operator.dim}"
            )
        before, self._turns = operator.products, self._turns + 1
        last, self._since = self.eigenvectors, self._since + 1
        tracked = None if last is None else self._tracked(operator, last)
        if tracked is None or not tracked.converged or tracked.overlaps[0] < _LEAST_OVERLAP or self._due:
            found = self._certified(operator, last, tracked)
        else:
            found = tracked
        self.eigenvectors = found.eigenvectors
        return replace(found, products=operator.products - before)

    @property
    def _due(self) -> bool:
        return self._since >= self._every

    def _tracked(self, operator: SymmetricOperator, last: Tensor) -> Tracked:
        """Rayleigh-Ritz from the last vectors, with residuals joining the basis."""
        start = last if self._explorer is None else torch.cat([last, self._explorer], dim=1)
        basis = torch.linalg.qr(start)[0]
        products = finite_products(operator, basis)
        ritz = _Ritz.of(basis, products)
        if basis.shape[1] > self._k:
            basis, products, ritz = self._expanded(operator, basis, products, ritz, self._k)
        rounding = self._size_of_rounding(operator, ritz)
        while (worst := self._worst(ritz, rounding)) is not None and basis.shape[1] < min(_MOST_PRODUCTS, operator.dim):
            basis, products, ritz = self._expanded(operator, basis, products, ritz, worst)
        self._explorer = self._stirred(ritz)
        low, high = ritz.bounds(rounding)
        k, vectors = self._k, ritz.vectors[:, : self._k]
        intervals = ritz.values[:k, None] + np.outer(ritz.norms[:k] + rounding, [-1.0, 1.0])
        intervals[0] = low, high
        return Tracked(
            ritz.values[:k], intervals, ritz.norms[:k], vectors, _overlaps(vectors, last),
            self._narrow(ritz, rounding), False, np.nan, self._since, self._held, 0,
        )  # fmt: skip

    def _stirred(self, ritz: _Ritz) -> Tensor | None:
        """The next explorer: the Ritz vector after the k wanted ones, and some of a random vector."""
        wanted = ritz.vectors[:, : self._k]
        random = _random_beside(wanted, self._seed + self._turns)
        if random is None:
            return None
        mixed = _STIRRED * random + (ritz.vectors[:, self._k : self._k + 1] if ritz.vectors.shape[1] > self._k else 0)
        return mixed / torch.linalg.vector_norm(mixed)

    def _expanded(
        self, operator: SymmetricOperator, basis: Tensor, products: Tensor, ritz: _Ritz, which: int
    ) -> tuple[Tensor, Tensor, _Ritz]:
        """The basis with the residual of one Ritz vector; as it is where that residual is no new direction."""
        norm = float(ritz.norms[which])
        if basis.shape[1] >= operator.dim or norm == 0:
            return basis, products, ritz
        direction = ritz.residuals[:, which : which + 1] / norm
        for _ in range(2):  # twice is enough (Parlett 1998, section 6.9)
            direction = direction - basis @ (basis.T @ direction)
            direction = direction / torch.linalg.vector_norm(direction).clamp_min(torch.finfo(basis.dtype).tiny)
        basis = torch.cat([basis, direction], dim=1)
        products = torch.cat([products, finite_products(operator, direction)], dim=1)
        return basis, products, _Ritz.of(basis, products)

    def _worst(self, ritz: _Ritz, rounding: float) -> int | None:
        """The wanted vector whose residual joins the basis next; None where all are good enough."""
        if not self._narrow(ritz, rounding):
            return 0
        worst = int(ritz.norms[: self._k].argmax())
        return worst if ritz.norms[worst] > _ROUGH * np.abs(ritz.values).max() else None

    def _narrow(self, ritz: _Ritz, rounding: float) -> bool:
        low, high = ritz.bounds(rounding)
        return (high - low) / 2 <= max(self._tol * abs(float(ritz.values[0])), 4 * rounding)

    def _size_of_rounding(self, operator: SymmetricOperator, ritz: _Ritz) -> float:
        return max(self._rounding, _ROUNDING * operator.eps) * float(np.abs(ritz.values).max())

    def _certified(self, operator: SymmetricOperator, last: Tensor | None, tracked: Tracked | None) -> Tracked:
        """A certified solve, compared with what tracking found."""
        k, seed = self._k, self._seed + self._turns
        pairs = top_eigenpairs(operator, k, "LA", seed=seed, tol_value=self._tol, start=last)
        if tracked is not None and tracked.converged:
            (low, high), (lowest, highest) = tracked.intervals[0], pairs.intervals[0]
            self._held = self._held[0] + int(low <= highest and lowest <= high), self._held[1] + 1
        size = float(np.abs(pairs.eigenvalues).max())
        self._rounding = pairs.rounding / size if size else 0.0
        self._since, self._explorer = 0, _random_beside(pairs.eigenvectors, seed)
        overlaps = np.full(k, np.nan) if last is None else _overlaps(pairs.eigenvectors, last)
        return Tracked(
            pairs.eigenvalues, pairs.intervals, pairs.residuals, pairs.eigenvectors, overlaps,
            bool(pairs.converged[0]), True, pairs.miss_probability, 0, self._held, 0,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The vectors of the last turn, the counts and the seed of later turns, as tensors and numbers."""
        return {
            "eigenvectors": self.eigenvectors,
            "explorer": self._explorer,
            "since": self._since,
            "turns": self._turns,
            "held": list(self._held),
            "rounding": self._rounding,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.eigenvectors, self._explorer = state["eigenvectors"], state["explorer"]
        self._since, self._turns, self._rounding = state["since"], state["turns"], state["rounding"]
        self._held = int(state["held"][0]), int(state["held"][1])


def _overlaps(vectors: Tensor, last: Tensor) -> np.ndarray:
    """Norm of each column's projection on the span of other columns, (k,)."""
    basis = torch.linalg.qr(last)[0]
    return torch.linalg.vector_norm(basis.T @ vectors, dim=0, dtype=torch.float64).cpu().numpy()


def _random_beside(vectors: Tensor, seed: int) -> Tensor | None:
    """A random unit vector orthogonal to columns, (n, 1); None where they span the space."""
    n, k = vectors.shape
    if k >= n:
        return None
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(n, 1, generator=generator, dtype=torch.float64).to(vectors)
    random = random - vectors @ (vectors.T @ random)
    return random / torch.linalg.vector_norm(random)
