"""What one Hessian-vector product costs, in gradients, by every way there is to make it, and one of other matrices."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import Spread, alternate
from landscape.curvature.fisher import EmpiricalFisher, ExactFisher, MonteCarloFisher
from landscape.curvature.gauss_newton import GaussNewton
from landscape.curvature.hessian import Hessian
from landscape.operator import SymmetricOperator
from landscape.problem import Problem


@dataclass(frozen=True)
class Cost:
    """The cost of one thing in gradients."""

    what: str
    gradients: Spread


@dataclass(frozen=True)
class ProductCosts:
    """What products cost on one problem.

    Attributes:
        problem: its checkpoint.
        parameters: their number.
        samples: sequences in its data.
        gradient_ms: the unit, a gradient in plain PyTorch, in milliseconds.
        costs: in that unit, paired within each round.
    """

    problem: str
    parameters: int
    samples: int
    gradient_ms: Spread
    costs: list[Cost]


def product_costs(name: str, problem: Problem, rounds: int) -> ProductCosts:
    """Time every way in turn, each round against its own gradient."""
    plain, theirs = PlainModel(problem), PlainModel(problem)
    vector = torch.randn(problem.layout.dim, generator=torch.Generator().manual_seed(0)).to(problem.vector)
    pieces = list(problem.layout.unflatten(vector).values())
    cached, rebuilt = Hessian(problem, route="cached"), Hessian(problem, route="rebuilt")
    others: dict[str, SymmetricOperator] = {
        "Gauss-Newton": GaussNewton(problem, route="cached"),
        "exact Fisher": ExactFisher(problem, route="cached"),
        "Monte-Carlo Fisher, 1 label": MonteCarloFisher(problem, route="cached"),
        "empirical Fisher": EmpiricalFisher(problem, route="cached"),
    }
    with problem.evaluating():
        solver = theirs.pyhessian()
    actions: dict[str, Callable[[], object]] = {
        "plain gradient": plain.gradient,
        "Problem.gradient": problem.gradient,
        "route cached, product": lambda: cached.matvec(vector),
        "route rebuilt, product": lambda: rebuilt.matvec(vector),
        "plain reverse-over-reverse, product": lambda: plain.product(pieces),
        "PyHessian, product": lambda: pyhessian_product(solver, pieces),
        "route cached, set-up": lambda: Hessian(problem, route="cached"),
        "route rebuilt, set-up": lambda: Hessian(problem, route="rebuilt"),
        "PyHessian, set-up": PlainModel(problem).pyhessian,
        **{f"{name}, product": partial(operator.matvec, vector) for name, operator in others.items()},
    }
    with problem.evaluating():  # for all the same attention kernel
        times = alternate(actions, rounds, problem.device)
    return ProductCosts(
        problem=name,
        parameters=problem.layout.dim,
        samples=len(problem.batches[0][0]),
        gradient_ms=Spread.of(1e3 * row["plain gradient"] for row in times),
        costs=[Cost(what, Spread.of(row[what] / row["plain gradient"] for row in times)) for what in actions],
    )


def operator_cost(problem: Problem, rounds: int) -> tuple[Spread, Spread]:
    """On any device: the milliseconds of `Problem.gradient`, and the cost of a product of its Hessian in gradients."""
    hessian = Hessian(problem, route="cached")
    actions = {"gradient": problem.gradient, "product": lambda: hessian.matvec(problem.vector)}
    times = alternate(actions, rounds, problem.device)
    in_gradients = Spread.of(row["product"] / row["gradient"] for row in times)
    return Spread.of(1e3 * row["gradient"] for row in times), in_gradients


class PlainModel:
    """The model of a problem on its one batch, used as any script uses it: without this library."""

    def __init__(self, problem: Problem) -> None:
        self.model = copy.deepcopy(problem.model).eval()
        self.parameters = list(self.model.parameters())
        nn.utils.vector_to_parameters(problem.vector, self.parameters)
        ((self.inputs, self.targets),) = problem.batches
        self.criterion = nn.CrossEntropyLoss()

    def gradient(self, create_graph: bool = False) -> tuple[Tensor, ...]:
        """The gradient, a piece for each parameter."""
        loss = self.criterion(self.model(self.inputs), self.targets)
        return torch.autograd.grad(loss, self.parameters, create_graph=create_graph)

    def product(self, pieces: list[Tensor]) -> tuple[Tensor, ...]:
        """One Hessian-vector product by differentiating the gradient again, from nothing."""
        return torch.autograd.grad(self.gradient(create_graph=True), self.parameters, pieces)

    def pyhessian(self) -> Any:
        """PyHessian's solver in its single-batch mode, which keeps the gradient's graph."""
        import pyhessian

        self.model.zero_grad()  # it leaves a gradient behind and would add to it
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")
            return pyhessian.hessian(self.model, self.criterion, data=(self.inputs, self.targets), cuda=False)


def pyhessian_product(solver: Any, pieces: list[Tensor]) -> tuple[Tensor, ...]:
    """One product by PyHessian's own function."""
    from pyhessian.utils import hessian_vector_product

    return hessian_vector_product(solver.gradsH, solver.params, pieces)
