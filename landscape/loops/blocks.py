"""Products with the blocks H_ij of an untied matrix, and the blocks' traces and norms.

From probes v with independent entries +1 or -1, as E v^T A v = tr A and E ||A v||^2 = ||A||_F^2, once a few directions
are done exactly. With outliers of the blocks among what the probes see, the samples of a share are far from normal: its
interval from ten of them holds in some 85 % of cases instead of 95 %. For *any* orthonormal Q, with P = I - Q Q^T,

    tr H_ij = tr Q^T H_ij Q + tr P H_ij P,
    ||H_ij||_F^2 = ||H_ij Q||_F^2 + ||P H_ji Q||_F^2 + ||P H_ij P||_F^2      (since H_ij^T = H_ji),

so that nothing is biased; compare `landscape.spectrum.trace`. Q spans the T parts of products of the untied matrix with
a few random vectors: part i is in the range of the blocks H_i1, ..., H_iT, and has most of their outliers, whatever
their sign. With Q = I, all unit vectors, nothing is left to probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from landscape.loops.share import Share, share_of_means
from landscape.loops.untied import Loop
from landscape.operator import SymmetricOperator
from landscape.reporting.progress import Progress
from landscape.spectrum.basis_store import outside
from landscape.spectrum.probes import probe, probe_block, standard_error
from landscape.spectrum.products import finite_products, measured_rounding
from landscape.spectrum.rounding import distance

FEWEST_PROBES = 10
"""A standard error from fewer is too uncertain to stop by."""

_DEFLATION = 15
_NUMBER_OF_SKETCH = 1 << 32  # no probe has it, so that Q doesn't depend on the probes


@dataclass(frozen=True)
class BlockEstimates:
    """Traces and norms of the blocks H_ij, from random probes or exact.

    Attributes:
        traces: (T, T), tr H_ij; symmetric.
        trace_errors: (T, T), their standard errors; 0 where ``exact``.
        squared_norms: (T, T), ||H_ij||_F^2; symmetric.
        squared_norm_errors: (T, T), their standard errors; 0 where ``exact``.
        total: tr H_tied, the sum of ``traces``.
        total_error: its standard error.
        share: sum_{i != j} tr H_ij / tr H_tied; see `landscape.loops.share.share_of_means`.
        deflation: how many directions were done exactly, n where ``exact``.
        probes: how many saw the rest, 0 where ``exact``.
        rounding: what rounding may have done to ``total``: T sqrt(2 n) times the rounding measured in one product with
            a vector of signs, which is as large as ||R||_F of the errors R of all columns. The sum over the columns of
            E is tr R E E^T <= ||R||_F ||E E^T||_F = T sqrt(n) ||R||_F; Q and the probes share the n.
        goal: the standard error of the share that was asked for.
    """

    traces: np.ndarray
    trace_errors: np.ndarray
    squared_norms: np.ndarray
    squared_norm_errors: np.ndarray
    total: float
    total_error: float
    share: Share
    deflation: int
    probes: int
    rounding: float
    goal: float

    @property
    def exact(self) -> bool:
        """Up to rounding, from all n unit vectors."""
        return self.probes == 0

    @property
    def vanishing(self) -> bool:
        """The trace is zero as far as rounding lets it be told: its share is undefined, whatever the probes."""
        return abs(self.total) + 2 * self.total_error <= self.rounding

    @property
    def converged(self) -> bool:
        """Exact, or the share's standard error is at most the goal, or no probes will define it."""
        return self.exact or self.share.error <= self.goal or self.vanishing


@final
class UseBlock(SymmetricOperator):
    """H_ii, the curvature in the weights of one use alone; a product is one with the untied matrix.

    Args:
        whole: the untied matrix, of dimension T n.
        loop: whose uses its blocks are.
        use: i, from 0.
    """

    def __init__(self, whole: SymmetricOperator, loop: Loop, use: int) -> None:
        super().__init__(loop.dim, whole.device, whole.dtype, whole.memory, whole.processes)
        self._whole, self._loop, self._use = whole, loop, use
        self._rows = slice(use * loop.dim, (use + 1) * loop.dim)

    @property
    def float64_bytes(self) -> int:
        """See `SymmetricOperator.float64_bytes`."""
        return self._whole.float64_bytes

    def full_precision(self) -> SymmetricOperator:
        """See `SymmetricOperator.full_precision`."""
        return UseBlock(self._whole.full_precision(), self._loop, self._use)

    def _product(self, vectors: Tensor) -> Tensor:
        placed = vectors.new_zeros(self._whole.dim, vectors.shape[1])
        placed[self._rows] = vectors
        return self._whole.matmat(placed)[self._rows]


def products_by_use(whole: SymmetricOperator, loop: Loop, vector: Tensor) -> Tensor:
    """H_ij v for a vector (n,), as (T, T, n) float64: T products, of the vector in the place of each use.

    Raises:
        InputError: one of them isn't finite.
    """
    vector = vector.to(whole.device, whole.dtype)
    uses = torch.eye(loop.uses, device=whole.device, dtype=whole.dtype)
    placed = uses[:, None, :] * vector[None, :, None]  # (T, n, T): in column j, copy j is the vector
    products = finite_products(whole, placed.flatten(0, 1)).unflatten(0, (loop.uses, loop.dim))  # (i, n, j)
    return products.movedim(2, 1).to(torch.float64)


