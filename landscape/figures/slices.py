"""Slices of the loss: lines with their samples and quadratic models, and planes with the run's path."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from landscape.errors import InputError
from landscape.figures.style import COLOURS, SEQUENTIAL, Kind, Scale


def draw_line(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0", samples: bool = True) -> Axes:
    """The loss along a line with its standard error, the quadratic model dotted, and whose losses it is made of.

    Args:
        axes: to draw on.
        row: of the group ``slices_1d``, one checkpoint and one direction.
        label: in the legend.
        colour: of the lines.
        samples: shade where half and 80 % of the single samples' losses lie, where they are stored, and draw the means
            of the groups that the data set tells apart.
    """
    at, loss, error = row.position.values, row.loss.values, row.standard_error.values
    before = axes.get_ylim() if axes.lines else None
    seen = [loss]
    if samples and "sample_loss" in row:
        each = row.sample_loss.values[row.sample_weight.values > 0]
        for low, high in ((0.1, 0.9), (0.25, 0.75)):
            seen += [*np.nanquantile(each, (low, high), axis=0)]
            axes.fill_between(at, *seen[-2:], color=colour, alpha=0.1, linewidth=0)
    axes.fill_between(at, loss - error, loss + error, color=colour, alpha=0.3, linewidth=0)
    axes.plot(at, loss, color=colour, label=label)
    axes.plot(at, row.quadratic.values, color=colour, linestyle=":", label="quadratic model" if label is None else None)
    axes.plot([0], loss[at == 0], "o", color=colour)
    if samples and "sample_loss" in row:
        _draw_groups(axes, row)
    finite = np.concatenate([each[np.isfinite(each)] for each in seen])
    low, high = float(finite.min()), float(finite.max())
    margin = 0.05 * (high - low)
    ends = (low - margin, high + margin)  # the quadratic model may leave the picture
    if before is not None:
        ends = (min(ends[0], before[0]), max(ends[1], before[1]))
    axes.set_ylim(ends)
    axes.set_xlabel(f"{row.direction.values}\n(steps of {float(row.norm):.3g} in parameters)")
    axes.set_ylabel("loss $L$")
    return axes


def _draw_groups(axes: Axes, row: xr.Dataset) -> None:
    """The mean loss of each group by the first text that is known of the samples."""
    told = next(
        (row[name].values for name in row if str(name).startswith("about_") and row[name].dtype.kind != "f"), None
    )
    if told is None:
        return
    weights, losses = row.sample_weight.values, row.sample_loss.values
    for index, name in enumerate(dict.fromkeys(map(str, told))):
        chosen = (told == name) & (weights > 0)
        if not chosen.any():
            continue
        mean = weights[chosen] @ losses[chosen] / weights[chosen].sum()
        axes.plot(row.position.values, mean, color=COLOURS[index + 1], linewidth=0.7, label=name)


def draw_accuracy(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """The accuracy along a line.

    Args:
        axes: to draw on.
        row: of the group ``slices_1d``, one checkpoint and one direction.
        label: in the legend.
        colour: of the line.
    """
    axes.plot(row.position.values, row.accuracy.values, color=colour, label=label)
    axes.set(ylabel="accuracy", ylim=(-0.02, 1.02))
    return axes


def levels_of(rows: Sequence[xr.Dataset], scale: Scale) -> colors.Normalize:
    """One scale of colours for the losses of several planes; linear where a loss isn't positive.

    Raises:
        InputError: no loss is finite.
    """
    values = np.concatenate([row.loss.values[np.isfinite(row.loss.values)] for row in rows])
    if not len(values):
        raise InputError("no point of the plane has a finite loss: there is nothing to draw")
    low, high = float(values.min()), float(values.max())
    high = high if high > low else low + (abs(low) or 1.0)
    return colors.LogNorm(low, high) if scale == "log" and low > 0 else colors.Normalize(low, high)


def draw_plane(
    axes: Axes, row: xr.Dataset, norm: colors.Normalize, kind: Kind = "filled", levels: int = 16, path: bool = True
) -> ScalarMappable:
    """The loss over a plane, and the way of the run on it; what isn't finite is left white.

    The checkpoints are marked with what is off the plane: the fainter the further, by the largest such distance.

    Args:
        axes: to draw on; of a surface, with the projection ``3d``.
        row: of the group ``slices_2d``, one checkpoint.
        norm: of the colours; see `levels_of`.
        kind: contour lines, filled contours or a surface.
        levels: how many contours.
        path: draw the run's checkpoints, where there are any.

    Returns:
        what a colour bar is made of.
    """
    first, second = row.first.values, row.second.values
    loss = np.ma.masked_invalid(row.loss.values)
    logarithmic = isinstance(norm, colors.LogNorm)
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    edges = np.geomspace(low, high, levels) if logarithmic else np.linspace(low, high, levels)
    mappable = ScalarMappable(norm, mpl.colormaps[SEQUENTIAL])
    names = [
        f"{name}\n(steps of {float(length):.3g} in parameters)"
        for name, length in zip(row.direction.values, row.norm.values, strict=True)
    ]
    if kind == "surface":
        x, y = np.meshgrid(first, second)
        shown = np.log10(loss) if logarithmic else loss
        axes.plot_surface(  # type: ignore[attr-defined]
            x, y, shown, facecolors=mappable.to_rgba(loss), linewidth=0, antialiased=False, rstride=1, cstride=1,
        )  # fmt: skip
        axes.set_zlabel("$\\log_{10} L$" if logarithmic else "loss $L$")  # type: ignore[attr-defined]
        axes.set_zlim(*(np.log10([low, high]) if logarithmic else (low, high)))  # type: ignore[attr-defined]
        axes.set_box_aspect(None, zoom=0.85)  # type: ignore[call-arg]
        names = [str(name) for name in row.direction.values]  # there is no room for more
    elif kind == "filled":
        axes.contourf(first, second, loss, levels=edges, norm=norm, cmap=SEQUENTIAL, extend="both")
    else:
        lines = axes.contour(first, second, loss, levels=edges, norm=norm, cmap=SEQUENTIAL)
        axes.clabel(lines, edges[1::3].tolist(), fmt="%.3g", fontsize="x-small")
    axes.set(xlabel=names[0], ylabel=names[1])
    if kind != "surface":
        axes.plot([0], [0], "*", color="white", markeredgecolor="black", markersize=7, zorder=5)
        if path and row.sizes.get("run", 0):
            _draw_path(axes, row)
    return mappable


def ticks_of(norm: colors.Normalize, count: int = 6) -> list[float]:
    """Where a colour bar is labelled: evenly on its own scale."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    return list((np.geomspace if isinstance(norm, colors.LogNorm) else np.linspace)(low, high, count))


def _draw_path(axes: Axes, row: xr.Dataset) -> None:
    x, y, off = row.path_first.values, row.path_second.values, row.path_distance.values
    farthest = float(off.max())
    near = 1 - 0.75 * off / farthest if farthest > 0 else np.ones(len(off))
    axes.plot(x, y, color="black", linewidth=0.6, zorder=3)
    axes.scatter(x, y, s=8, c=[(1.0, 1.0, 1.0, alpha) for alpha in near], edgecolors="black", linewidths=0.5, zorder=4)
    axes.set_xlim(row.first.values[[0, -1]])
    axes.set_ylim(row.second.values[[0, -1]])
    beyond = int(((x < row.first.values[0]) | (x > row.first.values[-1]) | (y < row.second.values[0])
                  | (y > row.second.values[-1])).sum())  # fmt: skip
    told = f"path: up to {farthest:.2g} off the plane (faint)"
    if beyond:
        told += f", {beyond} of {len(x)} outside"
    axes.text(0.02, 0.98, told, transform=axes.transAxes, va="top", fontsize="xx-small",
              bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1})  # fmt: skip
