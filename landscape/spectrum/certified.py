"""Thick-restart Lanczos to a goal for the eigenvalues themselves: each in an interval that is narrow enough.

An eigenvalue's error is of the order of the squared residual norm. So far larger residual norms are enough.

Two variants save no products: locking the whole basis during the search, and iterating until more pairs can be locked.
The search gets shorter by as many products as the iteration gets longer, because the border couples the basis's last
vector to every pair that has not converged. On the Hessians of `benchmarks.accuracy.sweep` the sums were equal within
two products.
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from landscape.spectrum.certificate import certified_intervals
from landscape.spectrum.iteration import Iteration, Ritz
from landscape.spectrum.krylov import Expansion, KrylovBasis
from landscape.spectrum.rounding import Distance, distance
from landscape.spectrum.search import MISSED_AT_MOST, coefficients, unseen_edge
from landscape.spectrum.verified import Verified

# Upper and lower bound on the eigenvalues outside the wanted vectors: none is known, or there are no eigenvalues.
ANYTHING, NOTHING = (math.inf, -math.inf), (-math.inf, math.inf)


@final
class CertifiedSolve(Iteration):
    """One run of the solver to a goal for the certified relative accuracy of the eigenvalues.

    The iteration assumes that no eigenvalue outside the wanted Ritz vectors exceeds the last wanted value. It ends when
    the intervals are narrow enough under that assumption. A Lanczos chain from a random vector in the complement then
    lowers the bound on the eigenvalues there, until the certified intervals are narrow enough.

    If the chain meets an eigenvalue that the basis lacks, its Ritz vector is added to the basis, and both steps are
    repeated. Each search gets half the chance of error of the search before. So the chances add up to no more than
    `MISSED_AT_MOST`.
    """

    _searches = 0
    _distance = Distance()
    _bounded: tuple[Ritz, tuple[float, float]]  # the locked Ritz pairs, and bounds on the eigenvalues outside them

    def run(self) -> Verified:
        """See `Iteration.run`."""
        if not self.operator.in_float64:
            self._distance = distance(self.operator, self.seed)
        self.verification += self.products
        eigenvalue_missing = True
        while eigenvalue_missing:
            self.converge()
            self._bounded = self.ritz_pairs(), ANYTHING
            self.miss_probability = 1.0
            eigenvalue_missing = not self.exhausted and self.search()
        ritz, edges = self._bounded
        wanted = self.ritz_pairs()
        return Verified(
            values=wanted.values,
            intervals=self.intervals(ritz, edges),
            residuals=self.residuals(wanted),
            converged=self.certified(ritz, edges),
            vectors=self.basis.combine(wanted.coordinates),
            rounding=self.rounding(wanted),
            misjudged=self._distance.misjudged,
            arithmetic=self._distance.arithmetic(self.operator),
        )

    def rounding(self, ritz: Ritz) -> float:
        """See `Iteration.rounding`; this one includes the rounding error that all products share."""
        return super().rounding(ritz) + self._distance.spectral

    def intervals(self, ritz: Ritz, edges: tuple[float, float]) -> np.ndarray:
        """Certified intervals (k, 2), widened by the norm of the rounding.

        By Weyl's inequality rounding moves no eigenvalue, wanted or outside, by more than that norm.
        """
        rounding = self.rounding(ritz)
        outside = (edges[0] + rounding, edges[1] - rounding)
        intervals = certified_intervals(
            ritz.values, ritz.border, outside, self.operator.dim, self.goal.k, self.goal.which
        )
        return intervals + np.array([-rounding, rounding])

    def errors(self, ritz: Ritz, intervals: np.ndarray) -> np.ndarray:
        """Bounds (k,) on the distance of an eigenvalue from its Ritz value."""
        distances: np.ndarray = np.abs(intervals - ritz.values[: self.goal.k, None]).max(axis=1)
        return distances

    def limit(self, ritz: Ritz) -> np.ndarray:
        """The errors (k,) at which a pair counts as converged: tol |theta|, or four times the rounding if larger."""
        return np.maximum(self.goal.tol * np.abs(ritz.values[: self.goal.k]), 4 * self.rounding(ritz))

    def certified(self, ritz: Ritz, edges: tuple[float, float]) -> np.ndarray:
        """Whether each interval is narrow enough, (k,), given ``edges`` as bounds on the eigenvalues outside."""
        certified: np.ndarray = self.errors(ritz, self.intervals(ritz, edges)) <= self.limit(ritz)
        return certified

    def allowed(self, ritz: Ritz) -> np.ndarray:
        """See `Iteration.allowed`: an interval's width is proportional to the squared residual norm."""
        errors, limit = self.errors(ritz, self.intervals(ritz, self.target_edges(ritz))), self.limit(ritz)
        ratio = np.divide(limit, errors, out=np.ones_like(limit), where=errors > limit)
        return np.where(errors > limit, ritz.residuals * np.sqrt(ratio), np.inf)

    def wanted_edges(self, ritz: Ritz) -> tuple[float, float]:
        """The last wanted Ritz value at the upper and at the lower end; infinite for an end that isn't wanted."""
        k = self.goal.k
        value = float(ritz.values[k - 1])
        if self.goal.which == "LM":
            return abs(value), -abs(value)
        if self.goal.which == "BE":
            return float(ritz.values[(k - 1) // 2]), value if k > 1 else -math.inf
        return (value, -math.inf) if self.goal.which == "LA" else (math.inf, value)

    def target_edges(self, ritz: Ritz) -> tuple[float, float]:
        """The bounds on the eigenvalues outside that a search aims at: a little beyond the last wanted values.

        The margin is a quarter of ``tol``. Without the margin, an eigenvalue just beyond a last wanted value would
        make the solve begin again.
        """
        above, below = self.wanted_edges(ritz)
        return above + self.goal.tol / 4 * abs(above), below - self.goal.tol / 4 * abs(below)

    def locked(self, ritz: Ritz) -> Ritz:
        """The wanted Ritz pairs and as many pairs next to them as leave the intervals narrow, by bisection.

        Each locked pair leaves less outside for a search to see. But the residuals of locked pairs widen the intervals.
        """
        too_many, edges = self.basis.expanded + 1, self.target_edges(ritz)
        while too_many - len(ritz.values) > 1:
            count = (len(ritz.values) + too_many) // 2
            more = self.outermost(count)
            if self.certified(more, edges).all():
                ritz = more
            else:
                too_many = count
        return ritz

    def search(self) -> bool:
        """Bound the eigenvalues outside the locked Ritz vectors by a Lanczos chain from a random vector there.

        Returns:
            Whether the chain met an eigenvalue that the basis lacks; its Ritz vector is then in the basis.
        """
        self.miss_probability = 0.0
        wanted, dim = self.ritz_pairs(), self.operator.dim
        if self.basis.expanded == dim:
            self._bounded = wanted, NOTHING
            return False
        ritz = self.locked(wanted)
        locked = len(ritz.values)
        self._searches += 1
        chance = MISSED_AT_MOST / 2**self._searches
        seed = int(np.random.SeedSequence([self.seed, self._searches]).generate_state(1, np.uint64)[0])
        memory = None if self.basis.memory is None else 2 * self.basis.memory  # a chain as long, and locked vectors
        chain = KrylovBasis(self.operator, min(dim, locked + max(self.basis.capacity, 2)), seed, memory)
        chain.lock(ritz.values, self.basis.combine(ritz.coordinates))
        pending, steps = chain.append_random(), list[Expansion]()
        while pending is not None and not self.exhausted and (not chain.full or chain.size == dim):
            steps.append(chain.expand(pending, follow_noise=True))
            pending = steps[-1].pending
            self.verification += 1
            self.tell("searching", wanted, self.allowed(wanted))
            alpha, beta = coefficients(steps)
            edges = self.edges(alpha, beta, dim - locked, chance)
            self._bounded = ritz, edges
            self.miss_probability = MISSED_AT_MOST if steps[-1].beta else 0.0
            if self.certified(ritz, edges).all():
                return False
            values, coordinates = eigh_tridiagonal(alpha, beta[:-1])
            if not self.certified(ritz, (float(values[-1]), float(values[0]))).all():
                above, below = self.wanted_edges(ritz)
                met = -1 if values[-1] - above > below - values[0] else 0
                return self.take_up(chain.combine(np.r_[np.zeros(locked), coordinates[:, met]][:, None])[:, 0])
        return False

    def take_up(self, vector: Tensor) -> bool:
        """Expand the basis by a vector and by all pending vectors, because the vector may lie partly in their span.

        Returns:
            False if the basis already spans the vector and no vector was pending.
        """
        self.make_room(2)  # for the vector, and for what remains of its product
        pending = self.basis.size - self.basis.expanded
        added = self.basis.start(vector)
        if added is not None:
            self.basis.expand(added)
        for _ in range(pending):
            self.make_room()
            if self.basis.size > self.basis.expanded:
                self.basis.expand(self.basis.expanded)
        return added is not None or pending > 0

    def edges(self, alpha: np.ndarray, beta: np.ndarray, dim: int, chance: float) -> tuple[float, float]:
        """The upper and lower bound on the eigenvalues outside that a chain proves up to ``chance``.

        If both ends are wanted, each bound gets half the chance.
        """
        which = self.goal.which
        share = chance / 2 if which in ("LM", "BE") else chance
        above = unseen_edge(alpha, beta, dim, share) if which != "SA" else math.inf
        below = -unseen_edge(-alpha, beta, dim, share) if which != "LA" else -math.inf
        return above, below
