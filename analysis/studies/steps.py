"""Valley hopping, and the split of each step into valley and river, at every step of the toy's trainings.

Checkpoints show windows of a training; here `landscape.watch` measures at every step. At theta_t the three largest
eigenvalues are tracked. The slopes of the loss at both ends of the step tell whether the step crosses the valley's
floor. The valley is the span of the three eigenvectors, and the river is the rest.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from analysis.support.intervals import mean_of, share_of
from analysis.support.study import Report, Scale, Stage, Study, markdown_table
from analysis.support.toy import NAMES, PAIR, pair
from analysis.support.units import Unit
from landscape.figures import COLOURS
from models.settings import TrainingSettings

EIGENVECTORS, SEQUENCES, KEY = 3, 128, (0, 3)
STABILITY_EVERY = 10
DIRECTIONS = ("the step", "v_1", "v_2", "v_3")
WINDOW = 50  # steps of a running mean in the figure


def stages(scale: Scale) -> list[Stage]:
    """A unit for each training: it isn't one of the kept runs, for the measurements are within it."""
    steps, count = scale.pick(600, 12), scale.pick(SEQUENCES, 32)
    return [
        [
            Unit(
                f"steps-{arm}-{seed}",
                measure,
                {"settings": replace(settings, seed=seed), "steps": steps, "count": count},
            )
            for seed in range(scale.pick(5, 2))
            for arm, settings in pair(scale).items()
        ]
    ]


def measure(settings: TrainingSettings, steps: int, count: int) -> dict[str, Any]:
    """Train, and measure at each step.

    Args:
        settings: settings of the training.
        steps: number of steps.
        count: number of sequences of the evaluation set.

    Returns:
        For each step lists of the ``eigenvalues``, ``converged``, ``valley_share`` of the step's squared length,
        ``slopes`` at both ends (2, direction) and their ``errors``, the step's ``components`` along the directions, of
        which the first is its length; at every tenth step the ``ratio`` to the threshold of stability; and
        ``random_share``, the expected valley share of a random direction.
    """
    from torch import nn

    import landscape
    from landscape.live import TrackedEigenvalues, every
    from models.training import TrainingRun

    run = TrainingRun.begin(settings)
    rows: dict[int, dict[str, float]] = defaultdict(dict)
    instruments = [
        every(1, TrackedEigenvalues(EIGENVECTORS)), every(1, "crossings"), every(STABILITY_EVERY, "stability")
    ]  # fmt: skip
    run.watch = landscape.watch(
        run.model, nn.CrossEntropyLoss(), [run.draw(count, KEY)], optimizer=run.optimizer, instruments=instruments,
        log_to=lambda numbers, step: rows[step].update(numbers), on_error="raise",
    )  # fmt: skip
    for _ in range(steps):
        run.advance()
    return _of_rows([rows[step] for step in range(steps)])


def _of_rows(rows: list[dict[str, float]]) -> dict[str, Any]:
    top, cross, numbers = "top_eigenvalues/", "crossings/", range(len(DIRECTIONS))

    def slopes(row: dict[str, float], kind: str) -> list[list[float]]:
        return [[row[f"{cross}slope_{end}{kind}[{i}]"] for i in numbers] for end in ("before", "after")]

    return {
        "eigenvalues": [[row[f"{top}eigenvalue[{i}]"] for i in range(EIGENVECTORS)] for row in rows],
        "converged": [row[f"{top}converged"] for row in rows],
        "valley_share": [row[f"{top}valley_share"] for row in rows],
        "random_share": rows[0][f"{top}valley_share_random"],
        "components": [
            [row[f"{top}step_norm"], *(row[f"{top}step_component[{i}]"] for i in range(EIGENVECTORS))] for row in rows
        ],
        "slopes": [slopes(row, "") for row in rows],
        "errors": [slopes(row, "_error") for row in rows],
        "ratio": [row["stability/ratio"] for row in rows[::STABILITY_EVERY]],
    }


def report(scale: Scale, found: Mapping[str, Any]) -> Report:
    """A table of crossings, a table of the split, and a figure of both along the training."""
    data = _dataset(found, range(scale.pick(5, 2)))
    text = f"""At every one of the first {data.sizes["step"]:,} steps, on {scale.pick(SEQUENCES, 32)} fixed sequences of
the task. A step crosses the floor along a direction if the loss's slopes along the direction have different signs at
the step's two ends. Of the loss on these sequences this is exact. Of the loss on all sequences it is *certain* where
both slopes are beyond two standard errors from 0. More than half of the steps would cross if the iterates hopped;
iterates at rest in a noisy quadratic do so beyond half of the threshold of stability only (docs/dynamics.md).

{_crossings(data)}
The *valley* is the span of the three eigenvectors; a random step has {data.attrs["random_share"]:.2%} of its squared
length there. *Of the decrease* is the valley's share of the first-order change of the loss: the sum over the three
directions of slope times component, by the slope along the step times its length. *Curvature* is the second-order
change by the valley, the sum of lambda_i c_i^2 / 2, by the first-order decrease along the step. Medians over the steps.
*Ratio*: the largest eigenvalue of what Adam's steps see, by its threshold of stability.

{_split(data)}"""
    return Report(text, data, {"steps": _figure(data)})


