"""Draw a whole run: entropy, information, stability and phases; hops and how the steps split."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from landscape.figures.limits import span
from landscape.figures.record_view import plain, units
from landscape.figures.spectra import step_axis
from landscape.figures.style import COLOURS, small

# Quantities of a run with the labels of their axes. MI is the mutual information with the spectrum before.
QUANTITIES = {
    "entropy": "entropy $E(H)$ [nats]",
    "negative_mass": "negative mass",
    "stability_ratio": r"$\lambda_1$ / threshold",
    "information": "rank-paired MI [nats]",
    "joint_information": "joint MI [nats]",
    "overlap": "subspace overlap",
}


def draw_quantity(axes: Axes, row: xr.Dataset, name: str, label: str | None = None, colour: str = "C0") -> Axes:
    """Draw one quantity of a run over its steps, with its range under rounding or under the null of no relation.

    Args:
        axes: the Axes to draw on.
        row: one run's row of the group ``dynamics``.
        name: name of the quantity, a key of `QUANTITIES`.
        label: label in the legend; None for no entry.
        colour: colour of the lines.
    """
    steps, values = row.run_step.values, row[name].values
    axes.plot(steps, values, "o-", color=colour, label=label)
    if f"{name}_interval" in row:
        axes.fill_between(steps, *row[f"{name}_interval"].values.T, color=colour, alpha=0.25, linewidth=0)
    if f"{name}_null_interval" in row:
        axes.fill_between(steps, *row[f"{name}_null_interval"].values.T, color=colour, alpha=0.15, linewidth=0)
    if f"{name}_null" in row:
        axes.plot(steps, row[f"{name}_null"].values, "--", color=colour, linewidth=0.7)
    if name == "stability_ratio":
        axes.axhline(1, color="black", linewidth=0.5)
    if name == "overlap":
        span(axes, y=(-0.06, 1.06))
    if name == "entropy":
        _phases(axes, row, label, colour)
        if not axes.child_axes:
            ranks = axes.secondary_yaxis("right", functions=(np.exp, lambda rank: np.log(np.maximum(rank, 1e-300))))
            ranks.set_ylabel("effective rank")
    step_axis(axes, steps)
    axes.set_ylabel(QUANTITIES[name])
    return axes


def _phases(axes: Axes, row: xr.Dataset, name: str | None, colour: str) -> None:
    """Draw change points with their intervals if there are phases, and write the label of the course in the title."""
    label = plain(row.phases.values)
    alarms = [float(row[name]) for name in ("false_alarms_shuffled", "false_alarms_monotone") if name in row]
    chances = ", ".join(f"{each:.1%}" for each in alarms if np.isfinite(each))
    if label not in ("level", "monotone", "undecided", "too few checkpoints"):
        for step, (low, high) in zip(row.change_step.values, row.change_step_interval.values, strict=True):
            axes.axvline(step, color=colour, linestyle=":", linewidth=0.7)
            axes.axvspan(low, high, color=colour, alpha=0.1, linewidth=0)
    before = axes.get_title(loc="left")
    text = (f"{name}: {label}" if name else label) + (f" (false alarms {chances})" if chances else "")
    axes.set_title(f"{before}\n{text}".strip(), loc="left", fontsize=small())


def draw_hops(axes: Axes, row: xr.Dataset, colour: str = "C0") -> Axes:
    """Draw how often steps cross the floor along each valley direction, and how often updates change sign.

    Args:
        axes: the Axes to draw on.
        row: one window of a run's row of the group ``hops``.
        colour: colour of the crossings.
    """
    index = np.arange(row.sizes["direction"]) + 1
    between = row.rate_random_interval.values
    axes.axhspan(*between, color=COLOURS[2], alpha=0.15, linewidth=0, label="sign changes, random directions, 95 %")
    axes.axhline(0.5, color="black", linewidth=0.5)
    converged = row.converged.values.astype(bool)
    for rate, interval, shift, shade, name in (
        (row.rate, row.rate_interval, 0.15, "#999999", "sign changes of updates"),
        (row.crossing_rate, row.crossing_interval, -0.15, colour, "crossings of the floor"),
    ):
        middle, (low, high) = rate.values, interval.values.T
        for chosen, fill in ((converged, "full"), (~converged, "none")):
            if not chosen.any():
                continue
            axes.errorbar(
                index[chosen] + shift, middle[chosen], yerr=np.abs([middle - low, high - middle])[:, chosen], fmt="o",
                color=shade, fillstyle=fill, label=name if fill == "full" else f"{name}, not converged",
            )  # fmt: skip
    for place, verdict in zip(index.tolist(), row.verdict.values, strict=True):
        axes.text(place, 1.0, str(verdict), rotation=90, ha="center", va="top", fontsize=small())
    axes.set(xlabel="valley direction, by eigenvalue", ylabel="rate")
    span(axes, y=(-0.03, 1.03))
    axes.set_xticks(index)
    return axes


def draw_shares(axes: Axes, row: xr.Dataset) -> Axes:
    """Draw how the steps of a window split at each threshold: shares of path and way, and of a random direction.

    Args:
        axes: the Axes to draw on.
        row: one window of a run's row of the group ``hops``.
    """
    parts, names = [str(part) for part in row.part.values], ("path", "way", "random")
    shares = [row[f"{name}_share"].values for name in ("path", "net", "random")]
    labels, place = [], 0.0
    for threshold in range(row.sizes["threshold"]):
        for name, share in zip(names, shares, strict=True):
            bottom = 0.0
            for part, value in enumerate(share[threshold]):
                title = parts[part] if place == 0 and any(each[:, part].any() for each in shares) else None
                axes.barh(place, value, left=bottom, color=COLOURS[part], height=0.8, label=title)
                bottom += float(value)
            labels.append((place, rf"{name}, $\epsilon$ = {float(row.eps[threshold]):.2g}" if name == "path" else name))
            place += 1
        place += 0.5
    axes.set_yticks([each for each, _ in labels], [text for _, text in labels])
    axes.invert_yaxis()
    axes.set_xlabel(f"share of squared length ($\\epsilon${units(row.eps)})")
    span(axes, x=(0, 1))
    return axes
