"""Trace and Frobenius norm of an operator with 95 % intervals, from random probes, or exactly where that is cheaper.

For probes v with independent entries of mean 0 and variance 1, E v^T A v = tr A (Hutchinson 1990) and
E ||A v||^2 = ||A||_F^2. One dominant eigenvalue spoils both estimates. The samples then follow chi^2 with one degree of
freedom, and a t-interval from ten samples holds in some 87 % of cases instead of 95 %. So a few directions that contain
the outliers are deflated, and the probes see the complement. For *any* orthonormal Q, with P = I - Q Q^T,

    tr A = tr Q^T A Q + tr P A P,
    ||A||_F^2 = ||Q^T A Q||_F^2 + 2 ||P A Q||_F^2 + ||P A P||_F^2.

The estimates are therefore unbiased for any Q, however poor. Q doesn't depend on the probes. So given Q the samples
v^T P A P v and ||P A P v||^2 are independent and identically distributed, as a t-interval requires.

This is Hutch++ (Meyer, Musco, Musco and Woodruff 2021) with a Krylov sequence as range finder. Q is the whole Krylov
basis, which is better than a few of its Ritz vectors and takes no more products: A Q lies within the basis and one
further vector. Known eigenpairs are a part of Q that takes no products. With Rayleigh quotients l_i and residual norms
r_i, tr V^T A V is sum l_i, and ||V^T A V||_F^2 + 2 ||(I - V V^T) A V||_F^2 is sum (l_i^2 + 2 r_i^2). The Krylov
sequence then runs in the complement of the known eigenvectors.

``make bench-accuracy`` measures how often the intervals hold, with deflation and without.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError, refuse_fractions
from landscape.operator import SymmetricOperator, as_exact_operator
from landscape.reporting.display import HasSummary
from landscape.reporting.progress import Progress
from landscape.spectrum.deflation import Deflation
from landscape.spectrum.eigenpairs import Eigenpairs
from landscape.spectrum.estimate import FEWEST_PROBES, Estimate, Sampling, interval, root
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.probes import check_goal, probe_block
from landscape.spectrum.products import block_size, finite_products, measured_rounding
from landscape.spectrum.rounding import (
    COMBINATIONS,
    IN_FLOAT64,
    Columns,
    Distance,
    arithmetic,
    arithmetic_note,
    distance,
)
from landscape.spectrum.subspace import Subspace

# Enough directions for intervals that hold in about 95 % of cases, on spectra with one outlier, with ten, decaying as
# 1/k, and of a trained transformer: ``python -m benchmarks.accuracy.coverage``.
DEFLATION = 30
TOL = 0.05
MAX_PRODUCTS = 1000

_PROBES_AT_A_TIME = 16


@dataclass(frozen=True)
class TraceEstimate(HasSummary):
    """Trace and Frobenius norm, in the units of the operator.

    Attributes:
        trace: estimate of tr A.
        frobenius: estimate of ||A||_F. Its interval is the root of the interval of ||A||_F^2, widened by rounding. Its
            standard error follows from that of ||A||_F^2.
        method: ``probes``, or ``exact``: from the product with every unit vector.
        tol: goal for the half-width of the trace's interval, relative to the trace; None if the number of probes was
            given.
        converged: whether the goal was reached; true for a given number of probes.
        agree: whether all samples of the trace are equal up to rounding; see ``remarks``.
        rounding: bound on the rounding error of the trace, the sum of three parts. The first is sqrt(2 n) times the
            rounding measured in one product with a vector of signs. If no product is rounded worse, that is a bound by
            Cauchy and Schwarz. The exact part adds j products' errors along unit vectors. The probes' part is a mean
            of errors along vectors of length at most sqrt(n). The second part is sqrt(k) times the ``rounding``
            of the solve for k known eigenpairs. The third is for the rounding that all products share, see
            `landscape.spectrum.rounding.Distance.trace`.
        deflation: number j of directions computed exactly instead of by probes.
        probes: number of probes.
        products: number of all products, with the j of the deflation and those that measure the rounding.
        samples: unbiased and independent estimates of the trace, one for each probe, (probes,) float64. The first m
            are the samples of a run with m probes. Another point has samples of equal probes, so differences between
            two points can be taken probe by probe.
        squares: unbiased and independent estimates of ||A||_F^2, one for each probe, (probes,) float64.
        arithmetic: the matrix to which the intervals refer, see `landscape.Eigenpairs`. For the matrix in float64, the
            bound on the rounding is wrong with a chance of a thousandth.
    """

    trace: Estimate
    frobenius: Estimate
    method: Literal["probes", "exact"]
    tol: float | None
    converged: bool
    agree: bool
    rounding: float
    deflation: int
    probes: int
    products: int
    samples: np.ndarray
    squares: np.ndarray
    arithmetic: str = IN_FLOAT64

    @property
    def rounding_limited(self) -> bool:
        """Whether rounding exceeds the goal, or the samples are equal up to rounding: more probes don't help."""
        return self.agree or (self.tol is not None and self.rounding > self.tol * abs(self.trace.value))

    @property
    def outcome(self) -> list[str]:
        """Lines on both numbers with their errors, on the method, and on the arithmetic if that isn't float64."""
        how = f"exact, from {self.products} products"
        if self.method == "probes":
            how = f"{self.probes} probes and {self.deflation} deflated directions, {self.products} products"
        return [f"trace {self.trace}", f"Frobenius norm {self.frobenius}", how, *arithmetic_note(self.arithmetic)]

    @property
    def summary(self) -> list[str]:
        """See `HasSummary`."""
        return [*self.outcome, *self.remarks]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings about the interval, a sentence each."""
        remarks = []
        if self.agree:
            remarks.append(
                f"the {self.probes} probes agree up to rounding, so the interval has no width but that of rounding: "
                "right for a diagonal matrix, and where deflation left nothing to probe"
            )
        if not self.converged:
            remedy = "allow more products, or accept a larger tolerance"
            if self.rounding_limited:
                remedy = "rounding alone is as wide, so compute in float64"
            remarks.append(
                f"the trace's 95 % interval is +-{self.trace.half_width:.2g} after {self.products} products, wider "
                f"than {self.tol:.2g} of the trace: {remedy}"
            )
        return tuple(remarks)


def estimate_trace(
    operator: SymmetricOperator | Tensor | np.ndarray,
    tol: float | None = None,
    probes: int | None = None,
    seed: int = 0,
    *,
    deflation: int = DEFLATION,
    known: Eigenpairs | None = None,
    max_products: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TraceEstimate:
    """Trace and Frobenius norm with 95 % intervals, both from one set of products.

    Probes are added until the trace's interval is narrow enough. The interval is first checked at 10 probes. The next
    check comes at the number of probes that should suffice, judged from the spread so far, but at no more than twice
    the present number. Stopping by a check favours spreads that came out small. So the standard error is about a tenth
    too small, and the interval holds in about two percentage points less than 95 % of cases (``make bench-accuracy``).
    Where the n products of an exact trace cost no more than the probes, the exact trace is computed instead.

    With one seed, two points have equal probes. The difference of their samples spreads much less than the samples do.
    Without deflation the difference would spread a little less still, because deflated directions change from point to
    point.

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        tol: goal for the half-width of the trace's 95 % interval relative to the trace; default 0.05.
        probes: a given number of probes, at least 2, instead of a goal.
        seed: seed of the probes and of the Krylov sequence, which is independent of the probes; default 0.
        deflation: number of directions computed exactly, whose vectors are kept; one product each; default 30; 0 is
            Hutchinson's plain estimator.
        known: eigenpairs of largest magnitude from an earlier solve. The converged pairs replace as many of the
            deflated directions. Together they take one product, which checks them against the operator.
        max_products: most products, whatever the error; default 1,000. Only with ``tol``.
        progress: function called after every block of products.

    Raises:
        InputError: an argument is out of range, or a product isn't finite; known eigenpairs of another operator.
    """
    operator = as_exact_operator(operator)
    check_arguments(operator.dim, tol, probes, seed, max_products, deflation)
    relative = tol or TOL if probes is None else None
    allowed = max(fewest_products(operator.dim, deflation), max_products or MAX_PRODUCTS)
    goal = _Goal(relative, probes or FEWEST_PROBES, allowed)
    return _Estimation(operator, goal, seed, progress or (lambda _: None)).run(deflation, known)


def check_arguments(
    dim: int,
    tol: float | None,
    probes: int | None,
    seed: int,
    max_products: int | None = None,
    deflation: int = DEFLATION,
) -> None:
    """Raise the InputError that `estimate_trace` would raise for an operator of dimension ``dim``."""
    check_goal("trace", tol, probes, seed, max_products)
    refuse_fractions(deflation=deflation)
    if deflation < 0:
        raise InputError(f"deflation must not be negative, and {deflation} is")
    least = fewest_products(dim, deflation)
    if max_products is not None and max_products < least:
        raise InputError(
            f"a trace takes at least {least} products ({min(dim, deflation)} for deflated directions), and "
            f"max_products is {max_products}"
        )


def fewest_products(dim: int, deflation: int, probes: int | None = None) -> int:
    """Products of the shortest run: for deflation and the first probes or for every unit vector, and for rounding."""
    return min(dim, deflation + (probes or FEWEST_PROBES) + 2 * COMBINATIONS) + 1


@dataclass(frozen=True)
class _Goal:
    """Goal of a trace estimate.

    Attributes:
        tol: goal for the relative half-width of the interval; None if the number of probes was given.
        probes: first number of probes.
        max_products: most products.
    """

    tol: float | None
    probes: int
    max_products: int


class _Estimation(Sampling[TraceEstimate]):
    """One run: deflate and add probes until the goal is reached, or compute the exact trace."""

    def __init__(
        self, operator: SymmetricOperator, goal: _Goal, seed: int, progress: Callable[[Progress], None]
    ) -> None:
        self.operator, self.goal, self.seed = operator, goal, seed
        self._progress = progress
        self._products_before = operator.products

    @property
    def products(self) -> int:
        """Products made in this run."""
        return self.operator.products - self._products_before

    def run(self, deflation: int, known: Eigenpairs | None) -> TraceEstimate:
        """Estimate from probes, or compute the exact trace if that takes no more products than the first probes."""
        if self.operator.dim <= deflation + self.goal.probes:
            return self.exact()
        measured = distance(self.operator, self.seed)
        self.samples = _Samples(self.operator, self.deflate(deflation, known), self.seed, measured)
        return self.sample(self.goal.probes)

    def deflate(self, deflation: int, known: Eigenpairs | None) -> Subspace:
        """The subspace of known eigenvectors and of a Krylov sequence in their complement.

        If the Krylov sequence ends early, a further sequence from a new random vector follows. One sequence sees only
        one copy of a multiple eigenvalue. On a matrix of few distinct eigenvalues the probes would then see the other
        copies as outliers.
        """
        pairs = Deflation.none(self.operator)
        if known is not None:
            pairs = Deflation.of_known(self.operator, known, min(deflation, len(known.eigenvalues)), self.seed)
        krylov = KrylovBasis(self.operator, deflation + 1, self.seed)
        krylov.lock(pairs.values, pairs.vectors)
        pending = krylov.append_random() if krylov.expanded < deflation else None
        while pending is not None and krylov.expanded < deflation:
            following = krylov.expand(pending).pending
            pending = krylov.append_random() if following is None else following
            self.tell("deflating", deflation - len(pairs.values) + self.goal.probes)
        return Subspace(krylov, pairs)

    def draw(self, wanted: int) -> None:
        """See `Sampling.draw`."""
        total = self.products + wanted - len(self.samples)
        size = block_size(self.operator, _PROBES_AT_A_TIME)
        while len(self.samples) < wanted:
            self.samples.add(min(size, wanted - len(self.samples)))
            self.tell("probing", total)

    def estimate(self) -> TraceEstimate:
        """See `Sampling.estimate`."""
        return self.samples.estimate(self.goal.tol, self.products)

    def needed(self, found: TraceEstimate) -> int:
        """See `Sampling.needed`."""
        return self.samples.needed(found)

    def room(self) -> int:
        """See `Sampling.room`."""
        return self.goal.max_products - self.products

    def exact_instead(self, found: TraceEstimate, more: int) -> TraceEstimate | None:
        """See `Sampling.exact_instead`."""
        return self.exact() if self.operator.dim < more and not found.rounding_limited else None

    def converged(self, found: TraceEstimate) -> bool:
        """See `Sampling.converged`."""
        return found.converged

    def hopeless(self, found: TraceEstimate) -> bool:
        """See `Sampling.hopeless`."""
        return found.rounding_limited

    def exact(self) -> TraceEstimate:
        """Trace and norm from the product with every unit vector; earlier probes are discarded."""
        trace = square = 0.0
        total = self.products + self.operator.dim
        blocks = Columns(self.operator)
        for start, block in blocks:
            trace += float(block[start : start + block.shape[1]].diagonal().sum(dtype=torch.float64))
            square += float(block.to(torch.float64).square().sum())
            self.tell("multiplying", total)
        error = blocks.rounding
        rounding = math.sqrt(2 * self.operator.dim) * error
        norm = math.sqrt(square)
        return TraceEstimate(
            trace=Estimate(trace, 0.0, trace - rounding, trace + rounding),
            frobenius=Estimate(norm, 0.0, max(0.0, norm - error), norm + error),
            method="exact",
            tol=self.goal.tol,
            converged=self.goal.tol is None or rounding <= self.goal.tol * abs(trace),
            agree=False,
            rounding=rounding,
            deflation=0,
            probes=0,
            products=self.products,
            samples=np.array([]),
            squares=np.array([]),
            arithmetic=arithmetic(self.operator, blocks.reason),
        )

    def tell(self, phase: str, total: int) -> None:
        """Report the products made so far, as a share of a provisional total."""
        self._progress(Progress(phase, self.products, np.array([]), min(1.0, self.products / total)))


class _Samples:
    """The samples of the probes so far, with their rounding error."""

    def __init__(self, operator: SymmetricOperator, subspace: Subspace, seed: int, measured: Distance) -> None:
        self.operator, self.subspace, self.seed, self.distance = operator, subspace, seed, measured
        self.error = 0.0
        self._traces: list[float] = []
        self._squares: list[float] = []

    def __len__(self) -> int:
        return len(self._traces)

    def add(self, count: int) -> None:
        """Draw the next ``count`` probes with one block of products; after the first block, measure the rounding."""
        first_block = not len(self)
        probes = probe_block(self.operator, self.seed, range(len(self), len(self) + count))
        outside = self.subspace.project(probes)
        products = finite_products(self.operator, outside)
        projected = self.subspace.project(products).to(torch.float64)
        self._traces += (self.subspace.trace + (outside.to(torch.float64) * projected).sum(0)).tolist()
        self._squares += (self.subspace.square + projected.square().sum(0)).tolist()
        if first_block:  # A v is the sum of two parts, without the known eigenvectors': this shows the rounding of both
            unknown, product = self.subspace.unknown(probes[:, 0])
            self.error = measured_rounding(self.operator, unknown, (products[:, 0] + product).to(torch.float64))

    @property
    def rounding(self) -> float:
        return math.sqrt(2 * self.operator.dim) * self.error + self.distance.trace + self.subspace.rounding

    def estimate(self, tol: float | None, products: int) -> TraceEstimate:
        """The estimate from the samples so far, given the goal and the number of products."""
        traces, squares = np.array(self._traces), np.array(self._squares)
        trace, error = interval(traces, self.rounding), self.error + self.distance.frobenius + self.subspace.rounding
        return TraceEstimate(
            trace=trace,
            frobenius=root(interval(squares, 0.0), self.subspace.square, error),
            method="probes",
            tol=tol,
            converged=tol is None or trace.half_width <= tol * abs(trace.value),
            agree=float(np.ptp(traces)) <= 2 * self.rounding,
            rounding=self.rounding,
            deflation=self.subspace.dim,
            probes=len(traces),
            products=products,
            samples=traces,
            squares=squares,
            arithmetic=self.distance.arithmetic(self.operator),
        )

    def needed(self, estimate: TraceEstimate) -> int:
        """See `Sampling.needed`."""
        assert estimate.tol is not None, "a given number of probes is all that is needed"
        allowed = estimate.tol * abs(estimate.trace.value) - self.rounding
        if allowed <= 0:
            return 1 << 62
        return math.ceil(len(self) * ((estimate.trace.half_width - self.rounding) / allowed) ** 2)
