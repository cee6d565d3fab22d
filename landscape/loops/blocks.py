"""Products with the blocks H_ij of an untied matrix, and estimates of the blocks' traces and norms.

The estimates come from probe vectors v with independent entries +1 or -1: E v^T A v = tr A, E ||A v||^2 = ||A||_F^2.
A few directions are treated exactly first (deflation). If the probe vectors saw the outliers of the blocks, the samples
of a share would be far from normal. The share's interval would then hold in fewer than the stated 95 % of cases. For
*any* orthonormal Q, with P = I - Q Q^T,

    tr H_ij = tr Q^T H_ij Q + tr P H_ij P,
    ||H_ij||_F^2 = ||H_ij Q||_F^2 + ||P H_ji Q||_F^2 + ||P H_ij P||_F^2      (since H_ij^T = H_ji),

so deflation adds no bias; compare `landscape.spectrum.trace`. The untied matrix is multiplied with a few random
vectors, and Q spans the T parts of these products. Part i is in the range of the blocks H_i1, ..., H_iT. It contains
most of their outliers, of either sign. With Q = I, all unit vectors, nothing is left to probe.
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
"""Fewest probes whose standard error may end the estimation."""

_DEFLATION = 15
_NUMBER_OF_SKETCH = 1 << 32  # no probe has this number: Q is independent of the probes


@dataclass(frozen=True)
class BlockEstimates:
    """Traces and norms of the blocks H_ij, from random probe vectors or exact.

    Attributes:
        traces: (T, T), tr H_ij; symmetric.
        trace_errors: (T, T), standard errors of ``traces``; 0 where ``exact``.
        squared_norms: (T, T), ||H_ij||_F^2; symmetric.
        squared_norm_errors: (T, T), standard errors of ``squared_norms``; 0 where ``exact``.
        total: tr H_tied, the sum of ``traces``.
        total_error: standard error of ``total``; 0 where ``exact``.
        share: sum_{i != j} tr H_ij / tr H_tied; see `landscape.loops.share.share_of_means`.
        deflation: number of directions treated exactly, n where ``exact``.
        probes: number of probe vectors for the remaining directions, 0 where ``exact``.
        rounding: error that rounding may cause in ``total``: T sqrt(2 n) (r + d). The number r is the rounding measured
            in one product with a vector of signs; it is as large as ||R||_F of the errors R of all columns. The number
            d is ``frobenius`` of `landscape.spectrum.rounding.distance`. The sum over the columns of E is
            tr R E E^T <= ||R||_F ||E E^T||_F = T sqrt(n) ||R||_F. Q and the probe vectors share the n dimensions.
        goal: requested standard error of the share.
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
        """Whether the estimates are exact up to rounding, from all n unit vectors."""
        return self.probes == 0

    @property
    def vanishing(self) -> bool:
        """Whether the trace is zero within rounding; no number of probe vectors then defines the share."""
        return abs(self.total) + 2 * self.total_error <= self.rounding

    @property
    def converged(self) -> bool:
        """Whether the estimates are exact, the share's standard error meets the goal, or the trace is vanishing."""
        return self.exact or self.share.error <= self.goal or self.vanishing


@final
class UseBlock(SymmetricOperator):
    """The block H_ii, the curvature in the weights of one use; each product costs one product of the untied matrix.

    Args:
        whole: the untied matrix, of dimension T n.
        loop: the loop whose uses define the blocks.
        use: index i of the use, from 0.
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
    """The products H_ij v for a vector (n,), as (T, T, n) float64, from T products with the untied matrix.

    Product j has the vector in the place of use j, and zeros elsewhere.

    Raises:
        InputError: a product isn't finite.
    """
    vector = vector.to(whole.device, whole.dtype)
    uses = torch.eye(loop.uses, device=whole.device, dtype=whole.dtype)
    placed = uses[:, None, :] * vector[None, :, None]  # (T, n, T): in column j, copy j is the vector
    products = finite_products(whole, placed.flatten(0, 1)).unflatten(0, (loop.uses, loop.dim))  # (i, n, j)
    return products.movedim(2, 1).to(torch.float64)


def estimate_blocks(
    whole: SymmetricOperator, loop: Loop, probes: int, goal: float, seed: int, tell: Callable[[Progress], None]
) -> BlockEstimates:
    """Traces and norms of all blocks, exact where n is at most ``probes``, else estimated to a goal for the share.

    The goal is checked at 10 probe vectors and at each doubling, because each check is a chance to stop too early.

    Args:
        whole: the untied matrix, of dimension T n.
        loop: the loop whose uses define the blocks.
        probes: largest number of probe vectors.
        goal: standard error of the share at which probing stops.
        seed: seed of the probe vectors and of the random vectors that Q is made from.
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
    """Q, (n, min(15, n)), from the T parts, one for each use, of the columns of the products (T n, m)."""
    parts = sketch.unflatten(0, (loop.uses, loop.dim)).movedim(1, 0).flatten(1)
    return torch.linalg.qr(parts)[0][:, :_DEFLATION]


class _Samples:
    """Samples of the blocks' traces and squared norms: the exact part within Q, and each probe's part outside Q."""

    def __init__(self, whole: SymmetricOperator, loop: Loop, basis: Tensor) -> None:
        self._whole, self._loop, self._rows = whole, loop, basis.T
        self._within = np.zeros((2, loop.uses, loop.uses))  # for the traces and for the squared norms
        self._rest: list[np.ndarray] = []

    def include(self, direction: Tensor) -> None:
        """Add a column (n,) of Q."""
        products = products_by_use(self._whole, self._loop, direction)
        self._within += _tables(products @ direction, _squares(products) + _squares(outside(products, self._rows)))

    def draw(self, vector: Tensor) -> None:
        """Add a probe vector (n,)."""
        vector = outside(vector.to(self._rows), self._rows)
        products = products_by_use(self._whole, self._loop, vector)
        self._rest.append(_tables(products @ vector, _squares(outside(products, self._rows))))

    def _both(self) -> np.ndarray:
        """Unbiased samples of traces and squared norms, (m, 2, T, T); a single sample where Q spans everything."""
        return self._within + np.array(self._rest) if self._rest else self._within[None]

    def estimates(self, rounding: float, goal: float) -> BlockEstimates:
        """The estimates from all samples so far."""
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
    """Traces and squared norms, (2, T, T), made symmetric: H_ij and H_ji are transposes of each other."""
    tables = torch.stack([forms, squares])
    return ((tables + tables.mT) / 2).cpu().numpy()
