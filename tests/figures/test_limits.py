"""Limits of figures: everything that a registered figure draws lies within its axes, or the figure says what doesn't.

A new figure in `PAGES` is tested without further work. Its test fails if the `records` lack the data of the figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import CircleCollection, Collection, PathCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text

from landscape.figures import PAGES, FigureStyle, RecordView, draw, draw_learning, draw_line, styled
from landscape.figures.limits import may_leave, reach, span

# The words by which a figure says that some of its data left the axes.
SAYS = {"slices-1d": ["the quadratic model leaves the picture"], "slices-2d": ["beyond its ends"]}
SAYS["summary"] = [*SAYS["slices-1d"], *SAYS["slices-2d"]]
# What is no measurement but says where one was made.
PLACES = {"run_step", "position", "first", "second", "norm", "eps", "delta", "profile_position", "window_start",
          "window_end"}  # fmt: skip
LOOKS = [(name, FigureStyle()) for name in PAGES] + [
    ("slices-2d", FigureStyle(kind="contour", scale="linear")), ("slices-2d", FigureStyle(kind="surface")),
]  # fmt: skip


def parts_of(figure: Figure | SubFigure) -> Iterator[Figure | SubFigure]:
    yield figure
    for part in figure.subfigs:
        yield from parts_of(part)


def marks(axes: Axes, artist: Artist) -> np.ndarray:
    """The data of an artist as points (n, 2) of the display."""
    transform, points = axes.transData, np.empty((0, 2))
    match artist:
        case Line2D():
            transform, points = artist.get_transform(), artist.get_xydata()
        case PathCollection() | CircleCollection():
            transform, points = artist.get_offset_transform(), artist.get_offsets()
        case Collection():
            transform, points = (
                artist.get_transform(),
                np.concatenate([points, *(p.vertices for p in artist.get_paths())]),
            )
        case Patch():
            transform, points = artist.get_transform(), artist.get_path().vertices
        case AxesImage():
            points = np.reshape(artist.get_extent(), (2, 2)).T
        case Annotation():
            transform, points = axes.transData if artist.xycoords == "data" else artist.xycoords, artist.xy
        case Text():
            transform, points = artist.get_transform(), artist.get_position()
    points = np.asarray(np.ma.filled(np.ma.asarray(points, dtype=float), np.nan)).reshape(-1, 2)
    kept = np.isfinite(points).all(axis=1)
    if isinstance(artist, Collection | Patch):  # zero stands for the end of a logarithmic axis
        of_data = transform.contains_branch_seperately(axes.transData)
        for place, scale in enumerate((axes.get_xscale(), axes.get_yscale())):
            kept &= ~((points[:, place] == 0) & (scale == "log") & of_data[place])
    return transform.transform(points[kept])


def outside(axes: Axes) -> list[Artist]:
    """The artists of an Axes, or of an inset Axes, that lie outside of it."""
    frame = [axes.patch, axes.title, axes._left_title, axes._right_title, *axes.spines.values()]
    low, high = axes.bbox.min - 0.01, axes.bbox.max + 0.01
    found = []
    axes.get_xlim(), axes.get_ylim()  # autoscaling happens at the first request
    for artist in axes.get_children():
        if isinstance(artist, Axes):
            found += [artist] * bool((artist.bbox.min < low).any() or (artist.bbox.max > high).any()) + outside(artist)
        elif artist not in frame:
            points = marks(axes, artist)
            found += [artist] * bool(((points < low) | (points > high)).any())
    return found


def worn(record: RecordView) -> RecordView:
    """A record of a run that failed in part: nothing converged, and one checkpoint and single other numbers are NaN."""
    groups = {}
    for name, group in record.groups.items():
        groups[name] = group.copy(deep=True)
        for key, variable in groups[name].data_vars.items():
            values = variable.values
            if key == "converged":
                values[...] = False
            elif values.dtype.kind == "f" and values.size and key not in PLACES:
                values[1:-1][:1] = np.nan
                if values.ndim > 1:
                    values[(-1, *[0] * (values.ndim - 1))] = np.nan
    return replace(record, groups=groups)


@pytest.mark.parametrize("state", ["measured", "worn"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0,), (1,)], ids=str)
@pytest.mark.parametrize(("name", "look"), LOOKS, ids=lambda each: each if isinstance(each, str) else each.kind)
def test_everything_drawn_lies_within_its_axes(shown, name, look, order, state):
    records = [shown[place] if state == "measured" else worn(shown[place]) for place in order]
    with styled("paper"):
        figure = draw(name, records, look)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert panels
    left = [artist for axes in panels for artist in outside(axes)]
    assert not [artist for artist in left if artist.get_in_layout()], "cut off, and not declared by `may_leave`"
    told = " ".join(word for part in parts_of(figure) for word in part.get_supxlabel().split())
    assert not left or any(line in told for line in SAYS.get(name, [])), "cut off, and the figure doesn't say so"
    for axes in panels:
        if axes.name == "3d":
            held = [axes.xy_dataLim.intervalx, axes.xy_dataLim.intervaly, axes.zz_dataLim.intervalx]
            for (low, high), (least, most) in zip(
                [axes.get_xlim(), axes.get_ylim(), axes.get_zlim()], held, strict=True
            ):
                assert low <= least <= most <= high


def test_the_records_differ_by_orders_of_magnitude(shown):
    first, second = (float(record.row("spectrum").eigenvalues.max()) for record in shown)
    assert second > 1e3 * first
    first, second = (float(record.row("slices_1d").loss.max()) for record in shown)
    assert second > 10 * first
    assert len({record.groups["samples"].sizes["sample"] for record in shown}) == 2
    assert shown[1].row("dynamics").run_step.max() > 10 * shown[0].row("dynamics").run_step.max()


CUT = {
    "line": lambda axes: axes.plot([0, 1], [1, 3]),
    "line on a logarithmic axis": lambda axes: (axes.set_yscale("log"), axes.plot([0, 1], [0, 1.5])),
    "horizontal": lambda axes: axes.axhline(3),
    "vertical": lambda axes: axes.axvline(3),
    "points": lambda axes: axes.scatter([3], [1]),
    "band": lambda axes: axes.fill_between([0, 1], [1, 1], [1, 3]),
    "error": lambda axes: axes.errorbar([0], [1], yerr=[[0.1], [3]]),
    "stem": lambda axes: axes.vlines([0.5], 0, 3),
    "bar": lambda axes: axes.bar([0.5], [3]),
    "shade": lambda axes: axes.axvspan(0.5, 3),
    "cells": lambda axes: axes.pcolormesh([0, 1], [0, 3], [[0, 1], [2, 3]], shading="nearest"),
    "image": lambda axes: axes.imshow(np.eye(3)),
    "contour": lambda axes: axes.contourf([0, 1, 3], [0, 1, 2], np.eye(3)),
    "text": lambda axes: axes.text(0.5, 3, "here"),
    "mark": lambda axes: axes.annotate("here", (0.5, 3), (2, 2), textcoords="offset points"),
    "inset": lambda axes: axes.inset_axes((0.5, 0.5, 0.6, 0.2)),
    "line of an inset": lambda axes: axes.inset_axes((0.1, 0.1, 0.2, 0.2), xlim=(0, 1)).plot([0, 3], [0, 1]),
}


@pytest.mark.parametrize("kind", CUT)
def test_what_is_cut_off_is_seen(kind: str):
    """The check above finds faults of every kind of artist."""
    axes = Figure().subplots()
    CUT[kind](axes)
    axes.set(xlim=(0.1, 2), ylim=(0.1, 2))
    assert outside(axes)


@pytest.mark.parametrize("order", [(1, 50), (50, 1)], ids=str)
def test_limits_hold_what_is_drawn_before_and_after(order: tuple[float, float]):
    axes = Figure().subplots()
    for height in order:
        axes.plot([1, 2], [height, height])
        span(axes, y=(-0.5, 1.5))
        reach(axes, x=[0])
        may_leave(axes, Line2D([1, 2], [99, 99]))
    assert axes.get_ylim() == (-0.5, 50)
    low, high = axes.get_xlim()
    assert low == pytest.approx(-0.1)
    assert high == pytest.approx(2.1)
    assert [line.get_ydata()[0] for line in outside(axes)] == [99, 99]


def test_many_groups_have_their_marks_and_lines(shown):
    learning = shown[1].row("learning")
    axes = draw_learning(Figure().subplots(), learning.isel(group=[0] * 25))
    assert not outside(axes)
    line = shown[0].row("slices_1d").isel(direction=0)
    names = [f"group {place % 12}" for place in range(line.sizes["sample"])]
    axes = draw_line(Figure().subplots(), line.drop_vars("about_hard").assign(about_kind=("sample", names)))
    assert len([each for each in axes.get_legend_handles_labels()[1] if each.startswith("group")]) == 12


def test_groups_that_differ_between_records_are_named_in_each(shown):
    named = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in draw("learning", shown).axes[:2]]
    assert named == [["no", "yes"], ["no", "yes", "very"]]
    assert draw("learning", [shown[1], shown[1]]).axes[1].get_legend() is None
