"""Pages: the variables that a figure needs, its size, its layout in panels, and the note below it."""

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
    """A figure with the variables it needs, its size and the function that draws it.

    Attributes:
        needs: names of the variables that the figure needs, by group of the record.
        option: option of ``landscape-probe`` that measures these variables.
        width: function of the records that returns the default width, a key of `landscape.figures.style.WIDTHS`.
        height: function of the records and a width in inches that returns the height in inches, without the note. Both
            are for letters of a paper's size.
        draw: function that draws the records on a figure or subfigure.
        least: narrowest legible width, a key of `landscape.figures.style.WIDTHS`; None for any width.
    """

    needs: Mapping[str, tuple[str, ...]]
    option: str
    width: Callable[[Sequence[RecordView]], str]
    height: Height
    draw: Callable[[Panel, Sequence[RecordView], FigureStyle], None]
    least: str | None = None

    def lacking(self, record: RecordView) -> str | None:
        """Text on the first needed variable that a record lacks; None if it has all."""
        return record.lacks(self.needs)

    def narrow(self, look: FigureStyle) -> str | None:
        """Text on why the figure isn't legible at the requested width, and on a sufficient width; None if legible."""
        larger = FONT_SIZES[look.style] / FONT_SIZES["paper"]
        if self.least is None or look.width is None or look.width >= WIDTHS[self.least] * larger:
            return None
        wider = self.least if larger == 1 else f"{WIDTHS[self.least] * larger:g}"
        return (
            f"can't be read {look.width:g} inches wide, in letters of {FONT_SIZES[look.style]:g} points: "
            f"give --width {wider}, or more inches"
        )

    def figure(self, shown: Sequence[RecordView], look: FigureStyle) -> Figure:
        """Draw the figure; call within `landscape.figures.style.styled`. Larger letters make a larger figure.

        Raises:
            InputError: a record has no checkpoint of the requested step, or nothing to draw.
        """
        return sized(
            look,
            self.width(shown),
            lambda width: self.height(shown, width),
            lambda figure: self.draw(figure, shown, look),
        )


def sized(look: FigureStyle, width: str, height: Callable[[float], float], draw: Callable[[Figure], None]) -> Figure:
    """Draw on a new figure of fitting size.

    Args:
        look: style of the figure.
        width: default width, a key of `landscape.figures.style.WIDTHS`.
        height: function of a width in inches that returns the height in inches without the note. Both are for letters
            of a paper's size.
        draw: function that draws on the figure.
    """
    larger = FONT_SIZES[look.style] / FONT_SIZES["paper"]
    inches = look.width or WIDTHS[width] * larger
    tall = height(inches / larger) * larger
    figure = Figure(figsize=(inches, tall), layout="constrained")
    draw(figure)
    if written := figure.get_supxlabel():  # the note adds to the height, so that the panels keep theirs
        figure.set_figheight(tall + (written.count("\n") + 1) * small() * _LINE)
    return figure


def room(panel: Panel) -> float:
    """Width of a panel in inches, scaled to letters of a paper's size."""
    return float(panel.bbox.width / panel.dpi * FONT_SIZES["paper"] / rcParams["font.size"])


def fitting(width: float, count: int, least: float) -> tuple[int, int]:
    """Rows and columns for a number of Axes, in as few rows as possible and evenly filled.

    No Axes is narrower than ``least``, unless the panel is.

    Args:
        width: width of the panel in inches.
        count: number of Axes.
        least: smallest width of an Axes in inches.

    Returns:
        Number of rows, number of columns.
    """
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
    """Put Axes side by side on a panel, in several rows where they need more width: see `fitting`.

    Args:
        panel: the figure or subfigure for the Axes.
        count: number of places for Axes.
        least: smallest width of an Axes in inches, for letters of a paper's size.
        heights: relative heights of the Axes above each other in each place; these share their x axis.
        sharey: whether the Axes of one height share their y axis.
        projection: ``3d``, or None.

    Returns:
        The Axes (heights, count), and the number of places in a row.
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
    """Number of letters, of a size in points, that fit into a width in inches on average."""
    return max(20, int(0.95 * width / (0.55 * size / 72)))


def note(panel: Panel, texts: Sequence[str]) -> None:
    """Write texts below a panel in small letters, without repetitions."""
    joined = "; ".join(dict.fromkeys(text for text in texts if text))
    wrapped = textwrap.fill(joined, letters(panel.bbox.width / panel.dpi, small()))
    panel.supxlabel(wrapped, fontsize=small(), color="0.35")


def measured_on(shown: Sequence[RecordView], rows: Sequence[xr.Dataset]) -> list[str]:
    """Texts with the checkpoint that is drawn of each record, and its number of samples."""
    return [
        f"{record.label}: {at_step(row)}" + (f", {int(row.samples):,} samples" if "samples" in row else "")
        for record, row in zip(shown, rows, strict=True)
    ]


def legend(axes: Axes, shown: Sequence[RecordView]) -> None:
    """Add a legend if there are several records or several labels."""
    labels = axes.get_legend_handles_labels()[1]
    if len(shown) > 1 or len(labels) > 1:
        axes.legend()


def overlay(
    axes: Axes,
    shown: Sequence[RecordView],
    rows: Sequence[xr.Dataset],
    draw: Callable[[Axes, xr.Dataset, str, str], object],
) -> None:
    """Draw the rows of several records on one Axes, each in its colour."""
    for record, row, colour in zip(shown, rows, COLOURS, strict=False):
        draw(axes, row, record.label, colour)
