"""Table of the figures by name: the variables, the size and the function of each."""

from __future__ import annotations

from collections.abc import Sequence

from landscape.figures import (
    critical_sharpness,
    diagonal,
    dynamics,
    edge_of_stability,
    neighbourhood,
    pages,
    per_batch,
    sampling,
    timeline,
)
from landscape.figures.page import Height, Page, fitting
from landscape.figures.record_view import RecordView


def _alone(shown: Sequence[RecordView], width: float) -> float:
    """Height in inches of a figure with a single Axes."""
    return min(0.72 * width, 3.6)


def _column(shown: Sequence[RecordView]) -> str:
    return "column"


def _text(shown: Sequence[RecordView]) -> str:
    return "text"


def _by_records(shown: Sequence[RecordView]) -> str:
    return "column" if len(shown) == 1 else "text"


def _of_run(shown: Sequence[RecordView]) -> bool:
    """Whether there is a single record with spectra of several checkpoints, drawn by the sign of eigenvalues."""
    return len(shown) == 1 and shown[0].groups["spectrum"].sizes["checkpoint"] > 1


def _directions(shown: Sequence[RecordView]) -> int:
    return max(record.groups["slices_1d"].sizes["direction"] for record in shown)


def _rows(name: str, high: float, tallest: float | None = None, more: int = 0, under: float = 0.0) -> Height:
    """The `Page.height` of a figure with a panel for each record and ``more`` panels.

    Args:
        name: name of the figure, a key of `landscape.figures.pages.LEAST`.
        high: height in inches of a row whose panels have the least width; wider panels are higher in proportion.
        tallest: largest height in inches of a row; None for ``high``.
        more: number of panels beside those of the records.
        under: height in inches below the panels.
    """

    def height(shown: Sequence[RecordView], width: float) -> float:
        rows, columns = fitting(width, len(shown) + more, pages.LEAST[name])
        return rows * min(high * width / columns / pages.LEAST[name], tallest or high) + under

    return height


def _height_of_profiles(shown: Sequence[RecordView], width: float) -> float:
    return 0.3 + 1.7 * len(shown) * pages.profile_lines(shown, width)[1]


def _height_of_edges(shown: Sequence[RecordView], width: float) -> float:
    return 0.4 + 2.0 * fitting(width, len(shown), edge_of_stability.LEAST)[0]


def _height_of_hops(shown: Sequence[RecordView], width: float) -> float:
    rows, columns = fitting(width, 2, pages.LEAST["hops"])
    return (0.7 if columns == 2 else 0.9) + 2.1 * rows * pages.hop_rows(shown)


_PLANE = ("direction", "norm", "converged", "first", "second", "loss")
_LINE = ("direction", "norm", "converged", "position", "loss", "standard_error", "accuracy", "quadratic")
_CRITICAL = ("along", "reason", "converged", "sharpness", "sharpness_error", "quadratic_sharpness", "descent",
             "learning_rate", "learning_rate_bracket", "tried_learning_rate", "tried_loss")  # fmt: skip
_MAP = ("eps", "delta", "kappa_label", "restates", "floor", "participation", "quantile_ratio", "negative_mass")
_PROFILE = ("profile_position", "profile_loss", "profile_error", "profile_fit", "label", "exponent",
            "exponent_interval", "eigenvalue", "converged", "height_share", "depth")  # fmt: skip
_LEARNING = ("run_step", "group_name", "grouped_by", "group_half_step", "group_half_step_interval",
             *(f"group_{name}{more}" for name in ("loss", "accuracy") for more in ("", "_interval")))  # fmt: skip
_TRACKED = ("eigenvalue", "interval", "converged", "valley_share", "valley_share_random_interval", "held",
            "certificates")  # fmt: skip
_RISES = ("radius", "set_name", "rise", "settled", "skipped", "noise_name", "average", "average_interval")
_HOPS = ("window_start", "window_end", "crossing_rate", "crossing_interval", "rate", "rate_interval",
         "rate_random_interval", "converged", "verdict", "eps", "part", "path_share", "net_share",
         "random_share")  # fmt: skip

