"""Draw the critical sharpness over training, or the loss along the update of one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from landscape.figures.page import Panel, legend, measured_on, note, overlay
from landscape.figures.record_view import RecordView, plain, units
from landscape.figures.spectra import step_axis
from landscape.figures.style import FigureStyle

_SHORTEST = 0.1  # share of a value at which its error bar ends on the logarithmic axis
_POINTS = 500  # of the quadratic model's curve
_WIDE = 100  # ratio of learning rates beyond which their axis is logarithmic


def draw_critical_sharpness(axes: Axes, rows: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw the critical sharpness with its error over steps, logarithmic, and that of the quadratic model, dashed.

    Checkpoints without a critical sharpness, and quadratic models of negative curvature, have no marker. A critical
    sharpness whose bracket missed its goal has a hollow marker. An error bar ends at a tenth of its value where it
    would go further down.

    Args:
        axes: the Axes to draw on.
        rows: rows of the group ``critical_sharpness``, of several checkpoints.
        label: label in the legend; None for no entry.
        colour: colour of the lines.
    """
    steps = rows.step.values if (rows.step.values >= 0).all() else np.arange(rows.sizes["checkpoint"])
    values, model = rows.sharpness.values, rows.quadratic_sharpness.values
    errors = np.nan_to_num(rows.sharpness_error.values)
    converged, known = rows.converged.values.astype(bool), np.isfinite(values)
    name = label
    for chosen, fill in ((known & converged, "full"), (known & ~converged, "none")):
        if chosen.any():
            high = errors[chosen]
            low = np.minimum(high, (1 - _SHORTEST) * values[chosen])
            axes.errorbar(
                steps[chosen], values[chosen], yerr=[low, high], fmt="o", color=colour, elinewidth=0.6,
                fillstyle=fill, label=name,
            )  # fmt: skip
            name = None
    drawn = np.where(model > 0, model, np.nan)
    axes.plot(
        steps, drawn, "--x", color=colour, alpha=0.6, linewidth=0.8, markersize=3, label=label and f"{label}, model"
    )
    if known.any() or np.isfinite(drawn).any():
        axes.set_yscale("log")
    axes.set_ylabel(rf"critical sharpness $2/\eta_c${units(rows.sharpness)}")
    step_axis(axes, steps)
    if (rows.step.values < 0).any():
        axes.set_xlabel("checkpoint, in order (steps unknown)")
    return axes


def draw_along_update(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw the change of the loss along the update where the loss was evaluated, and the bracket of the crossing.

    The quadratic model is dashed, up to the largest of these changes.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``critical_sharpness``.
        label: label in the legend; None for no entry.
        colour: colour of the lines.
    """
    rates, losses = row.tried_learning_rate.values, row.tried_loss.values
    changes = losses - losses[:1]
    axes.plot(rates, changes, "o", color=colour, markersize=3, label=label)
    axes.axhline(0, color="0.35", linestyle=":", linewidth=0.8)
    finite = changes[np.isfinite(changes)]
    if len(finite) > 1 and row.quadratic_sharpness.notnull():
        descent, sharpness = float(row.descent), float(row.quadratic_sharpness)
        along = np.linspace(0, rates[np.isfinite(changes)][-1], _POINTS)
        model = -descent * (along - sharpness * along**2 / 2)
        lowest = min(finite.min(), -descent / sharpness / 2 if sharpness > 0 else 0.0)
        inside = (lowest <= model) & (model <= finite.max())
        axes.plot(along, np.where(inside, model, np.nan), "--", color=colour, alpha=0.6, linewidth=0.8)
    low, high = row.learning_rate_bracket.values
    if np.isfinite(low):
        axes.axvspan(low, high, color=colour, alpha=0.2, linewidth=0)
        axes.axvline(float(row.learning_rate), color=colour, linewidth=0.8)
    if len(rates) > 2 and rates[-1] > _WIDE * rates[1]:
        axes.set_xscale("log")
    axes.set(
        xlabel=r"learning rate $\eta$ of a step $\theta - \eta u$", ylabel=f"change of the loss{units(row.tried_loss)}"
    )
    return axes


def critical(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw the critical sharpness over training, or the losses of one checkpoint, records overlaid."""
    axes = panel.subplots()
    series = [record.series("critical_sharpness") for record in shown]
    if look.step is not None or all(each.sizes["checkpoint"] == 1 for each in series):
        rows = [record.row("critical_sharpness", look.step) for record in shown]
        overlay(axes, shown, rows, draw_along_update)
        legend(axes, shown)
        outcomes = [str(row.reason.values) or rf"$2/\eta_c$ = {float(row.sharpness):.3g}" for row in rows]
        texts = [f"{text}, {each}" for text, each in zip(measured_on(shown, rows), outcomes, strict=True)]
        note(
            panel,
            [
                *texts,
                *_updates(rows),
                "dashed: quadratic model; shaded: bracket of the crossing",
            ],
        )
        return
    overlay(axes, shown, series, draw_critical_sharpness)
    axes.legend()
    counts = [
        f"{record.label}: {int(np.isfinite(rows.sharpness).sum())} of {rows.sizes['checkpoint']} checkpoints have a "
        "crossing"
        for record, rows in zip(shown, series, strict=True)
    ]
    longer = any((rows.sharpness_error > (1 - _SHORTEST) * rows.sharpness).any() for rows in series)
    cut = ["some bars go down to 0 or below, and end at a tenth of their value"] if longer else []
    note(panel, [*counts, *_updates(series), "dashed: quadratic model", *cut])


def _updates(rows: Sequence[xr.Dataset]) -> list[str]:
    """Text on the update of each record."""
    return [f"u: {plain(text)}" for row in rows for text in np.atleast_1d(row.along.values)]
