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
        eigenvalues: Rayleigh quotients, (k,) float64, in the order of ``which``.
        intervals: lower and upper bounds, (k, 2) float64. If residual norms were the goal, each interval contains an
            eigenvalue of the matrix that ``arithmetic`` names, except with the chance ``misjudged``. The residual norm
            and the rounding together bound the distance to the nearest eigenvalue. If ``tol_value`` was the goal, the
            interval of the i-th largest value contains the i-th largest eigenvalue. The interval of the i-th smallest
            value contains the i-th smallest eigenvalue. All of these hold together, except with the chance
            ``miss_probability``. See `landscape.spectrum.certificate`, also for LM.
        residuals: residual norms ||A v - lambda v||, (k,) float64, from the products that made the basis. Rounding is
            added in the mean square, so each is accurate up to ``rounding``. If those products were in less precision,
            the residual norms are from exact products.
        converged: whether the residual norm is at most ``tol`` |lambda| or at the level of rounding, (k,) bool. With
            ``tol_value``: whether every number in the interval is within ``tol_value`` |lambda| of lambda, or within
            four times ``rounding``.
        eigenvectors: unit columns, (n, k) torch, on the operator's device and of its dtype.
        which: requested end of the spectrum.
        tol: requested relative residual norm.
        tol_value: requested relative accuracy of the eigenvalues, or None.
        rounding: residual norm that rounding can cause. One form is a bound from products in float64 with random
            combinations of the eigenvectors. The other form is sqrt(m) (e + 4 eps ||A||) for a basis of m vectors.
            It is used if each eigenvector or none was multiplied in float64; in the first case it is at least the
            rounding that those products show. Here e is the norm of the difference between one product with a random
            combination of the basis and the product that the projection predicts.
        misjudged: chance that rounding exceeds the bound in ``intervals``; 0 if no bound is from random combinations.
            See `landscape.spectrum.rounding`.
        arithmetic: the matrix whose eigenvalues the intervals contain: ``in float64``, or ``as computed in float32
            (...)`` with the reason why there are no products in float64.
        orthogonality: max |Q^T Q - I| of the basis; far above the rounding unit there would be ghosts (spurious copies
            of eigenvalues).
        miss_probability: bound on the probability that a copy of a wanted eigenvalue, or a larger eigenvalue, was
            missed by more than the tolerance; see `landscape.spectrum.search`. The bound is for the matrix of the
            rounded products that were made.
        products: number of all products.
        products_verification: number of the products that measured the rounding or searched for missed copies.
        place: where the basis was: on the operator's device, in host memory or in a file.
        shared: whether each of several processes had a part of every basis vector.
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
        """Whether every pair has converged and the search for missed copies has reached its goal."""
        return bool(self.converged.all()) and self.miss_probability <= MISSED_AT_MOST

    def __rich__(self) -> Any:
        """The table for a terminal."""
        from landscape.reporting.display import eigenvalue_table

        return eigenvalue_table(self.eigenvalues, self.intervals, self.residuals, self.converged, self.arithmetic)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The table for a notebook."""
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

    Once the residual norms are small, one more product measures their rounding error. Then a Lanczos chain from a fresh
    random vector searches the complement of the wanted vectors. It looks for copies of multiple eigenvalues, because
    one start vector sees only one copy (Parlett 1998, section 13.1).

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        k: number of eigenpairs, 1 to n.
        which: end of the spectrum, default LM. LM is by |lambda| descending, LA descending, SA ascending. BE is the
            ceil(k/2) largest, descending, then the floor(k/2) smallest, ascending.
        tol: goal for the relative residual norm ||A v - lambda v|| / |lambda|; default 1e-3.
        seed: seed of all random vectors, default 0.
        tol_value: goal for the certified relative accuracy of the eigenvalues, instead of ``tol``. It takes fewer
            products, because an eigenvalue's error is proportional to the squared residual norm.
        start: vectors of an earlier solve, (n, l). The basis then starts from their sum instead of a random vector.
            The search for missed copies still starts from a random vector.
        max_products: the solve stops after about this many products, whatever has converged; default 500 + 50 k, at
            least k.
        basis_size: most basis vectors, at least 2 k + 4. Default: the smaller of 10 k + 300 and the number for which
            ``memory`` has room. Without ``memory``, vectors of 2 GB have room, and always 2 k + 20 vectors. If
            ``memory`` has room for less than 2 k + 4, the operator's processes share the basis. If that isn't enough,
            2 k + 20 vectors go to host memory (for an operator on a GPU) or to a file in TMPDIR or /var/tmp.
        memory: bytes that all vectors may take; never more than the operator leaves them (`SymmetricOperator.memory`).
        progress: function called after every product.

    Raises:
        InputError: an argument is out of range, a product isn't finite, or ``start`` has another shape or entries that
            aren't finite.
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
    basis_memory = None if memory is None else memory - bytes_beside(operator, k, memory)
    basis = KrylovBasis(operator, capacity, seed, basis_memory)
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
    """Refuse arguments of `top_eigenpairs` that are out of range for an operator of dimension ``dim``.

    Raises:
        InputError: an argument is out of range.
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
    """The number of products after which a solve ends, whatever has converged: default 500 + 50 k, at least k."""
    return max(k, 500 + 50 * k if max_products is None else max_products)
