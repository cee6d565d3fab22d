"""What a figure is made of: the variables it needs, its size, and the small letters that say what was drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from landscape.figures.record_view import RecordView, at_step
from landscape.figures.style import COLOURS, FONT_SIZES, WIDTHS, FigureStyle, small

Panel = Figure | SubFigure
Height = Callable[[Sequence[RecordView], float], float]
_LINE = 1.3 / 72  # inches between two lines of a note, for each point of its letters


@dataclass(frozen=True)
class Page:
    """A figure that can be asked for.

    Attributes:
        needs: the variables of the record that it can't be drawn without, by their groups.
        option: of ``landscape-probe`` that measures them.
        width: that it is made for, a key of `landscape.figures.style.WIDTHS`.
        height: in inches at a width in inches, without the note; both in letters of a paper's size.
        draw: on a figure.
        least: the narrowest width, a key of `landscape.figures.style.WIDTHS`, at which it can be read; None: at all.
    """

    needs: Mapping[str, tuple[str, ...]]
    option: str
    width: Callable[[Sequence[RecordView]], str]
    height: Height
    draw: Callable[[Panel, Sequence[RecordView], FigureStyle], None]
    least: str | None = None

    def lacking(self, record: RecordView) -> str | None:
        """What of a record is missing; None where nothing is."""
        return record.lacks(self.needs)

    def narrow(self, look: FigureStyle) -> str | None:
        """Why it can't be read at the width that is asked for, and what can; None where it can."""
        larger = FONT_SIZES[look.style] / FONT_SIZES["paper"]
        if self.least is None or look.width is None or look.width >= WIDTHS[self.least] * larger:
            return None
        wider = self.least if larger == 1 else f"{WIDTHS[self.least] * larger:g}"
        return (
            f"can't be read {look.width:g} inches wide, in letters of {FONT_SIZES[look.style]:g} points: "
            f"give --width {wider}, or more inches"
        )

    def figure(self, shown: Sequence[RecordView], look: FigureStyle) -> Figure:
        """Draw it, within `landscape.figures.style.styled`; larger letters make a larger figure.

        Raises:
            InputError: a record has no checkpoint of the step that is asked for, or nothing to be drawn.
        """
        larger = FONT_SIZES[look.style] / FONT_SIZES["paper"]
        width = look.width or WIDTHS[self.width(shown)] * larger
        height = self.height(shown, width / larger) * larger
        figure = Figure(figsize=(width, height), layout="constrained")
        self.draw(figure, shown, look)
        if written := figure.get_supxlabel():  # its lines are known by now, and take nothing from the panels
            figure.set_figheight(height + (written.count("\n") + 1) * small() * _LINE)
        return figure


def room(panel: Panel) -> float:
    """How wide a panel is in inches, if its letters were those of a paper."""
    return float(panel.bbox.width / panel.dpi * FONT_SIZES["paper"] / rcParams["font.size"])


def fitting(width: float, count: int, least: float) -> tuple[int, int]:
    """Rows and columns of so many Axes, no narrower than ``least`` unless the panel is; rows are as full as can be."""
    rows = math.ceil(count / max(1, min(count, int(width / least))))
    return rows, math.ceil(count / rows)


def tiled(
    panel: Panel,
    count: int,
    least: float,
    heights: Sequence[float] = (1,),
    sharey: bool = False,
    projection: str | None = None,
) -> tuple[np.ndarray, int]:
    """So many Axes side by side where they have room, and else in rows: see `fitting`.

    Args:
        panel: to put them on.
        count: of the Axes.
        least: the width in inches that each needs, in letters of a paper's size.
        heights: of the Axes that stand above each other in each place, with one axis across.
        sharey: give those of one height the same axis up.
        projection: ``3d``, or none.

    Returns:
        the Axes (heights, count), and how many places a row has.
    """
    rows, columns = fitting(room(panel), count, least)
    spec = panel.add_gridspec(rows * len(heights), columns, height_ratios=[*heights] * rows)
    every = np.empty((len(heights), count), dtype=object)
    for layer, place in np.ndindex(every.shape):
        above = every[0, place] if layer else None
        left = every[layer, 0] if sharey and place else None
        where = spec[place // columns * len(heights) + layer, place % columns]
        axes = panel.add_subplot(where, sharex=above, sharey=left, projection=projection)
        inner = layer + 1 < len(heights)
        axes.tick_params(labelbottom=not inner, labelleft=not (sharey and place % columns))
        every[layer, place] = axes
    return every, columns


def letters(width: float, size: float) -> int:
    """How many letters of a size in points have room in a width in inches, on average."""
    return max(20, int(0.95 * width / (0.55 * size / 72)))


def note(panel: Panel, texts: Sequence[str]) -> None:
    """What was drawn, in small letters below."""
    told = "; ".join(dict.fromkeys(text for text in texts if text))
    wrapped = textwrap.fill(told, letters(panel.bbox.width / panel.dpi, small()))
    panel.supxlabel(wrapped, fontsize=small(), color="0.35")


def measured_on(shown: Sequence[RecordView], rows: Sequence[xr.Dataset]) -> list[str]:
    """Which checkpoint of each record is drawn, and on how many samples it was measured."""
    return [
        f"{record.label}: {at_step(row)}" + (f", {int(row.samples):,} samples" if "samples" in row else "")
        for record, row in zip(shown, rows, strict=True)
    ]


def legend(axes: Axes, shown: Sequence[RecordView]) -> None:
    """A legend, where there is more than one thing to tell apart."""
    labels = axes.get_legend_handles_labels()[1]
    if len(shown) > 1 or len(labels) > 1:
        axes.legend()


def overlay(
    axes: Axes,
    shown: Sequence[RecordView],
    rows: Sequence[xr.Dataset],
    draw: Callable[[Axes, xr.Dataset, str, str], object],
) -> None:
    """Every record's row on one Axes, each in its colour."""
    for record, row, colour in zip(shown, rows, COLOURS, strict=False):
        draw(axes, row, record.label, colour)
