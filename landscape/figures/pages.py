"""The figures by name: what each needs of a record, and how it is laid out for one record or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from landscape.errors import InputError
from landscape.figures import dynamics, samples, slices, spectra, valley
from landscape.figures.shown import Shown, at_step
from landscape.figures.style import COLOURS, WIDTHS, Look

Panel = Figure | SubFigure


@dataclass(frozen=True)
class Page:
    """A figure that can be asked for.

    Attributes:
        groups: of the record that it needs.
        option: of ``landscape-probe`` that measures them.
        width: for which it is made, a key of `landscape.figures.style.WIDTHS`.
        aspect: height by width, for one record and for each further one.
        draw: on a figure.
    """

    groups: tuple[str, ...]
    option: str
    width: str
    aspect: tuple[float, float]
    draw: Callable[[Panel, Sequence[Shown], Look], None]

    def figure(self, shown: Sequence[Shown], look: Look) -> Figure:
        """Draw it, within `landscape.figures.style.styled`.

        Raises:
            InputError: a record has no checkpoint of the step that is asked for, or nothing to be drawn.
        """
        width = look.width or WIDTHS[self.width]
        height = width * (self.aspect[0] + self.aspect[1] * (len(shown) - 1))
        figure = Figure(figsize=(width, height), layout="constrained")
        self.draw(figure, shown, look)
        return figure


def _row(figure: Panel, count: int, **more: object) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False, **more)[0])  # type: ignore[call-overload]


def _note(panel: Panel, texts: Sequence[str]) -> None:
    """What was drawn, in small letters below."""
    panel.supxlabel("; ".join(dict.fromkeys(texts)), fontsize="x-small", color="0.35")


def _told(shown: Sequence[Shown], rows: Sequence[xr.Dataset]) -> list[str]:
    """Which checkpoint of each record is drawn, and on how many samples it was measured."""
    return [
        f"{record.label}: {at_step(row)}" + (f", {int(row.samples):,} samples" if "samples" in row else "")
        for record, row in zip(shown, rows, strict=True)
    ]


def _legend(axes: Axes, shown: Sequence[Shown]) -> None:
    if len(shown) > 1 or axes.get_legend_handles_labels()[1]:
        axes.legend()


def _overlay(
    axes: Axes, shown: Sequence[Shown], rows: Sequence[xr.Dataset], draw: Callable[[Axes, xr.Dataset, str, str], object]
) -> None:
    """Every record's row on one Axes, each in its colour."""
    for record, row, colour in zip(shown, rows, COLOURS, strict=False):
        draw(axes, row, record.label, colour)


