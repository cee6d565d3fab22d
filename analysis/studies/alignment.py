"""Cosines of the gradients of one pass and of three passes at equal weights: R5, and the premise of Theorem 3.

The theorem says that early in training the gradients of Single-Attn and Looped-Attn with respect to W_K and W_Q are
aligned. This would justify a switch between the two. The study measures the cosines for each kind of weight, at several
steps of a single and of a looped run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor, nn

from analysis.support.intervals import mean_of
from analysis.support.runs import measuring_units, model_at, training_units
from analysis.support.study import Report, Scale, Study, markdown_table
from analysis.support.toy import NAMES, PAIR, pair
from analysis.support.units import Unit
from data.markov import MarkovLanguage
from landscape.figures import COLOURS
from models.settings import checkpoints_of, step_of
from models.tasks import inputs_and_targets

STEPS = (0, 20, 60, 120, 200, 400, 800, 2000, 4000)
SEQUENCES, SEED = 2048, 2
PASSES = (1, 3)
WEIGHTS = {
    "W_Q": "layer.attention.query.weight",
    "W_K": "layer.attention.key.weight",
    "W_V": "layer.attention.value.weight",
    "W_O": "layer.attention.output.weight",
    "head": "head.weight",
    "embedding": "embedding.weight",
}


def stages(scale: Scale) -> list[list[Unit]]:
    """The training, then the cosines at checkpoints of every run."""
    arms, seeds = pair(scale), scale.pick(5, 2)
    steps, count = scale.pick(STEPS, (0, 4, 8)), scale.pick(SEQUENCES, 64)
    cosines = measuring_units(scale.runs, arms, seeds, "alignment", measure, steps=steps, count=count)
    return [training_units(scale.runs, arms, seeds), cosines]


def measure(folder: str, steps: tuple[int, ...], count: int) -> dict[str, Any]:
    """Cosines of the gradients with one pass and with three, at each checkpoint and for each kind of weight.

    Sampling alone keeps cosines below 1. So the cosine of the gradients on the two halves of the data, with equal
    passes, is measured too: the lower of its values for one pass and for three.

    Returns:
        ``steps``, and arrays (step, weight) of ``cosine`` and ``halves``.
    """
    data = inputs_and_targets(MarkovLanguage().sample(count, SEED))
    halves = list(zip(*(each.chunk(2) for each in data), strict=True))  # each half simple and half complex sequences
    found: dict[str, Any] = {"steps": [], "cosine": [], "halves": []}
    for path in checkpoints_of(Path(folder)):
        if step_of(path) not in steps:
            continue
        model = model_at(path)
        one, three = (_gradients(model, passes, data) for passes in PASSES)
        parts = [[_gradients(model, passes, half) for half in halves] for passes in PASSES]
        found["steps"].append(step_of(path))
        found["cosine"].append([_cosine(one[name], three[name]) for name in WEIGHTS.values()])
        found["halves"].append(
            [min(_cosine(first[name], second[name]) for first, second in parts) for name in WEIGHTS.values()]
        )
    return found


def _gradients(model: nn.Module, passes: int, data: tuple[Tensor, ...]) -> dict[str, Tensor]:
    model.loops = passes  # type: ignore[assignment]
    loss = nn.functional.cross_entropy(model(data[0]), data[1])
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(nn.functional.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0))


def report(scale: Scale, found: Mapping[str, Any]) -> Report:
    """A table for each arm, and a figure of the cosines over training."""
    seeds = range(scale.pick(5, 2))
    at = ("arm", "seed", "step", "weight")
    variables = {
        name: (at, np.array([[found[f"alignment-{arm}-{seed}"][name] for seed in seeds] for arm in PAIR]))
        for name in ("cosine", "halves")
    }
    steps = found[f"alignment-{PAIR[0]}-0"]["steps"]
    data = xr.Dataset(variables, {"arm": list(PAIR), "seed": list(seeds), "step": steps, "weight": list(WEIGHTS)})
    tables = "\n".join(f"At the weights of {NAMES[arm]}:\n\n{_table(data, arm)}" for arm in PAIR)
    text = f"""The cosine of the gradient with one pass and the one with three, at the same weights and on the same
{scale.pick(SEQUENCES, 64):,} sequences. Last column: the lowest mean cosine, over kinds of weight, of gradients with
equal passes on the two halves of the sequences: sampling alone keeps it below 1. Random vectors of 256 entries have
cosines of 0 with a standard deviation of 0.06.

{tables}"""
    return Report(text, data, {"cosines": _figure(data)})


def _table(data: xr.Dataset, arm: str) -> str:
    rows = []
    for step in data.step.values:
        here = data.sel(arm=arm, step=step)
        cells = [mean_of(here.cosine.sel(weight=weight).values).text(2) for weight in WEIGHTS]
        rows.append([str(step), *cells, f"{float(here.halves.mean('seed').min()):.3f}"])
    return markdown_table(["step", *WEIGHTS, "halves"], rows)


def _figure(data: xr.Dataset) -> Figure:
    figure = Figure(figsize=(6.9, 2.4), layout="constrained")
    for axes, arm in zip(figure.subplots(1, 2, sharey=True), PAIR, strict=True):
        for weight, colour in zip(WEIGHTS, COLOURS, strict=False):
            own = data.cosine.sel(arm=arm, weight=weight)
            axes.plot(data.step, own.mean("seed"), "o-", color=colour, label=weight)
            axes.fill_between(data.step, own.min("seed"), own.max("seed"), color=colour, alpha=0.15, linewidth=0)
        axes.axhline(0, color="black", linewidth=0.5)
        axes.set(xscale="symlog", xlabel="training step", title=f"along the way of {NAMES[arm]}")
        axes.set_xlim(left=0)
    figure.axes[0].set_ylabel("cosine of gradients, 1 and 3 passes")
    figure.axes[0].legend()
    return figure


STUDY = Study(
    "alignment",
    "R5: are the gradients of one pass and of three aligned at the same weights?",
    stages,
    report,
)
