"""The tied matrix of a loop beside the untied one: eigenvalues, and what of them is between different passes."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.hessian import Hessian
from landscape.errors import InputError, refuse_fractions
from landscape.loops.blocks import FEWEST_PROBES, BlockEstimates, UseBlock, estimate_blocks, products_by_use
from landscape.loops.share import UNDEFINED, Share
from landscape.loops.untied import Loop, untied
from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.reporting.progress import Progress, part
from landscape.spectrum import eigenpairs
from landscape.spectrum.eigenpairs import Eigenpairs, top_eigenpairs

PROBES = 100


@dataclass(frozen=True)
class TopShare:
    """The tied top eigenvalue by blocks, at its unit eigenvector v.

    Attributes:
        table: (T, T), v^T H_ij v / lambda, which sum to 1; NaN where the share is undefined.
        share: v^T (sum_{i != j} H_ij) v / lambda, the sum off the diagonal. Its error bounds what the error of v, by
            its residual and the gap to the next eigenvalue, can make of it; infinite where these two eigenvalues aren't
            separated. Undefined where |lambda| is below its error.
    """

    table: np.ndarray
    share: Share


@dataclass(frozen=True)
class LoopCurvature:
    """The curvature of a loop's shared weights against that of separate weights for each use.

    Attributes:
        loop: the modules, the number of uses T and the parameters, n numbers for each use.
        tied: the largest eigenvalues of H_tied, (n, n), the Hessian in the shared weights.
        untied: those of H_untied, (T n, T n), the Hessian in separate weights.
        own: for each use the largest eigenvalue of its own block H_ii.
        blocks: traces and norms of all blocks.
        top: the tied top eigenvalue by blocks.
        defect: ||H_tied v - sum_ij H_ij v|| / sum_ij ||H_ij v|| at the tied top eigenvector; what it is above rounding
            is an error of products.
        products: made with the tied matrix and with the untied one.
    """

    loop: Loop
    tied: Eigenpairs
    untied: Eigenpairs
    own: tuple[Eigenpairs, ...]
    blocks: BlockEstimates
    top: TopShare
    defect: float
    products: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Tied by untied top eigenvalue: T at most where that is positive, and T for passes that act as one."""
        tied, untied = float(self.tied.eigenvalues[0]), float(self.untied.eigenvalues[0])
        return tied / untied if untied else math.nan

    @property
    def ratio_interval(self) -> tuple[float, float]:
        """What the errors of both eigenvalues leave of the ratio; unbounded where the untied one may be zero."""
        above, below = self.tied.intervals[0], self.untied.intervals[0]
        if below[0] <= 0 <= below[1]:
            return -math.inf, math.inf
        corners = above[:, None] / below[None, :]
        return float(corners.min()), float(corners.max())

    @property
    def converged(self) -> bool:
        """Every eigenpair is complete, and the trace's share is as exact as was asked for."""
        return all(pairs.complete for pairs in (self.tied, self.untied, *self.own)) and self.blocks.converged


def loop_curvature(
    problem: Problem,
    module: str | None = None,
    *,
    k: int = 3,
    tol: float = 1e-3,
    probes: int = PROBES,
    error: float = 0.02,
    seed: int = 0,
    operator: Callable[[Problem], SymmetricOperator] = Hessian,
    progress: Callable[[Progress], None] | None = None,
) -> LoopCurvature:
    """Compare the curvature in the weights that a loop shares with that in separate weights for each of its passes.

    A probe costs T untied products, and so does each of the 15 directions that are done exactly before the first one.
    The loop's parameters alone vary; all others are constants.

    Args:
        problem: of a model that calls a module several times in each forward pass; it isn't changed.
        module: the module's name, or that of a container of such modules; default: found.
        k: eigenpairs of the tied and of the untied matrix, at the upper end; at least 2, for the gap between them, or
            as many as there are.
        tol: goal for their relative residuals.
        probes: the most that are drawn, at least 10; where they are no fewer than the parameters of the loop, unit
            vectors take their place and the traces are exact.
        error: standard error of the trace's cross-loop share at which no more are drawn.
        seed: of start vectors and probes.
        operator: makes the matrix, called once with the tied problem, then with the untied one; default: the Hessian.
        progress: called after every product of the solves and after every probe, with the fraction of the whole.

    Raises:
        InputError: there is no loop, or its passes can't be told apart; an argument is out of range; the blocks don't
            add up to the tied matrix.
    """
    check_arguments(k, tol, probes, error, seed)
    separate, loop = untied(problem, module)
    names = ["tied", "untied", *(f"use {use + 1}" for use in range(loop.uses)), "traces"]
    whole_way = progress or (lambda _: None)
    tell = {name: part(whole_way, i / len(names), (i + 1) / len(names), name) for i, name in enumerate(names)}

    def upper_end(matrix: SymmetricOperator, k: int, stage: str) -> Eigenpairs:
        return top_eigenpairs(matrix, min(k, matrix.dim), "LA", tol, seed, progress=tell[stage])

    shared = operator(problem.restricted(glob.escape(name) for name in loop.parameters))
    tied = upper_end(shared, max(k, 2), "tied")
    vector = tied.eigenvectors[:, 0]
    product, made = shared.matvec(vector), shared.products
    del shared  # what it keeps of graphs, before the untied one keeps as much
    whole = operator(separate)
    by_use = products_by_use(whole, loop, vector)
    defect = _checked_defect(product, by_use)
    wide = upper_end(whole, max(k, 2), "untied")
    own = tuple(upper_end(UseBlock(whole, loop, use), 1, f"use {use + 1}") for use in range(loop.uses))
    blocks = estimate_blocks(whole, loop, probes, error, seed, tell["traces"])
    top = _top_share(tied, by_use, blocks)
    return LoopCurvature(loop, tied, wide, own, blocks, top, defect, (made, whole.products))


