"""Draw slices of the loss: lines with their samples and quadratic models, and planes with the run's path."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import CircleCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from landscape.errors import InputError
from landscape.figures.limits import may_leave, span
from landscape.figures.record_view import plain
from landscape.figures.style import COLOURS, SEQUENTIAL, Kind, Scale, small


def draw_line(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0", samples: bool = True) -> Axes:
    """Draw the loss along a line with its standard error, a dotted quadratic model, and the spread over samples.

    The limits hold the loss and its bands. The quadratic model has no part in the limits, which may cut it off; see
    `leaves`. A loss that isn't finite leaves a gap.

    Args:
        axes: the Axes to draw on.
        row: one direction of a checkpoint's row of the group ``slices_1d``.
        label: label in the legend; None for no entry.
        colour: colour of the lines.
        samples: whether to shade the ranges of half and of 80 % of the samples' losses, and to draw the mean of each
            group of samples. Both need a row with the losses of samples.
    """
    at, loss, error = row.position.values, _finite(row.loss), _finite(row.standard_error)
    if not np.isfinite(loss).any():
        raise InputError(f"no point along {row.direction.values} has a finite loss: there is nothing to draw")
    if samples and "sample_loss" in row:
        each = _finite(row.sample_loss)[row.sample_weight.values > 0]
        for low, high in ((0.1, 0.9), (0.25, 0.75)):
            ends = np.quantile(each, (low, high), axis=0)  # NaN where a sample's loss is NaN
            axes.fill_between(at, *ends, color=colour, alpha=0.1, linewidth=0)
    axes.fill_between(at, loss - error, loss + error, color=colour, alpha=0.3, linewidth=0)
    axes.plot(at, loss, color=colour, label=label)
    name = "quadratic model" if label is None else None
    may_leave(axes, Line2D(at, row.quadratic.values, color=colour, linestyle=":", label=name))
    axes.plot([0], loss[at == 0], "o", color=colour)
    if samples and "sample_loss" in row:
        _draw_groups(axes, row)
    axes.set_xlabel(direction_label([row]))
    axes.set_ylabel("loss $L$")
    return axes


def direction_label(rows: Sequence[xr.Dataset]) -> str:
    """Label of an axis: the name and the length of a step of one direction of each record, without repetitions."""
    names = dict.fromkeys(
        plain(row.direction.values) + ("" if bool(row.converged) else " (not converged)") for row in rows
    )
    lengths = dict.fromkeys(f"{float(row.norm):.3g}" for row in rows)
    return f"{', '.join(names)}\n(steps of {', '.join(lengths)} in parameters)"


def leaves(axes: Axes, row: xr.Dataset) -> bool:
    """Whether the quadratic model along a line leaves the limits of the Axes."""
    low, high = axes.get_ylim()
    model = _finite(row.quadratic)
    return bool(((model < low) | (model > high)).any())


def _finite(values: xr.DataArray) -> np.ndarray:
    """The values with NaN in place of infinity, so that both leave a gap."""
    return np.where(np.isfinite(values.values), values.values, np.nan)


def _draw_groups(axes: Axes, row: xr.Dataset) -> None:
    """Draw the mean loss of each group of samples, grouped by the first annotation with texts."""
    texts = next(
        (row[name].values for name in row if str(name).startswith("about_") and row[name].dtype.kind != "f"), None
    )
    if texts is None:
        return
    weights, losses = row.sample_weight.values, row.sample_loss.values
    for index, name in enumerate(dict.fromkeys(map(str, texts))):
        chosen = (texts == name) & (weights > 0)
        if not chosen.any():
            continue
        mean = weights[chosen] @ losses[chosen] / weights[chosen].sum()
        axes.plot(
            row.position.values, mean, color=COLOURS[(index + 1) % len(COLOURS)], linewidth=0.7, label=plain(name)
        )


def draw_accuracy(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw the accuracy along a line.

    Args:
        axes: the Axes to draw on.
        row: one direction of a checkpoint's row of the group ``slices_1d``.
        label: label in the legend; None for no entry.
        colour: colour of the line.
    """
    axes.plot(row.position.values, row.accuracy.values, color=colour, label=label)
    axes.set_ylabel("accuracy")
    span(axes, y=(-0.02, 1.02))
    return axes


