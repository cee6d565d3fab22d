"""Draw the diagonal of a matrix by parameter tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from landscape.figures.page import Panel, legend, measured_on, note
from landscape.figures.record_view import RecordView, plain, units
from landscape.figures.style import COLOURS, FigureStyle

MOST = 40  # largest number of tensors whose names are legible
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def draw_diagonal(
    axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0", place: float = 0.0, width: float = 0.7
) -> Axes:
    """Draw the entries of each parameter tensor as a box of quartiles, with whiskers from 5 to 95 %.

    The error bar at the median is twice the root mean square of the entries' standard errors over the tensor. Of more
    than `MOST` tensors, those whose medians have the largest magnitude are drawn, in the order of the flat vector.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``diagonal``.
        label: label in the legend; None for no entry.
        colour: colour of the boxes.
        place: offset of the boxes from the tensors' positions.
        width: width of the boxes.
    """
    columns = [int(np.abs(row.share.values - share).argmin()) for share in _SHARES]
    quantiles, drawn = row.quantiles.values[:, columns], tensors_drawn(row)
    low, first, middle, third, high = quantiles[drawn].T
    at = np.arange(len(drawn)) + place
    axes.barh(at, third - first, width, first, color=colour, alpha=0.35, label=label)
    axes.hlines(at, low, high, color=colour, linewidth=0.8)
    axes.plot(middle, at, "|", color=colour)
    axes.errorbar(middle, at, xerr=2 * row.tensor_error.values[drawn], fmt="none", ecolor="0.3", capsize=1.5,
                  elinewidth=0.8)  # fmt: skip
    axes.set_yticks(np.arange(len(drawn)), [plain(name) for name in row.tensor_name.values[drawn]])
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_xlabel(f"diagonal{units(row.quantiles)}")
    return axes


def tensors_drawn(row: xr.Dataset) -> np.ndarray:
    """Indices of the tensors that `draw_diagonal` draws, ascending."""
    middle = np.abs(row.quantiles.values[:, int(np.abs(row.share.values - 0.5).argmin())])
    return np.sort(np.argsort(-middle, kind="stable")[:MOST])


def height(shown: Sequence[RecordView], width: float) -> float:
    """Height in inches at which the names of all drawn tensors are legible."""
    return 0.7 + max(0.18 * len(tensors_drawn(record.row("diagonal"))) for record in shown)


def diagonals(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw diagonals, the records side by side at each tensor."""
    axes = panel.subplots()
    rows = [record.row("diagonal", look.step) for record in shown]
    width = 0.7 / len(rows)
    for index, (record, row) in enumerate(zip(shown, rows, strict=True)):
        place = (index - (len(rows) - 1) / 2) * width
        draw_diagonal(axes, row, record.label, COLOURS[index], place, 0.9 * width)
    legend(axes, shown)
    note(panel, [*measured_on(shown, rows), *(_error(record, row) for record, row in zip(shown, rows, strict=True)),
                 "boxes: quartiles of a tensor's entries, whiskers 5 to 95 %",
                 "grey: twice the standard error of an entry"])  # fmt: skip


def _error(record: RecordView, row: xr.Dataset) -> str:
    """Text on the errors of the entries, and on tensors that aren't drawn."""
    count = row.sizes["tensor"]
    omitted = f", {MOST} of {count} tensors, of the largest medians" if count > MOST else ""
    if str(row.method.values) == "exact":
        return f"{record.label}: exact{omitted}"
    unmet = "" if row.converged else ", NOT CONVERGED"
    return f"{record.label}: combined standard error {float(row.relative_error):.2g} of the norm{unmet}{omitted}"
