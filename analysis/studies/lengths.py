"""Beyond the toy: the valley's shape as a predictor of accuracy on longer questions (R8), and changes of spectra (R7).

The models are those of the SHIFT studies: GPT-2-style blocks on the algorithmic tasks. Their full spectra are too
expensive. So anisotropy is measured by an effective rank (tr H)^2 / ||H||_F^2 from random probes, and by lambda_1 /
lambda_10, which is kappa of the ten largest eigenvalues. Geometry is measured by the exponent of the walls along the
top eigenvectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats

from analysis.studies.shift import LEARNT, TASKS, study_of
from analysis.support.intervals import mean_of, rank_correlation
from analysis.support.study import Report, Results, Scale, Study, markdown_table
from data.algorithmic import ALGORITHMS
from landscape.errors import InputError
from landscape.figures import COLOURS
from models.settings import TaskName
from models.tasks import HELD_OUT_SEQUENCES

FEWEST_MODELS, FEWEST_GROUPS = 10, 6
"""Smallest numbers of models and of groups for a correlation.

With fewer, values that have the right order by chance would give an interval without zero.
"""

MEASURES = {
    "exponent": "exponent, half of the depth",
    "effective_rank": "effective rank",
    "kappa": "lambda_1 / lambda_10",
    "lambda_max": "lambda_max",
    "loss": "loss",
}


def _found(scale: Scale) -> dict[TaskName, xr.Dataset]:
    """The results of the SHIFT study of each task, by arm, seed and measured step.

    Raises:
        InputError: one of these studies has no results yet.
    """
    tasks = scale.pick(tuple(task for task in TASKS if task in ALGORITHMS), ("copy",))
    return {task: _shapes(scale.results / f"{study_of(task).name}.h5") for task in tasks}


def _shapes(file: Path) -> xr.Dataset:
    data = xr.load_dataset(file, engine="h5netcdf") if file.exists() else xr.Dataset()
    if "shape_eigenvalues" not in data:
        raise InputError(f"{file} has no shapes of valleys yet: run python -m analysis {file.stem} first")
    values = data.shape_eigenvalues
    walled = data.shape_labels.isel(height=-1) != "no valley"
    smallest = values.min("rank")
    return xr.Dataset({
        "accuracy": data.accuracy.sel(arm=data.shaped.values).rename(arm="shaped"),
        "longer": data.longer.sel(arm=data.shaped.values).mean("length").rename(arm="shaped"),
        "questions": HELD_OUT_SEQUENCES * data.sizes["length"],
        "eigenvalues": values,
        "labels": data.shape_labels,
        "lambda_max": values.max("rank"),
        "kappa": (values.max("rank") / smallest).where(smallest > 0),  # NaN where the smallest isn't positive
        "effective_rank": data.shape_effective_rank,
        "loss": data.shape_loss,
        "exponent": data.shape_exponents.isel(height=-1).where(walled).median("direction"),  # NaN where none has walls
    }).rename(shaped="arm")  # fmt: skip


def report(scale: Scale, results: Results) -> Report:
    """Tables of rank correlations over models, of curvature over training, and of verdicts."""
    found = _found(scale)
    data = _dataset(found)
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

{_training(found)}
How they change from there to the end, paired by seed:

{_changes(found)}
R2 past the toy: of the ten largest eigenvalues, rank by rank, how many are larger in the looped (or untied) model in
every seed, how many smaller in every seed, and the mean of log2 of their ratios to the single model's over ranks. With
three seeds a rank without any difference has one sign in all in one of four cases, and ranks go together.

{_dominance(found)}
Verdicts of the geometry at the last checkpoint, over all directions, by height:

{_verdicts(found)}"""
    return Report(text, data, {"exponents": _figure(data)})


def _dataset(found: Mapping[TaskName, xr.Dataset]) -> xr.Dataset:
    """The numbers of every model at the end of its training, along the dimension ``model``."""
    rows = []
    for task, data in found.items():
        last = data.isel(measured=-1)
        for arm, seed in product(data.arm.values, data.seed.values):
            one = last.sel(arm=arm, seed=seed)
            names = ("accuracy", "longer", "questions", *MEASURES)
            rows.append({"task": task, "arm": str(arm), "seed": int(seed)} | {name: float(one[name]) for name in names})
    return xr.Dataset({name: ("model", [row[name] for row in rows]) for name in rows[0]})