def levels_of(rows: Sequence[xr.Dataset], scale: Scale) -> colors.Normalize:
    """One scale of colours for the losses of several planes; linear if any loss isn't positive.

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
    axes: Axes,
    row: xr.Dataset,
    norm: colors.Normalize,
    kind: Kind = "filled",
    levels: int = 16,
    path: bool = True,
    labels: bool = True,
) -> ScalarMappable:
    """Draw the loss over a plane and the path of the run on it; losses that aren't finite are white.

    A checkpoint of the run is fainter the farther it is off the plane, relative to the largest such distance. The
    limits are the ends of the plane. The path may go beyond these; see `path_caption`.

    Args:
        axes: the Axes to draw on; for a surface, with the projection ``3d``.
        row: one checkpoint's row of the group ``slices_2d``.
        norm: scale of the colours; see `levels_of`.
        kind: ``contour`` lines, ``filled`` contours or a ``surface``.
        levels: number of contours.
        path: whether to draw the run's checkpoints, if the row has them. A surface never has them.
        labels: whether to write levels on contour lines.

    Returns:
        The mappable for a colour bar.
    """
    first, second = row.first.values, row.second.values
    loss = np.ma.masked_invalid(row.loss.values)
    logarithmic = isinstance(norm, colors.LogNorm)
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    edges = np.geomspace(low, high, levels) if logarithmic else np.linspace(low, high, levels)
    mappable = ScalarMappable(norm, mpl.colormaps[SEQUENTIAL])
    names = [direction_label([row.isel(direction=place)]) for place in range(2)]
    if kind == "surface":
        x, y = np.meshgrid(first, second)
        heights = np.log10(loss) if logarithmic else loss
        axes.plot_surface(  # type: ignore[attr-defined]
            x, y, np.ma.filled(heights, np.nan), facecolors=mappable.to_rgba(loss), linewidth=0, antialiased=False,
            rstride=1, cstride=1, rasterized=True,
        )  # fmt: skip
        axes.set_zlim(*(np.log10([low, high]) if logarithmic else (low, high)))  # type: ignore[attr-defined]
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):  # type: ignore[attr-defined]
            axis.set_major_locator(MaxNLocator(4))
        axes.tick_params(pad=-2)
        axes.set_zlabel("$\\log_{10} L$" if logarithmic else "loss $L$")  # type: ignore[attr-defined]
    elif kind == "filled":
        axes.contourf(first, second, loss, levels=edges, norm=norm, cmap=SEQUENTIAL, extend="both")
    else:
        lines = axes.contour(first, second, loss, levels=edges, norm=norm, cmap=SEQUENTIAL)
        if labels:
            axes.clabel(lines, edges[1::3].tolist(), fmt="%.3g", fontsize=small())
    axes.set(xlabel=names[0], ylabel=names[1])
    if kind == "surface":  # matplotlib reserves no space for the labels of the z axis
        axes.set_box_aspect(None, zoom=0.78)  # type: ignore[call-arg]
        axes.xaxis.label.set_fontsize(small())
        axes.yaxis.label.set_fontsize(small())
    if kind != "surface":
        if is_interpolated(row):
            rows, columns = np.nonzero(row.evaluated.values)
            axes.plot(first[columns], second[rows], "o", color="white", alpha=0.7, markersize=0.8, zorder=2)
        axes.plot([0], [0], "*", color="white", markeredgecolor="black", markersize=7, zorder=5)
        if path and row.sizes.get("run", 0):
            _draw_path(axes, row)
        if "end_name" in row:
            may_leave(axes, Line2D(row.end_first.values, row.end_second.values, linestyle="none", marker="s",
                                   color="white", markeredgecolor="black", markersize=5, zorder=5))  # fmt: skip
    return mappable


def is_interpolated(row: xr.Dataset) -> bool:
    """Whether some of a plane's losses were interpolated."""
    return "evaluated" in row and not bool(row.evaluated.all())


def ticks_of(norm: colors.Normalize, count: int = 6) -> list[float]:
    """Values at which a colour bar is labelled, evenly spaced on its own scale."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    return list((np.geomspace if isinstance(norm, colors.LogNorm) else np.linspace)(low, high, count))


def _draw_path(axes: Axes, row: xr.Dataset) -> None:
    x, y, off = row.path_first.values, row.path_second.values, row.path_distance.values
    farthest = float(off.max())
    near = 1 - 0.75 * off / farthest if farthest > 0 else np.ones(len(off))
    may_leave(axes, Line2D(x, y, color="black", linewidth=0.6, zorder=3))
    may_leave(axes, CircleCollection(
        [2 * np.pi] * len(x), offsets=np.stack([x, y], axis=1), offset_transform=axes.transData,
        facecolors=[(1.0, 1.0, 1.0, alpha) for alpha in near], edgecolors="black", linewidths=0.5, zorder=4,
    ))  # fmt: skip


def share_extent(every: Sequence[Axes], rows: Sequence[xr.Dataset]) -> tuple[bool, bool]:
    """Give planes side by side equal limits, in steps along each direction.

    The axes are drawn to one scale, in the units of the parameters, unless one side would be over three times as long
    as the other.

    Args:
        every: an Axes for each plane.
        rows: rows of the group ``slices_2d``, one for each plane.

    Returns:
        Whether both axes are to one scale, always true of surfaces; whether every plane covers the whole limits.
    """
    ends = np.array([[row[name].values[[0, -1]] for name in ("first", "second")] for row in rows])
    low, high = ends[..., 0].min(axis=0), ends[..., 1].max(axis=0)
    sides = (high - low) * np.array([row.norm.values for row in rows])
    to_scale = bool((sides.max(axis=1) <= 3 * sides.min(axis=1)).all())
    for axes, row in zip(every, rows, strict=True):
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        if to_scale and axes.name != "3d":
            axes.set_aspect(float(row.norm[1] / row.norm[0]))
    return to_scale or any(axes.name == "3d" for axes in every), bool(np.ptp(ends, axis=0).max() == 0)


def ends_caption(row: xr.Dataset) -> str:
    """Text on the checkpoints that squares mark; empty if no line leads to a checkpoint."""
    if "end_name" not in row:
        return ""
    ends = zip(row.end_name.values, row.end_first.values, row.end_second.values, strict=True)
    checkpoints = [f"{str(name).removeprefix('line to ')} at ({x:.2f}, {y:.2f})" for name, x, y in ends]
    return f"{'squares' if len(checkpoints) > 1 else 'square'}: {', '.join(checkpoints)}"


def path_caption(row: xr.Dataset) -> str:
    """Text on how far the run is off the plane and how many checkpoints are beyond its ends; empty without a run."""
    if not row.sizes.get("run", 0):
        return ""
    x, y = row.path_first.values, row.path_second.values
    text = f"the run's checkpoints are up to {float(row.path_distance.max()):.2g} [parameter] off the plane, faint"
    (left, right), (low, high) = row.first.values[[0, -1]], row.second.values[[0, -1]]
    beyond = int(((x < left) | (x > right) | (y < low) | (y > high)).sum())
    return text + (f", and {beyond} of {len(x)} beyond its ends" if beyond else "")
