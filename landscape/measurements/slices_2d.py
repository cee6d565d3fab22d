"""Measure the loss over a plane through a checkpoint, and the path of the run on the plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from landscape.errors import InputError
from landscape.measurements.base import Flag, RowData, variable
from landscape.measurements.cost import EXTENT, Cost, hessian, of_solve
from landscape.measurements.directions import Found
from landscape.measurements.run import History
from landscape.measurements.slices import SLICES, Slice, common_variables, path_of_run, titles
from landscape.reporting.messages import counted, listed
from landscape.reporting.progress import part
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.slices.path import Path
    from landscape.slices.planes import Plane

_TURNED = 1e-3  # |cosine| beyond which orthogonalising changes the second direction noticeably


@dataclass(frozen=True)
class Slices2D(Slice):
    """The loss over the plane of two directions, the second made orthogonal to the first, and the run's path on it.

    The path has the checkpoints of the request that measured the row. A later request with more checkpoints leaves a
    stored row as it is. See `Slice` for the other settings.

    Attributes:
        adaptive: goal for the largest error that is found where points are interpolated, as a share of the loss's
            range. Default: None, which evaluates all points.
    """

    adaptive: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """See `Slice.settings`; ``adaptive`` is left out at its default.

        Records from before that setting have equal settings, and can be continued.
        """
        settings = super().settings
        return settings if self.adaptive is not None else {k: v for k, v in settings.items() if k != "adaptive"}

    name: ClassVar[str] = "slices_2d"
    flag: ClassVar[Flag] = Flag("slices", SLICES, ("--slice",), choice="2d")
    figures: ClassVar[tuple[str, ...]] = ("slices-2d",)
    _directions_by_default = ("filter", "filter")
    _points_by_default = 25
    _of_lines = False

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse a number of directions other than two, and the settings that `Slice.resolve` refuses."""
        from landscape.slices.adaptive import refuse_tolerance

        if self.adaptive is not None:
            refuse_tolerance(self.adaptive)
        resolved = super().resolve(problem, checkpoints)
        if len(resolved.directions) != 2:
            raise InputError(f"a plane has two directions, and {len(resolved.directions)} are given")
        return resolved

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: the points of the whole grid and its ends, and a solve for eigenvectors."""
        assert self.points is not None, "resolved"
        products = len({"top", "bottom"}.intersection(self.directions)) * of_solve(2)
        return Cost(products, self.points**2 + 2 * EXTENT, "about", hessian, products)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.slices.directions import cosine, orthogonalised
        from landscape.slices.planes import plane

        problem = self._on_subset(problem)
        chosen = self._find(problem, bar, history)
        first, second = straight = orthogonalised([each.direction for each in chosen])
        angle = cosine(*(each.direction for each in chosen))
        drawn = [replace(each, direction=direction) for each, direction in zip(chosen, straight, strict=True)]
        ends = _ends(problem, chosen, drawn)
        extents = [
            self._extent(problem, each, history, along) for each, along in zip(drawn, ends.coordinates.T, strict=True)
        ]
        across, up = map(self._grid, extents)
        surface = plane(
            problem,
            first,
            second,
            across,
            up,
            buffers=self.buffers,
            adaptive=self.adaptive,
            seed=self.seed,
            progress=part(bar, 0.3, 1.0),
        )
        if abs(angle) > _TURNED:  # the detail of the second was of the direction as it was given
            drawn[1] = Found(straight[1], "turned orthogonal to the first", drawn[1].converged)
        samples = problem.by_sample().estimate().samples
        path, others = path_of_run(problem, history, drawn)
        return RowData(
            common_variables(drawn, extents, samples)
            | {"cosine_given": variable((), angle, "cosine of the directions as they were given")}
            | _plane_variables(surface)
            | _path_variables(path, history)
            | _end_variables(ends, chosen),
            notes=(*surface.notes, *([_not_their_own(others)] if others else [])),
        )

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The directions, the losses at the centre and at the lowest and highest points, and the path of the run."""
        losses = row.loss.values
        lowest = np.unravel_index(np.nanargmin(losses), losses.shape)
        at, (first, second) = (row.first.values, row.second.values), titles(row)
        centre = losses[np.flatnonzero(at[1] == 0)[0], np.flatnonzero(at[0] == 0)[0]]
        return [
            f"loss over the plane of {first} (across) and {second} (up): {losses.shape[1]} x {losses.shape[0]} points"
            f"{_interpolated(row)}",
            f"{centre:.4g} at the checkpoint, lowest {losses[lowest]:.4g} at ({at[0][lowest[1]]:.3g}, "
            f"{at[1][lowest[0]]:.3g}), highest {np.nanmax(losses):.4g}; across {at[0][0]:.3g} to {at[0][-1]:.3g}, up "
            f"{at[1][0]:.3g} to {at[1][-1]:.3g}, in steps of {row.norm.values[0]:.3g} and {row.norm.values[1]:.3g}, on "
            f"{counted(int(row.samples), 'sample')}",
            *_of_path(row),
        ]


