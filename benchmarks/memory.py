"""The memory that solves take, and that kept graphs were said to take, against what the process takes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import solvers
from benchmarks.cases import CASES
from landscape.curvature.hessian import Hessian

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SOLVERS = {"landscape": "landscape", "SciPy eigsh, double backward": "scipy_eigsh",
           "hessian-eigenthings": "eigenthings", "PyHessian": "pyhessian"}  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """Bytes that one case takes beyond its model and data.

    Attributes:
        case: its name.
        counted: `Route.graph_bytes`, which decides the route.
        held: growth of the process's resident memory once the graphs are made.
        products: growth of its maximum by making them and two products.
        solves: growth of its maximum in a whole solve for the pairs, by each library.
    """

    case: str
    counted: int
    held: int
    products: int
    solves: dict[str, int]


def memory_of(case: str, k: int) -> Memory | None:
    """Measure each thing in a process of its own, whose memory nothing has touched; None where it isn't Linux."""
    if not _CLEAR.exists():
        return None
    counted, held, products = _alone(_graphs, case)
    return Memory(case, counted, held, products, {name: _alone(_solve, case, k, of) for name, of in SOLVERS.items()})


def _alone(function, *arguments):  # type: ignore[no-untyped-def]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _graphs(case: str) -> tuple[int, int, int]:
    torch.set_num_threads(1)
    problem = CASES[case][1]()
    problem.gradient()  # what every later step needs too
    before = _begin()
    hessian = Hessian(problem, route="cached")
    held = _resident("VmRSS") - before
    for _ in range(2):
        hessian.matvec(problem.vector)
    return hessian.route.graph_bytes, held, _resident("VmHWM") - before


def _solve(case: str, k: int, solver: str) -> int:
    torch.set_num_threads(1)
    problem = CASES[case][1]()
    problem.gradient()
    before = _begin()
    with problem.evaluating():
        getattr(solvers, solver)(problem, k, 0)
    return _resident("VmHWM") - before


def _begin() -> int:
    """Let the maximum start again from here (proc(5)); what is resident now."""
    _CLEAR.write_text("5")
    return _resident("VmRSS")


def _resident(field: str) -> int:
    """Resident bytes: VmRSS now, VmHWM at most so far."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
