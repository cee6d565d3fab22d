"""Draw a watched training over its steps: loss, eigenvalues, stability, the split of the steps, crossings, events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from landscape.figures.edge_of_stability import log_ticks
from landscape.figures.page import Panel, note, tiled
from landscape.figures.record_view import RecordView, plain
from landscape.figures.style import COLOURS, FigureStyle
from landscape.reporting.messages import counted

LEAST = 2.2  # smallest width in inches of a column
HIGH = 1.35  # height in inches of a panel
_ROWS = 20  # rows whose crossings make one share
_OF_EVENTS = {
    "not finite": "#000000", "loss jumped": COLOURS[1], "threshold crossed": COLOURS[3], "plateau": COLOURS[2],
    "instrument failed": "0.6", "over budget": "0.8",
}  # fmt: skip


def draw_loss(axes: Axes, record: RecordView) -> None:
    """Draw the loss on the evaluation set with two standard errors."""
    rows = record.series("loss")
    error = np.nan_to_num(2 * rows.standard_error.values)
    _band(axes, rows.step.values, rows.loss.values, rows.loss.values - error, rows.loss.values + error, COLOURS[0])
    axes.set_ylabel("loss")


def draw_eigenvalues(axes: Axes, record: RecordView) -> None:
    """Draw the tracked eigenvalues, the interval of the largest, and the critical sharpness."""
    rows = record.series("top_eigenvalues")
    steps, values = rows.step.values, rows.eigenvalue.values
    low, high = rows.interval.values[:, 0].T
    for each in values.T[1:]:
        axes.plot(steps, each, color=COLOURS[0], alpha=0.35, linewidth=0.6)
    _band(axes, steps, values[:, 0], low, high, COLOURS[0], r"$\lambda_1$")
    if "critical_sharpness" in record.groups:
        other = record.series("critical_sharpness")
        axes.plot(other.step.values, other.sharpness.values, ".", color=COLOURS[4], label=r"$2/\eta_c$")
        axes.legend(loc="best", ncols=2)
    if (values[:, 0] > 0).all():  # critical sharpnesses scatter over orders of magnitude
        axes.set_yscale("log")
        log_ticks(axes)
    axes.set_ylabel("eigenvalue")


def draw_ratio(axes: Axes, record: RecordView) -> None:
    """Draw the ratio of the largest eigenvalue to the threshold of stability with its error."""
    rows = record.series("stability")
    ratio, error = rows.ratio.values, rows.ratio_error.values
    _band(axes, rows.step.values, ratio, ratio - error, ratio + error, COLOURS[0])
    axes.axhline(1, color="0.35", linestyle=":", linewidth=0.8)
    axes.set_ylabel("ratio to\nthreshold")


def draw_split(axes: Axes, record: RecordView) -> None:
    """Draw the share of the steps' squared length in the valley, beside that of random directions."""
    rows = record.series("top_eigenvalues")
    steps = rows.step.values
    axes.plot(steps, rows.valley_share.values, color=COLOURS[0], label="steps")
    low, high = rows.valley_share_random_interval.values.T
    axes.fill_between(steps, low, high, color="0.75", linewidth=0, label="random")
    axes.set_ylim(-0.05, 1.05)
    axes.legend(loc="best", ncols=2)
    axes.set_ylabel("share in\nthe valley")


def draw_crossings(axes: Axes, record: RecordView) -> None:
    """Draw the share of steps that cross the floor, along the step and along the first eigenvector."""
    rows = record.series("crossings")
    crossed = rows.crossed.values.astype(float)
    window = min(_ROWS, len(crossed))
    steps = np.convolve(rows.step.values, np.full(window, 1 / window), "valid")
    for column, name, colour in ((0, "the step", COLOURS[0]), (1, "$v_1$", COLOURS[1])):
        if column < crossed.shape[1]:
            share = np.convolve(crossed[:, column], np.full(window, 1 / window), "valid")
            axes.plot(steps, share, color=colour, marker=".", label=f"along {name}")
    axes.legend(loc="best", ncols=2)
    axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel("steps across\nthe floor")


_PANELS: tuple[tuple[str, Callable[[Axes, RecordView], None]], ...] = (
    ("loss", draw_loss),
    ("top_eigenvalues", draw_eigenvalues),
    ("stability", draw_ratio),
    ("top_eigenvalues", draw_split),
    ("crossings", draw_crossings),
)


def _panels(shown: Sequence[RecordView]) -> list[tuple[str, Callable[[Axes, RecordView], None]]]:
    return [each for each in _PANELS if any(each[0] in record.groups for record in shown)]


def height(shown: Sequence[RecordView], width: float) -> float:
    """Height of the figure in inches."""
    return 0.5 + HIGH * len(_panels(shown))


def timeline(panel: Panel, shown: Sequence[RecordView], look: FigureStyle) -> None:
    """Draw each watched training in a column of panels that share their steps."""
    panels = _panels(shown)
    grid, _ = tiled(panel, len(shown), LEAST, heights=[1.0] * len(panels))
    for place, record in enumerate(shown):
        for axes, (group, draw) in zip(grid[:, place], panels, strict=True):
            if group in record.groups:
                draw(axes, record)
            _draw_events(axes, record)
        if len(shown) > 1:
            grid[0, place].set_title(record.label)
        grid[-1, place].set_xlabel("training step")
    named = dict.fromkeys(name for record in shown for _, name in _events(record))
    if named:
        lines = [grid[0, 0].axvline(np.nan, color=_OF_EVENTS.get(name, "0.5"), linewidth=0.8) for name in named]
        panel.legend(lines, list(named), loc="outside upper center", ncols=3)
    note(panel, [text for record in shown for text in _texts(record)])


def _events(record: RecordView) -> list[tuple[int, str]]:
    """Step and kind of every event."""
    if "events" not in record.groups:
        return []
    rows = record.series("events")
    return [
        (int(step), str(name))
        for step, names in zip(rows.step.values, rows.event.values, strict=True)
        for name in names
        if name
    ]


def _draw_events(axes: Axes, record: RecordView) -> None:
    for step, name in _events(record):
        axes.axvline(step, color=_OF_EVENTS.get(name, "0.5"), linewidth=0.8, alpha=0.6, zorder=0)


def _band(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    colour: str,
    label: str | None = None,
) -> None:
    """A line with a band; markers where there are few rows."""
    axes.plot(steps, values, color=colour, marker="." if len(steps) < 2 * _ROWS else None, label=label)
    axes.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)


def _texts(record: RecordView) -> list[str]:
    """Texts on what did not converge, on how far the tracking was right, and on how shares are made."""
    rows = record.series("top_eigenvalues")
    open_ones = int((~rows.converged.values.astype(bool)).sum())
    hits, certificates = int(rows.held.values[-1]), int(rows.certificates.values[-1])
    name = plain(record.label)
    texts = [f"{name}: {rows.sizes['checkpoint']} turns of the eigenvalues"]
    if certificates:
        texts.append(f"tracking's interval held at {hits} of {counted(certificates, 'certificate')}")
    if open_ones:
        texts.append(f"{open_ones} did not reach the asked width")
    shares = [f"steps across the floor: share of {_ROWS} rows"] if "crossings" in record.groups else []
    return [", ".join(texts), "bands: two standard errors, intervals", *shares]
