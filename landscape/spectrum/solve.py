"""A solve to a goal for the residuals: iterate, verify, search the complement, and again if that finds something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import final

import numpy as np
from torch import Tensor

from landscape.spectrum.certificate import edges_for_the_rest
from landscape.spectrum.ends import Edges, edges
from landscape.spectrum.iteration import Iteration, Ritz
from landscape.spectrum.refine import refined
from landscape.spectrum.rounding import Float64Products, arithmetic
from landscape.spectrum.search import MISSED_AT_MOST, Chain, together
from landscape.spectrum.verified import Float64Errors, Verified

# Vectors of a basis that a search leaves to its chain rather than hold more pairs: few chains are longer.
_ROOM = 40
_HOPELESS = 0.3  # a chain that claims to miss something as often as that: a dozen like it would prove nothing


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
            self.converge()
            verified = self.verified()
            found = bool(verified.converged.all()) and not self.exhausted and self.search(verified)
        return verified

    def converge(self) -> None:
        """See `Iteration.converge`; and measure how far the wanted pairs are from those in float64."""
        super().converge()
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

    def refine(self, verified: Verified, wide: Float64Products, vectors: Tensor, products: Tensor) -> Verified:
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
            Whether to iterate on, as something was found; otherwise `miss_probability` bounds the chance of more.
        """
        claims: list[float] = []
        self.miss_probability = 1.0
        while not claims or (max(claims) < _HOPELESS and self.miss_probability > MISSED_AT_MOST and not self.exhausted):
            claim = self.follow_chain(verified, claims)
            if claim is None:
                self.miss_probability = 1.0
                return True
            claims.append(claim)
            self.miss_probability = min(self.miss_probability, together(claims))
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
        ritz, inner = self.locked(wanted, edges(verified.values, margin, self.goal.which), verified.rounding)
        aside = self.basis.residual_block(ritz.coordinates)
        self.basis.restart(ritz.values, ritz.coordinates, 0)
        chain, claim = Chain(self.operator.dim - len(ritz.values), inner), 1.0
        for chance in self.chances(verified, certain, chain, len(aside[0])):
            if chance is None:
                self.basis.append_residual_block(*aside)
                return None
            claim = chance
            enough = claim <= max(claims) if claims else together([claim]) <= MISSED_AT_MOST
            if enough or self.exhausted:  # the largest claim counts
                break
        return claim

    def locked(self, wanted: Ritz, outer: Edges, rounding: float) -> tuple[Ritz, Edges]:
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
        pending = self.basis.append_random()
        if pending is None:
            yield 0.0
        whole = self.basis.capacity == self.operator.dim
        while pending is not None and (whole or self.basis.size + spare < self.basis.capacity):
            step = self.basis.expand(pending, follow_noise=True)
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