def estimate_blocks(
    whole: SymmetricOperator, loop: Loop, probes: int, goal: float, seed: int, tell: Callable[[Progress], None]
) -> BlockEstimates:
    """Traces and norms of all blocks, exactly where n is at most ``probes``, else to a goal of the share.

    The goal is judged at 10 probes and at each doubling, since each look is a chance to stop too early.

    Args:
        whole: the untied matrix, of dimension T n.
        loop: whose uses its blocks are.
        probes: the most that are drawn.
        goal: standard error of the share.
        seed: of the probes and of the vectors that Q is made from.
        tell: called after the T products of each vector.
    """
    exact = loop.dim <= probes
    sketched = 1 if exact else math.ceil(_DEFLATION / loop.uses)
    random = probe_block(whole, seed, range(_NUMBER_OF_SKETCH, _NUMBER_OF_SKETCH + sketched))
    sketch = finite_products(whole, random).to(torch.float64)
    own = measured_rounding(whole, random[:, 0], sketch[:, 0])
    rounding = loop.uses * math.sqrt(2 * loop.dim) * (own + distance(whole, seed).frobenius)
    basis = torch.eye(loop.dim, dtype=torch.float64, device=whole.device) if exact else _orthonormal(sketch, loop)
    samples = _Samples(whole, loop, basis)
    steps = basis.shape[1] + (0 if exact else probes)

    def tell_of(vectors: int) -> None:
        tell(Progress("multiplying" if exact else "probing", whole.products, np.empty(0), vectors / steps))

    for index, direction in enumerate(basis.unbind(1)):
        samples.include(direction)
        tell_of(index + 1)
    wanted = 0 if exact else FEWEST_PROBES
    for index in range(0 if exact else probes):
        samples.draw(probe(loop.dim, seed, index))
        tell_of(basis.shape[1] + index + 1)
        if index + 1 == wanted:
            if samples.estimates(rounding, goal).converged:
                break
            wanted *= 2
    return samples.estimates(rounding, goal)


def _orthonormal(sketch: Tensor, loop: Loop) -> Tensor:
    """Q (n, 15 or n) from the parts, one for each use, of columns (T n, m)."""
    parts = sketch.unflatten(0, (loop.uses, loop.dim)).movedim(1, 0).flatten(1)
    return torch.linalg.qr(parts)[0][:, :_DEFLATION]


class _Samples:
    """Traces and squared norms of the blocks: what Q has of them, and a (T, T) table of the rest for every probe."""

    def __init__(self, whole: SymmetricOperator, loop: Loop, basis: Tensor) -> None:
        self._whole, self._loop, self._rows = whole, loop, basis.T
        self._within = np.zeros((2, loop.uses, loop.uses))  # of traces and of squared norms
        self._rest: list[np.ndarray] = []

    def include(self, direction: Tensor) -> None:
        """Add a column (n,) of Q."""
        products = products_by_use(self._whole, self._loop, direction)
        self._within += _tables(products @ direction, _squares(products) + _squares(outside(products, self._rows)))

    def draw(self, vector: Tensor) -> None:
        """Add a probe (n,)."""
        vector = outside(vector.to(self._rows), self._rows)
        products = products_by_use(self._whole, self._loop, vector)
        self._rest.append(_tables(products @ vector, _squares(outside(products, self._rows))))

    def _both(self) -> np.ndarray:
        """(m, 2, T, T): unbiased samples of traces and squared norms; a single one where Q has everything."""
        return self._within + np.array(self._rest) if self._rest else self._within[None]

    def estimates(self, rounding: float, goal: float) -> BlockEstimates:
        """Everything, from what was sampled so far."""
        samples = self._both()
        errors = standard_error(samples) if self._rest else np.zeros(samples.shape[1:])
        (traces, squares), (trace_errors, square_errors) = samples.mean(0), errors
        totals, own = samples[:, 0].sum((1, 2)), np.trace(samples[:, 0], axis1=1, axis2=2)
        return BlockEstimates(
            traces=traces,
            trace_errors=trace_errors,
            squared_norms=squares,
            squared_norm_errors=square_errors,
            total=float(totals.mean()),
            total_error=float(standard_error(totals)) if self._rest else 0.0,
            share=share_of_means(totals - own, totals, rounding),
            deflation=len(self._rows),
            probes=len(self._rest),
            rounding=rounding,
            goal=goal,
        )


def _squares(products: Tensor) -> Tensor:
    return products.square().sum(-1)


def _tables(forms: Tensor, squares: Tensor) -> np.ndarray:
    """(2, T, T), each made symmetric: H_ij and H_ji are transposes of each other, with one trace and one norm."""
    tables = torch.stack([forms, squares])
    return ((tables + tables.mT) / 2).cpu().numpy()
