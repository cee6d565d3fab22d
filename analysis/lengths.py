"""Past the toy: does the shape of the valley predict accuracy on longer questions (R8), and what do spectra do (R7)?

The models are those of the SHIFT studies: GPT-2-style blocks on the algorithmic tasks, whose spectra are too large to
be had whole. So anisotropy is told by (tr H)^2 / ||H||_F^2, an effective rank, from random probes; by lambda_1 /
lambda_10, which is kappa of the ten largest eigenvalues; and geometry by the exponent of the walls along the top
eigenvectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats

import landscape
from analysis.intervals import mean_of, rank_correlation
from analysis.runs import measuring_units, training_units
from analysis.shift import LEARNT, TASKS, contest_of
from analysis.study import Report, Scale, Study, markdown_table
from analysis.units import Unit
from data.algorithmic import ALGORITHMS
from landscape.figures import COLOURS
from landscape.measurements.valley import HEIGHTS
from models.settings import TaskName, TrainingSettings, checkpoints_of, step_of
from models.tasks import HELD_OUT_SEQUENCES

STEPS = (1000,)
"""At which curvature is measured, beside the last. Not at the start, where the trace is near zero: a tenth of it takes
more products than all the rest."""

FEWEST_MODELS, FEWEST_GROUPS = 10, 6
"""With fewer, a correlation in the right order by chance would have an interval without zero."""

MEASURES = {
    "exponent": "exponent, half of the depth",
    "effective_rank": "effective rank",
    "kappa": "lambda_1 / lambda_10",
    "lambda_max": "lambda_max",
    "loss": "loss",
}


def stages(scale: Scale) -> list[list[Unit]]:
    """Training as in the SHIFT studies, then the shapes."""
    tasks, seeds = _tasks(scale), _seeds(scale)
    training = [unit for task in tasks for unit in training_units(scale.runs, _arms(task, scale), seeds, f"{task}-")]
    measured = [
        unit
        for task in tasks
        for unit in measuring_units(
            scale.runs, _arms(task, scale), seeds, f"shape-{task}", measure, steps=scale.pick(STEPS, (4,)),
            directions=scale.pick(5, 1), k=scale.pick(10, 2),
        )
    ]  # fmt: skip
    return [training, measured]


def _tasks(scale: Scale) -> tuple[TaskName, ...]:
    return scale.pick(tuple(task for task in TASKS if task in ALGORITHMS), ("copy",))


def _seeds(scale: Scale) -> int:
    return scale.pick(3, 2)


def _arms(task: TaskName, scale: Scale) -> dict[str, TrainingSettings]:
    return dict(contest_of(task, scale).unstaged)


def measure(folder: str, steps: tuple[int, ...], directions: int, k: int) -> dict[str, Any]:
    """Curvature at some steps and the last by the k largest eigenvalues and the trace, and the valley at the last."""
    *before, last = checkpoints_of(Path(folder))
    chosen = [*(path for path in before if step_of(path) in steps), last]
    pairs, trace = landscape.TopEigenpairs(k, "LA"), landscape.Trace(0.1)
    asked = [landscape.Loss(), pairs, trace, landscape.Valley(directions)]
    result = landscape.probe(chosen, asked, Path(folder) / f"shape-{directions}.landscape.h5", at=(-1,))
    rows = [row.data for row in result.rows]
    valley = rows[-1]["valley"]
    return {
        "steps": [step_of(path) for path in chosen],
        "eigenvalues": [each["hessian"].eigenvalues.values.tolist() for each in rows],
        "lambda_max": [float(each["hessian"].eigenvalues[0]) for each in rows],
        "kappa": [_kappa(each["hessian"].eigenvalues.values) for each in rows],
        "effective_rank": [float(each["trace"].trace ** 2 / each["trace"].frobenius ** 2) for each in rows],
        "loss": [float(each["loss"].loss) for each in rows],
        "exponent": [_median(valley.exponent.values[:, -1], valley.label.values[:, -1])],
        "labels": valley.label.values.tolist(),
    }


def _median(exponents: np.ndarray, labels: np.ndarray) -> float:
    """Of the directions that have walls; NaN where none has."""
    walled = exponents[labels != "no valley"]
    return float(np.median(walled)) if len(walled) else float("nan")


def _kappa(eigenvalues: np.ndarray) -> float:
    """The largest by the smallest of some top eigenvalues; NaN where that isn't positive."""
    return float(eigenvalues.max() / eigenvalues.min()) if eigenvalues.min() > 0 else float("nan")