def check_arguments(k: int, tol: float, probes: int, error: float, seed: int) -> None:
    """Raise the InputError that `loop_curvature` would raise for these arguments, whatever the problem."""
    refuse_fractions(k=k, probes=probes)
    if k < 1 or probes < FEWEST_PROBES or not error > 0:
        raise InputError(
            f"k must be at least 1, probes at least {FEWEST_PROBES} and error above 0, not {k}, {probes} and {error:g}"
        )
    eigenpairs.check_arguments(k, k, "LA", tol, seed, None)


def _checked_defect(product: Tensor, by_use: Tensor) -> float:
    """How far the blocks' products with a vector are from the tied one (n,), relative to the sum of their norms.

    Raises:
        InputError: by more than rounding could explain.
    """
    scale = float(torch.linalg.vector_norm(by_use, dim=2).sum())
    difference = float(torch.linalg.vector_norm(product.to(torch.float64) - by_use.sum((0, 1))))
    # Wrong derivatives are off by percents, rounding by far less.
    if difference > 0.01 * scale:
        raise InputError(
            f"the blocks of the loop don't add up to the tied matrix: they miss it by {difference:.2g} of {scale:.2g}; "
            "some layer's derivative is wrong, or the matrix is random"
        )
    return difference / scale if scale else 0.0


def _top_share(tied: Eigenpairs, by_use: Tensor, blocks: BlockEstimates) -> TopShare:
    """The parts of the tied top eigenvalue, from the products H_ij v, (T, T, n), with its eigenvector v.

    The true eigenvector is cos v + sin w with w orthogonal to v and sin <= residual / gap (Davis and Kahan 1970). For
    C = sum_{i != j} H_ij, its u^T C u then differs from c = v^T C v by at most 2 sin ||C v - c v|| +
    sin^2 (||C|| + |c|), and the true eigenvalue from lambda by at most residual^2 / gap. ||C|| is taken from the
    Frobenius norms; the rounding of c comes on top.
    """
    vector = tied.eigenvectors[:, 0].to(by_use)
    forms = (by_use @ vector).cpu().numpy()
    crossing = by_use.sum((0, 1)) - by_use.diagonal().sum(1)  # C v
    value, cross = float(forms.sum()), float(forms.sum() - np.trace(forms))
    residual = float(tied.residuals[0]) + tied.rounding
    if abs(value) <= residual:
        return TopShare(np.full_like(forms, math.nan), UNDEFINED)
    sine, eigenvalue_error = _errors_of_pair(tied, residual)
    across = float(torch.linalg.vector_norm(crossing - cross * vector))
    norms = np.sqrt(blocks.squared_norms + 2 * blocks.squared_norm_errors)
    cross_error = 2 * sine * across + sine**2 * (norms.sum() - np.trace(norms) + abs(cross)) + tied.rounding
    share, certain = cross / value, abs(value) - eigenvalue_error
    error = float(cross_error + abs(share) * eigenvalue_error) / certain if certain > 0 else math.inf
    return TopShare(forms / value, Share(share, error, (share - error, share + error)))


def _errors_of_pair(tied: Eigenpairs, residual: float) -> tuple[float, float]:
    """Bounds on the sine of the angle to the true top eigenvector, and on the error of the top eigenvalue.

    They need the second pair to be the second one, so a solve that isn't complete has none.
    """
    if not tied.complete:
        return math.inf, math.inf
    if len(tied.eigenvalues) == 1:  # in one dimension
        return 0.0, residual
    below = tied.eigenvalues[1] + tied.residuals[1] + tied.rounding
    gap = float(tied.eigenvalues[0] - below)
    return (residual / gap, residual**2 / gap) if gap > residual else (math.inf, math.inf)
