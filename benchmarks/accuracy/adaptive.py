"""``python -m benchmarks.accuracy.adaptive``: points that an adaptive plane evaluates, and its errors elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from cyclopts import App

from benchmarks.support.cases import pose, train_if_missing
from benchmarks.support.machine import this_machine
from benchmarks.support.plan import GPT, SMALL
from benchmarks.support.resnet import trained_resnet
from benchmarks.support.tables import Table
from landscape import Problem, top_eigenpairs
from landscape.slices import (
    Direction,
    Plane,
    find_extent,
    gaussian,
    natural_scale,
    normalised,
    orthogonalised,
    plane,
    unit,
)
from landscape.slices.adaptive import adapt, span
from landscape.slices.grid import positions

TOL = 0.01
SEEDS = 3
FAR = 1.0
"""Half the length of each axis of the widest plane. A filter-normalised direction times 1 is as long as the weights."""


@dataclass(frozen=True)
class Found:
    """An adaptive plane compared with the fully evaluated plane.

    Attributes:
        share: fraction of the points that were evaluated.
        error: largest error, relative to the range of the whole plane.
        low_error: largest error among the points whose loss rises by at most its natural scale, relative to the range
            of these points.
        log_error: largest error of the logarithm of the loss.
        told: error that `adapt` reported, relative to the range of the whole plane.
    """

    share: float
    error: float
    low_error: float
    log_error: float
    told: float


def compare(whole: Plane, scale: float, tol: float, seed: int) -> Found:
    """Run `adapt` on a plane whose points are all known, and compare; points that aren't finite are left out."""
    made = adapt(lambda row, column: float(whole.losses[row, column]), whole.losses.shape, whole.centre, tol, seed)
    both = np.isfinite(whole.losses) & np.isfinite(made.values)
    truth, values = whole.losses[both], made.values[both]
    off = np.abs(values - truth)
    low = truth <= whole.losses[whole.centre] + scale
    positive = np.maximum(values, np.finfo(float).tiny)
    return Found(
        share=made.points / made.values.size,
        error=float(off.max() / span(truth)),
        low_error=float(off[low].max() / span(truth[low])),
        log_error=float(np.abs(np.log(positive) - np.log(truth)).max()),
        told=made.error / span(truth),
    )


def planes(problem: Problem, points: int) -> Iterator[tuple[str, Plane]]:
    """Fully evaluated planes, named by their pair of directions.

    Three planes reach to the ends that `find_extent` finds. One plane reaches to `FAR`.
    """
    pairs = top_eigenpairs(problem.hessian(), k=2)
    vectors = [pairs.eigenvectors[:, place] for place in range(2)]
    kinds: dict[str, list[Direction]] = {
        "random, filter-normalised": [gaussian(problem, 0, index) for index in range(2)],
        "eigenvectors of length 1": [unit(vector, "eigenvector") for vector in vectors],
        "eigenvectors, filter-normalised": [normalised(problem, vector, "eigenvector") for vector in vectors],
    }
    for name, directions in kinds.items():
        first, second = orthogonalised(directions)
        ends = [find_extent(problem, each) for each in (first, second)]
        yield name, plane(problem, first, second, *(positions(each.low, each.high, points) for each in ends))
    first, second = orthogonalised(kinds["random, filter-normalised"])
    far = positions(-FAR, FAR, points)
    yield "random, as far as the weights", plane(problem, first, second, far, far)


MODELS: dict[str, Callable[[int], Problem]] = {
    "Looped-Attn": lambda samples: pose(SMALL, samples),
    "looped GPT": lambda samples: pose(GPT, samples),
    "ResNet-20": trained_resnet,
}

app = App(name="python -m benchmarks.accuracy.adaptive", version_flags=[])


@app.default
def main(*models: Literal["Looped-Attn", "looped GPT", "ResNet-20"], points: int = 51, samples: int = 64) -> int:
    """Print, as Markdown, the points and the errors of adaptive planes: the worst of three seeds.

    Args:
        models: Names of models; default: all.
        points: Number of points on each axis.
        samples: Number of samples in the loss.
    """
    torch.set_num_threads(1)
    rows, shares = [], []
    for name in models or MODELS:
        if name == "looped GPT":
            train_if_missing(GPT)
        problem = MODELS[name](samples)
        for kind, whole in planes(problem, points):
            found = [compare(whole, natural_scale(problem), TOL, seed) for seed in range(SEEDS)]
            worst = [max(getattr(each, field) for each in found) for field in Found.__dataclass_fields__]
            shares.append(worst[0])
            rows.append((f"{name}, {kind}", f"{worst[0]:.0%}", *(f"{value:.4f}" for value in worst[1:])))
    print(this_machine(torch.device("cpu")))
    title = (
        f"Planes of {points} x {points} points, {samples} samples, to {TOL:.0%} of the range; worst of {SEEDS} seeds"
    )
    header = ("plane", "points evaluated", "error / range", "within the natural scale", "of log loss", "error told")
    print(Table(title, header, rows).markdown())
    print(f"\nMedian share of points: {np.median(shares):.0%}")
    return 0


def dented(points: int, width: float, seed: int) -> np.ndarray:
    """Values (points, points) of a valley with a round hole at a random place.

    The hole is as deep as half of the valley's range. Its standard deviation is ``width`` grid steps.
    """
    generator = np.random.default_rng(seed)
    place, turn = generator.uniform(-0.95, 0.95, 2), generator.uniform(0, np.pi)
    x, y = np.meshgrid(*[np.linspace(-1, 1, points)] * 2)
    valley = (x * np.cos(turn) + y * np.sin(turn)) ** 2 + 0.3 * (y * np.cos(turn) - x * np.sin(turn)) ** 2
    off = ((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * width / (points - 1)) ** 2
    return np.asarray(valley / span(valley) - 0.5 * np.exp(-off / 2))


@app.command
def narrow(*, points: int = 51, seeds: int = 40) -> None:
    """Print, as Markdown, how often adaptive planes find holes of several widths in a valley.

    Args:
        points: Number of points on each axis.
        seeds: Number of random valleys and places of the hole.
    """
    rows = []
    for width in (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        errors, shares = [], []
        for seed in range(seeds):
            whole = dented(points, width, seed)
            centre = (points // 2, points // 2)
            made = adapt(lambda row, column, at=whole: float(at[row, column]), whole.shape, centre, TOL, seed)  # type: ignore[misc]
            errors.append(np.abs(made.values - whole).max() / span(whole))
            shares.append(made.points / whole.size)
        found = sum(error < 3 * TOL for error in errors)
        rows.append(
            (
                f"{width:g} step{'' if width == 1 else 's'}",
                f"{np.median(shares):.0%}",
                f"{found} of {seeds}",
                f"{max(errors):.3f}",
            )
        )
    title = f"Round holes of half the range in a valley of {points} x {points} points, to {TOL:.0%}"
    print(Table(title, ("standard deviation", "points evaluated", "found", "largest error / range"), rows).markdown())


if __name__ == "__main__":
    app()