def report(scale: Scale, found: Mapping[str, Any]) -> Report:
    """Rank correlations over models, and curvature over training."""
    data = _dataset(scale, found)
    good = data.accuracy >= LEARNT
    text = f"""One model for each task, arm and seed: {data.sizes["model"]} in all, {int(good.sum())} of which answer
at least {LEARNT:.0%} of the questions of trained lengths. Longer: mean accuracy over the task's longer lengths.
The effective rank is (tr H)^2 by the squared Frobenius norm, from random probes.

**R8.** Spearman's correlation of each measure with the accuracy on longer questions. Tasks differ in everything, so
ranks are taken within each task and pooled; a task on which models differ by no more than sampling makes of equal ones
is left out. Models of one task and arm aren't independent: the 95 % intervals are over resampled tasks and arms, and
the last column has ranks within task and arm, among seeds alone, which neither explains.

{_correlations(data, good)}
**R7.** Single and looped after 1,000 steps and at the end of training, mean over seeds. The logarithm
of the effective rank is the entropy of second order; the matrix entropy and phases aren't told of models of this size.

{_training(scale, found)}
R2 past the toy: of the ten largest eigenvalues at the last checkpoint, rank by rank, how many are larger in the looped
model in every seed, how many smaller in every seed, and the mean of log2(looped / single) over ranks.

{_dominance(scale, found)}
Verdicts of the geometry at the last checkpoint, over all directions, by height:

{_verdicts(scale, found)}"""
    return Report(text, data, {"exponents": _figure(data)})


def _dataset(scale: Scale, found: Mapping[str, Any]) -> xr.Dataset:
    """A row for each model."""
    rows: list[dict[str, Any]] = []
    for task in _tasks(scale):
        for arm in _arms(task, scale):
            for seed in range(_seeds(scale)):
                metrics = found[f"train-{task}-{arm}-{seed}"]["metrics"]
                longer = [metrics[f"evaluation_accuracy_{length}"][-1] for length in ALGORITHMS[task].longer]
                shape = found[f"shape-{task}-{arm}-{seed}"]
                rows.append({
                    "task": task, "arm": arm, "seed": seed, "accuracy": metrics["evaluation_accuracy"][-1],
                    "longer": float(np.mean(longer)), "asked": HELD_OUT_SEQUENCES * len(longer),
                    **{name: shape[name][-1] for name in MEASURES},
                })  # fmt: skip
    return xr.Dataset({name: ("model", [row[name] for row in rows]) for name in rows[0]})


