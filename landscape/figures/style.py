"""How figures look: sizes of a paper's columns, colours that everybody can tell apart, fonts that stay fonts."""

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

WIDTHS = {"column": 3.35, "text": 6.9}  # inches, of a paper in two columns
FONT_SIZES: dict[StyleName, float] = {"paper": 7.0, "talk": 14.0, "notebook": 10.0}
SMALLEST = 6.0  # points of notes and of what is written into axes, in papers: the least that journals print

# Okabe and Ito (2008, "Color universal design"): told apart with any colour vision, and in grey by their order.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SEQUENTIAL, DIVERGING = "viridis", "cividis"


@dataclass(frozen=True)
class FigureStyle:
    """What a reader chooses of a figure.

    Attributes:
        style: ``paper``, ``talk`` or ``notebook``: the size of the letters.
        width: of the figure in inches; None takes what the figure is made for.
        kind: of a plane: ``contour`` lines, ``filled`` contours, or a ``surface``.
        scale: of a plane's loss; linear in any case where a loss isn't positive.
        step: of the checkpoint that is drawn, where a figure is of one; None takes the last.
    """

    style: StyleName = "paper"
    width: float | None = None
    kind: Kind = "filled"
    scale: Scale = "log"
    step: int | None = None


def small() -> float:
    """The size of the smallest letters in points, within `styled`."""
    return SMALLEST / FONT_SIZES["paper"] * float(rcParams["font.size"])


@contextmanager
def styled(style: StyleName) -> Iterator[None]:
    """Matplotlib's settings for a style, as long as the block lasts; drawing and saving both belong into it."""
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
