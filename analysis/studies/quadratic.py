"""The error of the local quadratic model during training, and of the neglect of H_river: R3.

At a checkpoint the loss is evaluated along four directions: the optimiser's next step, the negative gradient, the top
eigenvector, and a random direction. The distances are multiples of the step's length. The first question is how much of
the change of the loss beyond the linear term the quadratic term misses. The second is how much of the quadratic term
itself lies outside the valley.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

import landscape
from analysis.studies import spectra
from analysis.studies.spectra import eigenbasis
from analysis.support.intervals import mean_of
from analysis.support.runs import measuring_units, vectors_after
from analysis.support.study import Report, Scale, Study, markdown_table
from analysis.support.toy import NAMES, PAIR, pair
from analysis.support.units import Unit
from landscape.figures import COLOURS
from models.settings import checkpoints_of, step_of

STEPS = (60, 400, 4000)
DIRECTIONS = ("next step", "gradient", "top eigenvector", "random")
MULTIPLES = (1.0, 3.0, 10.0, 30.0, 100.0)
PARTS = ("change", "linear", "quadratic", "shares")
THRESHOLDS = (0.001, 0.01, 0.1)
"""The thresholds eps / lambda_max."""

SUBSPACES = ("valley", "river", "negative")
"""The eigenvectors with lambda > eps, with |lambda| <= eps, and with lambda < -eps."""


def stages(scale: Scale) -> list[list[Unit]]:
    """The training and the spectra, then the measurements at checkpoints."""
    arms, seeds = pair(scale), scale.pick(5, 2)
    measured = measuring_units(scale.runs, arms, seeds, "quadratic", measure, steps=scale.pick(STEPS, (8,)))
    return [*spectra.stages(scale), measured]


def measure(folder: str, steps: tuple[int, ...]) -> dict[str, Any]:
    """Changes of the loss along every direction in float64, at the checkpoints of these steps.

    Returns:
        A dictionary with these entries:

        - ``steps``: steps of the checkpoints;
        - ``length``: length of the optimiser's next step, in units of the parameters;
        - ``change``, ``linear`` and ``quadratic``: the whole change of the loss and its linear and quadratic parts,
          (step, direction, multiple);
        - ``shares``: the parts of d.H.d in each of `SUBSPACES`, divided by sum_i |lambda_i| (v_i . d)^2, (step,
          direction, threshold, subspace).
    """
    found: dict[str, Any] = {name: [] for name in ("steps", "length", *PARTS)}
    for path in checkpoints_of(Path(folder)):
        if step_of(path) not in steps:
            continue
        problem = landscape.load_problem(path, dtype="float64")
        before, after = vectors_after(path, problem, 1)  # after the run's last step too: one step more
        length = float((after - before).norm())
        lines = _Lines(problem, *eigenbasis(folder, step_of(path)))
        random = torch.randn(problem.layout.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        directions = [after - before, -lines.gradient, lines.eigenvectors[:, 0], random]
        rows = [lines.along(each / each.norm(), length) for each in directions]
        found["steps"].append(step_of(path))
        found["length"].append(length)
        for name in PARTS:
            found[name].append([row[name] for row in rows])
    return found


class _Lines:
    """The loss along lines from a point, and the quadratic model of the loss at this point."""

    def __init__(self, problem: landscape.Problem, eigenvalues: np.ndarray, eigenvectors: np.ndarray) -> None:
        self.problem, self.loss, self.gradient = problem, problem.loss(), problem.gradient()
        self.hessian = problem.hessian()
        self.eigenvalues = torch.from_numpy(eigenvalues.copy())
        self.eigenvectors = torch.from_numpy(np.ascontiguousarray(eigenvectors))

    def along(self, direction: Tensor, length: float) -> dict[str, list[Any]]:
        """The parts of the loss's change along a unit direction, at multiples of a length; see `measure`."""
        curvature = self.eigenvalues * (self.eigenvectors.T @ direction) ** 2
        whole = float(direction @ (self.hessian @ direction))
        reach = [length * multiple for multiple in MULTIPLES]
        return {
            "change": [self.problem.at(self.problem.vector + r * direction).loss() - self.loss for r in reach],
            "linear": [r * float(self.gradient @ direction) for r in reach],
            "quadratic": [0.5 * r**2 * whole for r in reach],
            "shares": [self._shares(curvature, share * float(self.eigenvalues[0])) for share in THRESHOLDS],
        }

    def _shares(self, curvature: Tensor, eps: float) -> list[float]:
        valley, negative = self.eigenvalues > eps, self.eigenvalues < -eps
        chosen = (valley, ~(valley | negative), negative)
        return [float(curvature[each].sum() / curvature.abs().sum()) for each in chosen]


