"""What a figure is made of: the variables it needs, its size, and the small letters that say what was drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import xarray as xr
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from landscape.figures.shown import Shown, at_step
from landscape.figures.style import COLOURS, FONT_SIZES, WIDTHS, Look

Panel = Figure | SubFigure
Size = Callable[[Sequence[Shown]], tuple[str, float]]


@dataclass(frozen=True)
class Page:
    """A figure that can be asked for.

    Attributes:
        needs: the variables of the record that it can't be drawn without, by their groups.
        option: of ``landscape-probe`` that measures them.
        size: the width that it is made for, a key of `landscape.figures.style.WIDTHS`, and its height in inches then.
        draw: on a figure.
    """

    needs: Mapping[str, tuple[str, ...]]
    option: str
    size: Size
    draw: Callable[[Panel, Sequence[Shown], Look], None]

    def lacking(self, record: Shown) -> str | None:
        """What of a record is missing; None where nothing is."""
        return record.lacks(self.needs)

    def figure(self, shown: Sequence[Shown], look: Look) -> Figure:
        """Draw it, within `landscape.figures.style.styled`; larger letters make a larger figure.

        Raises:
            InputError: a record has no checkpoint of the step that is asked for, or nothing to be drawn.
        """
        name, height = self.size(shown)
        width = look.width or WIDTHS[name] * FONT_SIZES[look.style] / FONT_SIZES["paper"]
        figure = Figure(figsize=(width, height * width / WIDTHS[name]), layout="constrained")
        self.draw(figure, shown, look)
        return figure


def sized(one: tuple[str, float], several: tuple[str, float] | None = None, further: float = 0.0) -> Size:
    """A size by the number of records: of one, of two, and what each further one adds to the height."""

    def size(shown: Sequence[Shown]) -> tuple[str, float]:
        if len(shown) == 1:
            return one
        name, height = several or one
        return name, height + further * (len(shown) - 2)

    return size


def row_of(panel: Panel, count: int, **more: object) -> list[Axes]:
    """Axes side by side."""
    return list(panel.subplots(1, count, squeeze=False, **more)[0])  # type: ignore[call-overload]


def note(panel: Panel, texts: Sequence[str]) -> None:
    """What was drawn, in small letters below."""
    letter = 0.7 * rcParams["font.size"] * 0.55 / 72  # inches, on average
    line = max(20, int(0.95 * panel.bbox.width / panel.dpi / letter))
    told = "; ".join(dict.fromkeys(text for text in texts if text))
    panel.supxlabel(textwrap.fill(told, line), fontsize="x-small", color="0.35")


def told(shown: Sequence[Shown], rows: Sequence[xr.Dataset]) -> list[str]:
    """Which checkpoint of each record is drawn, and on how many samples it was measured."""
    return [
        f"{record.label}: {at_step(row)}" + (f", {int(row.samples):,} samples" if "samples" in row else "")
        for record, row in zip(shown, rows, strict=True)
    ]


def legend(axes: Axes, shown: Sequence[Shown]) -> None:
    """A legend, where there is more than one thing to tell apart."""
    labels = axes.get_legend_handles_labels()[1]
    if len(shown) > 1 or len(labels) > 1:
        axes.legend()


def overlay(
    axes: Axes, shown: Sequence[Shown], rows: Sequence[xr.Dataset], draw: Callable[[Axes, xr.Dataset, str, str], object]
) -> None:
    """Every record's row on one Axes, each in its colour."""
    for record, row, colour in zip(shown, rows, COLOURS, strict=False):
        draw(axes, row, record.label, colour)
