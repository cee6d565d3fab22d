"""How far a matrix' largest eigenvalues, trace and Frobenius norm depend on the samples.

The samples are divided into g groups. One product of each group's matrix with a block of vectors (eigenvectors and
random probes) costs together as much as one product of the whole matrix with the block. Everything follows from these
products, see `landscape.sampling.eigenvalues` for the eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.reporting.display import HasSummary
from landscape.reporting.messages import counted
from landscape.reporting.progress import Progress, part
from landscape.sampling.eigenvalues import debiased, pushed
from landscape.sampling.estimates import SampledEstimate, variance_of_sum
from landscape.sampling.groups import Groups
from landscape.spectrum.deflation import Deflated, Deflation
from landscape.spectrum.eigenpairs import Eigenpairs, top_eigenpairs
from landscape.spectrum.probes import probe, standard_error
from landscape.spectrum.quadrature import chain_from, gauss

PROBES = 16
BESIDE = 5
"""Eigenvectors beyond the wanted ones, whose repulsion is computed without an expansion in gaps."""
STEPS = 3  # of the chains for the errors outside of the eigenvectors: their gaps matter only in the mean

MakeOperator = Callable[[Problem], SymmetricOperator]


@dataclass(frozen=True)
class CurvatureSampling(HasSummary):
    """The largest eigenvalues, the trace and the Frobenius norm of a matrix as estimates for a population of samples.

    The intervals take the samples as drawn independently of the weights. On the data of the training they are
    conditional on the weights: they say nothing of the difference between training data and fresh data.

    Attributes:
        eigenvalues: the k largest eigenvalues, descending.
        trace: the trace. Its intervals contain the error of its random probes. The spread between groups contains the
            probes' noise too, so the standard error is on the large side.
        frobenius: the Frobenius norm, with errors like those of the trace.
        converged: whether the solve for the eigenpairs reached its goal.
        defect: norm of the sum of all groups' errors, relative to the norm of the matrix' products; rounding alone
            where the objective is a weighted mean over independent samples.
        samples: number of samples.
        groups: number of groups of samples.
        products: products with the matrix of all samples.
        products_groups: products with matrices of groups.
    """

    eigenvalues: tuple[SampledEstimate, ...]
    trace: SampledEstimate
    frobenius: SampledEstimate
    converged: bool
    defect: float
    samples: int
    groups: int
    products: int
    products_groups: int

    @property
    def summary(self) -> list[str]:
        """See `HasSummary`."""
        lines = [f"95 % intervals over {counted(self.samples, 'sample')} in {self.groups} groups"]
        lines += [f"eigenvalue {number}: {each}" for number, each in enumerate(self.eigenvalues, 1)]
        return [*lines, f"trace: {self.trace}", f"Frobenius norm: {self.frobenius}"]


def sample_curvature(
    problem: Problem,
    make: MakeOperator,
    k: int = 1,
    probes: int = PROBES,
    tol: float = 1e-3,
    seed: int = 0,
    *,
    groups: Groups | None = None,
    start: Tensor | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> CurvatureSampling:
    """Estimate how far a matrix' largest eigenvalues, trace and Frobenius norm depend on the samples.

    Memory: 4 (k + 5 + probes) vectors, beside those of the solve.

    Args:
        problem: the problem on all its samples.
        make: function that makes the operator of a problem's matrix, such as `Problem.hessian`.
        k: number of largest eigenvalues. Default: 1.
        probes: number of random probes, at least 2. Default: 16.
        tol: goal for the relative residual norms of the eigenpairs. Default: 1e-3.
        seed: seed of the groups, the probes and the solve. Default: 0.
        groups: the groups of samples. Default: made with ``seed``.
        start: vectors (dim, l) from which the solve starts. Default: none.
        progress: function that is called with the progress.

    Raises:
        InputError: the samples can't be taken apart, or an argument is out of range.
    """
    tell = progress or (lambda _: None)
    groups = groups or Groups.of(problem, seed)
    operator = make(problem)
    wanted = min(k + BESIDE, operator.dim)
    pairs = top_eigenpairs(operator, wanted, "LA", tol, seed, start=start, progress=part(tell, 0, 0.6))
    products = GroupProducts.of(problem, make, operator, pairs, probes, groups, seed, part(tell, 0.6, 1))
    return CurvatureSampling(
        eigenvalues=products.eigenvalues(min(k, operator.dim), pairs, operator, seed),
        trace=products.trace(pairs),
        frobenius=products.frobenius(),
        converged=bool(pairs.converged[:k].all()) and pairs.complete,
        defect=products.defect,
        samples=groups.samples,
        groups=len(groups),
        products=operator.products,
        products_groups=len(groups) * (wanted + products.probes),
    )


@dataclass(frozen=True)
class GroupProducts:
    """Forms and norms of the products of all groups' matrices with eigenvectors V and probes Z outside of V.

    D_g = w_g (H_g - H) is the part of group g, of the share w_g, in the error of H.

    Attributes:
        whole_forms: z^T H z for each probe, (m,).
        whole_squares: |H z|^2 for each probe, (m,).
        whole_norm: |H V|^2, summed over V.
        within: V^T D_g V, (g, K, K).
        outside: sum_g |(I - V V^T) D_g v|^2 for each v, (K,).
        signed: the sums of (I - V V^T) D_g V with random signs, (dim, K).
        forms: z^T D_g z, (g, m).
        slopes: first derivative of |H V|^2 and of |H z|^2 along D_g, (g,) and (g, m).
        norms: |D_g V|^2 and |D_g z|^2, (g,) and (g, m).
        defect: see `CurvatureSampling`.
    """

    whole_forms: np.ndarray
    whole_squares: np.ndarray
    whole_norm: float
    within: np.ndarray
    outside: np.ndarray
    signed: Tensor
    forms: np.ndarray
    slopes: tuple[np.ndarray, np.ndarray]
    norms: tuple[np.ndarray, np.ndarray]
    defect: float

    @classmethod
    def of(
        cls,
        problem: Problem,
        make: MakeOperator,
        operator: SymmetricOperator,
        pairs: Eigenpairs,
        probes: int,
        groups: Groups,
        seed: int,
        tell: Callable[[Progress], None],
    ) -> GroupProducts:
        """Multiply every group's matrix with the eigenvectors and the probes, one group at a time."""
        vectors, count = pairs.eigenvectors, pairs.eigenvectors.shape[1]
        outer = Deflated(operator, vectors)
        drawn = torch.stack([probe(operator.dim, seed, i).to(vectors) for i in range(probes)], dim=1)
        # Where V spans the whole space, nothing is left for probes.
        block = torch.cat([vectors, outer.project(drawn)], dim=1) if count < operator.dim else vectors
        whole = operator.matmat(block).double()
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], len(groups))
        total, signed, outside = torch.zeros_like(whole), torch.zeros_like(vectors), np.zeros(count)
        kept: list[tuple[np.ndarray, ...]] = []
        for number, (share, sign, of_group) in enumerate(
            zip(groups.shares, signs, groups.problems(problem), strict=True)
        ):
            error = share * (make(of_group).matmat(block).double() - whole)
            total += error
            beyond = outer.project(error[:, :count].to(vectors))
            signed += float(sign) * beyond
            outside += _array(beyond.double().square().sum(0))
            within = _array(vectors.double().T @ error[:, :count])
            norms, slopes = error.square().sum(0), 2 * (whole * error).sum(0)
            forms = (block[:, count:].double() * error[:, count:]).sum(0)
            kept.append(((within + within.T) / 2, _array(forms), _array(slopes), _array(norms)))
            tell(Progress("multiplying", number + 1, np.empty(0), (number + 1) / len(groups), "groups"))
        within, forms, slopes, norms = map(np.stack, zip(*kept, strict=True))
        return cls(
            whole_forms=_array((block[:, count:].double() * whole[:, count:]).sum(0)),
            whole_squares=_array(whole[:, count:].square().sum(0)),
            whole_norm=float(whole[:, :count].square().sum()),
            within=within,
            outside=outside * len(groups) / (len(groups) - 1),
            signed=signed,
            forms=forms,
            slopes=(slopes[:, :count].sum(1), slopes[:, count:]),
            norms=(norms[:, :count].sum(1), norms[:, count:]),
            defect=float(total.norm() / whole.norm()) if whole.norm() else 0.0,
        )

    @property
    def probes(self) -> int:
        """Number of probes."""
        return len(self.whole_forms)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of a variance over the groups."""
        return len(self.within) - 1

    def eigenvalues(
        self, k: int, pairs: Eigenpairs, operator: SymmetricOperator, seed: int
    ) -> tuple[SampledEstimate, ...]:
        """The k largest eigenvalues; see `landscape.sampling.eigenvalues`."""
        values, radii = pairs.eigenvalues, np.abs(pairs.intervals - pairs.eigenvalues[:, None]).max(1)
        push = pushed(self.outside, self._gaps(pairs, operator))
        best, *variances = debiased(values - push, self.within, seed)
        columns = np.stack([values, values - best, *variances, radii], axis=1)[:k].tolist()
        return tuple(
            SampledEstimate.of(value, bias, variance, self.freedom, radius, of_best)
            for value, bias, variance, of_best, radius in columns
        )

    def _gaps(self, pairs: Eigenpairs, operator: SymmetricOperator) -> np.ndarray:
        """Harmonic means (K,) of l_i - x over the spectral measure of ``signed``, by a few steps of Lanczos each."""
        values, vectors = pairs.eigenvalues, pairs.eigenvectors
        if vectors.shape[1] == operator.dim:
            return np.ones_like(values)
        deflation = Deflation(values, pairs.residuals, vectors, pairs.rounding)
        inverse = np.empty_like(values)
        for place, value in enumerate(values):
            chain = chain_from(operator, deflation, self.signed[:, place], STEPS)
            nodes, weights = gauss(chain.alpha, chain.beta)
            with np.errstate(divide="ignore"):
                inverse[place] = (weights / np.maximum(value - nodes, 0.0)).sum()
        return np.asarray(1 / inverse)

    def trace(self, pairs: Eigenpairs) -> SampledEstimate:
        """The trace, linear in the matrix: that of V^T H V, and the rest by probes."""
        inner = np.trace(self.within, axis1=1, axis2=2)
        value, error = pairs.eigenvalues.sum(), _probe_error(self.whole_forms)
        parts = inner + (self.forms.mean(1) if self.probes else 0.0)
        rest = self.whole_forms.mean() if self.probes else 0.0
        return SampledEstimate.of(float(value + rest), 0.0, float(variance_of_sum(parts)), self.freedom, error)

    def frobenius(self) -> SampledEstimate:
        """The Frobenius norm: the root of |H V|^2 and of the probes' mean |H z|^2; noise adds its own squares."""
        groups, (inner, outer), (own, others) = len(self.within), self.slopes, self.norms
        value, error = self.whole_norm, _probe_error(self.whole_squares)
        parts, bias = inner, own.sum()
        if self.probes:
            value, parts, bias = value + self.whole_squares.mean(), inner + outer.mean(1), bias + others.mean(1).sum()
        bias *= groups / (groups - 1)
        square = SampledEstimate.of(value, float(bias), float(variance_of_sum(parts)), self.freedom, error)
        return square.root()


def _probe_error(samples: np.ndarray) -> float:
    """Half-width of Student's 95 % interval of the probes' mean; 0 without probes."""
    return float(standard_error(samples)) * float(stdtrit(len(samples) - 1, 0.975)) if len(samples) else 0.0


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().double().cpu().numpy())
