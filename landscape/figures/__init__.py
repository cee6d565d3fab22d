"""Figures of records. Nothing is measured here: everything drawn is in the record.

    with landscape.figures.styled("paper"):
        figure = landscape.figures.draw("slices-2d", ["single.h5", "looped.h5"])
        figure.savefig("planes.pdf")

For your own figures, the functions ``draw_...`` of the modules draw on a matplotlib Axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from matplotlib.figure import Figure

from landscape.errors import InputError
from landscape.figures.critical_sharpness import draw_along_update, draw_critical_sharpness
from landscape.figures.diagonal import draw_diagonal
from landscape.figures.dynamics import draw_hops, draw_quantity, draw_shares
from landscape.figures.edge_of_stability import draw_edge_of_stability
from landscape.figures.groups import draw_groups, draw_scalar, identities_of
from landscape.figures.neighbourhood import draw_neighbourhood
from landscape.figures.page import Page
from landscape.figures.per_batch import draw_per_batch
from landscape.figures.record_view import HESSIAN, RecordView, distinguished
from landscape.figures.samples import draw_learning, draw_samples
from landscape.figures.sampling import draw_noise_scale, draw_sampling_error
from landscape.figures.saving import rendered, save, write
from landscape.figures.slices import draw_accuracy, draw_line, draw_plane, levels_of
from landscape.figures.spectra import draw_density, draw_eigenvalues, draw_spectrum
from landscape.figures.style import COLOURS, FONT_SIZES, WIDTHS, FigureStyle, styled
from landscape.figures.summary import SUMMARY
from landscape.figures.table import PAGES as SINGLE
from landscape.figures.valley import draw_map, draw_profile, draw_restates
from landscape.plugins import added, load
from landscape.reporting.deprecation import renamed_exports
from landscape.reporting.messages import listed

__all__ = [
    "COLOURS",
    "FONT_SIZES",
    "HESSIAN",
    "PAGES",
    "WIDTHS",
    "FigureStyle",
    "RecordView",
    "available",
    "distinguished",
    "draw",
    "draw_accuracy",
    "draw_along_update",
    "draw_critical_sharpness",
    "draw_density",
    "draw_diagonal",
    "draw_edge_of_stability",
    "draw_eigenvalues",
    "draw_groups",
    "draw_hops",
    "draw_learning",
    "draw_line",
    "draw_map",
    "draw_neighbourhood",
    "draw_noise_scale",
    "draw_per_batch",
    "draw_plane",
    "draw_profile",
    "draw_quantity",
    "draw_restates",
    "draw_samples",
    "draw_sampling_error",
    "draw_scalar",
    "draw_shares",
    "draw_spectrum",
    "identities_of",
    "levels_of",
    "rendered",
    "save",
    "styled",
    "write",
]


__getattr__ = renamed_exports(__name__, Look="FigureStyle", Shown="RecordView")
PAGES = {**SINGLE, "summary": SUMMARY}


def available(shown: Sequence[RecordView]) -> list[str]:
    """Names of the figures that can be drawn of all these records together.

    Raises:
        InputError: no figure can be drawn.
    """
    drawable = [name for name, page in PAGES.items() if all(page.lacking(record) is None for record in shown)]
    if drawable == ["summary"]:
        names = " and ".join(record.identity["record"] for record in shown)
        raise InputError(
            f"{names}: no figure can be drawn from these measurements; measure more, see landscape-probe --help"
        )
    return drawable


def draw(
    name: str, records: Sequence[str | Path | RecordView] | str | Path | RecordView, look: FigureStyle | None = None
) -> Figure:
    """Draw a figure of one record or several.

    Args:
        name: name of the figure: a key of `PAGES`, or a figure of another package.
        records: the records, as paths or as `RecordView`.
        look: style of the figure. Default: that of a paper.

    Raises:
        InputError: there is no such figure, there are no records or too many, a record lacks a variable of the figure,
            or the figure isn't legible at the requested width.
    """
    if isinstance(records, str | Path | RecordView):
        records = [records]
    views = [each if isinstance(each, RecordView) else RecordView.read(each) for each in records]
    if not 0 < len(views) <= len(COLOURS):
        raise InputError(f"a figure shows 1 to {len(COLOURS)} records, a colour for each, not {len(views)}")
    page = _page(name)
    for record in views:
        if missing := page.lacking(record):
            raise InputError(
                f"{record.identity['record']} has {missing}, which the figure {name} needs: measure it with "
                f"{f'landscape-probe ... {page.option}' if page.option.startswith('--') else page.option}"
            )
    look = look or FigureStyle()
    if reason := page.narrow(look):
        raise InputError(f"{name} {reason}")
    return page.figure(distinguished(views), look)


def _page(name: str) -> Page:
    """The page of a figure, by name, of this package or of another one."""
    if name in PAGES:
        return PAGES[name]
    others = added("landscape.figures")
    if name not in others:
        near = get_close_matches(name, [*PAGES, *others], 1)
        hint = f"did you mean {near[0]}? There" if near else "there"
        raise InputError(f"there is no figure {name!r}; {hint} are {listed([*PAGES, *others], 30)}")
    page: Page = load(others[name], lambda each: isinstance(each, Page))
    return page
