"""The diagonal of an operator, from random probes with a standard error for every entry, or exactly.

For probes v of random signs, E v_i (A v)_i = A_ii (Bekas, Kokiopoulou and Saad 2007), with the variance
sum_{j != i} A_ij^2. A few large eigenvalues increase the variance of every entry. So their part is computed exactly
from a Krylov basis Q (deflation). For any orthonormal Q, with P = I - Q Q^T,

    A = Q Q^T A + A Q Q^T - Q Q^T A Q Q^T + P A P.

The probes estimate the diagonal of P A P only. The estimate is unbiased for any Q, however poor (Baston and Nakatsukasa
2022, "Stochastic diagonal estimation"). A Q takes no products beyond those that made Q.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from landscape.errors import InputError, refuse_fractions
from landscape.operator import SymmetricOperator, as_exact_operator
from landscape.reporting.display import HasSummary
from landscape.reporting.progress import Progress
from landscape.spectrum.estimate import FEWEST_PROBES, Sampling
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.probes import check_goal, probe_block
from landscape.spectrum.products import block_size, finite_products, measured_rounding
from landscape.spectrum.rounding import IN_FLOAT64, Columns, arithmetic, arithmetic_note, distance

DEFLATION = 30
TOL = 0.1
MAX_PRODUCTS = 1000


@dataclass(frozen=True)
class DiagonalEstimate(HasSummary):
    """The diagonal of a matrix, in the units of the operator.

    Attributes:
        values: diagonal entries, (n,) float64.
        standard_errors: standard error of each entry over the probes, (n,) float64; 0 if the diagonal is exact. The
            entries share the probes, so their errors aren't independent.
        method: ``probes``, or ``exact``: from the product with every unit vector.
        tol: goal for ``relative_error``; None if the number of probes was given.
        converged: whether the goal was reached; true for a given number of probes.
        rounding: bound on the error that rounding adds to any entry. One part is the bound on ||E||_2 of
            `landscape.spectrum.rounding.Distance`, wrong with a chance of a thousandth. For the j deflated directions
            the other part is 3 sqrt(j + 1) (e + 4 eps ||A||). Here e is the rounding measured in one product, assumed
            to be the worst of all products.
        deflation: number of directions computed exactly instead of by probes.
        probes: number of probes.
        products: number of all products.
        arithmetic: the matrix to which the errors refer, see `landscape.Eigenpairs`.
    """

    values: np.ndarray
    standard_errors: np.ndarray
    method: Literal["probes", "exact"]
    tol: float | None
    converged: bool
    rounding: float
    deflation: int
    probes: int
    products: int
    arithmetic: str = IN_FLOAT64

    @property
    def relative_error(self) -> float:
        """The norm of the standard errors divided by the norm of the diagonal; 0 for a zero diagonal."""
        norm = float(np.linalg.norm(self.values))
        return float(np.linalg.norm(self.standard_errors)) / norm if norm else 0.0

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower ends (n,) and upper ends (n,) of Student's 95 % interval of each entry, widened by the rounding."""
        spread = float(stdtrit(self.probes - 1, 0.975)) if self.probes > 1 else 0.0
        radius = spread * self.standard_errors + self.rounding
        return self.values - radius, self.values + radius

    @property
    def summary(self) -> list[str]:
        """See `HasSummary`."""
        how = f"exact, from {self.products} products"
        if self.method == "probes":
            how = f"{self.probes} probes and {self.deflation} deflated directions, {self.products} products"
        lines = [
            f"diagonal of {len(self.values):,} entries from {self.values.min():.4g} to {self.values.max():.4g}, "
            f"{int((self.values < -self.rounding).sum()):,} below zero, sum {self.values.sum():.5g}",
            f"combined standard error {self.relative_error:.2g} of the diagonal's norm; rounding at most "
            f"{self.rounding:.1e} in an entry",
            how,
            *arithmetic_note(self.arithmetic),
        ]
        if not self.converged:
            lines.append(f"the goal of {self.tol:.2g} wasn't reached: allow more products, or a larger tolerance")
        return lines


