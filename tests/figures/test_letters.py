"""Texts of figures: at every named width they are large enough, don't overlap, and lie on the page.

A new figure in `PAGES` is tested without further work. Its test fails if the `records` lack the data of the figure.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from landscape import InputError
from landscape.figures import FONT_SIZES, PAGES, WIDTHS, FigureStyle, RecordView, draw, styled

SMALLEST = 6.0  # points, of the style of papers
SLACK = 1.0  # pixels of 1/100 inch: an extent is that of the font's letters, and has such a margin itself
# The figures that aren't drawn at a width, and the reasons.
LEFT_OUT = {("summary", "column"): "a page of panels, which side by side have no room in half of a page"}
LOOKS = [(name, "filled") for name in PAGES] + [("slices-2d", "contour"), ("slices-2d", "surface")]


def letters_of(figure: Figure, patch: pytest.MonkeyPatch) -> dict[Text, np.ndarray]:
    """The texts that a figure draws, each with the corners (4, 2) of its box in pixels, rotated as the text."""
    drawn: list[Text] = []
    draw_text = Text.draw

    def noted(self: Text, renderer: object) -> None:
        draw_text(self, renderer)
        drawn.append(self)

    with patch.context() as only:
        only.setattr(Text, "draw", noted)  # of ticks and annotations nothing else says whether they are drawn
        FigureCanvasAgg(figure).draw()  # a figure's own canvas draws nothing
    return {text: corners(text) for text in dict.fromkeys(drawn) if text.get_visible() and text.get_text().strip()}


def corners(text: Text) -> np.ndarray:
    """The corners of a text's box: that of the upright text, rotated about the centre of the rotated text's extent."""
    box, angle = text.get_window_extent(), np.deg2rad(text.get_rotation())
    middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    turned = text.get_rotation()
    text.set_rotation(0)
    upright = text.get_window_extent()
    text.set_rotation(turned)
    half = np.array([upright.width, upright.height]) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return middle + (half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])) @ turn.T


def depth(first: np.ndarray, second: np.ndarray) -> float:
    """The smallest overlap of two boxes in pixels, over the axes of both boxes; negative if they are apart."""
    least = np.inf
    for box in (first, second):
        for edge in (box[1] - box[0], box[2] - box[1]):
            along = edge / np.linalg.norm(edge)
            one, other = first @ along, second @ along
            least = min(least, one.max() - other.min(), other.max() - one.min())
    return float(least)


def faults(figure: Figure, patch: pytest.MonkeyPatch) -> list[str]:
    """The texts that can't be read: overlapping, off the page, or too small."""
    letters = letters_of(figure, patch)
    assert letters
    page = np.array([figure.bbox.width, figure.bbox.height])
    found = [f"{text.get_text()!r} is of {text.get_fontsize():.1f} points" for text in letters
             if text.get_fontsize() < SMALLEST - 1e-9]  # fmt: skip
    found += [f"{text.get_text()!r} leaves the page" for text, box in letters.items()
              if (box < -SLACK).any() or (box > page + SLACK).any()]  # fmt: skip
    found += [
        f"{text.get_text()!r} lies on {other.get_text()!r}"
        for (text, box), (other, of_other) in itertools.combinations(letters.items(), 2)
        if depth(box, of_other) > SLACK
    ]
    return found


def full(record: RecordView) -> RecordView:
    """A record with as many directions as are drawn of a large model."""
    groups = {name: group.isel(direction=np.arange(5) % group.sizes["direction"])
              for name, group in record.groups.items() if name in ("slices_1d", "valley", "hops")}  # fmt: skip
    return replace(record, groups=record.groups | groups)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("name", "kind"), LOOKS)
def test_every_text_can_be_read(shown, monkeypatch, name, kind, width, count):
    look, records = FigureStyle(width=WIDTHS[width], kind=kind), [full(record) for record in shown[:count]]
    with styled("paper"):
        if (name, width) in LEFT_OUT:
            with pytest.raises(InputError, match=f"{name} can't be read .*: give --width text"):
                draw(name, records, look)
            return
        figure = draw(name, records, look)
        assert figure.get_figwidth() == WIDTHS[width]
        assert faults(figure, monkeypatch) == []


def test_what_cannot_be_read_is_seen(monkeypatch):
    """The check above finds every kind of fault, and accuses no rotated texts that lie beside each other."""
    with styled("paper"):
        figure = Figure(figsize=(2, 2))
        for place in (0.3, 0.42):
            figure.text(place, 0.5, "a long text", rotation=45)
        assert faults(figure, monkeypatch) == []
        figure.text(0.3, 0.5, "upon")
        assert faults(figure, monkeypatch) == ["'a long text' lies on 'upon'"]
        figure.text(0.99, 0.1, "off")
        figure.text(0.1, 0.9, "small", fontsize=5)
    assert faults(figure, monkeypatch)[:2] == ["'small' is of 5.0 points", "'off' leaves the page"]
    assert FONT_SIZES["paper"] >= SMALLEST
