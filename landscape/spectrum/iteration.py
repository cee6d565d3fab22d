"""A Krylov basis that grows, with restarts, until the wanted Ritz pairs are good enough, and what that costs.

The thick restart is Wu and Simon's (2000); keeping Ritz vectors and pending vectors apart is `KrylovBasis`'s work.
`landscape.spectrum.solve` pursues residuals, and `landscape.spectrum.certified` eigenvalues.
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
    """What is asked of a solve: the k pairs at the end ``which`` to a relative accuracy within so many products.

    The accuracy is that of the residuals or of the eigenvalues, as the kind of solve has it.
    """

    k: int
    which: Which
    tol: float
    max_products: int


@dataclass(frozen=True)
class Ritz:
    """The wanted Ritz pairs of the basis as it stands.

    Attributes:
        values: (k,).
        border: (p, k), what remains of the products with the Ritz vectors, along the pending vectors.
        residuals: (k,) its column norms, the estimated residuals.
        coordinates: (m, k).
        scale: the largest |Ritz value| of the whole basis.
    """

    values: np.ndarray
    border: np.ndarray
    residuals: np.ndarray
    coordinates: np.ndarray
    scale: float

    def first(self, count: int) -> Ritz:
        """The first of the pairs."""
        return Ritz(
            self.values[:count],
            self.border[:, :count],
            self.residuals[:count],
            self.coordinates[:, :count],
            self.scale,
        )


class Iteration(ABC):
    """A basis that grows until the wanted Ritz pairs are good enough, and what that costs.

    Attributes:
        basis: what was built.
        seed: of everything random beside the basis.
        memory: bytes that all vectors may take; None for what the operator leaves.
        miss_probability: bound on the probability that a wanted eigenvalue was missed; 1 while that wasn't searched.
        verification: products spent to verify and to search.
        exact: (n, k) wanted Ritz vectors and their products in full precision, where others are in less than vectors.
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
        """Solve; what didn't converge is marked as such in the result."""

    @abstractmethod
    def allowed(self, ritz: Ritz) -> np.ndarray:
        """The estimated residual norms (k,) at which iterating ends."""

    @property
    def products(self) -> int:
        """Products made in this run."""
        return self.operator.products - self._products_before

    @cached_property
    def _full(self) -> Float64Products | None:
        """Products in full precision, where the operator's own are in less precision than vectors."""
        try:
            return Float64Products(self.operator) if self.operator.reduced else None
        except NoFloat64Error:
            return None

    @property
    def exhausted(self) -> bool:
        """No more products are allowed."""
        return self.products >= self.goal.max_products

    def converge(self) -> None:
        """Iterate, and measure the rounding by which the result is judged, which may ask for more."""
        if self.iterate() or self._full:
            self.measure_rounding()
            if self.iterate() and self._full:  # exact products are with the pairs as they are in the end
                self.measure_rounding()

    def iterate(self) -> bool:
        """Expand the basis until the estimated residuals are those allowed; False if they were."""
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
        """The wanted Ritz pairs, once there are k."""
        ritz = self.wanted()
        assert ritz is not None, "iterate returns with k pairs"
        return ritz

    def outermost(self, count: int) -> Ritz:
        """The wanted Ritz pairs and those next to them, ``count`` together, in this order."""
        values, coordinates, residuals = self.basis.ritz()
        chosen = order_by_which(values, self.goal.k, self.goal.which)[:count]
        border = self.basis.border @ coordinates[:, chosen]
        return Ritz(values[chosen], border, residuals[chosen], coordinates[:, chosen], float(np.abs(values).max()))

    def rounding(self, ritz: Ritz) -> float:
        """The norm of what rounding adds to the matrix: of each of m products at random what one was off by.

        And a few eps ||A||, for its two passes of orthogonalisation and the vector as it is stored.
        """
        few = 4 * torch.finfo(self.operator.dtype).eps * ritz.scale
        return math.sqrt(self.basis.expanded) * (self._measured + few)

    def residuals(self, ritz: Ritz) -> np.ndarray:
        """(k,) the residual norms with what rounding adds to them in the mean square."""
        residuals: np.ndarray = np.hypot(ritz.residuals, self._measured)
        return residuals

    def measure_rounding(self) -> None:
        """Hold the projection to one product with a random combination of the expanded basis.

        With z uniform on the unit sphere the norm of (A Q - Q P) z is that of A Q - Q P in the Frobenius norm by
        sqrt(m), in the mean square. Where products are in less precision than vectors one combination says little: the
        error is another matrix and not noise, and largest along the largest eigenvalues. The wanted Ritz vectors are
        then multiplied in full precision, each of them, and so is z, which is orthogonal to these.

        Raises:
            InputError: they differ by percents, which isn't rounding.
        """
        m, ritz = self.basis.expanded, self.ritz_pairs()
        apart = ritz.coordinates if self._full else np.zeros((m, 0))
        z = np.random.default_rng([self.seed, m]).standard_normal(m)
        z -= apart @ (apart.T @ z)
        rest = m - apart.shape[1]
        along = np.column_stack([apart, z / np.linalg.norm(z)] if rest else [apart])
        weights = np.append(np.ones(apart.shape[1]), [rest] if rest else [])
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
        """The pending vector to multiply: the one that the unconverged wanted pairs lack most, or a fresh one."""
        if self.basis.size == self.basis.expanded:
            injected = self.basis.append_random()
            assert injected is not None, "an exhausted space has converged"
            return injected
        if ritz is None:
            return self.basis.expanded
        return self.basis.strongest(ritz.coordinates[:, ritz.residuals > self.allowed(ritz)])

    def make_room(self, slots: int = 1) -> None:
        """Restart from the Ritz vectors nearest to the wanted ones when the basis has fewer slots left.

        So few that what remains of their products has room too: a residual that misses a part of it would be too small.
        """
        k, capacity = self.goal.k, self.basis.capacity
        if self.basis.size + slots > capacity < self.operator.dim:
            values, coordinates, _ = self.basis.ritz()
            pending = max(1, self.basis.size - self.basis.expanded)
            keep = max(k, min((k + capacity) // 2, capacity - pending - 2))
            kept = select(values, keep, self.goal.which)
            self.basis.restart(values[kept], coordinates[:, kept], capacity - keep - 2)

    def tell(self, phase: str, ritz: Ritz, allowed: np.ndarray) -> None:
        """Report the relative residuals and how far they have fallen on a logarithmic scale."""
        size = np.abs(ritz.values)
        relative = np.divide(ritz.residuals, size, out=np.zeros(self.goal.k), where=size > 0)
        above = ritz.residuals > allowed
        excess = float(np.log(ritz.residuals[above] / np.maximum(allowed[above], 1e-16 * ritz.scale)).sum())
        self._first_excess = max(self._first_excess, excess)
        fraction = 1 - excess / self._first_excess if self._first_excess else 1.0
        self._progress(Progress(phase, self.products, relative, fraction))
