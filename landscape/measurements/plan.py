"""The products, the memory and the time that a request would take, without measuring.

At the first checkpoint one loss is evaluated, and two products of each matrix are made for their time and memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    """The expected work of one measurement at all its checkpoints.

    Attributes:
        measurement: its name.
        units: number of checkpoints, or 1 for the whole run.
        cost: its work at one checkpoint; None where the work can't be foreseen.
        seconds: time at one checkpoint: that of the products and of the losses. What a solver does between products
            isn't counted. NaN where the work can't be foreseen.
    """

    measurement: str
    units: int
    cost: Cost | None
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The expected work of a request.

    Attributes:
        measurements: one entry for each measurement.
        memory: bytes beyond model and data: the growth of this process's memory by the products that were tried, and
            the vectors of the measurement that keeps most. It is too low in a process that has computed before. NaN
            where the growth can't be measured.
    """

    measurements: tuple[Planned, ...]
    memory: float


def plan(
    checkpoints: str | Path | Sequence[str | Path],
    measurements: Sequence[Measurement],
    *,
    source: Source | None = None,
    at: Sequence[int] = (),
) -> Plan:
    """Foresee the cost of measurements; arguments as in `landscape.probe`. Nothing is written.

    Raises:
        InputError: what `landscape.probe` would refuse.
    """
    prepared = prepare(checkpoints, measurements, source=source, at=at)
    problem = prepared.run.load(prepared.run.files[0])
    counted = [
        (measurement, sum(measurement in asked for asked in prepared.asked.values()))
        for measurement in {each.name: each for asked in prepared.asked.values() for each in asked}.values()
    ]
    return plan_at(problem, counted)


def plan_at(problem: Problem, counted: Sequence[tuple[Measurement, int]]) -> Plan:
    """The plan of measurements, each with its number of checkpoints, by trials at one problem."""
    from landscape.machine.memory import Growth

    growth = Growth(problem.device)
    loss = _timed(lambda: problem.evaluate().loss)
    planned, vectors = [], 0
    for measurement, units in counted:
        cost = measurement.cost(problem)
        if cost is None:
            planned.append(Planned(measurement.name, units, None, math.nan))
            continue
        product = _product(problem, cost) if cost.products else 0.0
        planned.append(Planned(measurement.name, units, cost, cost.products * product + cost.losses * loss))
        vectors = max(vectors, cost.vectors)
    return Plan(tuple(planned), growth.most() + vectors * problem.vector.nbytes)


def _product(problem: Problem, cost: Cost) -> float:
    """Seconds of a product. One product is also made in float64, as every estimate does, for its memory."""
    import torch

    from landscape.machine.widened import NoFloat64Error
    from landscape.spectrum.rounding import Float64Products

    assert cost.operator is not None, "asked for only where there are products"
    operator = cost.operator(problem, cost.products)
    vector = torch.randn(problem.layout.dim, dtype=problem.dtype, generator=torch.Generator().manual_seed(0))
    vector = vector.to(problem.device)
    seconds = min(_timed(lambda: float((operator @ vector).sum())) for _ in range(_TRIALS))
    with suppress(NoFloat64Error):
        Float64Products(operator)(vector.unsqueeze(1))
    return seconds


def _timed(function: Callable[[], float]) -> float:
    """Seconds of a call that ends with a number of Python, so that a device has computed it."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