def _ranks(data: xr.Dataset, name: str, chosen: np.ndarray, within: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Ranks (from 0 to 1) of a measure and of the accuracy within each group, and the task and arm of each model.

    Only the chosen models whose measure is known count. A group needs three such models, and accuracies on longer
    questions that differ by more than sampling explains.
    """
    cells = np.array([f"{task} {arm}" for task, arm in zip(data.task.values, data.arm.values, strict=True)])
    groups = np.array([" ".join(each) for each in zip(*(data[kind].values for kind in within), strict=True)])
    chosen = chosen & np.isfinite(data[name].values)
    found: list[tuple[np.ndarray, ...]] = [(np.empty(0), np.empty(0), np.empty(0, dtype=cells.dtype))]
    for group in np.unique(groups):
        here = np.flatnonzero(chosen & (groups == group))
        longer = data.longer.values[here]
        if len(here) > 2 and longer.std(ddof=1) > 2 * np.sqrt(
            (longer * (1 - longer)).mean() / data.questions.values[here[0]]
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


def _training(found: Mapping[TaskName, xr.Dataset]) -> str:
    names, rows = ("loss", "lambda_max", "effective_rank", "kappa"), []
    for task, data in found.items():
        for arm, step in product(("single", "looped"), data.measured.values):
            one = data.sel(arm=arm, measured=step)
            rows.append([f"{task}, {arm}, step {step}", *(mean_of(one[name].values).text(2) for name in names)])
    return markdown_table(["", *(MEASURES[name] for name in names)], rows)


def _changes(found: Mapping[TaskName, xr.Dataset]) -> str:
    names, rows = ("lambda_max", "effective_rank"), []
    for task, data in found.items():
        for arm in ("single", "looped"):
            first, last = (data.sel(arm=arm).isel(measured=at) for at in (0, -1))
            changes = (np.log2((last[name] / first[name]).values) for name in names)
            rows.append([f"{task}, {arm}", *(mean_of(each).text(2, "+") for each in changes)])
    return markdown_table(["", *(f"log2 of the change in {MEASURES[name]}" for name in names)], rows)


def _dominance(found: Mapping[TaskName, xr.Dataset]) -> str:
    rows = []
    for task, data in found.items():
        for arm, step in product(data.arm.values[data.arm.values != "single"], data.measured.values):
            single, other = (data.eigenvalues.sel(arm=each, measured=step).values for each in ("single", arm))
            positive = (np.stack([single, other]) > 0).all(axis=(0, 1))
            ratios = np.log2(other[:, positive] / single[:, positive])  # (seed, rank)
            above, below = (int(each.all(axis=0).sum()) for each in (ratios > 0, ratios < 0))
            mean = mean_of(ratios.mean(axis=1)).text(2, "+") if positive.any() else "none"
            rows.append([f"{task}, {arm}, step {step}", str(int(positive.sum())), str(above), str(below), mean])
    return markdown_table(["", "positive in all", "above single", "below", "mean log2 ratio"], rows)


def _verdicts(found: Mapping[TaskName, xr.Dataset]) -> str:
    rows = []
    for task, data in found.items():
        for arm in data.arm.values:
            counts = [Counter(data.labels.sel(arm=arm, height=height).values.ravel()) for height in data.height.values]
            cells = [", ".join(f"{count} {label}" for label, count in each.most_common()) for each in counts]
            rows.append([f"{task}, {arm}", *cells])
    return markdown_table(["", *(f"{height:g} of the depth" for height in data.height.values)], rows)


def _figure(data: xr.Dataset) -> Figure:
    """A figure of accuracy on longer questions against the exponent, with a colour for each task."""
    figure = Figure(figsize=(3.35, 2.6), layout="constrained")
    axes = figure.subplots()
    for task, colour in zip(np.unique(data.task.values), COLOURS, strict=False):
        own = data.isel(model=data.task.values == task)
        axes.plot(own.exponent, own.longer, "o", color=colour, label=task)
    axes.set(xlabel="exponent of the walls, half of the depth", ylabel="accuracy on longer questions")
    axes.legend()
    return figure


STUDY = Study(
    "lengths",
    "R7, R8: past the toy, does the valley's shape predict accuracy on longer questions?",
    lambda scale: [],
    report,
)
