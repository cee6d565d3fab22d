"""The figures of single measurements by name, with what each needs."""

from __future__ import annotations

from collections.abc import Sequence

from landscape.figures import dynamics, pages
from landscape.figures.page import Page, sized
from landscape.figures.shown import Shown

_HALF, _WHOLE = ("column", 2.4), ("text", 2.9)


def _size_of_spectrum(shown: Sequence[Shown]) -> tuple[str, float]:
    several = len(shown) == 1 and shown[0].groups["spectrum"].sizes["checkpoint"] > 1
    return ("text", 2.7) if several else _HALF


def _size_of_lines(shown: Sequence[Shown]) -> tuple[str, float]:
    directions = max(record.groups["slices_1d"].sizes["direction"] for record in shown)
    return ("column", 3.1) if directions == 1 else ("text", 3.3)


def _size_of_hops(shown: Sequence[Shown]) -> tuple[str, float]:
    return "text", 0.8 + 2.1 * pages.hop_rows(shown)


_PLANE = ("direction", "norm", "converged", "first", "second", "loss")
_LINE = ("direction", "norm", "converged", "position", "loss", "standard_error", "accuracy", "quadratic")
_MAP = ("eps", "delta", "kappa_label", "restates", "floor", "participation", "quantile_ratio", "negative_mass")
_PROFILE = ("profile_position", "profile_loss", "profile_error", "profile_fit", "label", "exponent",
            "exponent_interval", "eigenvalue", "converged", "height_share", "depth")  # fmt: skip
_LEARNING = ("run_step", "group_name", "grouped_by", "group_half_step", "group_half_step_interval",
             *(f"group_{name}{more}" for name in ("loss", "accuracy") for more in ("", "_interval")))  # fmt: skip
_HOPS = ("window_start", "window_end", "crossing_rate", "crossing_interval", "rate", "rate_interval",
         "rate_random_interval", "converged", "verdict", "eps", "part", "path_share", "net_share",
         "random_share")  # fmt: skip

PAGES: dict[str, Page] = {
    "eigenvalues": Page(
        {"hessian": ("eigenvalues", "intervals", "converged")}, "--hessian", sized(_HALF), pages.eigenvalues
    ),
    "density": Page(
        {"density": ("outliers", "nodes", "weights", "alpha", "beta")}, "--density", sized(("column", 2.6)),
        pages.density,
    ),
    "spectrum": Page({"spectrum": ("eigenvalues", "rounding")}, "--spectrum", _size_of_spectrum, pages.spectrum),
    "slices-1d": Page({"slices_1d": _LINE}, "--slice 1d", _size_of_lines, pages.lines),
    "slices-2d": Page({"slices_2d": _PLANE}, "--slice 2d", sized(("column", 2.9), ("text", 2.9)), pages.planes),
    "samples": Page({"samples": ("loss",)}, "--samples", sized(("column", 3.0), ("text", 3.3)), pages.heat),
    "learning": Page(
        {"learning": _LEARNING}, "--samples, of a run", sized(("column", 3.4), ("text", 4.0)), pages.learning
    ),
    "valley": Page({"valley": _MAP}, "--valley, of up to 10,000 parameters", sized(_WHOLE), pages.valley_map),
    "profiles": Page({"valley": _PROFILE}, "--valley", sized(("text", 2.2), ("text", 3.8), 1.6), pages.profiles),
    "dynamics": Page(
        {"dynamics": ("run_step", "phases", *dynamics.QUANTITIES)}, "--dynamics", sized(("text", 4.1)),
        pages.whole_run,
    ),
    "hops": Page({"hops": _HOPS}, "--hops", _size_of_hops, pages.hopping),
}  # fmt: skip
