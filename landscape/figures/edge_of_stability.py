"""Draw the edge of stability: sharpness over a run beside the threshold of its optimiser (Cohen et al. 2021, 2022)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator

from landscape.dynamics import Crossing, crossing
from landscape.errors import InputError
from landscape.figures.page import Panel, note, tiled
from landscape.figures.record_view import RecordView, units
from landscape.figures.spectra import step_axis, steps_of
from landscape.figures.style import COLOURS, FigureStyle
from landscape.reporting.messages import counted

LEAST = 2.1  # smallest width in inches of a panel
_SHORTEST = 0.1  # of the value: an error bar ends here on the logarithmic axis


@dataclass(frozen=True)
class Sharpness:
    """A largest eigenvalue over a run.

    Attributes:
        steps: step of each checkpoint, (c,).
        values: eigenvalues, (c,).
        errors: half-widths of their intervals, (c,).
        converged: whether each eigenvalue's computation reached its goal, (c,).
    """

    steps: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    converged: np.ndarray

    def only(self, chosen: np.ndarray) -> Sharpness:
        """The chosen checkpoints alone."""
        return Sharpness(self.steps[chosen], self.values[chosen], self.errors[chosen], self.converged[chosen])


def sharpness_of(record: RecordView) -> tuple[Sharpness, Sharpness]:
    """The largest eigenvalue of the Hessian over a run, and that of the Hessian as Adam preconditions it.

    The Hessian's eigenvalues are those of `/stability` where the optimiser doesn't precondition, else those of
    `/spectrum`, of `/eigenpairs`, or of `/top_eigenvalues`. A series without checkpoints is empty.
    """
    rows = record.series("stability")
    seen = Sharpness(
        steps_of(rows), rows.eigenvalue.values, rows.eigenvalue_error.values, rows.converged.values.astype(bool)
    )
    preconditioned = _is_preconditioned(rows)
    if preconditioned.any():
        for group, read in (
            ("spectrum", _of_spectrum),
            ("eigenpairs", _of_eigenpairs),
            ("top_eigenvalues", _of_tracked),
        ):
            if group in record.groups:
                return read(record.series(group)), seen.only(preconditioned)
    return seen.only(~preconditioned), seen.only(preconditioned)


def _is_preconditioned(rows: xr.Dataset) -> np.ndarray:
    """Whether the eigenvalue of each row of `/stability` is of the preconditioned Hessian, (c,)."""
    return np.asarray((rows.reason == "") & rows.optimizer.isin(["Adam", "AdamW"]))


def _of_spectrum(rows: xr.Dataset) -> Sharpness:
    top = np.where(np.isnan(rows.eigenvalues.values), -np.inf, rows.eigenvalues.values).max(axis=1)
    return Sharpness(steps_of(rows), top, rows.rounding.values, np.ones(len(top), bool))


def _of_eigenpairs(rows: xr.Dataset) -> Sharpness:
    """The largest eigenvalues among eigenpairs; none where the pairs are those of the lower end."""
    values = np.where(np.isnan(rows.eigenvalues.values), -np.inf, rows.eigenvalues.values)
    place = values.argmax(axis=1)[:, None]
    top = np.take_along_axis(values, place, axis=1)[:, 0]
    bounds = np.take_along_axis(rows.intervals.values, place[..., None], axis=1)[:, 0]
    converged = np.take_along_axis(rows.converged.values, place, axis=1)[:, 0].astype(bool)
    which = [json.loads(str(text)).get("settings", {}).get("which") for text in rows.provenance.values]
    # Of the largest magnitudes, the largest eigenvalue is among the pairs only where one of them is positive.
    known = np.array(
        [each in ("LA", "BE") or (each == "LM" and value > 0) for each, value in zip(which, top, strict=True)]
    )
    found = Sharpness(steps_of(rows), top, abs(bounds - top[:, None]).max(axis=1), converged)
    return found.only(known)


def _of_tracked(rows: xr.Dataset) -> Sharpness:
    """The largest eigenvalues that a watch tracked."""
    values, bounds = rows.eigenvalue.values[:, 0], rows.interval.values[:, 0]
    return Sharpness(
        steps_of(rows), values, abs(bounds - values[:, None]).max(axis=1), rows.converged.values.astype(bool)
    )


def crossing_of(record: RecordView) -> Crossing:
    """The first crossing of the optimiser's threshold in a record; see `landscape.dynamics.crossing`."""
    rows = record.series("stability")
    values = np.where(rows.converged.values.astype(bool), rows.eigenvalue.values, np.nan)
    return crossing(steps_of(rows), values, rows.eigenvalue_error.values, rows.threshold.values)


