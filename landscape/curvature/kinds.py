"""Every kind of matrix: one table for the command, the measurements and Python.

A kind is one row here and one module with its operator. Another package adds one by an entry point, see
`landscape.plugins`. Nothing here imports torch before a matrix is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from landscape.errors import InputError
from landscape.plugins import added, load
from landscape.reporting.messages import listed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from landscape.curvature.differences import DifferenceHessian
    from landscape.curvature.products.batched import BatchedOperator
    from landscape.operator import SymmetricOperator
    from landscape.problem import Problem

Unit = Literal["term", "sequence"]


@dataclass(frozen=True)
class Kind:
    """A kind of matrix.

    Attributes:
        title: what the screen calls it.
        home: ``module:Class`` of its operator, which takes a problem and these settings by name.
        settings: of ``unit``, ``samples`` and ``seed`` those that the operator takes; and ``route`` and ``products``,
            where its products can be made in several ways.
        differentiable: whether differences of the gradient are another way to make its products, to check them by.
        reduced: whether products are in less precision than vectors.
    """

    title: str
    home: str
    settings: tuple[str, ...] = ()
    differentiable: bool = False
    reduced: bool = False

    @property
    def operator(self) -> Any:
        """The class of the operator, imported now."""
        module, _, name = self.home.partition(":")
        return getattr(import_module(module), name)

    def check(self, problem: Problem) -> None:
        """Refuse, before anything is computed, a problem that has no such matrix.

        Raises:
            InputError: as the operator's own ``check``, where it has one.
        """
        check = getattr(self.operator, "check", None)
        if check is not None:
            check(problem)

    def make(self, problem: Problem, **settings: Any) -> BatchedOperator | DifferenceHessian:
        """The operator at a problem's point, in batches that fit into its memory.

        Args:
            problem: where the matrix is taken.
            **settings: values for any settings; those that the operator doesn't take are passed over.
        """
        if "route" in self.settings:
            from landscape.curvature.fitting import fitted

            problem = fitted(problem)
        made: BatchedOperator | DifferenceHessian = self.operator(
            problem, **{name: settings[name] for name in self.settings if name in settings}
        )
        return made


_ROUTES = ("route", "products")
BUILT_IN = {
    "hessian": Kind("Hessian", "landscape.curvature.hessian:Hessian", _ROUTES, differentiable=True),
    "bfloat16": Kind(
        "Hessian in bfloat16", "landscape.curvature.reduced:ReducedHessian", _ROUTES, differentiable=True, reduced=True
    ),
    "differences": Kind(
        "Hessian by differences of the gradient", "landscape.curvature.differences:DifferenceHessian", ("seed",)
    ),
    "ggn": Kind("generalised Gauss-Newton matrix", "landscape.curvature.gauss_newton:GaussNewton", ("route",)),
    "fisher": Kind("Fisher matrix (exact)", "landscape.curvature.fisher:ExactFisher", ("unit", "route")),
    "fisher-mc": Kind(
        "Fisher matrix (Monte Carlo)",
        "landscape.curvature.fisher:MonteCarloFisher",
        ("unit", "samples", "seed", "route"),
    ),
    "fisher-empirical": Kind(
        "empirical Fisher (gradients' second moment)", "landscape.curvature.fisher:EmpiricalFisher", ("unit", "route")
    ),
}


def names() -> list[str]:
    """The kinds there are, those of other packages last."""
    return list(BUILT_IN | added("landscape.matrices"))


def kind_of(name: str) -> Kind:
    """A kind by its name.

    Raises:
        InputError: there is none, or another package's can't be loaded.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    others = added("landscape.matrices")
    if name not in others:
        raise InputError(f"there is no matrix {name!r}; there are {listed(names(), 20)}")
    found: Kind = load(others[name], lambda each: isinstance(each, Kind))
    return found


def matrix(
    problem: Problem,
    kind: str = "hessian",
    *,
    unit: Unit = "term",
    samples: int = 1,
    seed: int = 0,
    precondition: Tensor | np.ndarray | Sequence[float] | Literal["adam"] | None = None,
) -> SymmetricOperator:
    """The matrix of a problem, of any kind, as an operator on flat vectors (dim,).

    Args:
        problem: where the matrix is taken.
        kind: ``hessian``; ``bfloat16``, the Hessian by products in less precision; ``differences``, the Hessian by
            differences of the gradient, for a loss that can't be differentiated twice; ``ggn``, the generalised
            Gauss-Newton matrix; ``fisher``, exact under the model's own distribution; ``fisher-mc``, the Fisher from
            sampled labels; ``fisher-empirical``, the second moment of the gradients at the data's labels, which isn't
            the Fisher (Kunstner, Hennig and Balles 2019); or one that another package adds.
        unit: what a score of a Fisher matrix is of: each ``term`` (token), or each sample's sum (``sequence``).
        samples: labels sampled for each term of ``fisher-mc``.
        seed: of these labels, and of the step of ``differences``.
        precondition: the diagonal D (dim,) of D^(-1/2) A D^(-1/2); ``adam`` takes it from the second moments of the
            problem's optimiser.

    Raises:
        InputError: the problem has no such matrix, or nothing to precondition with.
    """
    found = kind_of(kind)
    found.check(problem)
    made = found.make(problem, unit=unit, samples=samples, seed=seed)
    if precondition is None:
        return made
    from landscape.curvature.preconditioned import Preconditioned, adam_diagonal_of

    return Preconditioned(made, adam_diagonal_of(problem) if isinstance(precondition, str) else precondition)
