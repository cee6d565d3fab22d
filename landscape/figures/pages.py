"""Layout of each figure, for one record or for several, side by side or overlaid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from landscape.errors import InputError
from landscape.figures import dynamics, samples, slices, spectra, valley
from landscape.figures.limits import span
from landscape.figures.page import Panel, fitting, legend, measured_on, note, overlay, room, tiled
from landscape.figures.record_view import RecordView, at_step
from landscape.figures.style import COLOURS, SEQUENTIAL, WIDTHS, FigureStyle
from landscape.measurements.density import density_of

MOST = 5  # largest legible number of spectra of checkpoints, directions of profiles, and windows of hops
# Smallest width in inches of a panel of each figure, for letters of a paper's size.
LEAST = {"slices-1d": 1.5, "slices-2d": 2.1, "samples": 2.1, "learning": 1.5, "valley": 2.1, "profiles": 1.3,
         "dynamics": 1.6, "hops": 3.0}  # fmt: skip
_CUT = "not drawn: below a third of the rounding"


def eigenvalues(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw top eigenvalues, records overlaid."""
    axes = panel.subplots()
    rows = [record.series("eigenpairs") for record in shown]
    overlay(axes, shown, rows, spectra.draw_eigenvalues)
    legend(axes, shown)
    note(panel, [_checkpoints(record, row) for record, row in zip(shown, rows, strict=True)])


def _checkpoints(record: RecordView, rows: xr.Dataset) -> str:
    """Text on the number of checkpoints in a series, or on its only checkpoint."""
    count = rows.sizes["checkpoint"]
    return f"{record.label}: {at_step(rows.isel(checkpoint=0)) if count == 1 else f'{count} checkpoints'}"


