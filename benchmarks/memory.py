"""The memory that kept graphs were said to take, against what the process takes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.cases import pose
from landscape.curvature.hessian import Hessian

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class GraphMemory:
    """Bytes that the kept graphs of one problem take.

    Attributes:
        problem: its checkpoint.
        samples: sequences in its data.
        counted: `Route.graph_bytes`, which decides the route.
        held: growth of the process's resident memory once they are made.
        peak: growth of its maximum by making them and two products.
    """

    problem: str
    samples: int
    counted: int
    held: int
    peak: int


def graph_memory(checkpoint: str, samples: int) -> GraphMemory | None:
    """Measure in a process of its own, whose memory nothing has touched before; None where it isn't Linux."""
    if not _CLEAR.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, checkpoint, samples).result()


def _measure(checkpoint: str, samples: int) -> GraphMemory:
    torch.set_num_threads(1)
    problem = pose(checkpoint, samples)
    problem.gradient()  # what every later step needs too
    _CLEAR.write_text("5")  # the maximum starts again from here (proc(5))
    before = _resident("VmRSS")
    hessian = Hessian(problem, route="cached")
    held = _resident("VmRSS") - before
    for _ in range(2):
        hessian.matvec(problem.vector)
    return GraphMemory(checkpoint, samples, hessian.route.graph_bytes, held, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    """Resident bytes: VmRSS now, VmHWM at most so far."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
