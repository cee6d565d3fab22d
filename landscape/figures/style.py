"""Style of figures: widths of a paper's columns, sizes of letters, and a palette for any colour vision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from cycler import cycler
from matplotlib import rc_context, rcParams

StyleName = Literal["paper", "talk", "notebook"]
Kind = Literal["contour", "filled", "surface"]
Scale = Literal["linear", "log"]

WIDTHS = {"column": 3.35, "text": 6.9}  # inches: one column, and both columns, of a paper in two columns
FONT_SIZES: dict[StyleName, float] = {"paper": 7.0, "talk": 14.0, "notebook": 10.0}
SMALLEST = 6.0  # points of notes and of text inside axes, in papers

# The palette of Okabe and Ito (2008, "Color universal design"), for any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SEQUENTIAL, DIVERGING = "viridis", "cividis"


@dataclass(frozen=True)
class FigureStyle:
    """The choices of a reader for a figure.

    Attributes:
        style: size of the letters: ``paper``, ``talk`` or ``notebook``. Default: ``paper``.
        width: width of the figure in inches. Default: None, the width that the figure is designed for.
        kind: how a plane is drawn: as ``contour`` lines, ``filled`` contours, or a ``surface``. Default: ``filled``.
        scale: scale of a plane's loss, ``log`` or ``linear``; linear if any loss isn't positive. Default: ``log``.
        step: training step of the checkpoint to draw, in figures of one checkpoint. Default: None, the last step.
    """

    style: StyleName = "paper"
    width: float | None = None
    kind: Kind = "filled"
    scale: Scale = "log"
    step: int | None = None


def small() -> float:
    """Size of the smallest letters in points; call within `styled`."""
    return SMALLEST / FONT_SIZES["paper"] * float(rcParams["font.size"])


@contextmanager
def styled(style: StyleName) -> Iterator[None]:
    """Set matplotlib's parameters for a style within a ``with`` block; both draw and save figures inside the block."""
    size = FONT_SIZES[style]
    line = size / 7
    settings: dict[Any, Any] = {
        "font.size": size,
        "axes.titlesize": size,
        "axes.labelsize": size,
        "legend.fontsize": 0.9 * size,
        "xtick.labelsize": 0.9 * size,
        "ytick.labelsize": 0.9 * size,
        "figure.titlesize": 1.1 * size,
        "axes.linewidth": 0.6 * line,
        "lines.linewidth": 1.0 * line,
        "lines.markersize": 3.0 * line,
        "lines.markeredgewidth": 0.7 * line,
        "xtick.major.width": 0.6 * line,
        "ytick.major.width": 0.6 * line,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLOURS),
        "legend.frameon": False,
        "image.cmap": SEQUENTIAL,
        "figure.dpi": 100,
        "savefig.dpi": 300,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": "landscape-probe",
    }
    with rc_context(settings):
        yield
