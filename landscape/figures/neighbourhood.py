"""Draw the rise of the loss in neighbourhoods over their radius."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from landscape.figures.page import Panel, measured_on, note, overlay
from landscape.figures.record_view import RecordView, units
from landscape.figures.style import FigureStyle

STYLES = {"ball": "solid", "adaptive": "dashed", "box": (0, (1, 1))}
NOISES = {"isotropic": "o", "adaptive": "s"}
_COLUMNS = 2  # of the legend


def height(shown: Sequence[RecordView], width: float) -> float:
    """Height in inches of the figure: that of a single Axes, and of the legend above it."""
    entries = len(STYLES) + len(NOISES) + len(shown) * (len(shown) > 1)
    return min(0.72 * width, 3.6) + 0.15 * math.ceil(entries / _COLUMNS)


def draw_neighbourhood(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw the largest rises found and the mean rises under noise over the radius, both axes logarithmic.

    Lines are largest rises found, which are lower bounds. Points are means under noise with their 95 % intervals, the
    isotropic ones with a band. Values that aren't positive and finite have no place on a logarithmic axis and are left
    out. A largest rise has a hollow marker where its ascent ended at the limit on steps, or left points out.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``neighbourhood``.
        label: label in the legend; None for no entry.
        colour: colour of lines and points.
    """
    radii = row.radius.values
    for place, name in enumerate(map(str, row.set_name.values)):
        rises, sure = row.rise.values[place], row.settled.values[place].astype(bool) & (row.skipped.values[place] == 0)
        axes.plot(radii, _shown(rises), color=colour, linestyle=STYLES[name], label=label if name == "ball" else None)
        axes.plot(radii, np.where(sure, np.nan, _shown(rises)), "D", color=colour, fillstyle="none")
    for place, name in enumerate(map(str, row.noise_name.values)):
        means, (low, high) = _shown(row.average.values[place]), row.average_interval.values[place].T
        floor = means / 10  # an interval that reaches 0 has no lower end on a logarithmic axis
        low = np.fmax(low, floor)
        if name == "isotropic":
            axes.fill_between(radii, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.errorbar(
            radii, means, yerr=np.abs([means - low, high - means]), fmt=NOISES[name], color=colour, markersize=2.5,
            elinewidth=0.6, linestyle="none", fillstyle="full" if name == "isotropic" else "none",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("radius")
    axes.set_ylabel(f"rise of the loss{units(row.rise)}")
    return axes


def rises(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw the rises over the radius, records overlaid."""
    axes = panel.subplots()
    rows = [record.row("neighbourhood", look.step) for record in shown]
    overlay(axes, shown, rows, lambda *drawn: draw_neighbourhood(*_labelled(drawn, len(shown))))
    for name, style in STYLES.items():
        axes.plot([], [], color="0.4", linestyle=style, label={"adaptive": "adaptive ball"}.get(name, name))
    for name, marker in NOISES.items():
        fill = "full" if name == "isotropic" else "none"
        axes.plot([], [], marker, color="0.4", markersize=2.5, fillstyle=fill, label=f"{name} noise, mean")
    # Lines fill the panel from corner to corner, so the legend stands above the panel.
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=_COLUMNS)
    note(panel, [*measured_on(shown, rows), "lines: largest rise found, a lower bound", "95 % intervals over pairs"])


def _labelled(drawn: tuple[Axes, xr.Dataset, str, str], records: int) -> tuple[Axes, xr.Dataset, str | None, str]:
    """Arguments of `draw_neighbourhood`, without a label for a single record: the note has its name."""
    axes, row, label, colour = drawn
    return axes, row, label if records > 1 else None, colour


def _shown(values: np.ndarray) -> np.ndarray:
    """The values with NaN for those that a logarithmic axis can't show."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values) & (values > 0), values, np.nan)
