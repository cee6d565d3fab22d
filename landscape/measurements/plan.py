"""What a request would take: products, memory and time, without measuring.

At the first checkpoint one loss is evaluated, and two products of each matrix are made for their time and memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from landscape.measurements.base import Measurement
from landscape.measurements.cost import Cost
from landscape.measurements.preparation import prepare

if TYPE_CHECKING:
    from landscape.loading.source import Source
    from landscape.problem import Problem

_TRIALS = 2  # products of which the quicker is the time of a product; the first also starts libraries


@dataclass(frozen=True)
class Planned:
    """What one measurement would take at all its checkpoints.

    Attributes:
        measurement: its name.
        units: number of checkpoints, or 1 for the whole run.
        cost: its work at one checkpoint; None where the work can't be foreseen.
        seconds: time at one checkpoint: that of the products and of the losses. What a solver does between products
            isn't counted. NaN where the work can't be foreseen.
        memory: bytes beyond model and data; NaN where they can't be foreseen.
    """

    measurement: str
    units: int
    cost: Cost | None
    seconds: float
    memory: float


def plan(
    checkpoints: str | Path | Sequence[str | Path],
    measurements: Sequence[Measurement],
    *,
    source: Source | None = None,
    at: Sequence[int] = (),
) -> list[Planned]:
    """Foresee the cost of measurements; arguments as in `landscape.probe`. Nothing is written.

    Raises:
        InputError: what `landscape.probe` would refuse.
    """
    prepared = prepare(checkpoints, measurements, source=source, at=at)
    problem = prepared.run.load(prepared.run.files[0])
    loss = _timed(lambda: problem.evaluate().loss)
    planned = []
    for measurement in {each.name: each for asked in prepared.asked.values() for each in asked}.values():
        units = sum(measurement in asked for asked in prepared.asked.values())
        planned.append(planned_at(problem, measurement, units, loss))
    return planned


def planned_at(problem: Problem, measurement: Measurement, units: int, loss: float) -> Planned:
    """The plan of a measurement at a problem, where a loss takes ``loss`` seconds."""
    cost = measurement.cost(problem)
    if cost is None:
        return Planned(measurement.name, units, None, math.nan, math.nan)
    product, memory = _product(problem, cost) if cost.operator and cost.products else (0.0, 0.0)
    seconds = cost.products * product + cost.losses * loss
    return Planned(measurement.name, units, cost, seconds, memory + cost.vectors * problem.vector.nbytes)


def _product(problem: Problem, cost: Cost) -> tuple[float, float]:
    """Seconds of a product, and the estimated bytes that products take."""
    import torch

    assert cost.operator is not None, "asked for only where there are products"
    operator, base = cost.operator(problem, cost.products)
    vector = torch.randn(problem.layout.dim, dtype=problem.dtype, generator=torch.Generator().manual_seed(0))
    vector = vector.to(problem.device)
    seconds = min(_timed(lambda: float((operator @ vector).sum())) for _ in range(_TRIALS))
    return seconds, getattr(base, "peak_bytes", math.nan)  # differences keep nothing that could be counted


def _timed(function: Callable[[], float]) -> float:
    """Seconds of a call that ends with a number of Python, so that a device has computed it."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
