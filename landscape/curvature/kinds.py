"""The table of all kinds of matrices, for the command, the measurements and Python.

A kind is one row of this table and one module with its operator. Another package adds a kind by an entry point, see
`landscape.plugins`. This module doesn't import torch before a matrix is made.
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
        title: name of the kind on the screen.
        home: ``module:Class`` of the operator, which takes a problem, and the settings by name.
        settings: names of the settings that the operator takes: some of ``unit``, ``samples`` and ``seed``. ``route``
            and ``products`` are among them where products can be made in several ways.
        differentiable: whether products can be checked against differences of the gradient; default: no.
        reduced: whether products are in lower precision than vectors; default: no.
    """

    title: str
    home: str
    settings: tuple[str, ...] = ()
    differentiable: bool = False
    reduced: bool = False

    @property
    def operator(self) -> Any:
        """The class of the operator, imported on access."""
        module, _, name = self.home.partition(":")
        return getattr(import_module(module), name)

    def check(self, problem: Problem) -> None:
        """Refuse a problem that has no such matrix, before anything is computed.

        Raises:
            InputError: the operator's own ``check``, if there is one, refuses the problem.
        """
        check = getattr(self.operator, "check", None)
        if check is not None:
            check(problem)

    def make(self, problem: Problem, **settings: Any) -> BatchedOperator | DifferenceHessian:
        """The operator at a problem's point, in batches that fit into the problem's memory.

        Args:
            problem: the problem at whose point the matrix is taken.
            **settings: values of settings; settings that the operator doesn't take are ignored.
        """
        if "route" in self.settings:
            from landscape.curvature.fitting import fitted

            problem = fitted(problem)
        operator: BatchedOperator | DifferenceHessian = self.operator(
            problem, **{name: settings[name] for name in self.settings if name in settings}
        )
        return operator


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
    """Names of all kinds, with those of other packages last."""
    return list(BUILT_IN | added("landscape.matrices"))


def kind_of(name: str) -> Kind:
    """The kind with this name.

    Raises:
        InputError: no kind has this name, or another package's kind can't be loaded.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    others = added("landscape.matrices")
    if name not in others:
        raise InputError(f"there is no matrix {name!r}; there are {listed(names(), 20)}")
    loaded: Kind = load(others[name], lambda each: isinstance(each, Kind))
    return loaded


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
        problem: the problem at whose point the matrix is taken.
        kind: ``hessian`` (default); ``bfloat16``, the Hessian by products in lower precision; ``differences``, the
            Hessian by differences of the gradient, for a loss that can't be differentiated twice; ``ggn``, the
            generalised Gauss-Newton matrix; ``fisher``, the exact Fisher matrix under the model's own distribution;
            ``fisher-mc``, the Fisher matrix from sampled labels; ``fisher-empirical``, the second moment of the
            gradients at the data's labels, which isn't the Fisher matrix (Kunstner, Hennig and Balles 2019); or a kind
            that another package adds.
        unit: unit of a score of a Fisher matrix: each ``term`` (token; default), or each sample's sum (``sequence``).
        samples: number of labels sampled for each term of ``fisher-mc``; default: 1.
        seed: seed of these labels, and of the random direction of ``differences``; default: 0.
        precondition: diagonal D, (dim,), of D^(-1/2) A D^(-1/2); ``adam`` takes D from the second moments of the
            problem's optimiser. Default: no preconditioning.

    Raises:
        InputError: the problem has no such matrix, or no usable diagonal to precondition with.
    """
    matrix_kind = kind_of(kind)
    matrix_kind.check(problem)
    operator = matrix_kind.make(problem, unit=unit, samples=samples, seed=seed)
    if precondition is None:
        return operator
    from landscape.curvature.preconditioned import Preconditioned, adam_diagonal_of

    return Preconditioned(operator, adam_diagonal_of(problem) if isinstance(precondition, str) else precondition)
