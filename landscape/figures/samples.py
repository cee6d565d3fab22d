"""Draw samples over training: a heat map of their losses, and the learning curves of groups."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from landscape.figures.record_view import plain
from landscape.figures.spectra import step_axis
from landscape.figures.style import COLOURS, small

_ABOUT = "about_"


def order_of(rows: xr.Dataset) -> tuple[np.ndarray, str, list[tuple[str, int]]]:
    """Sort samples by the data set's annotations: by a text first, then by a number, or else by their last loss.

    Args:
        rows: rows of the group ``samples``.

    Returns:
        The order, (n,) indices of samples; a title for the order; names of the text's groups with the position where
        each begins.
    """
    about = {str(name): rows[name].values[-1] for name in rows if str(name).startswith(_ABOUT)}
    numbers = [name for name, values in about.items() if values.dtype.kind == "f"]
    texts = [name for name, values in about.items() if values.dtype.kind != "f"]
    number = about[numbers[0]] if numbers else rows.loss.values[-1]
    title = _plain(numbers[0]) if numbers else "loss at the last checkpoint"
    text = about[texts[0]].astype(str) if texts else np.full(len(number), "")
    finite = np.isfinite(number)
    means = {name: number[finite & (text == name)].mean() if (finite & (text == name)).any() else np.inf
             for name in np.unique(text)}  # fmt: skip
    order = np.lexsort([number, [means[name] for name in text]])
    sorted_text = text[order].tolist()
    starts = [(name, sorted_text.index(name)) for name in dict.fromkeys(sorted_text)]
    return order, title + (f" within {_plain(texts[0])}" if texts else ""), starts if texts else []


def draw_samples(axes: Axes, rows: xr.Dataset, norm: colors.Normalize) -> AxesImage:
    """Draw the samples' losses as a heat map: a column for each checkpoint, and the samples upwards by `order_of`.

    Args:
        axes: the Axes to draw on.
        rows: rows of the group ``samples``, all checkpoints.
        norm: scale of the colours.

    Returns:
        The image, for a colour bar.
    """
    order, title, starts = order_of(rows)
    losses = rows.loss.values[:, order].T
    image = axes.imshow(losses, aspect="auto", origin="lower", norm=norm, interpolation="nearest")
    axes.autoscale_view()  # imshow set the limits to this image, and the axis may be shared with larger images
    steps = rows.step.values
    ticks = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 7)).round().astype(int))
    axes.set_xticks(ticks, [str(steps[place]) if steps[place] >= 0 else str(place) for place in ticks], rotation=45)
    axes.set(xlabel="checkpoint at training step", ylabel=f"sample, by {title}")
    for name, place in starts:
        if place:
            axes.axhline(place - 0.5, color="white", linewidth=0.8)
        axes.annotate(
            name, (0, place - 0.5), (2, 2), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
            fontsize=small(), va="bottom", bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
        )  # fmt: skip
    return image


def draw_learning(
    axes: Axes, row: xr.Dataset, label: str | None = None, quantity: str = "loss", dashes: str = "-"
) -> Axes:
    """Draw learning curves of groups of samples with 95 % bands, and the step of half of each group's progress.

    Args:
        axes: the Axes to draw on.
        row: one run's row of the group ``learning``.
        label: prefix of the groups' names in the legend; None for no prefix.
        quantity: ``loss`` or ``accuracy``.
        dashes: style of the lines, which distinguishes runs.
    """
    steps, groups = row.run_step.values, row.sizes["group"]
    # Heights of the diamonds, as shares of the axis.
    heights = 0.03 + np.minimum(0.05, 0.94 / groups) * np.arange(groups)
    for index, name in enumerate(row.group_name.values):
        colour, means = COLOURS[index % len(COLOURS)], row[f"group_{quantity}"].values[:, index]
        low, high = row[f"group_{quantity}_interval"].values[:, index].T
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(steps, means, dashes, color=colour, label=f"{label}: {plain(name)}" if label else plain(name))
        half, (begin, end) = float(row.group_half_step[index]), row.group_half_step_interval.values[index]
        if quantity == "loss" and np.isfinite(half):
            spread = np.maximum([[half - begin], [end - half]], 0) if np.isfinite([begin, end]).all() else None
            axes.errorbar(
                [half], [heights[index]], xerr=spread, fmt="d", color=colour, markeredgecolor="black", capsize=2,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    step_axis(axes, steps)
    axes.set_ylabel("loss" if quantity == "loss" else "accuracy")
    return axes


def _plain(name: str) -> str:
    return name.removeprefix(_ABOUT).replace("_", " ")