def _ranks(data: xr.Dataset, name: str, chosen: np.ndarray, within: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Ranks of a measure and of the accuracy within each group, from 0 to 1, and the task and arm of each model.

    Of the chosen models whose measure is known, in groups of three or more that differ by more than sampling.
    """
    cells = np.array([f"{task} {arm}" for task, arm in zip(data.task.values, data.arm.values, strict=True)])
    groups = np.array([" ".join(each) for each in zip(*(data[kind].values for kind in within), strict=True)])
    chosen = chosen & np.isfinite(data[name].values)
    found: list[tuple[np.ndarray, ...]] = [(np.empty(0), np.empty(0), np.empty(0, dtype=cells.dtype))]
    for group in np.unique(groups):
        here = np.flatnonzero(chosen & (groups == group))
        longer = data.longer.values[here]
        if len(here) > 2 and longer.std(ddof=1) > 2 * np.sqrt(
            (longer * (1 - longer)).mean() / data.asked.values[here[0]]
        ):
            ranks = [(stats.rankdata(each) - 1) / (len(here) - 1) for each in (data[name].values[here], longer)]
            found.append((*ranks, cells[here]))
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))


def _correlations(data: xr.Dataset, good: xr.DataArray) -> str:
    everything = np.ones(data.sizes["model"], dtype=bool)
    columns = {
        "all models": (everything, ("task",)),
        "models that learnt their task": (good.values, ("task",)),
        "among seeds of a task and arm": (everything, ("task", "arm")),
    }
    rows = []
    for name, title in MEASURES.items():
        cells = []
        for chosen, within in columns.values():
            x, y, groups = _ranks(data, name, chosen, within)
            enough = len(x) >= FEWEST_MODELS and len(np.unique(groups)) >= FEWEST_GROUPS
            cells.append(f"{rank_correlation(x, y, groups).text(2, '+')}, {len(x)} models" if enough else "too few")
        rows.append([title, *cells])
    return markdown_table(["", *columns], rows)


def _training(scale: Scale, found: Mapping[str, Any]) -> str:
    rows = []
    for task in _tasks(scale):
        for arm in ("single", "looped"):
            shapes = [found[f"shape-{task}-{arm}-{seed}"] for seed in range(_seeds(scale))]
            for place, step in enumerate(shapes[0]["steps"]):
                cells = [mean_of([each[name][place] for each in shapes]).text(2) for name in
                         ("loss", "lambda_max", "effective_rank", "kappa")]  # fmt: skip
                rows.append([f"{task}, {arm}, step {step}", *cells])
    return markdown_table(["", *(MEASURES[name] for name in ("loss", "lambda_max", "effective_rank", "kappa"))], rows)


def _dominance(scale: Scale, found: Mapping[str, Any]) -> str:
    rows = []
    for task in _tasks(scale):
        single, looped = (
            np.array([found[f"shape-{task}-{arm}-{seed}"]["eigenvalues"][-1] for seed in range(_seeds(scale))])
            for arm in ("single", "looped")
        )
        positive = (np.stack([single, looped]) > 0).all(axis=(0, 1))
        ratios = np.log2(looped[:, positive] / single[:, positive])  # (seed, rank)
        above, below = (int(each.all(axis=0).sum()) for each in (ratios > 0, ratios < 0))
        mean = mean_of(ratios.mean(axis=1)).text(2, "+") if positive.any() else "none"
        rows.append([task, str(int(positive.sum())), str(above), str(below), mean])
    return markdown_table(["", "positive in all", "looped above", "below", "mean log2 ratio"], rows)


def _verdicts(scale: Scale, found: Mapping[str, Any]) -> str:
    rows = []
    for task in _tasks(scale):
        for arm in _arms(task, scale):
            labels = np.array([found[f"shape-{task}-{arm}-{seed}"]["labels"] for seed in range(_seeds(scale))])
            cells = [
                ", ".join(f"{count} {label}" for label, count in Counter(labels[..., place].ravel()).most_common())
                for place in range(labels.shape[-1])
            ]
            rows.append([f"{task}, {arm}", *cells])
    return markdown_table(["", *(f"{height:g} of the depth" for height in HEIGHTS)], rows)


def _figure(data: xr.Dataset) -> Figure:
    """Accuracy on longer questions against the exponent, a colour for each task."""
    figure = Figure(figsize=(3.35, 2.6), layout="constrained")
    axes = figure.subplots()
    for task, colour in zip(np.unique(data.task.values), COLOURS, strict=False):
        own = data.isel(model=data.task.values == task)
        axes.plot(own.exponent, own.longer, "o", color=colour, label=task)
    axes.set(xlabel="exponent of the walls, half of the depth", ylabel="accuracy on longer questions")
    axes.legend()
    return figure


STUDY = Study(
    "lengths", "R7, R8: past the toy, does the valley's shape predict accuracy on longer questions?", stages, report
)
