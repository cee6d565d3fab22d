"""Costs of a plane of the loss, by this library and by another, in units of as many bare forward passes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.support.plain import PlainModel
from benchmarks.support.timing import Spread, alternate
from landscape import Problem
from landscape.slices import gaussian, plane
from landscape.slices.grid import positions


@dataclass(frozen=True)
class PlaneCosts:
    """The costs of a plane of the loss.

    Attributes:
        case: name of the model's case.
        points: number of points on each axis.
        seconds: time of as many bare forward passes with the loss.
        ratios: time of the plane by each library divided by that time, over the rounds.
    """

    case: str
    points: int
    seconds: Spread
    ratios: dict[str, Spread]


def plane_costs(case: str, problem: Problem, points: int, rounds: int) -> PlaneCosts:
    """Time planes by both libraries and bare forward passes, in turn."""
    from loss_landscapes import random_plane
    from loss_landscapes.metrics import Loss

    plain, theirs = PlainModel(problem), PlainModel(problem)
    first, second = (gaussian(problem, 0, index) for index in range(2))
    grid = positions(-0.5, 0.5, points)
    metric = Loss(theirs.criterion, theirs.inputs, theirs.targets)

    def bare() -> None:
        with torch.no_grad(), problem.evaluating():
            for _ in range(len(grid) ** 2):
                plain.loss()

    def peer() -> None:
        with torch.no_grad(), problem.evaluating(), contextlib.redirect_stdout(io.StringIO()):
            random_plane(theirs.model, metric, distance=1, steps=points, normalization="filter", deepcopy_model=True)

    actions: dict[str, Callable[[], object]] = {
        "bare": bare,
        "landscape": lambda: plane(problem, first, second, grid, grid),
        "loss-landscapes": peer,
    }
    times = alternate(actions, rounds, problem.device)
    ratios = {name: Spread.of(row[name] / row["bare"] for row in times) for name in actions if name != "bare"}
    return PlaneCosts(case, points, Spread.of(row["bare"] for row in times), ratios)
