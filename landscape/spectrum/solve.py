"""Thick-restart Lanczos: iterate, verify, search the complement for what was missed, and again if that finds something.

The thick restart is Wu and Simon's (2000); keeping Ritz vectors and pending vectors apart is `KrylovBasis`'s work.
`Iteration` is what every goal needs; `Solve` pursues residuals, and `landscape.spectrum.certified` eigenvalues.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor

from landscape.machine.widened import NoFloat64Error
from landscape.operator import SymmetricOperator
from landscape.reporting.progress import Progress
from landscape.spectrum.certificate import edges_for_the_rest
from landscape.spectrum.ends import Edges, Which, edges, outwards_in, select
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.products import norm, refuse_asymmetry
from landscape.spectrum.refine import refined
from landscape.spectrum.rounding import WideProducts, arithmetic
from landscape.spectrum.search import MISSED_AT_MOST, Chain, together
from landscape.spectrum.verified import Float64Errors, Verified

# Vectors of a basis that a search leaves to its chain rather than hold more pairs: few chains are longer.
_ROOM = 40
_HOPELESS = 0.3  # a chain that claims to miss something as often as that: a dozen like it would prove nothing


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
        missed: bound on the probability that a wanted eigenvalue was missed; 1 while that wasn't searched.
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
        self.missed = 1.0
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
    def _full(self) -> WideProducts | None:
        """Products in full precision, where the operator's own are in less precision than vectors."""
        try:
            return WideProducts(self.operator) if self.operator.reduced else None
        except NoFloat64Error:
            return None

    @property
    def exhausted(self) -> bool:
        """No more products are allowed."""
        return self.products >= self.goal.max_products

    def settle(self) -> None:
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
        chosen = outwards_in(values, self.goal.k, self.goal.which)[:count]
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
            injected = self.basis.inject()
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


