"""Draw valleys: the map of Definition 1 (arXiv 2510.10089), and profiles with their fitted walls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from landscape.figures.limits import span
from landscape.figures.record_view import units
from landscape.figures.style import COLOURS, small


class _Thresholds(LogLocator):
    """Ticks at powers of ten, and at 2 and 5 times these where the axis spans less than a factor of 50."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        self.set_params(subs=(1.0, 2.0, 5.0) if vmax < 50 * vmin else (1.0,))
        return super().tick_values(vmin, vmax)


_LABELS = {"U": COLOURS[0], "V": COLOURS[1], "no valley": "#BBBBBB"}


def draw_map(axes: Axes, row: xr.Dataset) -> Axes:
    """Draw the verdict of Definition 1 over the threshold eps and the tolerance delta, with the noise floor.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``valley``, with its spectral part.
    """
    labels, eps, delta = row.kappa_label.values, row.eps.values, row.delta.values
    names = list(_LABELS)
    codes = np.array([[names.index(str(each)) for each in line] for line in labels]).T
    axes.pcolormesh(
        eps, delta, codes, cmap=colors.ListedColormap(list(_LABELS.values())), vmin=-0.5, vmax=len(names) - 0.5,
        shading="nearest", rasterized=True,
    )  # fmt: skip
    axes.axvline(float(row.floor), color="white", linestyle="--")
    present = [name for index, name in enumerate(names) if (codes == index).any()]
    handles = [Patch(color=_LABELS[name], label=name) for name in present]
    axes.legend(handles=handles, loc="upper right", frameon=True)
    _threshold_axis(axes, row)
    axes.set(yscale="log", ylabel=r"tolerance $\delta$")
    return axes


def draw_restates(axes: Axes, row: xr.Dataset, label: str | None = None, colour: str = "C0") -> Axes:
    r"""Draw kappa eps / lambda_max over eps: near 1 the verdict restates the threshold.

    Args:
        axes: the Axes to draw on.
        row: one checkpoint's row of the group ``valley``, with its spectral part.
        label: label in the legend; None for no entry.
        colour: colour of the line.
    """
    axes.plot(row.eps.values, row.restates.values, color=colour, label=label)
    axes.axhline(1, color="black", linewidth=0.5)
    axes.axvline(float(row.floor), color=colour, linestyle="--", linewidth=0.6)
    _threshold_axis(axes, row)
    axes.set_ylabel(r"$\kappa\,\epsilon\,/\,\lambda_{\max}$")
    span(axes, y=(0, 1.1))
    return axes


def _threshold_axis(axes: Axes, row: xr.Dataset) -> None:
    """Make the x axis a logarithmic axis of eps, with ticks also where it spans less than a decade."""
    axes.set(xscale="log", xlabel=rf"threshold $\epsilon${units(row.eps)}")
    axes.xaxis.set_major_locator(_Thresholds())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_profile(axes: Axes, row: xr.Dataset, colour: str = "C0") -> Axes:
    """Draw a profile of the loss along a valley direction with its standard error, fitted walls and verdict.

    Args:
        axes: the Axes to draw on.
        row: one direction and one height of a checkpoint's row of the group ``valley``.
        colour: colour of the points.
    """
    at, loss = row.profile_position.values, row.profile_loss.values
    axes.errorbar(at, loss, yerr=row.profile_error.values, fmt=".", color=colour, markersize=2, elinewidth=0.4)
    axes.plot(at, row.profile_fit.values, color="black", linewidth=0.8)
    low, high = row.exponent_interval.values
    known = "" if bool(row.converged) else " (not converged)"
    exponent = rf"$p$ = {float(row.exponent):.2f} [{low:.2f}, {high:.2f}]"
    axes.set_title(
        rf"$\lambda$ = {float(row.eigenvalue):.3g}{known}" + f"\n{row.label.values}\n{exponent}", fontsize=small()
    )
    return axes
