"""A solve to a goal for the residual norms: iterate, verify, search the complement, and repeat after a find."""

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

# Basis vectors that a search leaves to its chain instead of locking more pairs.
_ROOM = 40
_HOPELESS = 0.3  # largest useful claim of a chain: a dozen chains with larger claims would prove nothing


@final
class Solve(Iteration):
    """One run of the solver to a goal for the residual norms."""

    _alone = False  # whether a search locks the wanted pairs only
    _estimated = np.zeros(0)  # (k,) the residual norms without rounding

    @cached_property
    def _errors(self) -> Float64Errors:
        return Float64Errors(self.operator, self.goal.k, self.seed, self.memory)

    def run(self) -> Verified:
        """See `Iteration.run`."""
        return self.certify(self.searched())

    def searched(self) -> Verified:
        """The wanted pairs after a search without success, with the errors that the operator's own products show."""
        eigenvalue_found = True
        while eigenvalue_found:
            self.converge()
            verified = self.verified()
            eigenvalue_found = bool(verified.converged.all()) and not self.exhausted and self.search(verified)
        return verified

    def converge(self) -> None:
        """See `Iteration.converge`; then measure the distance of the wanted pairs from those in float64."""
        super().converge()
        if not (self.operator.in_float64 or self._full):
            ritz = self.ritz_pairs()
            self.verification += self._errors.measure(self.basis, ritz.values, ritz.coordinates)

    def certify(self, verified: Verified) -> Verified:
        """The pairs with the errors that products in full precision or in float64 show."""
        if self._full and self.exact:
            return self.refine(verified, self._full, *self.exact)
        before = self.products
        certified = self._errors.certify(verified, self._estimated, self.goal.tol, self.goal.which)
        self.verification += self.products - before
        return certified

    def refine(self, verified: Verified, wide: Float64Products, vectors: Tensor, products: Tensor) -> Verified:
        """New Ritz pairs from products in full precision; their residual norms contain the earlier rounding."""
        pairs = refined(wide, vectors, products, self.goal.which)
        self.verification += 1
        allowed = np.maximum(self.goal.tol * np.abs(pairs.values), verified.rounding)
        reason = "" if wide.operator.in_float64 else "the model can't be evaluated in float64"
        arithmetic_of = arithmetic(wide.operator, reason)
        return replace(verified, **vars(pairs), converged=pairs.residuals <= allowed, arithmetic=arithmetic_of)

    def allowed(self, ritz: Ritz) -> np.ndarray:
        """See `Iteration.allowed`: tol |theta|, or the level of rounding if larger, less the measured rounding.

        The squares are subtracted, because rounding adds to a residual norm in the mean square.
        """
        limit = np.maximum(self.goal.tol * np.abs(ritz.values), self.rounding(ritz))
        return np.sqrt(limit**2 - self._measured**2)

    def verified(self) -> Verified:
        """The wanted pairs; within residual norm plus rounding of each Ritz value there is an eigenvalue."""
        ritz = self.ritz_pairs()
        allowed, rounding = self.allowed(ritz), self.rounding(ritz)
        self.tell("verifying", ritz, allowed)
        residuals, self._estimated = self.residuals(ritz), ritz.residuals
        radius = residuals + rounding
        intervals = np.stack([ritz.values - radius, ritz.values + radius], axis=1)
        vectors = self.basis.combine(ritz.coordinates)
        return Verified(ritz.values, intervals, residuals, ritz.residuals <= allowed, vectors, rounding)

    def search(self, verified: Verified) -> bool:
        """Search for wanted eigenvalues that the basis lacks: further copies, of which one start vector sees only one.

        A basis with little room has a short chain, which proves little. Another chain from a new random vector then
        strengthens the proof; see `landscape.spectrum.search.together`. Chains that prove too little end the search.

        Returns:
            Whether an eigenvalue was found, so that the iteration must go on. Otherwise `miss_probability` bounds the
            chance of a missed eigenvalue.
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
        """Search by one chain; returns its bound on the chance of a missed eigenvalue, or None if one is found.

        The basis keeps only the wanted Ritz vectors and some next to them. A Lanczos chain from a new random vector
        then sees the operator compressed to the complement, where every missed eigenvector lies. If the wanted Ritz
        values move, an eigenvalue was missed. Otherwise the chain bounds the start vector's component along any missed
        eigenvector; see `landscape.spectrum.search`. One chain runs at a time, because a block of chains would prove
        less.

        Args:
            verified: the verified pairs, with which the moving Ritz values are compared.
            claims: bounds of the chains before.
        """
        wanted = self.ritz_pairs()
        # Both sets of values have their own rounding and that of the dense solver.
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
        """The Ritz pairs to lock (the wanted pairs and some next to them), and the edges for a chain in the complement.

        A chain's bound falls faster if the spectrum in its space is further from the edges. A locked pair isn't in that
        space. But a locked pair's residual norm moves the edges inwards, see `edges_for_the_rest`. Here the edges move
        at most a quarter of the way to the first pair that isn't wanted. The wanted pairs don't move the edges, because
        the k + 1st eigenvalue is never above the largest in a complement of dimension n - k. Once a chain has met a
        Ritz value at moved edges, only the wanted pairs are locked.

        Args:
            wanted: wanted Ritz pairs, which are always locked.
            outer: edges for a chain in the complement of the wanted pairs.
            rounding: norm of the matrix's rounding errors.
        """
        k, limit = self.goal.k, self.basis.expanded
        if self.basis.capacity < self.operator.dim:
            limit = min(limit, self.basis.capacity - _ROOM)
        ritz, inner = wanted, outer
        if self._alone or limit <= k:
            return ritz, inner
        everything = self.outermost(limit)
        others = everything.values[k:]
        innermost = (3 * outer[0] + others.max()) / 4, (3 * outer[1] + others.min()) / 4
        for count in range(k + 1, limit + 1):
            if not outer[1] < everything.values[count - 1] < outer[0]:
                break
            above, below = edges_for_the_rest(everything.values[k:count], everything.border[:, k:count], outer)
            if above - rounding < innermost[0] or below + rounding > innermost[1]:
                break
            ritz, inner = everything.first(count), (above - rounding, below + rounding)
        return ritz, inner

    def chances(self, verified: Verified, certain: np.ndarray, chain: Chain, spare: int) -> Iterator[float | None]:
        """Run one chain; yields after each step its bound on the chance of a miss, or None if an eigenvalue is found.

        Args:
            verified: the verified pairs, with which the moving Ritz values are compared.
            certain: largest change of each wanted Ritz value without a find, (k,).
            chain: a chain without steps.
            spare: slots of the basis that the chain leaves free, unless the basis has room for the whole space.
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
            if chain.dim < self.operator.dim - self.goal.k and chain.beyond:  # moved edges prove nothing more
                self._alone = True
                yield None
            yield chance
            pending = step.pending

    def depth(self, values: np.ndarray) -> np.ndarray:
        """The numbers that the order of ``which`` compares: magnitudes for LM, otherwise the values."""
        return np.abs(values) if self.goal.which == "LM" else values
