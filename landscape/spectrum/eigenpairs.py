"""The k eigenpairs at one or both ends of a symmetric operator's spectrum, each with its errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from torch import Tensor

from landscape.errors import InputError, refuse_fractions
from landscape.operator import SymmetricOperator, as_exact_operator, as_operator
from landscape.reporting.deprecation import renamed_members
from landscape.reporting.progress import Progress
from landscape.spectrum.basis_memory import basis_capacity, bytes_beside, for_one_basis
from landscape.spectrum.basis_store import Place
from landscape.spectrum.certified import CertifiedSolve
from landscape.spectrum.ends import Which
from landscape.spectrum.iteration import Goal, Iteration
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.search import MISSED_AT_MOST
from landscape.spectrum.solve import Solve


@renamed_members(missed="miss_probability")
@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs with their errors.

    Attributes:
        eigenvalues: (k,) float64, the Rayleigh quotients, in the order of ``which``.
        intervals: (k, 2) float64, lower and upper bounds. Where residuals were the goal, each contains an eigenvalue of
            the matrix that ``arithmetic`` names, but for the chance ``misjudged``: residual and rounding together bound
            the distance to the nearest one. Where ``tol_value`` was, that
            of the i-th largest contains the i-th largest eigenvalue, and that of the i-th smallest the i-th smallest,
            all together but with the chance ``miss_probability``; see `landscape.spectrum.certificate`, also for LM.
        residuals: (k,) float64, ||A v - lambda v|| from the products that made the basis, with what rounding adds in
            the mean square; up to ``rounding``. From exact products where those were in less precision.
        converged: (k,) bool: the residual is at most ``tol`` |lambda|, or at the level of rounding. With ``tol_value``:
            nothing in the interval is further from lambda than ``tol_value`` |lambda|, or than four times ``rounding``.
        eigenvectors: (n, k) torch, unit columns, on the operator's device and of its dtype.
        which: the end of the spectrum asked for.
        tol: the relative residual asked for.
        tol_value: the relative accuracy of the eigenvalues asked for instead, or None.
        rounding: the residual that rounding alone explains: a bound from products in float64 with random combinations
            of the eigenvectors, or sqrt(m) (e + 4 eps ||A||) for a basis of m vectors, with e the difference measured
            between one product with a random combination of the basis and what the basis and its projection have for
            it. The latter where each eigenvector was multiplied in float64, or none.
        misjudged: the chance that rounding does more than ``intervals`` allow for; 0 where no bound is from random
            combinations. See `landscape.spectrum.rounding`.
        arithmetic: whose eigenvalues the intervals contain: those of the matrix ``in float64``, or ``as computed in
            float32 (...)``, with the reason why there are no products in float64.
        orthogonality: max |Q^T Q - I| of the basis; far above the rounding unit, there would be ghosts.
        miss_probability: bound on the probability that a copy of a wanted eigenvalue, or a larger one, was missed
            by more than the tolerance; see `landscape.spectrum.search`. It is told of the matrix of the products that
            were made, which are rounded.
        products: all products made.
        products_verification: those of them spent on measuring the rounding and on the search for missed copies.
        place: where the basis was: on the operator's device, in host memory or in a file.
        shared: whether each of several processes had a part of every vector of it.
    """

    eigenvalues: np.ndarray
    intervals: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    eigenvectors: Tensor
    which: Which
    tol: float
    tol_value: float | None
    rounding: float
    misjudged: float
    arithmetic: str
    orthogonality: float
    miss_probability: float
    products: int
    products_verification: int
    place: Place
    shared: bool

    @property
    def complete(self) -> bool:
        """Every pair has converged and the search for missed copies reached its goal."""
        return bool(self.converged.all()) and self.miss_probability <= MISSED_AT_MOST

    def __rich__(self) -> Any:
        """The table that a terminal shows."""
        from landscape.reporting.display import eigenvalue_table

        return eigenvalue_table(self.eigenvalues, self.intervals, self.residuals, self.converged, self.arithmetic)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The table that a notebook shows."""
        from landscape.reporting.display import mimebundle

        return mimebundle(self)


def top_eigenpairs(
    operator: SymmetricOperator | Tensor | np.ndarray,
    k: int,
    which: Which = "LM",
    tol: float = 1e-3,
    seed: int = 0,
    *,
    tol_value: float | None = None,
    start: Tensor | None = None,
    max_products: int | None = None,
    basis_size: int | None = None,
    memory: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Eigenpairs:
    """The k eigenpairs at the end of the spectrum that ``which`` names, by thick-restart Lanczos.

    Once the residuals are small one more product measures how far rounding has put them off, and the complement of what
    was found is searched from a fresh start for copies of multiple eigenvalues, which one start vector cannot see
    (Parlett 1998, section 13.1).

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        k: how many, 1 to n.
        which: LM by |lambda| descending, LA descending, SA ascending, BE the ceil(k/2) largest, descending, then the
            floor(k/2) smallest, ascending.
        tol: goal for the relative residual ||A v - lambda v|| / |lambda|.
        seed: of all random vectors.
        tol_value: goal for the relative accuracy of the eigenvalues, certified, instead of ``tol``. It takes fewer
            products, since an eigenvalue's error goes with the square of the residual.
        start: (n, l), vectors of an earlier solve; the basis then starts from their sum instead of a random vector.
            The search for what was missed is random all the same.
        max_products: stop after about this many, whatever has converged; default 500 + 50 k, at least k.
        basis_size: vectors kept at most, at least 2 k + 4. Default: 10 k + 300, but no more than ``memory`` has room
            for, or without one what fits in 2 GB, and 2 k + 20 in any case. Where ``memory`` has room for less than
            2 k + 4 the operator's processes share the basis, if there are several; and where that isn't enough either
            it is 2 k + 20 vectors in host memory, if the operator is on a GPU, or in a file (in TMPDIR or /var/tmp).
        memory: bytes that all vectors may take; never more than the operator leaves them (`SymmetricOperator.memory`).
        progress: called after every product.

    Raises:
        InputError: an argument is out of range, or a product isn't finite; a start of another shape or with entries
            that aren't.
    """
    operator = as_operator(operator) if tol_value is None else as_exact_operator(operator)
    check_arguments(operator.dim, k, which, tol, seed, max_products, tol_value)
    if basis_size is not None and basis_size < min(operator.dim, 2 * k + 4):
        raise InputError(f"basis_size must be at least 2 k + 4 = {2 * k + 4}, not {basis_size}")
    memory = min((each for each in (memory, operator.memory) if each is not None), default=None)
    limit = products_allowed(k, max_products)
    memory = for_one_basis(memory, tol_value)
    capacity = basis_capacity(operator, k, memory)
    if basis_size is not None:
        capacity = min(operator.dim, basis_size)
    left = None if memory is None else memory - bytes_beside(operator, k, memory)
    basis = KrylovBasis(operator, capacity, seed, left)
    if start is not None:
        _refuse_misshapen(operator.dim, start)
        basis.start(start.sum(dim=1))
    tell = progress or (lambda _: None)
    solve: Iteration
    if tol_value is None:
        solve = Solve(operator, Goal(k, which, tol, limit), basis, tell, seed, memory)
    else:
        solve = CertifiedSolve(operator, Goal(k, which, tol_value, limit), basis, tell, seed)
    verified = solve.run()
    return Eigenpairs(
        eigenvalues=verified.values,
        intervals=verified.intervals,
        residuals=verified.residuals,
        converged=verified.converged,
        eigenvectors=verified.vectors,
        which=which,
        tol=tol,
        tol_value=tol_value,
        rounding=verified.rounding,
        misjudged=verified.misjudged,
        arithmetic=verified.arithmetic,
        orthogonality=basis.orthogonality_defect(),
        miss_probability=solve.miss_probability,
        products=solve.products,
        products_verification=solve.verification,
        place=basis.rows.place,
        shared=basis.rows.shared,
    )


def check_arguments(
    dim: int, k: int, which: str, tol: float, seed: int, max_products: int | None, tol_value: float | None = None
) -> None:
    """Refuse what `top_eigenpairs` can't be asked of an operator of dimension ``dim``.

    Raises:
        InputError: one of them is out of range.
    """
    refuse_fractions(k=k, seed=seed, max_products=max_products)
    if not 1 <= k <= dim:
        raise InputError(f"k must be between 1 and the number of parameters, {dim}, not {k}")
    if which not in get_args(Which):
        raise InputError(f"which must be one of {', '.join(get_args(Which))}, not {which!r}")
    if not 0 < tol < 1:
        raise InputError(f"tol must lie between 0 and 1, not {tol}")
    if tol_value is not None and not 0 < tol_value < 1:
        raise InputError(f"tol_value must lie between 0 and 1, not {tol_value}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie between 0 and 2^63 - 1, not {seed}")
    if max_products is not None and max_products < 1:
        raise InputError(f"max_products must be at least 1, not {max_products}")


def _refuse_misshapen(dim: int, start: Tensor) -> None:
    if start.ndim != 2 or start.shape[0] != dim:
        raise InputError(f"start must have the shape ({dim}, l), a vector in each column, not {tuple(start.shape)}")


def products_allowed(k: int, max_products: int | None) -> int:
    """After about so many products a solve ends, whatever has converged."""
    return max(k, 500 + 50 * k if max_products is None else max_products)
