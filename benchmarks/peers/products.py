"""Costs in gradients: Hessian-vector products by every route and library, and products of other matrices."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.support.plain import PlainModel
from benchmarks.support.timing import Spread, alternate
from landscape.curvature.fisher import EmpiricalFisher, ExactFisher, MonteCarloFisher
from landscape.curvature.gauss_newton import GaussNewton
from landscape.curvature.hessian import Hessian
from landscape.operator import SymmetricOperator
from landscape.problem import Problem

ROUTES = ("cached", "linearised", "compiled", "rebuilt", "recompiled")


@dataclass(frozen=True)
class Cost:
    """The cost of one computation, in gradients."""

    what: str
    gradients: Spread


@dataclass(frozen=True)
class ProductCosts:
    """The costs of products on one problem.

    Attributes:
        case: name of the problem's case.
        parameters: number of parameters.
        samples: number of samples in the data.
        gradient_ms: time of a gradient in plain PyTorch, in milliseconds.
        costs: costs of all computations in such gradients, paired within each round.
        set_up_seconds: wall-clock time of each route before its first product, measured once. The processor's time
            would leave out the compiler's own processes.
    """

    case: str
    parameters: int
    samples: int
    gradient_ms: Spread
    costs: list[Cost]
    set_up_seconds: dict[str, float]


def product_costs(case: str, problem: Problem, rounds: int) -> ProductCosts:
    """Time every computation in turn, and divide its time by that of the gradient of the same round."""
    plain = PlainModel(problem)
    vector = torch.randn(problem.layout.dim, generator=torch.Generator().manual_seed(0)).to(problem.vector)
    pieces = plain.pieces(vector)
    forward = plain.forward_over_reverse()
    along = dict(zip((name for name, _ in plain.model.named_parameters()), pieces, strict=True))
    routes, set_up = _routes(problem)
    others: dict[str, SymmetricOperator] = {
        "Gauss-Newton": GaussNewton(problem, route="cached"),
        "exact Fisher": ExactFisher(problem, route="cached"),
        "Monte-Carlo Fisher, 1 label": MonteCarloFisher(problem, route="cached"),
        "empirical Fisher": EmpiricalFisher(problem, route="cached"),
    }
    with problem.evaluating():
        solver = pyhessian_solver(PlainModel(problem))
    eigenthings = eigenthings_operator(PlainModel(problem))
    actions: dict[str, Callable[[], object]] = {
        "plain gradient": plain.gradient,
        "Problem.gradient": problem.gradient,
        **{f"route {name}, product": partial(hessian.matvec, vector) for name, hessian in routes.items()},
        "plain reverse-over-reverse, product": lambda: plain.product(pieces),
        "torch.func jvp(grad), product": lambda: forward(along),
        "hessian-eigenthings, product": lambda: eigenthings.matvec(vector),
        "PyHessian, product": lambda: pyhessian_product(solver, pieces),
        "route cached, set-up": lambda: Hessian(problem, route="cached"),
        "PyHessian, set-up": lambda: pyhessian_solver(PlainModel(problem)),
        **{f"{name}, product": partial(operator.matvec, vector) for name, operator in others.items()},
    }
    with problem.evaluating():  # one attention kernel for all libraries
        times = alternate(actions, rounds, problem.device)
    return ProductCosts(
        case=case,
        parameters=problem.layout.dim,
        samples=len(problem.batches[0][0]),
        gradient_ms=Spread.of(1e3 * row["plain gradient"] for row in times),
        costs=[Cost(what, Spread.of(row[what] / row["plain gradient"] for row in times)) for what in actions],
        set_up_seconds=set_up,
    )


def _routes(problem: Problem) -> tuple[dict[str, Hessian], dict[str, float]]:
    """The Hessian by every route, and the seconds of each set-up; routes that aren't possible here are left out."""
    routes, seconds = {}, {}
    for route in ROUTES:
        started = time.perf_counter()
        hessian = Hessian(problem.to(), route=route)  # the copy holds no program of another route
        if not hessian.route.note:
            routes[route], seconds[route] = hessian, time.perf_counter() - started
    return routes, seconds


def operator_cost(problem: Problem, rounds: int) -> tuple[Spread, Spread]:
    """The milliseconds of `Problem.gradient` on any device, and the cost of a Hessian product in such gradients."""
    hessian = Hessian(problem, route="cached")
    actions = {"gradient": problem.gradient, "product": lambda: hessian.matvec(problem.vector)}
    times = alternate(actions, rounds, problem.device)
    in_gradients = Spread.of(row["product"] / row["gradient"] for row in times)
    return Spread.of(1e3 * row["gradient"] for row in times), in_gradients


def eigenthings_operator(plain: PlainModel) -> Any:
    """The Hessian of hessian-eigenthings on the bare model."""
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(plain.model, [(plain.inputs, plain.targets)], supervised_loss(plain.criterion))


def pyhessian_solver(plain: PlainModel) -> Any:
    """PyHessian's solver in its single-batch mode, which keeps the gradient's graph."""
    import pyhessian

    cuda = plain.inputs.device.type == "cuda"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")
        solver = pyhessian.hessian(plain.model, plain.criterion, data=(plain.inputs, plain.targets), cuda=cuda)
    return solver


def pyhessian_product(solver: Any, pieces: list[Tensor]) -> tuple[Tensor, ...]:
    """One Hessian-vector product by PyHessian's own function."""
    from pyhessian.utils import hessian_vector_product

    return hessian_vector_product(solver.gradsH, solver.params, pieces)
