"""Draw sampling errors of curvature, and the noise of the gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from landscape.figures.page import Panel, legend, measured_on, note, overlay
from landscape.figures.record_view import RecordView, units
from landscape.figures.style import FigureStyle


def draw_sampling_error(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw the largest eigenvalues on these samples, with the intervals for another set and for the population.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``sampling_error``, or of that of another matrix.
        label: label in the legend; None for no entry.
        colour: colour of the marks.
    """
    index = np.arange(1, row.sizes["index"] + 1)
    axes.plot(index, row.eigenvalue.values, "o", color=colour, markersize=3, label=label)
    axes.vlines(index, *row.eigenvalue_prediction.values.T, color=colour, linewidth=0.7)
    axes.vlines(index, *row.eigenvalue_confidence.values.T, color=colour, linewidth=4, alpha=0.35)
    axes.set_xlabel("rank of the eigenvalue")
    axes.set_ylabel(f"eigenvalue{units(row.eigenvalue)}")
    axes.set_xticks(index[:: max(1, len(index) // 10)])
    return axes


def draw_noise_scale(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw the gradient noise scale of all parameters and of each layer, with 95 % intervals.

    An interval without an upper end is an arrow. A layer whose gradient is only noise has no mark.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``noise_scale``.
        label: label in the legend; None for no entry.
        colour: colour of the marks.
    """
    places, values = np.arange(row.sizes["layer"]), row.noise_scale.values
    low, high = row.noise_scale_interval.values.T
    bounded, known = np.isfinite(high), np.isfinite(values)
    end = 3 * np.concatenate([low, high[bounded], values[known]]).max()
    axes.hlines(places, low, np.where(bounded, high, end), color=colour, linewidth=0.8)
    axes.plot(np.full((~bounded).sum(), end), places[~bounded], ">", color=colour, markersize=3)
    axes.plot(values[known], places[known], "o", color=colour, markersize=3, label=label)
    axes.set_xscale("log")
    axes.set_yticks(places, [str(each) for each in row.layer.values])
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set_xlabel("gradient noise scale (samples)")
    return axes


def errors(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw the sampling errors of eigenvalues, records overlaid."""
    rows = [record.row("sampling_error", look.step) for record in shown]
    overlay(axes := panel.subplots(), shown, rows, draw_sampling_error)
    legend(axes, shown)
    texts = measured_on(shown, rows)
    note(panel, [*texts, "95 % intervals: thin for another set of this size, broad for the population"])


def noise(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw the noise scales of the layers, records overlaid."""
    rows = [record.row("noise_scale", look.step) for record in shown]
    overlay(axes := panel.subplots(), shown, rows, draw_noise_scale)
    legend(axes, shown)
    note(panel, [*measured_on(shown, rows), "95 % intervals over samples; an arrow has no upper end"])


def height(shown: Sequence[RecordView], width: float) -> float:
    """Height in inches of the figure of noise scales, which has a line for each layer."""
    return 1.0 + 0.16 * max(record.groups["noise_scale"].sizes["layer"] for record in shown)