def draw_edge_of_stability(axes: Axes, record: RecordView) -> Axes:
    """Draw sharpness with its intervals, the threshold, and the interval of steps of the first crossing.

    The threshold is that of each checkpoint's learning rate. The band around it covers the thresholds of both
    neighbours between two checkpoints. Eigenvalues that did not converge have hollow markers. Eigenvalues that aren't
    positive have no place on the logarithmic axis, and are left out.

    Args:
        axes: the Axes to draw on.
        record: a record with the group `/stability`.

    Raises:
        InputError: the record has no positive eigenvalue, or two checkpoints of one step.
    """
    plain, preconditioned = sharpness_of(record)
    if not any((each.values > 0).any() for each in (plain, preconditioned)):
        raise InputError(f"{record.label} has no positive eigenvalue: there is no sharpness to draw")
    rows = record.series("stability")
    found = crossing_of(record)
    for series, name, colour in ((plain, "sharpness", COLOURS[0]),
                                 (preconditioned, "preconditioned sharpness", COLOURS[1])):  # fmt: skip
        _draw_series(axes, series, name, colour)
    _draw_threshold(axes, steps_of(rows), rows.threshold.values)
    if not found.reason:
        axes.axvspan(found.low, found.high, color=COLOURS[2], alpha=0.25, linewidth=0, zorder=0, label="first crossing")
    axes.set_yscale("log")
    log_ticks(axes)
    step_axis(axes, steps_of(rows))
    axes.set_ylabel(f"eigenvalue{units(rows.eigenvalue)}")
    return axes


def log_ticks(axes: Axes) -> None:
    """Name values within decades, as plain numbers, where an axis has fewer than two decades."""
    low, high = axes.get_ylim()
    if high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(LogLocator())
        axes.yaxis.set_major_formatter(LogFormatterSciNotation())


def _draw_series(axes: Axes, series: Sharpness, name: str, colour: str) -> None:
    shown = series.only(series.values > 0)
    axes.plot(shown.steps, shown.values, color=colour, alpha=0.35)
    errors = np.stack([np.minimum(shown.errors, (1 - _SHORTEST) * shown.values), shown.errors])
    for good, fill, label in ((True, "full", name), (False, "none", f"{name}, not converged")):
        chosen = shown.converged == good
        if chosen.any():
            axes.errorbar(
                shown.steps[chosen], shown.values[chosen], yerr=errors[:, chosen], fmt="o", color=colour, markersize=2,
                elinewidth=0.6, fillstyle=fill, label=label,
            )  # fmt: skip


def _draw_threshold(axes: Axes, steps: np.ndarray, thresholds: np.ndarray) -> None:
    """Draw the threshold at each checkpoint, and between two checkpoints a band over the thresholds of both."""
    known = np.isfinite(thresholds) & (thresholds > 0)
    if not known.any():
        return
    steps, thresholds = steps[known], thresholds[known]
    axes.plot(steps, thresholds, "--", color="black", linewidth=0.8, label="threshold")
    low, high = np.minimum(thresholds[:-1], thresholds[1:]), np.maximum(thresholds[:-1], thresholds[1:])
    if (low < high).any():
        across = np.repeat(steps, 2)[1:-1]
        axes.fill_between(across, np.repeat(low, 2), np.repeat(high, 2), color="black", alpha=0.12, linewidth=0)


def edges(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw the edge of stability of each record, side by side with one scale."""
    (grid,), columns = tiled(panel, len(shown), LEAST, sharey=True)
    for place, (axes, record) in enumerate(zip(grid, shown, strict=True)):
        draw_edge_of_stability(axes, record)
        if len(shown) > 1:
            axes.set_title(record.label)
        if place % columns:
            axes.set_ylabel("")
    named = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    panel.legend(list(named.values()), list(named), loc="outside upper center", ncols=2)
    note(panel, [text for record in shown for text in _texts(record)])


def _texts(record: RecordView) -> list[str]:
    """Texts on the optimiser, the first crossing, and what isn't drawn."""
    rows, found = record.series("stability"), crossing_of(record)
    reasons = dict.fromkeys(str(each) for each in rows.reason.values if each)
    names = dict.fromkeys(
        str(name) for name, why in zip(rows.optimizer.values, rows.reason.values, strict=True) if not why
    )
    crossed = found.reason or f"first above the threshold after step {found.low:.0f}, by step {found.high:.0f}"
    texts = [f"{record.label}: {crossed} ({', '.join(names)})"]
    if not names:
        texts = [f"{record.label}: no threshold ({'; '.join(reasons)})"]
    if names and reasons:
        claimed = int((rows.reason == "").sum())
        texts.append(f"{record.label}: a threshold at {claimed} of {rows.sizes['checkpoint']} checkpoints")
    series = sharpness_of(record)
    if missing := sum(int((~(each.values > 0)).sum()) for each in series):
        texts.append(f"{record.label}: left out {counted(missing, 'eigenvalue')}, not positive numbers")
    if any((each.errors > (1 - _SHORTEST) * each.values)[each.values > 0].any() for each in series):
        texts.append("error bars end at a tenth of the eigenvalue")
    return texts
