"""Thick-restart Lanczos: iterate, verify, search the complement for what was missed, and again if that finds something.

The thick restart is Wu and Simon's (2000); keeping Ritz vectors and pending vectors apart is `KrylovBasis`'s work.
`Iteration` is what every goal needs; `Solve` pursues residuals, and `landscape.spectrum.certified` eigenvalues.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.spectrum.ends import Which, edges, select
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.products import block_size, finite_products, inner, norm
from landscape.spectrum.progress import Progress
from landscape.spectrum.search import MISSED_AT_MOST, Chain


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


@dataclass(frozen=True)
class Verified:
    """The wanted Ritz pairs with their errors; see `landscape.Eigenpairs` for the fields."""

    values: np.ndarray
    intervals: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    vectors: Tensor
    rounding: float


class Iteration(ABC):
    """A basis that grows until the wanted Ritz pairs are good enough, and what that costs.

    Attributes:
        basis: what was built.
        missed: bound on the probability that a wanted eigenvalue was missed; 1 while that wasn't searched.
        verification: products spent to verify and to search.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        goal: Goal,
        basis: KrylovBasis,
        progress: Callable[[Progress], None],
    ) -> None:
        self.operator, self.goal, self.basis = operator, goal, basis
        self.missed = 1.0
        self.verification = 0
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

    @property
    def exhausted(self) -> bool:
        """No more products are allowed."""
        return self.products >= self.goal.max_products

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

    def outermost(self, count: int) -> Ritz:
        """The wanted Ritz pairs and those next to them, ``count`` together, in this order."""
        values, coordinates, residuals = self.basis.ritz()
        chosen = select(values, self.goal.k, self.goal.which)
        more = np.setdiff1d(select(values, count, self.goal.which), chosen)
        chosen = np.concatenate([chosen, more])
        border = self.basis.border @ coordinates[:, chosen]
        return Ritz(values[chosen], border, residuals[chosen], coordinates[:, chosen], float(np.abs(values).max()))

    def expected_rounding(self, scale: float) -> float:
        """What rounding leaves of a Ritz pair's residual: each of m products is off by a few eps ||A||, at random.

        A few: the product itself, its two passes of orthogonalisation, and the vector as it is stored.
        """
        return math.sqrt(self.basis.expanded) * 4 * torch.finfo(self.operator.dtype).eps * scale

    def next_pending(self, ritz: Ritz | None) -> int:
        """The pending vector to multiply: the one that the unconverged wanted pairs lack most, or a fresh one."""
        if self.basis.size == self.basis.expanded:
            injected = self.basis.inject()
            assert injected is not None, "an exhausted space has converged"
            return injected
        if ritz is None:
            return self.basis.expanded
        return self.basis.strongest(ritz.coordinates[:, ritz.residuals > self.allowed(ritz)])

    def make_room(self, slots: int = 1) -> None:
        """Restart from the Ritz vectors nearest to the wanted ones when the basis has fewer slots left."""
        if self.basis.size + slots > self.basis.capacity < self.operator.dim:
            values, coordinates, _ = self.basis.ritz()
            keep = min((self.goal.k + self.basis.capacity) // 2, self.basis.capacity - 3)
            kept = select(values, keep, self.goal.which)
            self.basis.restart(values[kept], coordinates[:, kept], self.basis.capacity - keep - 2)

    def tell(self, phase: str, ritz: Ritz, allowed: np.ndarray) -> None:
        """Report the relative residuals and how far they have fallen on a logarithmic scale."""
        size = np.abs(ritz.values)
        relative = np.divide(ritz.residuals, size, out=np.zeros(self.goal.k), where=size > 0)
        above = ritz.residuals > allowed
        excess = float(np.log(ritz.residuals[above] / np.maximum(allowed[above], 1e-16 * ritz.scale)).sum())
        self._first_excess = max(self._first_excess, excess)
        fraction = 1 - excess / self._first_excess if self._first_excess else 1.0
        self._progress(Progress(phase, self.products, relative, fraction))


@final
class Solve(Iteration):
    """One run of the solver to a goal for the residuals, each computed by a product of its own."""

    _strictness = 1.0

    def run(self) -> Verified:
        """See `Iteration.run`."""
        found = True
        while found:
            expanded = self.iterate()
            verified = self.verify()
            if self.exhausted:
                break
            if verified.converged.all():
                found = self.search(verified)
            elif not expanded:
                break  # the estimates are at the level of rounding: more products would change nothing
            else:
                self._strictness /= 4  # the estimates were more hopeful than the products
        return verified

    def allowed(self, ritz: Ritz) -> np.ndarray:
        """See `Iteration.allowed`."""
        return self._counted(ritz.values, self.expected_rounding(ritz.scale), self._strictness)

    def _counted(self, values: np.ndarray, rounding: float, strictness: float = 1.0) -> np.ndarray:
        """The residual norms (k,) that count as converged."""
        return np.maximum(strictness * self.goal.tol * np.abs(values), rounding)

    # ------------------------------------------------------------------ verify

    def verify(self) -> Verified:
        """Compute the residuals of the wanted pairs, k products, and measure the rounding of a product, one more."""
        ritz = self.wanted()
        assert ritz is not None, "iterate returns with k pairs"
        vectors = self.basis.combine(ritz.coordinates)
        compressed, residuals, measured = self._compute(vectors)
        self.verification += self.goal.k + 1
        self.refuse_asymmetry(compressed, measured)
        values = np.diag(compressed)
        # Rayleigh quotients can stand in another order than the Ritz values, within their errors.
        order = select(values, self.goal.k, self.goal.which)
        values, residuals = values[order], residuals[order]
        # A Ritz vector sums m basis vectors, each of whose products is off by this much.
        rounding = math.sqrt(self.basis.expanded) * measured + self.expected_rounding(ritz.scale)
        allowed = self._counted(values, rounding)
        self.tell("verifying", ritz, allowed)
        if (np.diff(order) < 0).any():
            vectors = vectors[:, torch.as_tensor(order.copy(), device=vectors.device)]
        radius = residuals + rounding
        intervals = np.stack([values - radius, values + radius], axis=1)
        return Verified(values, intervals, residuals, residuals <= allowed, vectors, rounding)

    def _compute(self, vectors: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
        """Of vectors V (n, k): V^T A V, the norms (k,) of A v - (v^T A v) v, and the rounding of a product.

        Block by block, as large problems have no memory for a product of each vector beside the vectors.
        """
        k, size, leading = vectors.shape[1], block_size(self.operator), -1.0
        compressed, residuals = np.zeros((k, k)), np.zeros(k)
        for start in range(0, k, size):
            products = finite_products(self.operator, vectors[:, start : start + size])
            compressed[:, start : start + size] = inner(vectors, products).cpu().numpy()
            for place, product in enumerate(products.unbind(1), start):
                value = compressed[place, place]
                residuals[place] = float(norm(product - float(value) * vectors[:, place]))
                if abs(value) > leading:
                    leading, known = abs(value), (vectors[:, place], product.clone())
        # The same product at another scale is rounded differently all the way through.
        again = self.operator.matvec(known[0] / 3) * 3
        return compressed, residuals, float(norm(again - known[1]))

    def refuse_asymmetry(self, compressed: np.ndarray, measured: float) -> None:
        """Hold v_i^T A v_j to v_j^T A v_i: a layer whose double backward is wrong shows here."""
        # Rounding is told by what was measured; derivatives that are wrong are off by percents, not by less.
        asymmetry, scale = float(np.abs(compressed - compressed.T).max()), float(np.abs(compressed).max())
        if asymmetry > max(0.01 * scale, 10 * measured):
            raise InputError(
                f"the operator isn't symmetric: v^T A w and w^T A v differ by {asymmetry:.2g} of {scale:.2g}; some "
                "layer's second derivative is wrong (in PyTorch 2.13, weight_norm's)"
            )

    # ------------------------------------------------------------------ search

    def search(self, verified: Verified) -> bool:
        """Look for wanted eigenvalues that the basis doesn't show: further copies, which one start vector cannot see.

        All but the wanted Ritz vectors is let go. A Lanczos chain from a fresh vector then sees the operator compressed
        to their complement, where every missed eigenvector lies. Either the wanted Ritz values move: something was
        missed. Or the chain shows how small a part in a missed eigenvector its start must have had; see
        `landscape.spectrum.search`. There is one chain: several together would prove less than the product of their
        chances, and where one has no room to decide, undecided is the answer.

        Returns:
            Whether something was found; otherwise `missed` says how surely there is nothing.
        """
        for chance in self.chances(verified):
            self.missed = 1.0 if chance is None else chance
            if chance is None or chance <= MISSED_AT_MOST or self.exhausted:
                return chance is None
        return False

    def chances(self, verified: Verified) -> Iterator[float | None]:
        """Follow one chain: after each step the chance that it misses something, or None once something is found."""
        ritz = self.wanted()
        assert ritz is not None, "only what has converged is searched"
        self.basis.restart(ritz.values, ritz.coordinates, 0)
        # Both sets of values are off by their rounding, and by that of the dense solver.
        dense = self.basis.capacity * np.finfo(np.float64).eps * ritz.scale
        certain = verified.residuals + 2 * verified.rounding + dense
        margin = np.maximum(certain, self.goal.tol * np.abs(verified.values))
        chain = Chain(self.operator.dim - self.goal.k, edges(verified.values, margin, self.goal.which))
        pending = self.basis.inject()
        if pending is None:
            yield 0.0
        while pending is not None and (not self.basis.full or self.basis.size == self.operator.dim):
            step = self.basis.expand(pending, faint=True)
            self.verification += 1
            joint = self.wanted()
            assert joint is not None, "the basis held k pairs before"
            self.tell("searching", joint, self._counted(joint.values, verified.rounding))
            if (np.abs(self.depth(joint.values) - self.depth(verified.values)) > certain).any():
                yield None
            yield chain.add(step)
            pending = step.pending

    def depth(self, values: np.ndarray) -> np.ndarray:
        """What the order of ``which`` compares, so that equal magnitudes of either sign are no difference for LM."""
        return np.abs(values) if self.goal.which == "LM" else values
