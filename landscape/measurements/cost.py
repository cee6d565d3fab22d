"""The work of a measurement, as far as it can be foreseen without measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from landscape.operator import SymmetricOperator
    from landscape.problem import Problem

Certainty = Literal["exactly", "about", "at least"]

EXTENT = 30  # evaluations of the loss to find the ends of a slice along one direction


@dataclass(frozen=True)
class Cost:
    """The work of one measurement of one checkpoint.

    Attributes:
        products: number of products with the matrix.
        losses: number of evaluations of the loss on all samples.
        certainty: how far ``products`` is known. Exactly: settings and dimension decide the number. About: a solve
            decides it. At least: an estimate goes on until its error is small enough.
        operator: makes the operator of the products, from a problem and the number of products.
        vectors: number of vectors of the length of the parameters that are kept beside those of a product.
        groups: how often the gradient of every group of samples is computed, each by itself; see
            `landscape.sampling.groups`. The losses include these gradients, but not the overhead of each group.
    """

    products: int = 0
    losses: int = 0
    certainty: Certainty = "exactly"
    operator: Callable[[Problem, int], SymmetricOperator] | None = None
    vectors: int = 0
    groups: int = 0


def of_solve(k: int) -> int:
    """About how many products a solve for k eigenpairs of a network's matrix takes, with the search for missed ones."""
    return 20 + 4 * k


def of_probes(
    products: int, probes: int | None, operator: Callable[[Problem, int], SymmetricOperator], vectors: int
) -> Cost:
    """The work of an estimate by probe vectors.

    Args:
        products: the products of the first probes, or of all probes where their number is given.
        probes: the number of probes, or None where the error decides it.
        operator: see `Cost`.
        vectors: see `Cost`.
    """
    return Cost(products, 0, "at least" if probes is None else "about", operator, vectors)


def hessian(problem: Problem, products: int) -> SymmetricOperator:
    """The operator of a measurement that is always of the Hessian."""
    return problem.hessian(products)
