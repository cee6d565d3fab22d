"""Draw eigenvalues: the top ones over training, full spectra, and spectral densities."""

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

LOWEST = 0.1  # densities are drawn down to this share of the peak of a single eigenvalue's Gaussian


def draw_eigenvalues(axes: Axes, rows: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw top eigenvalues with their intervals over training, or over their index for a single checkpoint.

    Eigenvalues that did not converge have hollow markers.

    Args:
        axes: the Axes to draw on.
        rows: rows of the group ``eigenpairs``, or of that of another matrix, one checkpoint or several.
        label: label in the legend; None for no entry.
        colour: colour of the lines.
    """
    values, converged = rows.eigenvalues.values, rows.converged.values.astype(bool)
    low, high = np.moveaxis(rows.intervals.values, -1, 0)
    single = len(values) == 1
    across = np.arange(values.shape[1])[None] + 1 if single else steps_of(rows)[:, None]
    names = {True: label, False: f"{label or ''} not converged".strip()}
    for index in range(1 if single else values.shape[1]):
        chosen = (0, slice(None)) if single else (slice(None), index)
        x = across[0] if single else across[:, 0]
        y, good = values[chosen], converged[chosen]
        if not single:
            axes.plot(x, y, color=colour, alpha=0.35)
        errors = np.abs(np.stack([y - low[chosen], high[chosen] - y]))
        for mask, fill in ((good, True), (~good & np.isfinite(y), False)):
            if mask.any():
                axes.errorbar(
                    x[mask], y[mask], yerr=errors[:, mask], fmt="o", color=colour, elinewidth=0.6,
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
    """Draw the magnitudes of all eigenvalues by rank on logarithmic axes, negative ones dashed, rounding shaded.

    No eigenvalue in the shaded range can be distinguished from zero; `within_rounding` counts these. Magnitudes below
    a third of the rounding aren't drawn.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``spectrum``.
        label: label in the legend; None for no entry.
        colour: colour of the lines.
        sign: 1 for the positive eigenvalues only, -1 for the negative ones only, as a solid line. Default: None, both.
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
    """Text on how many eigenvalues of a row of ``spectrum`` are within rounding of zero."""
    values = row.eigenvalues.values
    return f"{int((np.abs(values) <= float(row.rounding)).sum()):,} of {len(values):,} within rounding"


def draw_density(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw the spectral density of the bulk on a logarithmic axis with its standard error, and outliers as stems.

    A stem is as high as the peak of the Gaussian that smoothing makes of an outlier's mass 1/n. Densities below
    `LOWEST` of that height aren't drawn. A bulk that is a point mass is a dashed stem, and heights are then numbers of
    eigenvalues.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``density``.
        label: label in the legend, to which the width of the smoothing is added; None for no entry.
        colour: colour of the lines.
    """
    density = density_of(row)
    nodes = density.nodes[np.isfinite(density.nodes)]
    # Without a width a stem's height is the number of its eigenvalues: 1 for an outlier.
    single = 1 / (density.dim * density.width * math.sqrt(2 * math.pi)) if density.width else 1.0
    if density.width:
        grid = _grid(density)
        values, errors = (density.bulk_mass * each for each in density.bulk.smoothed(grid))
        drawn = values >= LOWEST * single
        name = None if label is None else f"{label} (width {density.width:.2g})"
        axes.plot(grid, np.where(drawn, values, np.nan), color=colour, label=name, linewidth=0.7)
        low, high = np.maximum(values - errors, LOWEST * single), values + errors
        axes.fill_between(grid, low, high, where=drawn, color=colour, alpha=0.25, linewidth=0)
    elif len(nodes):
        place = float(np.median(nodes))
        axes.vlines(place, 0, density.dim * density.bulk_mass, color=colour, linestyle="--", label=label or "")
    axes.vlines(density.outliers, 0, single, color=colour, linewidth=0.8)
    axes.plot(density.outliers, np.full(len(density.outliers), single), "o", color=colour, markersize=2)
    axes.set(yscale="log", xlabel=rf"eigenvalue $\lambda${units(row.outliers)}")
    reach(axes, y=[LOWEST * single])
    if density.width or not axes.get_ylabel():  # without a width, keep the label of another record
        axes.set_ylabel(f"density{_inverse(row.outliers)}" if density.width else "eigenvalues")
    return axes


def _grid(found: SpectralDensity) -> np.ndarray:
    """Points of the x axis that resolve every Gaussian of the bulk, however narrow."""
    nodes = found.nodes[np.isfinite(found.nodes)]
    about = nodes[:, None] + found.width * np.linspace(-4, 4, 17)
    return np.unique(np.append(about, np.linspace(about.min(), about.max(), 800)))


def _inverse(variable: xr.DataArray) -> str:
    """Units of a density over a variable, in brackets for an axis label."""
    text = str(variable.attrs.get("units", ""))
    known = {"loss / parameter^2": " [parameter$^2$ / loss]"}
    return "" if text in ("", "1") else known.get(text) or f" [1 / ({plain(text)})]"


def steps_of(rows: xr.Dataset) -> np.ndarray:
    """Steps of the checkpoints, or their indices if any step is unknown."""
    steps = rows.step.values
    return np.asarray(steps if (steps >= 0).all() else np.arange(len(steps)))


def step_axis(axes: Axes, steps: np.ndarray) -> None:
    """Make the x axis one of training steps, logarithmic beyond the first where they span more than a factor of 30."""
    positive = steps[steps > 0]
    if len(positive) > 3 and positive.max() > 30 * positive.min():
        least = float(max(positive.min(), 1))
        left, right = (-0.2 * least if steps.min() == 0 else float(steps.min()) / 1.2), 1.2 * float(positive.max())
        scale = axes.xaxis.get_transform()
        if isinstance(scale, SymmetricalLogTransform):  # from the steps of another record
            least = min(least, scale.linthresh)
        axes.set_xscale("symlog", linthresh=least, linscale=0.4)
        span(axes, x=(left, right))
        powers = np.arange(np.ceil(np.log10(2 * least)), np.floor(np.log10(axes.dataLim.xmax)) + 1)
        axes.xaxis.set_major_locator(FixedLocator([0.0, *10.0**powers]))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training step")
