"""Draw groups of runs: means with bands over training, single runs, and where the groups differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.dynamics.inference import LEVEL
from landscape.errors import InputError
from landscape.figures.page import Panel, fitting, note, sized, tiled
from landscape.figures.record_view import bracketed, plain
from landscape.figures.spectra import step_axis
from landscape.figures.style import COLOURS, FigureStyle
from landscape.groups import GroupComparison
from landscape.reporting.messages import counted

LEAST = 1.6  # smallest width in inches of a panel, for letters of a paper's size
_LONGEST = 24  # letters of a name in one line above a panel
# Titles of the main scalars; any other scalar has its name as its title.
_TITLES = {
    "loss/loss": "loss $L$",
    "loss/gradient_norm": "norm of the gradient",
    "eigenpairs/largest": r"largest eigenvalue $\lambda_1$",
    "spectrum/largest": r"largest eigenvalue $\lambda_1$",
    "trace/trace": "trace of the Hessian",
    "spectrum/trace": "trace of the Hessian",
    "stability/ratio": r"$\lambda_1$ / threshold",
}


@dataclass(frozen=True)
class GroupIdentity:
    """Name of a group, and what a figure's file says of its records.

    Attributes:
        label: name of the group.
        identity: name of the group, and path and fingerprint of each record.
    """

    label: str
    identity: dict[str, Any]


def identities_of(comparison: GroupComparison) -> list[GroupIdentity]:
    """The identity of each group, for the metadata of a figure's file."""
    data = comparison.data
    return [
        GroupIdentity(plain(name), {"group": str(name), "records": [
            {"record": str(own.run_path.values), "fingerprint": str(own.run_fingerprint.values)}
            for own in (data.isel(run=place) for place in np.flatnonzero(data.run_group.values == name))
        ]})
        for name in data.group.values
    ]  # fmt: skip


def draw_groups(comparison: GroupComparison, look: FigureStyle | None = None) -> Figure:
    """Draw a panel for each scalar: the mean of each group over training with its band, and the single runs.

    Args:
        comparison: result of `landscape.compare_groups`.
        look: style of the figure. Default: that of a paper.

    Raises:
        InputError: there are more groups than colours.
    """
    count, scalars = comparison.data.sizes["group"], comparison.data.sizes["scalar"]
    if count > len(COLOURS):
        raise InputError(f"a figure shows 1 to {len(COLOURS)} groups, a colour for each, not {count}")
    width = "column" if scalars <= 2 else "text"

    def height(inches: float) -> float:
        return 0.3 + 1.6 * fitting(inches, scalars, LEAST)[0]

    return sized(look or FigureStyle(), width, height, lambda panel: _draw(panel, comparison))


def _draw(panel: Panel, comparison: GroupComparison) -> None:
    data = comparison.data
    (grid,), columns = tiled(panel, data.sizes["scalar"], LEAST)
    for axes, name in zip(grid, data.scalar.values, strict=True):
        draw_scalar(axes, data.sel(scalar=name))
    for axes in grid[:-columns]:
        axes.set_xlabel("")
    panel.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    bands = "bands: 95 % t intervals of the mean over runs" if (data.runs > 1).any() else "one run of each: no bands"
    texts = [bands, "thin: single runs" * bool((data.runs > 1).any())]
    if (data.p_adjusted <= LEVEL).any():
        texts.append("squares at the foot: two groups differ")
    if data.sizes["pair"]:
        texts.append(f"{counted(comparison.comparisons, 'comparison')} corrected together (Holm, {LEVEL:.0%})")
    left_out = int(data.not_finite.sum()), int(data.not_converged.sum())
    if any(left_out):
        texts.append(f"left out: {left_out[0]} values not finite, {left_out[1]} not converged")
    note(panel, texts)


def draw_scalar(axes: Axes, data: xr.Dataset) -> Axes:
    """Draw one scalar of all groups over training.

    A square at the foot is a step at which two groups differ, by the p-values that are adjusted for all comparisons.

    Args:
        axes: the Axes to draw on.
        data: one scalar of `landscape.GroupComparison.data`.
    """
    steps = data.step.values
    there = (data.runs + data.not_finite + data.not_converged).sum("group").values > 0
    steps = steps[there] if (steps >= 0).all() else np.arange(int(there.sum()))
    shown = data.isel(step=there)
    for name, colour in zip(shown.group.values, COLOURS, strict=False):
        own = shown.sel(group=name)
        runs = shown.value.values[shown.run_group.values == name]
        label = f"{plain(name)} ({counted(len(runs), 'run')})"
        axes.plot(steps, own["mean"].values, "o-", color=colour, label=label)
        axes.fill_between(steps, *own.mean_interval.values.T, color=colour, alpha=0.2, linewidth=0)
        if len(runs) > 1:
            axes.plot(steps, runs.T, color=colour, linewidth=0.4, alpha=0.6)
    differ = (shown.p_adjusted.values <= LEVEL).any(axis=0)
    if differ.any():
        foot = axes.get_xaxis_transform()
        axes.plot(steps[differ], np.full(int(differ.sum()), 0.02), "s", color="black", markersize=2, transform=foot)
    step_axis(axes, steps)
    name = str(data.scalar.values)
    axes.set_title(_TITLES.get(name) or plain("/\n".join(name.split("/")) if len(name) > _LONGEST else name))
    axes.set_ylabel(bracketed(str(data.units.values)).strip())
    return axes
