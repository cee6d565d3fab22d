"""Eigenvalues: the top ones over training, whole spectra, and densities."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.scale import SymmetricalLogTransform
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from landscape.figures.limits import reach, span
from landscape.figures.record_view import plain, units
from landscape.measurements.density import density_of
from landscape.spectrum.distribution import SpectralDensity

LOWEST = 0.1  # densities are drawn down to this share of the height of a single eigenvalue's Gaussian


def draw_eigenvalues(axes: Axes, rows: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Top eigenvalues over training with their intervals; of one checkpoint against their index.

    What did not converge is hollow.

    Args:
        axes: the Axes to draw on.
        rows: of the group ``hessian`` (or of another matrix), one or several checkpoints.
        label: label in the legend; None for no entry.
        colour: of the lines.
    """
    values, converged = rows.eigenvalues.values, rows.converged.values.astype(bool)
    low, high = np.moveaxis(rows.intervals.values, -1, 0)
    single = len(values) == 1
    across = np.arange(values.shape[1])[None] + 1 if single else _steps(rows)[:, None]
    names = {True: label, False: f"{label or ''} not converged".strip()}
    for index in range(1 if single else values.shape[1]):
        chosen = (0, slice(None)) if single else (slice(None), index)
        x = across[0] if single else across[:, 0]
        y, good = values[chosen], converged[chosen]
        if not single:
            axes.plot(x, y, color=colour, alpha=0.35)
        errors = np.abs(np.stack([y - low[chosen], high[chosen] - y]))
        for these, fill in ((good, True), (~good & np.isfinite(y), False)):
            if these.any():
                axes.errorbar(
                    x[these], y[these], yerr=errors[:, these], fmt="o", color=colour, elinewidth=0.6,
                    fillstyle="full" if fill else "none", label=names.pop(fill, None),
                )  # fmt: skip
    axes.set_ylabel(rf"eigenvalue $\lambda_i${units(rows.eigenvalues)}")
    if single:
        axes.set_xlabel("index $i$")
    else:
        step_axis(axes, across[:, 0])
        if (rows.step.values < 0).any():
            axes.set_xlabel("checkpoint, in order (steps unknown)")
    return axes


def draw_spectrum(
    axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0", sign: int | None = None
) -> Axes:
    """All eigenvalues by rank, magnitudes on a logarithmic axis, negative ones dashed, rounding shaded.

    What is below a third of the rounding isn't drawn: no eigenvalue within the shade can be told from zero, and
    `within_rounding` counts these.

    Args:
        axes: the Axes to draw on.
        row: of the group ``spectrum``, one checkpoint.
        label: label in the legend; None for no entry.
        colour: of the lines.
        sign: 1 or -1 for the positive or the negative ones alone, as a solid line.
    """
    values, floor = row.eigenvalues.values, float(row.rounding)
    sides = values[values > 0], -values[values < 0][::-1]
    positive, negative = (np.where(side < floor / 3, np.nan, side) for side in sides)
    if sign != -1:
        axes.plot(np.arange(len(positive)) + 1, positive, color=colour, label=label)
    if sign != 1 and len(negative):
        name = label if sign or label is None else f"{label}, negative"
        axes.plot(np.arange(len(negative)) + 1, negative, "-" if sign else "--", color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="rank")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(rf"$|\lambda|${units(row.eigenvalues)}")
    if floor > 0:
        axes.axhspan(0, floor, color=colour, alpha=0.12, linewidth=0)
        reach(axes, y=[floor / 3])
    return axes


def within_rounding(row: xr.Dataset) -> str:
    """How many eigenvalues of a row of ``spectrum`` can't be told from zero."""
    values = row.eigenvalues.values
    return f"{int((np.abs(values) <= float(row.rounding)).sum()):,} of {len(values):,} within rounding"