PAGES: dict[str, Page] = {
    "eigenvalues": Page(
        {"eigenpairs": ("eigenvalues", "intervals", "converged")}, "--hessian", _column, _alone, pages.eigenvalues
    ),
    "density": Page(
        {"density": ("outliers", "nodes", "weights", "alpha", "beta")}, "--density", _column, _alone, pages.density
    ),
    "diagonal": Page(
        {"diagonal": ("tensor_name", "share", "quantiles", "tensor_error", "relative_error", "method", "converged")},
        "--diagonal", _text, diagonal.height, diagonal.diagonals,
    ),
    "per-batch": Page(
        {"per_batch": ("eigenvalue", "interval", "converged", "batch_size", "whole", "whole_converged")}, "--per-batch",
        _column, _alone, per_batch.distributions,
    ),
    "sampling-error": Page(
        {"sampling_error": ("eigenvalue", "eigenvalue_prediction", "eigenvalue_confidence", "samples")},
        "--sampling-error", _column, _alone, sampling.errors,
    ),
    "noise-scale": Page(
        {"noise_scale": ("layer", "noise_scale", "noise_scale_interval", "samples")}, "--noise-scale", _column,
        sampling.height, sampling.noise,
    ),
    "critical-sharpness": Page(
        {"critical_sharpness": _CRITICAL}, "--critical-sharpness", _column, _alone, critical_sharpness.critical
    ),
    "neighbourhood": Page(
        {"neighbourhood": _RISES}, "--neighbourhood", _column, neighbourhood.height, neighbourhood.rises
    ),
    "spectrum": Page(
        {"spectrum": ("eigenvalues", "rounding")}, "--spectrum",
        lambda shown: "text" if _of_run(shown) else "column",
        lambda shown, width: 2.5 if _of_run(shown) else _alone(shown, width), pages.spectrum,
    ),
    "slices-1d": Page(
        {"slices_1d": _LINE}, "--slice 1d", lambda shown: "column" if _directions(shown) == 1 else "text",
        lambda shown, width: 3.0 * fitting(width, _directions(shown), pages.LEAST["slices-1d"])[0], pages.lines,
    ),
    "slices-2d": Page({"slices_2d": _PLANE}, "--slice 2d", _by_records, _rows("slices-2d", 1.9, 4.5), pages.planes),
    "samples": Page({"samples": ("loss",)}, "--samples", _by_records, _rows("samples", 1.8, 3.6), pages.heat),
    "learning": Page(
        {"learning": _LEARNING}, "--samples, of a run", _by_records, _rows("learning", 3.2, 4.4), pages.learning
    ),
    "valley": Page(
        {"valley": _MAP}, "--valley, of up to 10,000 parameters", _text, _rows("valley", 1.9, 2.6, more=1),
        pages.valley_map,
    ),
    "profiles": Page({"valley": _PROFILE}, "--valley", _text, _height_of_profiles, pages.profiles),
    "edge-of-stability": Page(
        {"stability": ("eigenvalue", "eigenvalue_error", "converged", "threshold", "optimizer", "reason")},
        "--dynamics", _by_records, _height_of_edges, edge_of_stability.edges,
    ),
    "dynamics": Page(
        {"dynamics": ("run_step", "phases", *dynamics.QUANTITIES)}, "--dynamics", _text,
        lambda shown, width: 0.1 + 1.8 * fitting(width, len(dynamics.QUANTITIES), pages.LEAST["dynamics"])[0],
        pages.whole_run,
    ),
    "hops": Page({"hops": _HOPS}, "--hops", _text, _height_of_hops, pages.hopping),
    "timeline": Page(
        {"loss": ("loss", "standard_error"), "top_eigenvalues": _TRACKED}, "landscape.watch", _by_records,
        timeline.height, timeline.timeline,
    ),
}  # fmt: skip