def _ends(problem: Problem, given: Sequence[Found], found: Sequence[Found]) -> Path:
    """Project the checkpoints that lines lead to onto the span of the directions in `found`."""
    from landscape.slices.path import project

    ends = (problem.vector + each.direction.vector for each in given if each.direction.ends)
    return project(ends, problem.vector, [each.direction for each in found])


def _not_their_own(buffers: Sequence[str]) -> str:
    """A note that the plane's loss may differ from that of a checkpoint of the run with other buffers."""
    return (
        f"the run's checkpoints have other buffers ({listed(buffers)}): at a checkpoint's place, the plane's loss can "
        "differ from the checkpoint's own loss"
    )


def _interpolated(row: xr.Dataset) -> str:
    """Text on how many points of a plane were evaluated; empty if all were."""
    from landscape.slices.adaptive import span

    if "evaluated" not in row:
        return ""
    evaluated, error, whole = row.evaluated.values, float(row.interpolation_error), span(row.loss.values)
    if evaluated.all():
        return ""
    return (
        f", {int(evaluated.sum()):,} of {evaluated.size:,} evaluated and the others interpolated; the largest error "
        f"found at the most doubtful points is {error:.2g}, {error / (whole or np.nan):.1%} of the range"
    )


def _of_path(row: xr.Dataset) -> list[str]:
    """Lines on where lines to checkpoints end, how far the run is off the plane, and how much variance is on it."""
    lines = []
    if "end_name" in row:
        ends = zip(row.end_name.values, row.end_first.values, row.end_second.values, strict=True)
        lines.append(", ".join(f"the {name} ends at ({x:.2f}, {y:.2f})" for name, x, y in ends))
    if row.sizes["run"]:
        far = float(np.nanmax(row.path_distance.values))
        lines.append(f"the run's {row.sizes['run']} checkpoints lie up to {far:.3g} off the plane")
    for name, share, walk in zip(
        row.direction.values, row.variance_share.values, row.variance_share_random_walk.values, strict=True
    ):
        if np.isfinite(share):
            lines.append(f"{name}: {share:.1%} of the checkpoints' variance, {walk:.1%} of a random walk's")
    return lines


def _path_variables(path: Path, history: History) -> dict[str, xr.Variable]:
    count = len(path.distances)
    steps = [-1 if step is None else step for step in history.run.steps[:count]]
    return {
        "path_step": variable(
            "run", np.array(steps, dtype=np.int64), "step of each of the run's checkpoints, -1 unknown"
        ),
        "path_first": variable(
            "run", path.coordinates[:, 0], "its place on the plane, steps along the first direction"
        ),
        "path_second": variable("run", path.coordinates[:, 1], "the same along the second direction"),
        "path_distance": variable("run", path.distances, "its distance from the plane", "parameter"),
    }


def _end_variables(ends: Path, given: Sequence[Found]) -> dict[str, xr.Variable]:
    names = [each.direction.name for each in given if each.direction.ends]
    if not names:
        return {}
    return {
        "end_name": variable("end", names, "the line that leads to a checkpoint", ""),
        "end_first": variable("end", ends.coordinates[:, 0], "its place, steps along the first direction"),
        "end_second": variable("end", ends.coordinates[:, 1], "the same along the second direction"),
    }


def _plane_variables(found: Plane) -> dict[str, xr.Variable]:
    at = ("row", "column")
    return {
        "first": variable("column", found.first, "steps along the first direction"),
        "second": variable("row", found.second, "steps along the second direction"),
        "loss": variable(at, found.losses, "objective there", "loss"),
        "standard_error": variable(at, found.standard_errors, "over samples", "loss"),
        "accuracy": variable(at, found.accuracies, "share of terms that are right"),
        "evaluated": variable(at, found.evaluated, "the loss was evaluated here, not interpolated"),
        "interpolation_error": variable(
            (), found.interpolation_error, "largest error found in the last rounds of interpolation", "loss"
        ),
    }
