"""One page: what the record is, and every panel that it has the measurements for."""

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

_LETTERS = letters(WIDTHS["text"], SMALLEST)  # a line of the head
TALLEST = 10.4  # inches: a page of A4 or letter with its margins

# What is left out first where a page is too low: what is said in words at its head, is on the plane, or is of several
# lines itself.
_LEFT_OUT = ("profiles", "slices-1d", "dynamics")


@dataclass(frozen=True)
class _Place:
    """A figure on the page: its height in inches, what each further record adds, and whether half a line is enough."""

    name: str
    height: float
    further: float = 0.0
    half: bool = False
    half_if_alone: bool = False
    draw: Callable[[Panel, Sequence[RecordView], FigureStyle], None] | None = None


# In the order of the page. Of one record planes and learning curves take half a line.
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
    """Lay out the page.

    Raises:
        InputError: the records have no measurement in common that is on it.
    """
    lines = _lines(shown)
    if not lines:
        raise InputError(
            "the records have nothing in common that a summary shows: measure more, landscape-probe --help"
        )
    heights = [_head_height(shown), *(_height(line, shown) for line in lines)]
    head, *parts = panel.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    text = "\n".join(_head(shown, look.step))
    head.text(0.01, 0.95, text, va="top", fontsize=small(), linespacing=1.3)
    for part, line in zip(parts, lines, strict=True):
        for place, each in zip(part.subfigures(1, len(line), squeeze=False)[0], line, strict=True):
            (each.draw or PAGES[each.name].draw)(place, shown, look)


def height_of_summary(shown: Sequence[RecordView], width: float) -> float:
    """As high as what there is, and no higher than a page."""
    return min(_whole_height(_lines(shown), shown), TALLEST) * width / WIDTHS["text"]


SUMMARY = Page({}, "", lambda shown: "text", height_of_summary, draw_summary, least="text")


def _lines(shown: Sequence[RecordView]) -> list[list[_Place]]:
    """The figures line by line, as many as a page has room for."""
    places = [
        place for place in _PLACES if not _lacking(place.name, shown) and not _already_captioned(place.name, shown)
    ]
    for name in ("", *_LEFT_OUT):
        places = [place for place in places if place.name != name]
        if _whole_height(lines := _packed(places, shown), shown) <= TALLEST:
            break
    return lines


def _packed(places: Sequence[_Place], shown: Sequence[RecordView]) -> list[list[_Place]]:
    """Line by line: a half line waits for the next one, and takes the whole where none comes."""
    found: list[list[_Place]] = []
    waiting: list[_Place] = []
    for place in places:
        if not (place.half or (place.half_if_alone and len(shown) == 1)):
            found.append([place])
        elif waiting:
            found.append([waiting.pop(), place])
        else:
            waiting.append(place)
    return sorted([*found, *([waiting] if waiting else [])], key=lambda line: _PLACES.index(line[0]))


def _lacking(name: str, shown: Sequence[RecordView]) -> bool:
    return any(PAGES[name].lacking(record) for record in shown)


def _whole_height(lines: Sequence[Sequence[_Place]], shown: Sequence[RecordView]) -> float:
    return _head_height(shown) + sum(_height(line, shown) for line in lines)


def _already_captioned(name: str, shown: Sequence[RecordView]) -> bool:
    """Whether another figure on the page has the same eigenvalues: the whole spectrum has the top, and the density."""
    return name in ("density", "eigenvalues") and not _lacking("spectrum", shown)


def _height(line: Sequence[_Place], shown: Sequence[RecordView]) -> float:
    return max((place.height + place.further * (len(shown) - 1)) * _rows(place.name, shown) for place in line)


def _rows(name: str, shown: Sequence[RecordView]) -> int:
    """In how many rows a figure has its records, if it is one that has a panel for each."""
    return fitting(WIDTHS["text"], len(shown), pages.LEAST[name])[0] if name in ("slices-2d", "learning") else 1


def _head_height(shown: Sequence[RecordView]) -> float:
    return 0.15 + 0.11 * len(_head(shown))


def _head(shown: Sequence[RecordView], step: int | None = None) -> list[str]:
    """What the records are, and what they say in words."""
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
        verdicts = (
            _verdicts(record, step) if len(shown) == 1 else _verdicts(record, step)[:1]
        )  # of several there isn't room
        for each in (text, *verdicts):
            lines += textwrap.wrap(
                each, _LETTERS, subsequent_indent="      ", initial_indent="    " * (each is not text)
            )
    return lines


def _verdicts(record: RecordView, step: int | None) -> list[str]:
    """The sentences of the valley, and the course of the entropy."""
    found = []
    if not record.lacks({"valley": ("sentence",)}):
        found += re.split(r" (?=spectral \(|anisotropy: )", plain(record.row("valley", step).sentence.values))
    if not record.lacks({"dynamics": ("phases",)}):
        found.append(f"entropy over the run: {plain(record.row('dynamics').phases.values)}")
    return found
