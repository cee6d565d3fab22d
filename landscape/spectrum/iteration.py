"""Thick-restart Lanczos iteration: a Krylov basis grows until the wanted Ritz pairs meet a goal.

The thick restart is Wu and Simon's (2000). `KrylovBasis` keeps Ritz vectors and pending vectors apart. The goal of
`landscape.spectrum.solve` is for residual norms, and the goal of `landscape.spectrum.certified` is for eigenvalues.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from landscape.machine.widened import NoFloat64Error
from landscape.operator import SymmetricOperator
from landscape.reporting.progress import Progress
from landscape.spectrum.ends import Which, order_by_which, select
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.products import norm, refuse_asymmetry
from landscape.spectrum.rounding import Float64Products
from landscape.spectrum.verified import Verified


@dataclass(frozen=True)
class Goal:
    """The goal of a solve: k eigenpairs at the end ``which`` to the relative accuracy ``tol``, within ``max_products``.

    The accuracy is that of the residual norms in a `Solve`, and that of the eigenvalues in a `CertifiedSolve`.
    """

    k: int
    which: Which
    tol: float
    max_products: int


@dataclass(frozen=True)
class Ritz:
    """The wanted Ritz pairs of the present basis.

    Attributes:
        values: Ritz values, (k,).
        border: components of the residuals along the pending vectors, (p, k).
        residuals: estimated residual norms, (k,): the column norms of ``border``.
        coordinates: coordinates of the Ritz vectors in the expanded basis, (m, k).
        scale: the largest |Ritz value| of the whole basis.
    """

    values: np.ndarray
    border: np.ndarray
    residuals: np.ndarray
    coordinates: np.ndarray
    scale: float

    def first(self, count: int) -> Ritz:
        """The first ``count`` pairs."""
        return Ritz(
            self.values[:count],
            self.border[:, :count],
            self.residuals[:count],
            self.coordinates[:, :count],
            self.scale,
        )


class Iteration(ABC):
    """A Krylov basis that grows until the wanted Ritz pairs meet the goal, with a count of its products.

    Attributes:
        basis: the Krylov basis.
        seed: seed of all random vectors except those of the basis.
        memory: bytes that all vectors may take; None for the memory that the operator leaves.
        miss_probability: bound on the probability that a wanted eigenvalue was missed; 1 before a search.
        verification: number of products for verification and search.
        exact: wanted Ritz vectors and their products in full precision, (n, k) each, if the operator's products are in
            less precision than its vectors; otherwise None.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        goal: Goal,
        basis: KrylovBasis,
        progress: Callable[[Progress], None],
        seed: int,
        memory: int | None = None,
    ) -> None:
        self.operator, self.goal, self.basis, self.seed, self.memory = operator, goal, basis, seed, memory
        self.miss_probability = 1.0
        self.verification = 0
        self.exact: tuple[Tensor, Tensor] | None = None
        self._measured = 0.0
        self._progress = progress
        self._products_before = operator.products
        self._first_excess = 0.0

    @abstractmethod
    def run(self) -> Verified:
        """Solve to the goal; the result marks each pair as converged or not."""

    @abstractmethod
    def allowed(self, ritz: Ritz) -> np.ndarray:
        """The estimated residual norms (k,) at which the iteration ends."""

    @property
    def products(self) -> int:
        """Products made in this run."""
        return self.operator.products - self._products_before

    @cached_property
    def _full(self) -> Float64Products | None:
        """Products in full precision, if the operator's own are in less precision than its vectors; otherwise None."""
        try:
            return Float64Products(self.operator) if self.operator.reduced else None
        except NoFloat64Error:
            return None

    @property
    def exhausted(self) -> bool:
        """Whether the limit on products is reached."""
        return self.products >= self.goal.max_products

    def converge(self) -> None:
        """Iterate and measure the rounding; iterate again if the rounding lowers the allowed residual norms."""
        if self.iterate() or self._full:
            self.measure_rounding()
            if self.iterate() and self._full:  # the exact products must be with the final pairs
                self.measure_rounding()

    def iterate(self) -> bool:
        """Expand the basis until the estimated residual norms are allowed; False if no expansion was needed."""
        expanded = False
        while True:
            self.make_room()
            ritz = self.wanted()
            if ritz is not None:
                allowed = self.allowed(ritz)
                if (ritz.residuals <= allowed).all() or self.exhausted:
                    return expanded
                self.tell("iterating", ritz, allowed)
            self.basis.expand(self.next_pending(ritz))
            expanded = True

    def wanted(self) -> Ritz | None:
        """The wanted Ritz pairs, or None while there are fewer than k."""
        return self.outermost(self.goal.k) if self.basis.expanded >= self.goal.k else None

    def ritz_pairs(self) -> Ritz:
        """The wanted Ritz pairs of a basis that has k of them."""
        ritz = self.wanted()
        assert ritz is not None, "iterate returns with k pairs"
        return ritz

    def outermost(self, count: int) -> Ritz:
        """The ``count`` outermost Ritz pairs: the wanted pairs first, then the pairs next to them."""
        values, coordinates, residuals = self.basis.ritz()
        chosen = order_by_which(values, self.goal.k, self.goal.which)[:count]
        border = self.basis.border @ coordinates[:, chosen]
        return Ritz(values[chosen], border, residuals[chosen], coordinates[:, chosen], float(np.abs(values).max()))

    def rounding(self, ritz: Ritz) -> float:
        """The norm of the rounding errors of a basis of m vectors: sqrt(m) (e + 4 eps ||A||).

        Here e is the measured error of a product. The second term is for the two passes of orthogonalisation and for
        storing the vector.
        """
        orthogonalisation = 4 * torch.finfo(self.operator.dtype).eps * ritz.scale
        return math.sqrt(self.basis.expanded) * (self._measured + orthogonalisation)

    def residuals(self, ritz: Ritz) -> np.ndarray:
        """The residual norms (k,), with the rounding error of a product added in the mean square."""
        residuals: np.ndarray = np.hypot(ritz.residuals, self._measured)
        return residuals

    def measure_rounding(self) -> None:
        """Compare the projection with one product of a random combination of the expanded basis.

        For z uniform on the unit sphere, the root mean square of ||(A Q - Q P) z|| is ||A Q - Q P||_F / sqrt(m).

        Where products are in less precision than vectors, one combination shows little. The error is then another
        matrix instead of noise, and is largest along the largest eigenvalues. So each wanted Ritz vector is multiplied
        in full precision. The combination z is then orthogonal to these vectors and is multiplied in full precision
        too.

        Raises:
            InputError: product and projection differ by more than rounding explains.
        """
        m, ritz = self.basis.expanded, self.ritz_pairs()
        exact_coordinates = ritz.coordinates if self._full else np.zeros((m, 0))
        z = np.random.default_rng([self.seed, m]).standard_normal(m)
        z -= exact_coordinates @ (exact_coordinates.T @ z)
        remaining = m - exact_coordinates.shape[1]
        along = np.column_stack([exact_coordinates, z / np.linalg.norm(z)] if remaining else [exact_coordinates])
        weights = np.append(np.ones(exact_coordinates.shape[1]), [remaining] if remaining else [])
        vectors = self.basis.rows.combine(along)
        products = (self._full or self.operator.matmat)(vectors)
        self.verification += along.shape[1]
        if self._full:
            self.exact = vectors[:, : self.goal.k], products[:, : self.goal.k].to(vectors.dtype)
        predicted = self.basis.rows.combine(self.basis.relation @ along)
        squares = np.array([float(norm(each)) ** 2 for each in (products - predicted).unbind(1)])
        self._measured = math.sqrt(weights @ squares / m)
        refuse_asymmetry(self.operator, self._measured, ritz.scale)

    def next_pending(self, ritz: Ritz | None) -> int:
        """The pending vector to multiply next: the strongest in the residuals of unconverged pairs, or a random one."""
        if self.basis.size == self.basis.expanded:
            injected = self.basis.append_random()
            assert injected is not None, "an exhausted space has converged"
            return injected
        if ritz is None:
            return self.basis.expanded
        return self.basis.strongest(ritz.coordinates[:, ritz.residuals > self.allowed(ritz)])

    def make_room(self, slots: int = 1) -> None:
        """Restart from the wanted Ritz vectors and those next to them if fewer than ``slots`` slots are free.

        The restart keeps few enough Ritz vectors that all pending vectors have room too. A residual norm that lacks a
        pending vector's part would be too small.
        """
        k, capacity = self.goal.k, self.basis.capacity
        if self.basis.size + slots > capacity < self.operator.dim:
            values, coordinates, _ = self.basis.ritz()
            pending = max(1, self.basis.size - self.basis.expanded)
            keep = max(k, min((k + capacity) // 2, capacity - pending - 2))
            kept = select(values, keep, self.goal.which)
            self.basis.restart(values[kept], coordinates[:, kept], capacity - keep - 2)

    def tell(self, phase: str, ritz: Ritz, allowed: np.ndarray) -> None:
        """Report the relative residual norms, and their fall on a logarithmic scale as the fraction of the work."""
        size = np.abs(ritz.values)
        relative = np.divide(ritz.residuals, size, out=np.zeros(self.goal.k), where=size > 0)
        above = ritz.residuals > allowed
        excess = float(np.log(ritz.residuals[above] / np.maximum(allowed[above], 1e-16 * ritz.scale)).sum())
        self._first_excess = max(self._first_excess, excess)
        fraction = 1 - excess / self._first_excess if self._first_excess else 1.0
        self._progress(Progress(phase, self.products, relative, fraction))