def _dataset(found: Mapping[str, Any], seeds: range) -> xr.Dataset:
    def every(name: str) -> np.ndarray:
        return np.array([[found[f"steps-{arm}-{seed}"][name] for seed in seeds] for arm in PAIR])

    at, first = ("arm", "seed", "step"), found[f"steps-{PAIR[0]}-0"]
    data = xr.Dataset(
        {name: (at, every(name)) for name in ("converged", "valley_share")}
        | {"eigenvalues": ((*at, "eigenvalue_number"), every("eigenvalues"))}
        | {name: ((*at, "end", "direction"), every(name)) for name in ("slopes", "errors")}
        | {"components": ((*at, "direction"), every("components"))}
        | {"ratio": (("arm", "seed", "step_of_ratio"), every("ratio"))},
        {"arm": list(PAIR), "seed": list(seeds), "step": np.arange(len(first["converged"])), "end": ["before", "after"],
         "direction": list(DIRECTIONS), "step_of_ratio": STABILITY_EVERY * np.arange(len(first["ratio"]))},
        {"random_share": first["random_share"]},
    )  # fmt: skip
    certain = (abs(data.slopes) > 2 * data.errors).all("end")
    crossed = data.slopes.sel(end="before") * data.slopes.sel(end="after") < 0
    changes = data.slopes.sel(end="before") * data.components
    along = -changes.sel(direction="the step")
    valley = [each for each in DIRECTIONS if each != "the step"]
    decrease = -changes.sel(direction=valley).sum("direction") / along
    squares = (data.components.sel(direction=valley) ** 2).values
    curvature = (data.eigenvalues * squares).sum("eigenvalue_number") / 2 / along
    return data.assign(crossed=crossed, certain=certain, decrease=decrease, curvature=curvature)


def _phases(data: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """The first tenth of the steps, the rest of the first half, and the second half."""
    count = data.sizes["step"]
    ends = [0, max(count // 10, 1), count // 2, count]
    return [
        (f"{low} to {high - 1}", data.sel(step=slice(low, high - 1), step_of_ratio=slice(low, high - 1)))
        for low, high in itertools.pairwise(ends)
    ]


def _crossings(data: xr.Dataset) -> str:
    rows = []
    for arm in PAIR:
        for title, part in _phases(data.sel(arm=arm)):
            each = part.crossed.mean("step")
            shares = [share_of(each.sel(direction=name).values).text(2) for name in DIRECTIONS]
            both = int((part.crossed & part.certain).sum())
            rows.append([f"{NAMES[arm]}, steps {title}", *shares, f"{both:,} of {int(part.certain.sum()):,}"])
    return markdown_table(["steps that cross the floor along", *DIRECTIONS, "of the certain ones"], rows)


def _split(data: xr.Dataset) -> str:
    rows = []
    for arm in PAIR:
        for title, part in _phases(data.sel(arm=arm)):
            medians = [part[name].median("step").values for name in ("valley_share", "decrease", "curvature")]
            rows.append(
                [
                    f"{NAMES[arm]}, steps {title}",
                    *(mean_of(each).text(2) for each in medians),
                    mean_of(part.ratio.median("step_of_ratio").values).text(2),
                    mean_of(part.eigenvalues.isel(eigenvalue_number=0).median("step").values).text(1),
                ]
            )
    return markdown_table(["in the valley", "of the length", "of the decrease", "curvature", "ratio", "lambda_1"], rows)


def _figure(data: xr.Dataset) -> Figure:
    figure = Figure(figsize=(6.9, 5.2), layout="constrained")
    window = min(WINDOW, data.sizes["step"] // 4)
    for column, arm in zip(figure.subplots(3, 2, sharex=True, sharey="row").T, PAIR, strict=True):
        own = data.sel(arm=arm)
        smooth = own.assign(crossed=own.crossed.astype(float))[["crossed", "valley_share", "decrease"]].rolling(
            step=window, center=True, min_periods=1
        )
        crossed, split = smooth.mean(), smooth.median()
        for name, colour in zip(("v_1", "the step"), COLOURS, strict=False):
            _band(column[0], crossed.crossed.sel(direction=name), colour, f"along {name}")
        column[0].axhline(0.5, color="black", linewidth=0.5)
        for name, colour, label in (
            ("valley_share", COLOURS[0], "squared length"), ("decrease", COLOURS[1], "first-order decrease"),
        ):  # fmt: skip
            _band(column[1], split[name], colour, label)
        column[1].axhline(data.attrs["random_share"], color="black", linewidth=0.5, linestyle=":")
        ratio = own.ratio.rename(step_of_ratio="step")
        _band(column[2], ratio, COLOURS[0], "ratio to the threshold")
        column[2].axhline(1, color="black", linewidth=0.5)
        column[0].set(title=NAMES[arm], ylim=(0, 1))
        column[1].set(ylim=(-0.2, 1))
        column[2].set(xlabel="training step", yscale="log")
    for axes, label in zip(figure.axes[::2], ("steps that cross", "in the valley", "ratio"), strict=True):
        axes.set_ylabel(label)
        axes.legend()
    return figure


def _band(axes: Any, values: xr.DataArray, colour: str, label: str) -> None:
    """The mean over seeds, and the range of the seeds."""
    axes.plot(values.step, values.mean("seed"), color=colour, label=label)
    axes.fill_between(values.step, values.min("seed"), values.max("seed"), color=colour, alpha=0.15, linewidth=0)


STUDY = Study("steps", "Valley hopping, and the split into valley and river, at every step", stages, report)