def report(scale: Scale, found: Mapping[str, Any]) -> Report:
    """Tables of the quadratic model's remainder by direction and distance, and of the valley's share of d.H.d."""
    data = _dataset(found, range(scale.pick(5, 2)))
    text = f"""The remainder |b - q| / (|b| + |q|) of the quadratic term q = d.H.d/2 against b = dL - g.d, all that
there is beyond the linear term: 0 where they are equal, 1/3 where one is twice the other, 1 where their signs differ.
Mean over seeds at multiples of the length of the optimiser's next step, in float64 on 256 sequences; eigenvectors are
those of the `spectra` study, in float32.

{_remainders(data)}
Where d.H.d comes from along the next step: the parts of the valley, lambda > eps, of the river, |lambda| <= eps, and
of the negative directions, by the sum of all their magnitudes. What neglecting H_river costs is the river's.

{_shares(data)}"""
    return Report(text, data, {"remainders": _figure(data)})


def _dataset(found: Mapping[str, Any], seeds: range) -> xr.Dataset:
    first = found[f"quadratic-{PAIR[0]}-0"]

    def every(name: str) -> np.ndarray:
        return np.array([[found[f"quadratic-{arm}-{seed}"][name] for seed in seeds] for arm in PAIR])

    at = ("arm", "seed", "step", "direction")
    data = xr.Dataset(
        {name: ((*at, "multiple"), every(name)) for name in ("change", "linear", "quadratic")}
        | {"shares": ((*at, "eps", "subspace"), every("shares")), "length": (at[:3], every("length"))},
        {"arm": list(PAIR), "seed": list(seeds), "step": first["steps"], "direction": list(DIRECTIONS),
         "multiple": list(MULTIPLES), "eps": list(THRESHOLDS), "subspace": list(SUBSPACES)},
    )  # fmt: skip
    beyond = data.change - data.linear
    return data.assign(remainder=abs(beyond - data.quadratic) / (abs(beyond) + abs(data.quadratic)))


def _remainders(data: xr.Dataset) -> str:
    rows = [
        [f"{NAMES[arm]}, step {step}, {direction}", *(
            mean_of(data.remainder.sel(arm=arm, step=step, direction=direction, multiple=each).values).text(3)
            for each in MULTIPLES
        )]
        for arm in PAIR for step in data.step.values for direction in DIRECTIONS
    ]  # fmt: skip
    return markdown_table(["", *(f"{each:g} steps" for each in MULTIPLES)], rows)


def _shares(data: xr.Dataset) -> str:
    along = data.sel(direction="next step")
    rows = [
        [f"{NAMES[arm]}, step {step}, eps = {eps:g} lambda_max", *(
            mean_of(along.shares.sel(arm=arm, step=step, eps=eps, subspace=each).values).text(3, "+")
            for each in SUBSPACES
        ), mean_of(along.length.sel(arm=arm, step=step).values).text(3)]
        for arm in PAIR for step in data.step.values for eps in THRESHOLDS
    ]  # fmt: skip
    return markdown_table(["", *SUBSPACES, "length of a step"], rows)


def _figure(data: xr.Dataset) -> Figure:
    figure = Figure(figsize=(6.9, 2.4), layout="constrained")
    for axes, arm in zip(figure.subplots(1, 2, sharey=True), PAIR, strict=True):
        for direction, colour in zip(DIRECTIONS, COLOURS, strict=False):
            own = data.remainder.sel(arm=arm, direction=direction).isel(step=-1)
            axes.plot(MULTIPLES, own.mean("seed"), "o-", color=colour, label=direction)
            axes.fill_between(MULTIPLES, own.min("seed"), own.max("seed"), color=colour, alpha=0.15, linewidth=0)
        axes.set(xscale="log", ylim=(0, 1), xlabel="lengths of a step", title=f"{NAMES[arm]}, last checkpoint")
    figure.axes[0].set_ylabel("remainder of the quadratic model")
    figure.axes[0].legend()
    return figure


STUDY = Study("quadratic", "R3: how good is the local quadratic model along the way?", stages, report)
