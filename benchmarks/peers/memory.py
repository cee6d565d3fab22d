"""The memory of a process with kept graphs, beside the counted bytes of these graphs, and in whole solves."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.peers import solvers
from benchmarks.support.cases import CASES
from landscape.curvature.hessian import Hessian
from landscape.machine.memory import Growth
from landscape.problem import Problem

SOLVERS = {"landscape": "landscape", "SciPy eigsh, double backward": "scipy_eigsh",
           "hessian-eigenthings": "eigenthings", "PyHessian": "pyhessian"}  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """Bytes that one case takes beyond its model and data.

    Attributes:
        case: name of the case.
        counted: `Route.graph_bytes`, which decides the route.
        held: growth of the memory in use once the graphs are made.
        products: growth of the peak memory by the graphs and two products.
        solves: growth of the peak memory in a whole solve, by each library.
    """

    case: str
    counted: int
    held: int
    products: int
    solves: dict[str, int]


def memory_of(case: str, k: int, device: torch.device) -> Memory | None:
    """Measure the graphs and each solve in fresh processes of their own; None where memory can't be measured."""
    if math.isnan(Growth(device).now()):
        return None
    counted, held, products = _alone(_graphs, case, device)
    solves = {name: _alone(_solve, case, device, k, of) for name, of in SOLVERS.items()}
    return Memory(case, counted, held, products, solves)


def _alone(function: Callable[..., Any], *arguments: object) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _graphs(case: str, device: torch.device) -> tuple[int, int, int]:
    problem, growth = _begin(case, device)
    hessian = Hessian(problem, route="cached")
    held = growth.now()
    for _ in range(2):
        hessian.matvec(problem.vector)
    return hessian.route.graph_bytes, int(held), int(growth.most())


def _solve(case: str, device: torch.device, k: int, solver: str) -> int:
    problem, growth = _begin(case, device)
    with problem.evaluating():
        getattr(solvers, solver)(problem, k, 0)
    return int(growth.most())


def _begin(case: str, device: torch.device) -> tuple[Problem, Growth]:
    """The case's problem after a first gradient, and the growth of memory from then on.

    The gradient loads what every later step needs, so this isn't counted.
    """
    torch.set_num_threads(1)
    problem = CASES[case][1]().to(device)
    problem.gradient()
    return problem, Growth(problem.device)
