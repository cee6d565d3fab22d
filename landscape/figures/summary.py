"""Draw a summary page: a text on the records, and every figure for which they have the measurements."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from landscape.errors import InputError
from landscape.figures import pages
from landscape.figures.page import Page, Panel, fitting, letters
from landscape.figures.record_view import RecordView, at_step, plain
from landscape.figures.style import SMALLEST, WIDTHS, FigureStyle, small
from landscape.figures.table import PAGES

_LETTERS = letters(WIDTHS["text"], SMALLEST)  # letters in a line of the head
TALLEST = 10.4  # inches: a page of A4 or letter with its margins

# Figures that are left out, in this order, where a page is too low: their content is in words at the head or on the
# plane, or they take several lines.
_LEFT_OUT = ("profiles", "slices-1d", "dynamics")


@dataclass(frozen=True)
class _Place:
    """A figure on the page, with its place in a line.

    Attributes:
        name: name of the figure.
        height: height in inches for one record.
        further: inches that each further record adds.
        half: whether half a line is enough.
        half_if_alone: whether half a line is enough for a single record.
        draw: function that draws the figure; None for that of the figure's page.
    """

    name: str
    height: float
    further: float = 0.0
    half: bool = False
    half_if_alone: bool = False
    draw: Callable[[Panel, Sequence[RecordView], FigureStyle], None] | None = None


# In the order of the page.
_PLACES = (
    _Place("slices-2d", 2.3, half_if_alone=True),
    _Place("slices-1d", 2.3, half=True, draw=partial(pages.lines, most=1)),
    _Place("learning", 2.3, half_if_alone=True),
    _Place("spectrum", 2.1, half=True),
    _Place("density", 2.1, half=True),
    _Place("eigenvalues", 2.1, half=True),
    _Place("profiles", 1.7, 1.1),
    _Place("dynamics", 3.0),
)


def draw_summary(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw the text and the figures of the summary page.

    Raises:
        InputError: there is no figure that can be drawn of all records.
    """
    lines = _lines(shown)
    if not lines:
        raise InputError(
            "the records share no measurement that a summary shows: measure more, see landscape-probe --help"
        )
    heights = [_head_height(shown), *(_height(line, shown) for line in lines)]
    head, *parts = panel.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    text = "\n".join(_head(shown, look.step))
    head.text(0.01, 0.95, text, va="top", fontsize=small(), linespacing=1.3)
    for part, line in zip(parts, lines, strict=True):
        for place, each in zip(part.subfigures(1, len(line), squeeze=False)[0], line, strict=True):
            (each.draw or PAGES[each.name].draw)(place, shown, look)


def height_of_summary(shown: Sequence[RecordView], width: float) -> float:
    """Height in inches of the page's content, scaled to a width, and at most that of a page."""
    return min(_whole_height(_lines(shown), shown), TALLEST) * width / WIDTHS["text"]


SUMMARY = Page({}, "", lambda shown: "text", height_of_summary, draw_summary, least="text")


def _lines(shown: Sequence[RecordView]) -> list[list[_Place]]:
    """The figures line by line, as many as fit on a page."""
    places = [
        place for place in _PLACES if not _lacking(place.name, shown) and not _already_captioned(place.name, shown)
    ]
    for name in ("", *_LEFT_OUT):
        places = [place for place in places if place.name != name]
        if _whole_height(lines := _packed(places, shown), shown) <= TALLEST:
            break
    return lines


def _packed(places: Sequence[_Place], shown: Sequence[RecordView]) -> list[list[_Place]]:
    """Arrange figures in lines. Two half lines make one line; a half line without a partner gets a whole line."""
    full: list[list[_Place]] = []
    waiting: list[_Place] = []
    for place in places:
        if not (place.half or (place.half_if_alone and len(shown) == 1)):
            full.append([place])
        elif waiting:
            full.append([waiting.pop(), place])
        else:
            waiting.append(place)
    return sorted([*full, *([waiting] if waiting else [])], key=lambda line: _PLACES.index(line[0]))


def _lacking(name: str, shown: Sequence[RecordView]) -> bool:
    return any(PAGES[name].lacking(record) for record in shown)


def _whole_height(lines: Sequence[Sequence[_Place]], shown: Sequence[RecordView]) -> float:
    return _head_height(shown) + sum(_height(line, shown) for line in lines)


def _already_captioned(name: str, shown: Sequence[RecordView]) -> bool:
    """Whether the figure of the full spectrum, which shows top eigenvalues and density too, replaces a figure."""
    return name in ("density", "eigenvalues") and not _lacking("spectrum", shown)


def _height(line: Sequence[_Place], shown: Sequence[RecordView]) -> float:
    return max((place.height + place.further * (len(shown) - 1)) * _rows(place.name, shown) for place in line)


def _rows(name: str, shown: Sequence[RecordView]) -> int:
    """Number of rows of panels in a figure with a panel for each record; 1 for any other figure."""
    return fitting(WIDTHS["text"], len(shown), pages.LEAST[name])[0] if name in ("slices-2d", "learning") else 1


def _head_height(shown: Sequence[RecordView]) -> float:
    return 0.15 + 0.11 * len(_head(shown))


def _head(shown: Sequence[RecordView], step: int | None = None) -> list[str]:
    """Lines of text on the records: file, checkpoint, loss and verdicts."""
    lines = []
    for record in shown:
        text = f"{record.label}: {plain(record.identity['record'])}, {record.identity['fingerprint'][:12]}"
        if not record.lacks({"loss": ("loss", "standard_error", "samples", "gradient_norm", "parameters")}):
            loss = record.row("loss", step)
            text += (
                f"; {at_step(loss)}, {int(loss.parameters):,} parameters, loss {float(loss.loss):.4g} ± "
                f"{float(loss.standard_error):.1g} on {int(loss.samples):,} samples, gradient norm "
                f"{float(loss.gradient_norm):.3g}"
            )
        # With several records only the first verdict of each fits.
        verdicts = _verdicts(record, step) if len(shown) == 1 else _verdicts(record, step)[:1]
        for each in (text, *verdicts):
            lines += textwrap.wrap(
                each, _LETTERS, subsequent_indent="      ", initial_indent="    " * (each is not text)
            )
    return lines


def _verdicts(record: RecordView, step: int | None) -> list[str]:
    """The valley's sentences, and a sentence on the course of the entropy."""
    sentences = []
    if not record.lacks({"valley": ("sentence",)}):
        sentences += re.split(r" (?=spectral \(|anisotropy: )", plain(record.row("valley", step).sentence.values))
    if not record.lacks({"dynamics": ("phases",)}):
        sentences.append(f"entropy over the run: {plain(record.row('dynamics').phases.values)}")
    return sentences