def spectrum(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw full spectra, records overlaid.

    Of a single record the spectra of several checkpoints are drawn, positive eigenvalues beside negative ones, unless
    a step is chosen.
    """
    series = shown[0].series("spectrum")
    if len(shown) == 1 and look.step is None and series.sizes["checkpoint"] > 1:
        _spectra_of_run(panel, shown[0], series)
        return
    axes = panel.subplots()
    rows = [record.row("spectrum", look.step) for record in shown]
    overlay(axes, shown, rows, spectra.draw_spectrum)
    legend(axes, shown)
    counts = [spectra.within_rounding(row) for row in rows]
    note(
        panel,
        [*(f"{text}, {count} (shaded)" for text, count in zip(measured_on(shown, rows), counts, strict=True)), _CUT],
    )


def _spectra_of_run(panel: Panel, record: RecordView, series: xr.Dataset) -> None:
    count = series.sizes["checkpoint"]
    places = np.unique(np.linspace(0, count - 1, min(count, MOST)).round().astype(int)).tolist()
    sides = panel.subplots(1, 2, sharey=True)
    for place, shade in zip(places, np.linspace(0, 0.9, len(places)), strict=True):
        row, colour = series.isel(checkpoint=place), colors.to_hex(mpl.colormaps[SEQUENTIAL](shade))
        for axes, sign in zip(sides, (1, -1), strict=True):
            spectra.draw_spectrum(axes, row, at_step(row), colour, sign)
    for axes, title in zip(sides, ("positive", "negative"), strict=True):
        axes.set_title(f"{title} eigenvalues")
    sides[1].set_ylabel("")
    sides[0].legend()
    last_row = series.isel(checkpoint=-1)
    note(panel, [f"{record.label}: {len(places)} of {count} checkpoints; rounding shaded",
                 f"{at_step(last_row)}: {spectra.within_rounding(last_row)}", _CUT])  # fmt: skip


def density(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw spectral densities, records overlaid."""
    axes = panel.subplots()
    rows = [record.row("density", look.step) for record in shown]
    overlay(axes, shown, rows, spectra.draw_density)
    axes.legend()
    undeflated = [f"{int(row.undeflated)} outliers did not converge and are in the bulk" * bool(row.undeflated)
                  for row in rows]  # fmt: skip
    parts = [
        f"{text}, {row.sizes['probe']} probes" + (f", {more}" if more else "")
        for text, row, more in zip(measured_on(shown, rows), rows, undeflated, strict=True)
    ]
    points = [f"{record.label}: the bulk is a point, and heights are numbers of eigenvalues"
              for record, row in zip(shown, rows, strict=True) if not density_of(row).width]  # fmt: skip
    note(panel, [*parts, *points, "stems: outliers, of mass 1/n each",
                 "not drawn: below a tenth of one eigenvalue's height"])  # fmt: skip


def lines(panel: Panel, shown: Sequence[RecordView], look: FigureStyle, most: int | None = None) -> None:
    """Draw the loss along each direction above the accuracy along it, records overlaid.

    Args:
        panel: the figure or subfigure to draw on.
        shown: the records.
        look: style of the figure.
        most: largest number of directions. Default: None, all.
    """
    rows = [record.row("slices_1d", look.step) for record in shown]
    # The line from a checkpoint to itself has the norm 0 and isn't drawn.
    drawn = sorted({index for row in rows for index in np.flatnonzero(row.norm.values > 0).tolist()})
    if not drawn:
        raise InputError("the lines lead to this checkpoint itself: there is nothing to draw, name another step")
    every = len(drawn)
    count = every if most is None else min(every, most)
    classes = any(row.accuracy.notnull().any() for row in rows)
    grid, columns = tiled(panel, count, LEAST["slices-1d"], (2.2, 1) if classes else (1,))
    texts = measured_on(shown, rows)
    for index, column in zip(drawn, grid.T, strict=False):
        parts = []
        for record, row, colour in zip(shown, rows, COLOURS, strict=False):
            if index >= row.sizes["direction"] or not row.norm[index]:
                continue
            parts.append(row.isel(direction=index))
            label = record.label if len(shown) > 1 else None
            slices.draw_line(column[0], parts[-1], label, colour, samples=len(shown) == 1)
            if classes:
                slices.draw_accuracy(column[1], parts[-1], label, colour)
        column[0].set_xlabel("")
        column[-1].set_xlabel(slices.direction_label(parts))
        if index % columns:
            for axes in column:
                axes.set_ylabel("")
        if any(slices.leaves(column[0], part) for part in parts):
            texts.append("the quadratic model leaves the picture")
    legend(grid[0, 0], shown)
    texts += ["band: standard error", "dotted: quadratic model"]
    texts += ["shaded: half and 80 % of samples"] * (len(shown) == 1)
    texts += [f"{count} of {every} directions"] * (count < every)
    note(panel, texts)


def planes(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw the loss over planes side by side, with one scale of colours and equal limits."""
    rows = [record.row("slices_2d", look.step) for record in shown]
    norm = slices.levels_of(rows, look.scale)
    surface = look.kind == "surface"
    (every,), columns = tiled(panel, len(rows), LEAST["slices-2d"], projection="3d" if surface else None)
    for axes, record, row in zip(every, shown, rows, strict=True):
        # Several planes have no labels on contours: there may be no room, and the colour bar has the levels.
        mappable = slices.draw_plane(axes, row, norm, look.kind, labels=len(rows) == 1)
        axes.set_title(record.label)
    to_scale, covered = slices.share_extent(every, rows)
    if isinstance(panel, Figure) and to_scale and not surface:
        panel.set_layout_engine("compressed")  # makes the colour bar as high as planes of a fixed aspect
    if not surface:  # the height of a surface is the loss already
        ticks = slices.ticks_of(norm)
        bar = panel.colorbar(
            mappable, ax=every.tolist(), label="loss $L$", ticks=ticks, format="%.3g", aspect=_aspect(rows, columns)
        )
        bar.ax.minorticks_off()
    parts = zip(measured_on(shown, rows), rows, strict=True)
    texts = [", ".join(filter(None, [text, _components(row), slices.ends_caption(row) * (not surface),
                                    slices.path_caption(row) * (not surface)]))
             for text, row in parts]  # fmt: skip
    interpolated = any(map(slices.is_interpolated, rows))
    note(panel, [*texts, "star: the checkpoint" * (not surface), "axes on different scales" * (not to_scale),
                 "white: not measured" * (not covered and not surface),
                 f"interpolated{' between the dots' * (not surface)}" * interpolated])  # fmt: skip


def _aspect(rows: Sequence[xr.Dataset], columns: int) -> float:
    """Height of the colour bar of several panels, relative to its width."""
    return 20.0 * math.ceil(len(rows) / columns)


def _components(row: xr.Dataset) -> str:
    """Text on the run's variance along the principal components of a plane; empty for other directions."""
    if not {"variance_share", "variance_share_random_walk"} <= set(row) or not row.variance_share.notnull().all():
        return ""
    shares, walk = (
        " + ".join(f"{share:.0%}" for share in row[name].values)
        for name in ("variance_share", "variance_share_random_walk")
    )
    return f"{shares} of the variance (random walk: {walk})"


def heat(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw every sample's loss at every checkpoint, records side by side with one scale of colours."""
    rows = [record.series("samples") for record in shown]
    every = [row.loss.values[np.isfinite(row.loss.values)] for row in rows]
    if not all(map(len, every)):
        raise InputError("no sample has a finite loss at any checkpoint: there is nothing to draw")
    norm = colors.Normalize(min(map(np.min, every)), max(np.quantile(each, 0.995) for each in every))
    (grid,), columns = tiled(panel, len(rows), LEAST["samples"], sharey=True)
    for place, (axes, record, row) in enumerate(zip(grid, shown, rows, strict=True)):
        image = samples.draw_samples(axes, row, norm)
        axes.set_title(record.label)
        if place % columns:
            axes.set_ylabel("")
    panel.colorbar(image, ax=grid.tolist(), label="loss of a sample (cut at 99.5 %)", extend="max",
                   aspect=_aspect(rows, columns))  # fmt: skip
    note(panel, [f"{record.label}: {row.sizes['sample']} samples, {row.sizes['checkpoint']} checkpoints"
                 for record, row in zip(shown, rows, strict=True)])  # fmt: skip


def learning(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw learning curves of groups, loss above accuracy, records side by side with one scale."""
    rows = [record.row("learning") for record in shown]
    has_accuracy = all(np.isfinite(row.group_accuracy.values).any() for row in rows)
    grid, columns = tiled(panel, len(rows), LEAST["learning"], (1, 1) if has_accuracy else (1,), sharey=True)
    for column, (record, row) in enumerate(zip(shown, rows, strict=True)):
        samples.draw_learning(grid[0, column], row)
        grid[0, column].set_title(record.label)
        if has_accuracy:
            samples.draw_learning(grid[1, column], row, quantity="accuracy")
            grid[0, column].set_xlabel("")
        if column % columns:
            for axes in grid[:, column]:
                axes.set_ylabel("")
    names = [axes.get_legend_handles_labels()[1] for axes in grid[0]]
    for axes, own in zip(grid[0], names, strict=True):
        if axes is grid[0, 0] or own != names[0]:
            axes.legend()
    note(panel, [f"groups by {rows[0].grouped_by.values}; bands: 95 %; diamonds: half of a group's progress"])


def valley_map(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw a map of Definition 1 for each record, and a panel on how far the verdicts restate the threshold."""
    rows = [record.row("valley", look.step) for record in shown]
    if any("eps" not in row or not row.sizes["threshold"] for row in rows):
        raise InputError("the map of a valley needs all eigenvalues, and some above the noise (--valley --spectrum)")
    (grid,), columns = tiled(panel, len(rows) + 1, LEAST["valley"])
    for axes, record, row, colour in zip(grid, shown, rows, COLOURS, strict=False):
        valley.draw_map(axes, row)
        axes.set_title(record.label)
        valley.draw_restates(grid[-1], row, record.label, colour)
    legend(grid[-1], shown)
    ends = [row.eps.values[[0, -1]] for row in rows]
    for axes in grid:
        span(axes, x=(min(low for low, _ in ends) / 1.05, max(high for _, high in ends) * 1.05))
    for place, axes in enumerate(grid[:-1]):
        if place % columns:
            axes.set_ylabel("")
    note(panel, [
        f"{text}, noise floor {float(row.floor):.2g} (dashed), above it participation ratio "
        f"{float(row.participation):.3g} and 90 % by 10 % quantile {float(row.quantile_ratio):.3g}, negative "
        f"{float(row.negative_mass):.1%} of the mass"
        for text, row in zip(measured_on(shown, rows), rows, strict=True)
    ])  # fmt: skip


def profiles(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw profiles up to the largest height along the first directions, a line for each record, with one scale."""
    rows = [record.row("valley", look.step) for record in shown]
    every = min(row.sizes["direction"] for row in rows)
    count, lines, columns = profile_lines(shown, room(panel))
    grid = panel.subplots(len(rows) * lines, columns, squeeze=False, sharey=True).reshape(len(rows), -1)
    for axes_of_record, record, row, colour in zip(grid, shown, rows, COLOURS, strict=False):
        for index, axes in enumerate(axes_of_record[:count]):
            if record is not shown[0]:
                axes.sharex(grid[0, index])
            valley.draw_profile(axes, row.isel(direction=index, height=-1), colour)
            if index % columns == 0:
                axes.set_ylabel(f"{record.label}\nloss $L$" if len(rows) > 1 else "loss $L$")
            if record is shown[-1] and index + columns >= count:
                axes.set_xlabel("position [parameter]")
        for axes in axes_of_record[count:]:
            axes.remove()
    texts = [f"{text}, up to a rise of {float(row.height_share[-1] * row.depth):.2g}"
             for text, row in zip(measured_on(shown, rows), rows, strict=True)]  # fmt: skip
    note(panel, [*texts, f"the first {count} of {every} directions" * (count < every), "bars: standard error",
                 "black: fitted walls"])  # fmt: skip


def profile_lines(shown: Sequence[RecordView], width: float) -> tuple[int, int, int]:
    """Number of directions that `profiles` draws of each record at a width, number of lines, and directions in a line.

    Each of several records has a single line, with as many directions as fit.
    """
    count = min(MOST, *(record.groups["valley"].sizes["direction"] for record in shown))
    if len(shown) > 1:
        count = min(count, max(1, int(width / LEAST["profiles"])))
    return count, *fitting(width, count, LEAST["profiles"])


def whole_run(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw every quantity of a run, records overlaid."""
    (grid,), columns = tiled(panel, len(dynamics.QUANTITIES), LEAST["dynamics"])
    for axes, name in zip(grid, dynamics.QUANTITIES, strict=True):
        for record, colour in zip(shown, COLOURS, strict=False):
            dynamics.draw_quantity(axes, record.row("dynamics"), name, record.label, colour)
    for axes in grid[:-columns]:
        axes.set_xlabel("")
    narrow = room(panel) < WIDTHS["text"]  # labels and phases may be wider than their Axes
    if len(shown) > 1:
        place = {"loc": "outside upper center", "ncols": 2} if narrow else {}
        (panel if narrow else grid[1]).legend(*grid[1].get_legend_handles_labels(), **place)
    phases = [f"entropy of {text}" for text in grid[0].get_title(loc="left").splitlines() if narrow]
    if narrow:
        grid[0].set_title("", loc="left")
    note(panel, [*phases,
                 "bands: range under rounding, or (dashed mean) 95 % where successive spectra have no relation",
                 "false alarms of phases: in shuffled orders, in monotone curves",
                 "threshold: the optimiser's stability threshold"])  # fmt: skip


def hopping(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw hop rates and the split of the steps, a line for each window of each record."""
    windows = [(record, row.isel(window=place)) for record in shown for row in (record.row("hops"),)
               for place in _windows(row)]  # fmt: skip
    rows, columns = fitting(room(panel), 2, LEAST["hops"])
    grid = panel.subplots(len(windows) * rows, columns, squeeze=False)
    for (left, right), (record, row) in zip(grid.reshape(-1, 2), windows, strict=True):
        dynamics.draw_hops(left, row, "black")
        dynamics.draw_shares(right, row)
        left.set_title(f"{record.label}: steps {int(row.window_start)} to {int(row.window_end)}")
    handles, labels = _handles(grid)
    named = {label: handles[labels.index(label)] for label in dict.fromkeys(labels)}
    panel.legend(list(named.values()), list(named), loc="outside upper center", ncols=2 * columns)
    texts = [f"{record.label}: {len(_windows(row))} of {row.sizes['window']} windows" for record in shown
             for row in (record.row("hops"),) if len(_windows(row)) < row.sizes["window"]]  # fmt: skip
    note(panel, [*texts, "bars of rates: 95 %"])


def _windows(row: xr.Dataset) -> list[int]:
    """Indices of the drawn windows: all, or `MOST` spread over the whole run."""
    count = row.sizes["window"]
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(count, MOST)).round())]


def _handles(grid: np.ndarray) -> tuple[list[Artist], list[str]]:
    """Legend handles and labels of all Axes."""
    pairs = [each.get_legend_handles_labels() for each in grid.flat]
    return [handle for handles, _ in pairs for handle in handles], [label for _, labels in pairs for label in labels]


def hop_rows(shown: Sequence[RecordView]) -> int:
    """Number of lines that `hopping` draws."""
    return sum(len(_windows(record.row("hops"))) for record in shown)