def eigenvalues(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """Top eigenvalues, records overlaid."""
    (axes,) = _row(panel, 1)
    _overlay(axes, shown, [record.series("hessian") for record in shown], spectra.draw_eigenvalues)
    axes.legend()


def spectrum(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """Whole spectra, records overlaid."""
    (axes,) = _row(panel, 1)
    rows = [record.row("spectrum", look.step) for record in shown]
    _overlay(axes, shown, rows, spectra.draw_spectrum)
    axes.legend()
    _note(panel, [*_told(shown, rows), "rounding shaded"])


def density(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """Densities, records overlaid."""
    (axes,) = _row(panel, 1)
    rows = [record.row("density", look.step) for record in shown]
    _overlay(axes, shown, rows, spectra.draw_density)
    axes.legend()
    _note(panel, [*_told(shown, rows), "ticks are outliers, of mass 1/n each"])


def lines(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """The loss along each direction above the accuracy there, records overlaid."""
    rows = [record.row("slices_1d", look.step) for record in shown]
    count = max(row.sizes["direction"] for row in rows)
    grid = panel.subplots(2, count, squeeze=False, sharex="col", height_ratios=(2.2, 1))
    for record, row, colour in zip(shown, rows, COLOURS, strict=False):
        for index in range(row.sizes["direction"]):
            each = row.isel(direction=index)
            label = record.label if len(shown) > 1 else None
            slices.draw_line(grid[0, index], each, label, colour, samples=len(shown) == 1)
            slices.draw_accuracy(grid[1, index], each, label, colour)
            grid[1, index].set_xlabel(grid[0, index].get_xlabel())
            grid[0, index].set_xlabel("")
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    _legend(grid[0, 0], shown)
    _note(
        panel,
        [*_told(shown, rows), "dotted: quadratic model", *(["shaded: half and 80 % of samples"] * (len(shown) == 1))],
    )


def planes(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """The loss over planes side by side, with one scale of colours."""
    rows = [record.row("slices_2d", look.step) for record in shown]
    norm = slices.levels_of(rows, look.scale)
    more = {"subplot_kw": {"projection": "3d"}} if look.kind == "surface" else {}
    every = _row(panel, len(rows), **more)
    for axes, record, row in zip(every, shown, rows, strict=True):
        mappable = slices.draw_plane(axes, row, norm, look.kind)
        axes.set_title(record.label)
    if look.kind != "surface":
        bar = panel.colorbar(
            mappable, ax=every, label="loss $L$", shrink=0.9, ticks=slices.ticks_of(norm), format="%.3g"
        )
        bar.ax.minorticks_off()
    _note(panel, [text + _components(row) for text, row in zip(_told(shown, rows), rows, strict=True)])


def _components(row: xr.Dataset) -> str:
    """How much of the run a plane of principal components shows."""
    if not np.isfinite(row.variance_share.values).all():
        return ""
    shares, walk = (
        " + ".join(f"{share:.0%}" for share in row[name].values)
        for name in ("variance_share", "variance_share_random_walk")
    )
    return f", {shares} of the variance (random walk: {walk})"


def heat(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """Every sample's loss at every checkpoint, records side by side with one scale."""
    rows = [record.series("samples") for record in shown]
    every = [row.loss.values for row in rows]
    norm = colors.Normalize(min(map(np.nanmin, every)), max(np.nanquantile(each, 0.995) for each in every))
    grid = _row(panel, len(rows), sharey=True)
    for axes, record, row in zip(grid, shown, rows, strict=True):
        image = samples.draw_samples(axes, row, norm)
        axes.set_title(record.label)
    for axes in grid[1:]:
        axes.set_ylabel("")
    panel.colorbar(image, ax=grid, label="loss of a sample (above 99.5 %: as that)", extend="max")


def learning(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """Learning curves of groups, records side by side with one scale: loss above accuracy."""
    rows = [record.row("learning") for record in shown]
    told = all(np.isfinite(row.group_accuracy.values).any() for row in rows)
    grid = panel.subplots(1 + told, len(rows), squeeze=False, sharey="row", sharex="col")
    for column, (record, row) in enumerate(zip(shown, rows, strict=True)):
        samples.draw_learning(grid[0, column], row)
        grid[0, column].set_title(record.label)
        if told:
            samples.draw_learning(grid[1, column], row, quantity="accuracy")
            grid[0, column].set_xlabel("")
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    grid[0, 0].legend()
    _note(panel, [f"groups by {rows[0].grouped_by.values}; bands: 95 %; diamonds: half of a group's progress"])


def valley_map(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """Definition 1 as a map for each record, and how far it restates the threshold."""
    rows = [record.row("valley", look.step) for record in shown]
    if any("eps" not in row or not row.sizes["threshold"] for row in rows):
        raise InputError("the map of a valley needs all eigenvalues, and some above the noise: it isn't in this record")
    grid = _row(panel, len(rows) + 1)
    for axes, record, row, colour in zip(grid, shown, rows, COLOURS, strict=False):
        valley.draw_map(axes, row)
        axes.set_title(record.label)
        valley.draw_restates(grid[-1], row, record.label, colour)
    _legend(grid[-1], shown)
    told = [f"{record.label}: {at_step(row)}, noise floor {float(row.floor):.2g} (dashed), participation ratio "
            f"{float(row.participation):.3g}" for record, row in zip(shown, rows, strict=True)]  # fmt: skip
    _note(panel, told)


def profiles(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """The profiles up to the largest height along the first directions, a line for each record."""
    rows = [record.row("valley", look.step) for record in shown]
    count = min(5, *(row.sizes["direction"] for row in rows))
    grid = panel.subplots(len(rows), count, squeeze=False, sharey="row")
    for axes_of_row, record, row, colour in zip(grid, shown, rows, COLOURS, strict=False):
        for index, axes in enumerate(axes_of_row):
            valley.draw_profile(axes, row.isel(direction=index, height=-1), colour)
        axes_of_row[0].set_ylabel(f"{record.label}\nloss" if len(rows) > 1 else "loss")
    for axes in grid[-1]:
        axes.set_xlabel("position [parameter]")
    told = [f"{record.label}: {at_step(row)}, up to a rise of {float(row.height_share[-1] * row.depth):.2g}, "
            f"{int(row.samples)} samples" for record, row in zip(shown, rows, strict=True)]  # fmt: skip
    _note(panel, told)


def whole_run(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """Every quantity of a run, records overlaid."""
    grid = panel.subplots(2, 3, squeeze=False)
    for axes, name in zip(grid.flat, dynamics.QUANTITIES, strict=True):
        for record, colour in zip(shown, COLOURS, strict=False):
            dynamics.draw_quantity(axes, record.row("dynamics"), name, record.label, colour)
    for axes in grid[0]:
        axes.set_xlabel("")
    if len(shown) > 1:
        grid[0, 1].legend()
    _note(panel, ["bands: range under rounding, or (dashed mean) 95 % where successive spectra have no relation"])


def hopping(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """Hop rates and the split of the steps of the first window, a line for each record."""
    grid = panel.subplots(len(shown), 2, squeeze=False)
    for (left, right), record, colour in zip(grid, shown, COLOURS, strict=False):
        row = record.row("hops").isel(window=0)
        dynamics.draw_hops(left, row, colour)
        dynamics.draw_shares(right, row)
        left.set_title(f"{record.label}: steps {int(row.window_start)} to {int(row.window_end)}")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    more_handles, more_labels = grid[0, 1].get_legend_handles_labels()
    panel.legend(handles + more_handles, labels + more_labels, loc="outside lower center", ncols=4)


def summary(panel: Panel, shown: Sequence[Shown], look: Look) -> None:
    """One page: what the record is, and every panel that it has the measurements for."""
    rows = [
        (height + more * len(shown), [name for name in names if all(each.has(PAGES[name].groups) for each in shown)])
        for (height, more), names in _ON_A_PAGE
    ]
    rows = [(height, names) for height, names in rows if names]
    head = 0.18 + 0.16 * len(shown)
    parts = panel.subfigures(1 + len(rows), 1, height_ratios=[head, *(height for height, _ in rows)], squeeze=False)
    _head(parts[0, 0], shown)
    for part, (_, names) in zip(parts[1:, 0], rows, strict=True):
        for place, name in zip(part.subfigures(1, len(names), squeeze=False)[0], names, strict=True):
            PAGES[name].draw(place, shown, look)


def _head(panel: Panel, shown: Sequence[Shown]) -> None:
    texts = []
    for record in shown:
        loss = record.row("loss") if record.has(("loss",)) else None
        line = f"{record.label}: {record.identity['record']}, {record.identity['fingerprint'][:12]}"
        if loss is not None:
            line += (
                f"; {at_step(loss)}, {int(loss.parameters):,} parameters, loss {float(loss.loss):.4g} ± "
                f"{float(loss.standard_error):.1g} on {int(loss.samples):,} samples, gradient norm "
                f"{float(loss.gradient_norm):.3g}"
            )
        texts.append(line)
        texts += [f"    {each}" for each in _verdicts(record)]
    panel.text(0.01, 0.5, "\n".join(texts), va="center", fontsize="small", wrap=True)


def _verdicts(record: Shown) -> list[str]:
    """The sentence of the valley, and the course of the entropy."""
    found = []
    if record.has(("valley",)):
        found.append(str(record.row("valley").sentence.values).split(" spectral")[0])
    if record.has(("dynamics",)):
        row: xr.Dataset = record.row("dynamics")
        found.append(f"entropy over the run: {row.phases.values}")
    return found


PAGES: dict[str, Page] = {
    "eigenvalues": Page(("hessian",), "--hessian", "column", (0.72, 0.0), eigenvalues),
    "density": Page(("density",), "--density", "column", (0.72, 0.0), density),
    "spectrum": Page(("spectrum",), "--spectrum", "column", (0.72, 0.0), spectrum),
    "slices-1d": Page(("slices_1d",), "--slice 1d", "text", (0.62, 0.0), lines),
    "slices-2d": Page(("slices_2d",), "--slice 2d", "text", (0.62, -0.2), planes),
    "samples": Page(("samples",), "--samples", "text", (0.5, 0.0), heat),
    "learning": Page(("learning",), "--samples, of a run", "text", (0.62, 0.0), learning),
    "valley": Page(("valley",), "--valley", "text", (0.42, -0.06), valley_map),
    "profiles": Page(("valley",), "--valley", "text", (0.34, 0.24), profiles),
    "dynamics": Page(("dynamics",), "--dynamics", "text", (0.6, 0.0), whole_run),
    "hops": Page(("hops",), "--hops", "text", (0.5, 0.4), hopping),
    "summary": Page((), "", "text", (1.42, 0.16), summary),
}

# What a summary has, line by line, with the height of each and how much every record adds.
_ON_A_PAGE: tuple[tuple[tuple[float, float], tuple[str, ...]], ...] = (
    ((1.15, 0.0), ("slices-2d",)),
    ((1.1, 0.0), ("learning", "spectrum")),
    ((0.3, 0.55), ("profiles",)),
    ((1.4, 0.0), ("dynamics",)),
)
