"""Ticks of figures: every tick stands at the value of its number."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import FixedFormatter, FuncFormatter

from landscape.figures import PAGES, FigureStyle, draw, styled

NUMBER = r"-?\d*\.?\d+(?:e[+-]?\d+)?"


def number(text: str) -> float:
    """The number in a tick's text; ValueError if the text is no number."""
    plain = re.sub(r"\\math(?:default|rm)|[{}$\s]", "", text.replace("10^{", "10^<").replace("\N{MINUS SIGN}", "-"))
    plain = plain.replace("\\times", "*").replace("-*", "-")
    found = re.fullmatch(rf"(?:({NUMBER})\*)?(-?)10\^<({NUMBER})", plain)
    if found:
        factor = float(found[1] or 1) * (-1 if found[2] else 1)
        return factor * 10 ** float(found[3])
    return float(plain)


def shown_of(axis: Axis) -> list[tuple[float, str]]:
    """Position and text of every tick within the axis that has a text."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [
        (float(tick.get_loc()), tick.label1.get_text())
        for tick in ticks
        if tick.label1.get_text() and tick.label1.get_visible() and low <= tick.get_loc() <= high
    ]


def is_of_names(axis: Axis) -> bool:
    """Whether the ticks of an axis have names instead of numbers."""
    return isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter)


@pytest.mark.parametrize(("name", "scale"), [*((name, "log") for name in PAGES), ("slices-2d", "linear")])
def test_a_tick_says_where_it_is(shown, name, scale):
    with styled("paper"):
        figure = draw(name, shown, FigureStyle(scale=scale))
        FigureCanvasAgg(figure).draw()
    seen = 0
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if is_of_names(axis):
                continue
            offset = axis.get_offset_text().get_text()
            factor = number(offset) if offset else 1.0
            for place, text in shown_of(axis):
                assert number(text) * factor == pytest.approx(place, rel=0.02, abs=1e-9), (axes.get_title(), text)
                seen += 1
    assert seen or name == "samples"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$\\mathdefault{10^{-2}}$", 0.01),
        ("$\\mathdefault{-10^{3}}$", -1000),
        ("$\\mathdefault{2\\times10^{-3}}$", 2e-3),
        ("$\\mathdefault{\N{MINUS SIGN}0.5}$", -0.5),
        ("1e\N{MINUS SIGN}3", 1e-3),
        ("4000", 4000),
    ],
)
def test_numbers_are_read(text, value):
    assert number(text) == pytest.approx(value)
    with pytest.raises(ValueError, match="could not convert"):
        number(f"XX{text}XX")


def test_places_and_texts_are_read():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.plot([0, 4], [1e-3, 1e3])
    axes.set_yscale("log")
    FigureCanvasAgg(axes.figure).draw()
    places, texts = zip(*shown_of(axes.yaxis), strict=True)
    np.testing.assert_allclose([number(text) for text in texts], places)