def draw_density(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """The spectral density of the bulk on a logarithmic axis with its standard error; outliers as stems.

    A stem is as high as the Gaussian that an outlier's mass of 1/n would be smoothed to. What is lower than a tenth of
    that isn't drawn, since it is less than any eigenvalue makes. A bulk that is a point mass is a stem too, dashed;
    heights are numbers of eigenvalues then.

    Args:
        axes: the Axes to draw on.
        row: of the group ``density``, one checkpoint.
        label: in the legend, with the width of the smoothing.
        colour: of the lines.
    """
    found = density_of(row)
    nodes = found.nodes[np.isfinite(found.nodes)]
    # Without a width every height is as good as another: 1 for a single eigenvalue.
    single = 1 / (found.dim * found.width * math.sqrt(2 * math.pi)) if found.width else 1.0
    if found.width:
        grid = _grid(found)
        values, errors = (found.bulk_mass * each for each in found.bulk.smoothed(grid))
        shown = values >= LOWEST * single
        name = None if label is None else f"{label} (width {found.width:.2g})"
        axes.plot(grid, np.where(shown, values, np.nan), color=colour, label=name, linewidth=0.7)
        low, high = np.maximum(values - errors, LOWEST * single), values + errors
        axes.fill_between(grid, low, high, where=shown, color=colour, alpha=0.25, linewidth=0)
    elif len(nodes):
        place = float(np.median(nodes))
        axes.vlines(place, 0, found.dim * found.bulk_mass, color=colour, linestyle="--", label=label or "")
    axes.vlines(found.outliers, 0, single, color=colour, linewidth=0.8)
    axes.plot(found.outliers, np.full(len(found.outliers), single), "o", color=colour, markersize=2)
    axes.set(yscale="log", xlabel=rf"eigenvalue $\lambda${units(row.outliers)}")
    reach(axes, y=[LOWEST * single])
    if found.width or not axes.get_ylabel():  # a density of another record gives the axis its name
        axes.set_ylabel(f"density{_inverse(row.outliers)}" if found.width else "eigenvalues")
    return axes


def _grid(found: SpectralDensity) -> np.ndarray:
    """Points that resolve every Gaussian of the bulk, however narrow they are in the whole."""
    nodes = found.nodes[np.isfinite(found.nodes)]
    about = nodes[:, None] + found.width * np.linspace(-4, 4, 17)
    return np.unique(np.append(about, np.linspace(about.min(), about.max(), 800)))


def _inverse(variable: xr.DataArray) -> str:
    """The units of a density over a variable."""
    text = str(variable.attrs.get("units", ""))
    known = {"loss / parameter^2": " [parameter$^2$ / loss]"}
    return "" if text in ("", "1") else known.get(text) or f" [1 / ({plain(text)})]"


def _steps(rows: xr.Dataset) -> np.ndarray:
    """Steps of the checkpoints, or their places where steps aren't known."""
    steps = rows.step.values
    return np.asarray(steps if (steps >= 0).all() else np.arange(len(steps)))


def step_axis(axes: Axes, steps: np.ndarray) -> None:
    """An axis of training steps: logarithmic beyond the first ones, where checkpoints are kept that way."""
    positive = steps[steps > 0]
    if len(positive) > 3 and positive.max() > 30 * positive.min():
        least = float(max(positive.min(), 1))
        left, right = (-0.2 * least if steps.min() == 0 else float(steps.min()) / 1.2), 1.2 * float(positive.max())
        scale = axes.xaxis.get_transform()
        if isinstance(scale, SymmetricalLogTransform):  # of another record
            least = min(least, scale.linthresh)
        axes.set_xscale("symlog", linthresh=least, linscale=0.4)
        span(axes, x=(left, right))
        powers = np.arange(np.ceil(np.log10(2 * least)), np.floor(np.log10(axes.dataLim.xmax)) + 1)
        axes.xaxis.set_major_locator(FixedLocator([0.0, *10.0**powers]))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training step")