def estimate_diagonal(
    operator: SymmetricOperator | Tensor | np.ndarray,
    tol: float | None = None,
    probes: int | None = None,
    seed: int = 0,
    *,
    deflation: int = DEFLATION,
    max_products: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> DiagonalEstimate:
    """The diagonal with a standard error for every entry.

    Probes are added until `DiagonalEstimate.relative_error` reaches the goal. The goal is checked at numbers of probes
    that `landscape.estimate_trace` describes. Where the n products of the exact diagonal cost no more than the probes,
    the exact diagonal is computed instead.

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        tol: goal for `DiagonalEstimate.relative_error`; default 0.1.
        probes: a given number of probes, at least 2, instead of a goal.
        seed: seed of the probes and of the Krylov basis, which is independent of the probes; default 0.
        deflation: number of directions computed exactly, one product each; default 30; 0 is the plain estimator.
        max_products: most products; default 1,000. Only with ``tol``.
        progress: function called after every block of products.

    Raises:
        InputError: an argument is out of range, or a product isn't finite.
    """
    operator = as_exact_operator(operator)
    check_arguments(operator.dim, tol, probes, seed, max_products, deflation)
    allowed = max(fewest_products(operator.dim, deflation), max_products or MAX_PRODUCTS)
    goal = None if probes else tol or TOL
    estimation = _Estimation(operator, goal, seed, allowed, deflation, progress or (lambda _: None))
    return estimation.run(probes or FEWEST_PROBES)


def check_arguments(
    dim: int, tol: float | None, probes: int | None, seed: int, max_products: int | None, deflation: int = DEFLATION
) -> None:
    """Raise the InputError that `estimate_diagonal` would raise for an operator of dimension ``dim``."""
    check_goal("diagonal", tol, probes, seed, max_products)
    refuse_fractions(deflation=deflation)
    if deflation < 0:
        raise InputError(f"deflation must not be negative, and {deflation} is")
    least = fewest_products(dim, deflation)
    if max_products is not None and max_products < least:
        raise InputError(f"a diagonal takes at least {least} products, and max_products is {max_products}")


def fewest_products(dim: int, deflation: int, probes: int | None = None) -> int:
    """Products of the shortest run: for the basis and the first probes, or for every unit vector."""
    return min(dim, deflation + (probes or FEWEST_PROBES))


class _Estimation(Sampling[DiagonalEstimate]):
    """One run: deflate a Krylov basis and probe its complement, or multiply every unit vector."""

    def __init__(
        self,
        operator: SymmetricOperator,
        tol: float | None,
        seed: int,
        allowed: int,
        deflation: int,
        progress: Callable[[Progress], None],
    ) -> None:
        self.operator, self.tol, self.seed, self.allowed, self.deflation = operator, tol, seed, allowed, deflation
        self._progress, self._before = progress, operator.products
        self._probes, self._error = 0, 0.0
        self._mean = torch.zeros(operator.dim, dtype=torch.float64, device=operator.device)
        self._squares = torch.zeros_like(self._mean)  # of the deviations from the mean (Welford 1962)

    @property
    def products(self) -> int:
        """Products made in this run."""
        return self.operator.products - self._before

    def run(self, probes: int) -> DiagonalEstimate:
        """Estimate from probes, or compute the exact diagonal if that takes no more products than the first probes."""
        if self.operator.dim <= self.deflation + probes:
            return self.exact()
        self.distance = distance(self.operator, self.seed)
        self.basis = self._basis()
        self._known = self._of_basis()
        return self.sample(probes)

    def _basis(self) -> KrylovBasis:
        """A Krylov basis; if the Krylov space is exhausted early, a new random vector continues the basis."""
        basis = KrylovBasis(self.operator, self.deflation + 1, self.seed)
        pending = basis.append_random() if self.deflation else None
        while pending is not None and basis.expanded < self.deflation:
            following = basis.expand(pending).pending
            pending = basis.append_random() if following is None else following
            self._tell("deflating", self.deflation + FEWEST_PROBES)
        return basis

    def _of_basis(self) -> Tensor:
        """The diagonal of Q Q^T A + A Q Q^T - Q Q^T A Q Q^T, (n,)."""
        rows, total = self.basis.rows, torch.zeros_like(self._mean)
        size = self.basis.expanded
        relation = np.vstack([self.basis.projection, self.basis.border])
        for index in range(size):
            unit = np.eye(size)[:, [index]]
            vector, product = rows.combine(unit), rows.combine(relation[:, [index]])
            within = rows.combine(self.basis.projection[:, [index]])
            total += (vector.to(torch.float64) * (2 * product.to(torch.float64) - within)).squeeze(1)
        return total

    def draw(self, wanted: int) -> None:
        """See `Sampling.draw`."""
        size, total = block_size(self.operator, 16), self.products + wanted - self._probes
        while self._probes < wanted:
            indices = range(self._probes, min(wanted, self._probes + size))
            signs = probe_block(self.operator, self.seed, indices)
            outside = self._outside(signs)
            images = finite_products(self.operator, outside)
            if not self._probes:  # the first probe, multiplied again at another scale, shows the rounding
                self._error = measured_rounding(self.operator, outside[:, 0], images[:, 0].to(torch.float64))
            products = self._outside(images)
            for sample in (signs.to(torch.float64) * products.to(torch.float64)).unbind(1):
                self._probes += 1
                deviation = sample - self._mean
                self._mean += deviation / self._probes
                self._squares += deviation * (sample - self._mean)
            self._tell("probing", total)

    def _outside(self, vectors: Tensor) -> Tensor:
        """The part of a block (n, m) outside span Q."""
        return self.basis.rows.split(vectors, self.basis.expanded)[1] if self.basis.expanded else vectors

    def estimate(self) -> DiagonalEstimate:
        """See `Sampling.estimate`."""
        errors = (self._squares / (self._probes - 1) / self._probes).sqrt()
        estimate = DiagonalEstimate(
            values=(self._known + self._mean).cpu().numpy(),
            standard_errors=errors.cpu().numpy(),
            method="probes",
            tol=self.tol,
            converged=True,
            rounding=self.distance.spectral + self._rounding(),
            deflation=self.basis.expanded,
            probes=self._probes,
            products=self.products,
            arithmetic=self.distance.arithmetic(self.operator),
        )
        if self.tol is None or estimate.relative_error <= self.tol:
            return estimate
        return DiagonalEstimate(**(vars(estimate) | {"converged": False}))

    def _rounding(self) -> float:
        """Bound on the rounding that `Distance` doesn't cover: in the three terms of the basis and in the sums."""
        largest = float(np.abs(self.basis.ritz()[0]).max()) if self.basis.expanded else 0.0
        largest = max(largest, float((self._known + self._mean).abs().max()))
        orthogonalisation = 4 * torch.finfo(self.operator.dtype).eps * largest
        return 3 * math.sqrt(self.basis.expanded + 1) * (self._error + orthogonalisation)

    def needed(self, found: DiagonalEstimate) -> int:
        """See `Sampling.needed`."""
        return math.ceil(found.probes * (found.relative_error / (self.tol or TOL)) ** 2)

    def room(self) -> int:
        """See `Sampling.room`."""
        return self.allowed - self.products

    def exact_instead(self, found: DiagonalEstimate, more: int) -> DiagonalEstimate | None:
        """See `Sampling.exact_instead`."""
        return self.exact() if self.operator.dim < more else None

    def converged(self, found: DiagonalEstimate) -> bool:
        """See `Sampling.converged`."""
        return found.converged

    def hopeless(self, found: DiagonalEstimate) -> bool:
        """See `Sampling.hopeless`: always false, because more probes always help."""
        return False

    def exact(self) -> DiagonalEstimate:
        """The diagonal from the product with every unit vector; earlier probes are discarded."""
        columns, total = Columns(self.operator), self.products + self.operator.dim
        values = np.empty(self.operator.dim)
        for start, block in columns:
            stop = start + block.shape[1]
            values[start:stop] = block[start:stop].diagonal().to(torch.float64).cpu().numpy()
            self._tell("multiplying", total)
        return DiagonalEstimate(
            values=values,
            standard_errors=np.zeros(len(values)),
            method="exact",
            tol=self.tol,
            converged=True,
            rounding=columns.rounding,
            deflation=0,
            probes=0,
            products=self.products,
            arithmetic=arithmetic(self.operator, columns.reason),
        )

    def _tell(self, phase: str, total: int) -> None:
        self._progress(Progress(phase, self.products, np.array([]), min(1.0, self.products / total)))
