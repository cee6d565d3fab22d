"""Draw the largest eigenvalues of mini-batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from landscape.figures.page import Panel, legend, measured_on, note, overlay
from landscape.figures.record_view import RecordView, units
from landscape.figures.style import FigureStyle
from landscape.reporting.messages import counted


def draw_per_batch(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw the empirical distribution of the mini-batches' largest eigenvalues, and a line at that of all samples.

    Eigenvalues that did not converge have hollow markers, and the line is dotted if that of all samples did not.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``per_batch``, or of that of another matrix.
        label: label in the legend; None for no entry.
        colour: colour of the lines.
    """
    order = np.argsort(row.eigenvalue.values)
    values, converged = row.eigenvalue.values[order], row.converged.values[order].astype(bool)
    below = (np.arange(len(values)) + 1) / len(values)
    low, high = row.interval.values[order].T
    axes.step([values[0], *values], [0, *below], where="post", color=colour, linewidth=0.8)
    for good, fill in ((True, "full"), (False, "none")):
        chosen = converged == good
        axes.errorbar(
            values[chosen], below[chosen], xerr=np.abs([(values - low)[chosen], (high - values)[chosen]]), fmt="o",
            color=colour, markersize=2, elinewidth=0.6, fillstyle=fill, label=label if good else None,
        )  # fmt: skip
    axes.axvline(float(row.whole), color=colour, linestyle="dashed" if row.whole_converged else "dotted", linewidth=0.8)
    axes.set_xlabel(f"largest eigenvalue{units(row.eigenvalue)}")
    axes.set_ylabel("share of mini-batches")
    return axes


def distributions(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw the distributions over mini-batches, records overlaid."""
    axes = panel.subplots()
    rows = [record.row("per_batch", look.step) for record in shown]
    overlay(axes, shown, rows, draw_per_batch)
    legend(axes, shown)
    texts = [
        f"{text}, {counted(row.sizes['batch'], 'mini-batch')} of {int(row.batch_size)}"
        for text, row in zip(measured_on(shown, rows), rows, strict=True)
    ]
    note(panel, [*texts, "vertical line: all samples"])