@final
class Solve(Iteration):
    """One run of the solver to a goal for the residuals."""

    _alone = False  # whether a search holds the wanted pairs alone
    _estimated = np.zeros(0)  # (k,) the residuals without rounding

    @cached_property
    def _errors(self) -> Float64Errors:
        return Float64Errors(self.operator, self.goal.k, self.seed, self.memory)

    def run(self) -> Verified:
        """See `Iteration.run`."""
        return self.certify(self.searched())

    def searched(self) -> Verified:
        """The wanted pairs, with errors as the products that were made show them, once nothing is missed."""
        found = True
        while found:
            self.settle()
            verified = self.verified()
            found = bool(verified.converged.all()) and not self.exhausted and self.search(verified)
        return verified

    def settle(self) -> None:
        """See `Iteration.settle`; and measure how far the wanted pairs are from those in float64."""
        super().settle()
        if not (self.operator.in_float64 or self._full):
            ritz = self.ritz_pairs()
            self.verification += self._errors.measure(self.basis, ritz.values, ritz.coordinates)

    def certify(self, verified: Verified) -> Verified:
        """The pairs with the errors that products in full precision show."""
        if self._full and self.exact:
            return self.refine(verified, self._full, *self.exact)
        before = self.products
        certified = self._errors.certify(verified, self._estimated, self.goal.tol, self.goal.which)
        self.verification += self.products - before
        return certified

    def refine(self, verified: Verified, wide: WideProducts, vectors: Tensor, products: Tensor) -> Verified:
        """The pairs anew, from products in full precision: in the residuals is all that rounding did to the others."""
        pairs = refined(wide, vectors, products, self.goal.which)
        self.verification += 1
        allowed = np.maximum(self.goal.tol * np.abs(pairs.values), verified.rounding)
        reason = "" if wide.operator.in_float64 else "the model can't be evaluated in float64"
        arithmetic_of = arithmetic(wide.operator, reason)
        return replace(verified, **vars(pairs), converged=pairs.residuals <= allowed, arithmetic=arithmetic_of)

    def allowed(self, ritz: Ritz) -> np.ndarray:
        """See `Iteration.allowed`: what was asked for, or the level of rounding, with what rounding adds."""
        limit = np.maximum(self.goal.tol * np.abs(ritz.values), self.rounding(ritz))
        return np.sqrt(limit**2 - self._measured**2)

    def verified(self) -> Verified:
        """The wanted pairs, each with an eigenvalue within its residual and the rounding."""
        ritz = self.ritz_pairs()
        allowed, rounding = self.allowed(ritz), self.rounding(ritz)
        self.tell("verifying", ritz, allowed)
        residuals, self._estimated = self.residuals(ritz), ritz.residuals
        radius = residuals + rounding
        intervals = np.stack([ritz.values - radius, ritz.values + radius], axis=1)
        vectors = self.basis.combine(ritz.coordinates)
        return Verified(ritz.values, intervals, residuals, ritz.residuals <= allowed, vectors, rounding)

    def search(self, verified: Verified) -> bool:
        """Look for wanted eigenvalues that the basis doesn't show: further copies, which one start vector cannot see.

        A basis with little room has a short chain, which shows little. The next chain from a fresh vector then adds to
        what it shows; see `landscape.spectrum.search.together`. Chains that show next to nothing are given up.

        Returns:
            Whether to iterate on, as something was found; otherwise `missed` says how surely there is nothing.
        """
        claims: list[float] = []
        self.missed = 1.0
        while not claims or (max(claims) < _HOPELESS and self.missed > MISSED_AT_MOST and not self.exhausted):
            claim = self.follow_chain(verified, claims)
            if claim is None:
                self.missed = 1.0
                return True
            claims.append(claim)
            self.missed = min(self.missed, together(claims))
        return False

    def follow_chain(self, verified: Verified, claims: Sequence[float]) -> float | None:
        """Search by one chain: what it claims to miss at most, or None once something is found.

        All but the wanted Ritz vectors, and some next to them, is let go. A Lanczos chain from a fresh vector then sees
        the operator compressed to their complement, where every missed eigenvector lies. Either the wanted Ritz values
        move: something was missed. Or the chain shows how small a part in a missed eigenvector its start must have had;
        see `landscape.spectrum.search`. One chain runs at a time: as a block they would prove less.

        Args:
            verified: what the basis is held to.
            claims: of the chains before.
        """
        wanted = self.ritz_pairs()
        # Both sets of values are off by their rounding, and by that of the dense solver.
        dense = self.basis.capacity * np.finfo(np.float64).eps * wanted.scale
        certain = verified.residuals + 2 * verified.rounding + dense
        margin = np.maximum(certain, self.goal.tol * np.abs(verified.values))
        ritz, inner = self.held(wanted, edges(verified.values, margin, self.goal.which), verified.rounding)
        aside = self.basis.remainders(ritz.coordinates)
        self.basis.restart(ritz.values, ritz.coordinates, 0)
        chain, claim = Chain(self.operator.dim - len(ritz.values), inner), 1.0
        for chance in self.chances(verified, certain, chain, len(aside[0])):
            if chance is None:
                self.basis.rejoin(*aside)
                return None
            claim = chance
            enough = claim <= max(claims) if claims else together([claim]) <= MISSED_AT_MOST
            if enough or self.exhausted:  # the largest claim counts
                break
        return claim

    def held(self, wanted: Ritz, outer: Edges, rounding: float) -> tuple[Ritz, Edges]:
        """The wanted Ritz pairs and some next to them, and the edges for a chain in the complement of all.

        A chain's chances fall the faster, the further what it sees is from the edges. A pair that is held isn't seen;
        but the larger its residual, the further in the edges go, see `edges_for_the_rest`: here at most a quarter of
        the way to the first pair that isn't wanted. The wanted pairs move nothing, as the k + 1st eigenvalue is never
        above the largest in a complement of dimension n - k. Once a chain has met something at edges that were moved,
        these are held alone.

        Args:
            wanted: what is held in any case.
            outer: the edges for a chain in the complement of these.
            rounding: the norm of what it adds to the matrix.
        """
        k, most = self.goal.k, self.basis.expanded
        if self.basis.capacity < self.operator.dim:
            most = min(most, self.basis.capacity - _ROOM)
        ritz, inner = wanted, outer
        if self._alone or most <= k:
            return ritz, inner
        everything = self.outermost(most)
        others = everything.values[k:]
        last = (3 * outer[0] + others.max()) / 4, (3 * outer[1] + others.min()) / 4
        for count in range(k + 1, most + 1):
            if not outer[1] < everything.values[count - 1] < outer[0]:
                break
            above, below = edges_for_the_rest(everything.values[k:count], everything.border[:, k:count], outer)
            if above - rounding < last[0] or below + rounding > last[1]:
                break
            ritz, inner = everything.first(count), (above - rounding, below + rounding)
        return ritz, inner

    def chances(self, verified: Verified, certain: np.ndarray, chain: Chain, spare: int) -> Iterator[float | None]:
        """Follow one chain: after each step the chance that it misses something, or None once something is found.

        Args:
            verified: what it is held to.
            certain: (k,) by how much the wanted Ritz values may move.
            chain: with no step yet.
            spare: slots of the basis that it leaves, unless that has room for the whole space.
        """
        pending = self.basis.inject()
        if pending is None:
            yield 0.0
        whole = self.basis.capacity == self.operator.dim
        while pending is not None and (whole or self.basis.size + spare < self.basis.capacity):
            step = self.basis.expand(pending, faint=True)
            self.verification += 1
            joint = self.ritz_pairs()
            self.tell("searching", joint, self.allowed(joint))
            chance = chain.add(step)
            if (np.abs(self.depth(joint.values) - self.depth(verified.values)) > certain).any():
                yield None
            if chain.dim < self.operator.dim - self.goal.k and chain.beyond:  # edges that were moved prove nothing more
                self._alone = True
                yield None
            yield chance
            pending = step.pending

    def depth(self, values: np.ndarray) -> np.ndarray:
        """What the order of ``which`` compares, so that equal magnitudes of either sign are no difference for LM."""
        return np.abs(values) if self.goal.which == "LM" else values
