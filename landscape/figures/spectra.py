"""Eigenvalues: the top ones over training, whole spectra, and densities."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from landscape.figures.shown import units
from landscape.measurements.density import density_of


def draw_eigenvalues(axes: Axes, rows: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """Top eigenvalues over training with their intervals; of one checkpoint against their index.

    What did not converge is hollow.

    Args:
        axes: to draw on.
        rows: of the group ``hessian`` (or of another matrix), one or several checkpoints.
        label: in the legend.
        colour: of the lines.
    """
    values, converged = rows.eigenvalues.values, rows.converged.values.astype(bool)
    low, high = np.moveaxis(rows.intervals.values, -1, 0)
    single = len(values) == 1
    across = np.arange(values.shape[1])[None] + 1 if single else _steps(rows)[:, None]
    for index in range(1 if single else values.shape[1]):
        chosen = (0, slice(None)) if single else (slice(None), index)
        x = across[0] if single else across[:, 0]
        y, good = values[chosen], converged[chosen]
        if not single:
            axes.plot(x, y, color=colour, alpha=0.35)
        errors = np.abs(np.stack([y - low[chosen], high[chosen] - y]))
        for these, fill, name in ((good, "full", label), (~good, "none", f"{label or ''} not converged".strip())):
            if these.any():
                axes.errorbar(
                    x[these], y[these], yerr=errors[:, these], fmt="o", color=colour, elinewidth=0.6, fillstyle=fill,
                    label=name if index == 0 else None,
                )  # fmt: skip
    axes.set_ylabel(rf"eigenvalue $\lambda_i${units(rows.eigenvalues)}")
    if single:
        axes.set_xlabel("index $i$")
    else:
        step_axis(axes, across[:, 0])
    return axes


def draw_spectrum(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """All eigenvalues by rank, magnitudes on a logarithmic axis, negative ones dashed, rounding shaded.

    Args:
        axes: to draw on.
        row: of the group ``spectrum``, one checkpoint.
        label: in the legend.
        colour: of the lines.
    """
    values, floor = row.eigenvalues.values, float(row.rounding)
    positive, negative = values[values > 0], -values[values < 0][::-1]
    axes.plot(np.arange(len(positive)) + 1, positive, color=colour, label=label)
    if len(negative):
        name = None if label is None else f"{label}, negative"
        axes.plot(np.arange(len(negative)) + 1, negative, color=colour, linestyle="--", label=name)
    axes.set(xscale="log", yscale="log", xlabel="rank")
    axes.set_ylabel(rf"$|\lambda|${units(row.eigenvalues)}")
    if floor > 0:
        axes.axhspan(axes.get_ylim()[0], floor, color=colour, alpha=0.12, linewidth=0)
    axes.set_ylim(bottom=max(floor / 10, np.abs(values).max() * 1e-12))
    return axes


def draw_density(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    """The spectral density on a logarithmic axis with its standard error; outliers, of mass 1/n each, as stems.

    Args:
        axes: to draw on.
        row: of the group ``density``, one checkpoint.
        label: in the legend.
        colour: of the lines.
    """
    found = density_of(row)
    points = np.concatenate([found.outliers, found.nodes[np.isfinite(found.nodes)]])
    margin = 0.03 * np.ptp(points)
    grid = np.linspace(points.min() - margin, points.max() + margin, 800)
    values, errors = found.smoothed(grid)
    least = 0.1 / (found.dim * np.ptp(grid))
    seen = np.maximum(values, least)
    axes.plot(grid, seen, color=colour, label=label)
    axes.fill_between(
        grid,
        np.maximum(values - errors, least),
        np.maximum(values + errors, least),
        color=colour,
        alpha=0.25,
        linewidth=0,
    )
    axes.plot(found.outliers, np.full(len(found.outliers), least * 1.5), "|", color=colour, markersize=6)
    axes.set(yscale="log", ylim=(least, None), xlabel=rf"eigenvalue $\lambda${units(row.outliers)}")
    axes.set_ylabel(rf"density (width {found.width:.2g})")
    return axes


def _steps(rows: xr.Dataset) -> np.ndarray:
    """Steps of the checkpoints, or their places where steps aren't known."""
    steps = rows.step.values
    return np.asarray(steps if (steps >= 0).all() else np.arange(len(steps)))


def step_axis(axes: Axes, steps: np.ndarray) -> None:
    """An axis of training steps: logarithmic beyond the first ones, where checkpoints are kept that way."""
    positive = steps[steps > 0]
    if len(positive) > 3 and positive.max() > 30 * positive.min():
        least = float(max(positive.min(), 1))
        axes.set_xscale("symlog", linthresh=least, linscale=0.4)
        axes.set_xlim(left=min(0.0, float(steps.min())))
        powers = np.arange(np.ceil(np.log10(2 * least)), np.floor(np.log10(positive.max())) + 1)
        axes.set_xticks([0.0, *10.0**powers])
    axes.set_xlabel("training step")
