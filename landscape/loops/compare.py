"""Compare the tied matrix of a loop with the untied one: eigenvalues, and the parts between different passes."""

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
    """The contribution of each block to the tied top eigenvalue lambda, at its unit eigenvector v.

    Attributes:
        table: (T, T), v^T H_ij v / lambda, entries that sum to 1; NaN where the share is undefined.
        share: v^T (sum_{i != j} H_ij) v / lambda, the sum of ``table`` off the diagonal. Its error is a bound that
            follows from the error of v: from v's residual norm and the gap to the next eigenvalue. The error is
            infinite where the two eigenvalues aren't separated. The share is undefined where rounding and the residual
            norm together reach |lambda|.
    """

    table: np.ndarray
    share: Share


@dataclass(frozen=True)
class LoopCurvature:
    """The curvature in a loop's shared weights, compared with the curvature in separate weights for each use.

    Attributes:
        loop: the modules, the number of uses T and the parameters, n numbers for each use.
        tied: largest eigenvalues of H_tied, (n, n), the Hessian in the shared weights.
        untied: largest eigenvalues of H_untied, (T n, T n), the Hessian in separate weights.
        own: largest eigenvalue of the block H_ii, for each use i.
        blocks: traces and norms of all blocks.
        top: contributions of the blocks to the tied top eigenvalue.
        defect: ||H_tied v - sum_ij H_ij v|| / sum_ij ||H_ij v|| at the tied top eigenvector v; a defect above rounding
            is an error of products.
        products: numbers of products made with the tied and with the untied matrix.
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
        """Tied by untied top eigenvalue: at most T where the untied one is positive, T for passes that act as one."""
        tied, untied = float(self.tied.eigenvalues[0]), float(self.untied.eigenvalues[0])
        return tied / untied if untied else math.nan

    @property
    def ratio_interval(self) -> tuple[float, float]:
        """Interval of the ratio from the errors of both eigenvalues; unbounded where the untied one may be zero."""
        above, below = self.tied.intervals[0], self.untied.intervals[0]
        if below[0] <= 0 <= below[1]:
            return -math.inf, math.inf
        corners = above[:, None] / below[None, :]
        return float(corners.min()), float(corners.max())

    @property
    def converged(self) -> bool:
        """Whether every eigenpair is complete and the cross-loop share of the trace has reached its goal."""
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
    """Compare curvature in the weights that a loop shares with curvature in separate weights for each of its passes.

    A probe vector costs T untied products. So does each of the 15 directions that are treated exactly beforehand. Only
    the loop's parameters vary; all other parameters are constants.

    Args:
        problem: the problem of a model that calls a module several times in each forward pass; it isn't changed.
        module: name of the module, or of a container of such modules; default: the modules that the model repeats.
        k: number of eigenpairs of the tied and of the untied matrix, at the upper end; default: 3. At least 2 are
            computed, because the gap between the first two is needed; a smaller matrix has fewer.
        tol: goal for the relative residual norms of the eigenpairs; default: 1e-3.
        probes: largest number of probe vectors, at least 10; default: 100. Where the loop has no more parameters than
            this number, unit vectors take the place of probe vectors and the traces are exact.
        error: standard error of the trace's cross-loop share at which probing stops; default: 0.02.
        seed: seed of start vectors and probe vectors; default: 0.
        operator: function that makes a problem's matrix, called with the tied problem, then with the untied one;
            default: the Hessian.
        progress: called after every product of the solves and after every probe, with the fraction of the whole.

    Raises:
        InputError: there is no loop, or its passes can't be separated; an argument is out of range; the blocks don't
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
    product, tied_products = shared.matvec(vector), shared.products
    del shared  # frees its graphs before the untied operator keeps graphs of its own
    whole = operator(separate)
    by_use = products_by_use(whole, loop, vector)
    defect = _checked_defect(product, by_use)
    untied_pairs = upper_end(whole, max(k, 2), "untied")
    own = tuple(upper_end(UseBlock(whole, loop, use), 1, f"use {use + 1}") for use in range(loop.uses))
    blocks = estimate_blocks(whole, loop, probes, error, seed, tell["traces"])
    top = _top_share(tied, by_use, blocks)
    return LoopCurvature(loop, tied, untied_pairs, own, blocks, top, defect, (tied_products, whole.products))


def check_arguments(k: int, tol: float, probes: int, error: float, seed: int) -> None:
    """Raise the InputError that `loop_curvature` would raise for these arguments with any problem."""
    refuse_fractions(k=k, probes=probes)
    if k < 1 or probes < FEWEST_PROBES or not error > 0:
        raise InputError(
            f"k must be at least 1, probes at least {FEWEST_PROBES} and error above 0, not {k}, {probes} and {error:g}"
        )
    eigenpairs.check_arguments(k, k, "LA", tol, seed, None)


def _checked_defect(product: Tensor, by_use: Tensor) -> float:
    """Distance of the blocks' summed products from the tied product (n,), relative to the sum of the products' norms.

    Raises:
        InputError: the distance is more than rounding could explain.
    """
    scale = float(torch.linalg.vector_norm(by_use, dim=2).sum())
    difference = float(torch.linalg.vector_norm(product.to(torch.float64) - by_use.sum((0, 1))))
    # Wrong derivatives cause errors of percents, rounding far smaller ones.
    if difference > 0.01 * scale:
        raise InputError(
            f"the blocks of the loop don't add up to the tied matrix: they miss it by {difference:.2g} of {scale:.2g}; "
            "some layer's derivative is wrong, or the matrix is random"
        )
    return difference / scale if scale else 0.0


def _top_share(tied: Eigenpairs, by_use: Tensor, blocks: BlockEstimates) -> TopShare:
    """Contributions of the blocks to the tied top eigenvalue, from the products H_ij v, (T, T, n), with eigenvector v.

    The true eigenvector is u = cos v + sin w, with w orthogonal to v and sin <= residual / gap (Davis and Kahan 1970).
    For C = sum_{i != j} H_ij, u^T C u then differs from c = v^T C v by at most 2 sin ||C v - c v|| +
    sin^2 (||C|| + |c|). The true eigenvalue differs from lambda by at most residual^2 / gap. ||C|| is bounded by the
    sum of the blocks' Frobenius norms. The rounding of c is added.
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

    Both are infinite for an incomplete solve, because its second pair need not have the second eigenvalue.
    """
    if not tied.complete:
        return math.inf, math.inf
    if len(tied.eigenvalues) == 1:  # a matrix of dimension 1
        return 0.0, residual
    below = tied.eigenvalues[1] + tied.residuals[1] + tied.rounding
    gap = float(tied.eigenvalues[0] - below)
    return (residual / gap, residual**2 / gap) if gap > residual else (math.inf, math.inf)
