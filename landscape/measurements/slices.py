"""Slices of the loss through a checkpoint: along lines, and over a plane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from rich.console import RenderableType
from torch import Tensor

from landscape.errors import InputError, refuse_fractions
from landscape.measurements.base import History, Measured, Measurement, Run, variable
from landscape.measurements.directions import (
    PRINCIPAL,
    Found,
    digests_of,
    find_directions,
    is_checkpoint,
    refuse_unknown,
)
from landscape.measurements.samples import told_about
from landscape.problem import Problem
from landscape.reporting.messages import counted, listed
from landscape.reporting.progress import part
from landscape.reporting.progress_bar import ProgressBar
from landscape.slices.adaptive import refuse_tolerance, span
from landscape.slices.buffers import BufferRule, differing, refuse_rule
from landscape.slices.directions import cosine, orthogonalised
from landscape.slices.extent import Extent, find_extent
from landscape.slices.grid import positions
from landscape.slices.line import Line, line
from landscape.slices.path import Path, project
from landscape.slices.plane import Plane, plane

_MARGIN = 0.1  # beyond the run's checkpoints on either side, by what they span
_TURNED = 1e-3  # a cosine beyond which orthogonalising leaves another direction
_SAMPLES_STORED = 1e8  # bytes; of more the losses of single samples aren't kept


@dataclass(frozen=True)
class _Slice(Measurement):
    """What slices of one and of two dimensions have in common.

    Attributes:
        directions: ``filter``, ``layer`` or ``gaussian`` (random, so normalised), ``top`` or ``bottom`` (Hessian
            eigenvectors), ``gradient``, ``pca`` (a principal component of the run's checkpoints), a checkpoint (the
            line to it), a record (an eigenvector in it) or a .npy file of a vector. One that is named again is the next
            of its kind: the second draw, the second eigenvector. Default: random ones, filter by filter.
        points: on each axis; an even number is raised by one. Default: 51 on a line, 25 across a plane and up.
        reach: half the length of each axis, in steps along its direction; None finds the ends by the loss's rise, and
            along a principal component by the run's checkpoints.
        seed: of the random directions, of the eigenvectors' solves and of the subset.
        subset: how many samples, the same at every point and checkpoint; None for all.
        digests: the files among the directions with their sha256, once they are settled.
        buffers: what the model's buffers are at the points: ``interpolate`` those of the checkpoints that lines lead
            to, ``keep`` those of the centre, or ``re-estimate`` BatchNorm's; see `landscape.slices.buffers.Points`.
    """

    directions: tuple[str, ...] = ()
    points: int | None = None
    reach: float | None = None
    seed: int = 0
    subset: int | None = None
    digests: tuple[tuple[str, str], ...] = ()
    buffers: BufferRule = "interpolate"

    selective: ClassVar[bool] = True

    _directions_by_default: ClassVar[tuple[str, ...]]
    _points_by_default: ClassVar[int]
    _of_lines: ClassVar[bool]

    @property
    def settings(self) -> dict[str, Any]:
        """See `Measurement.settings`: a file is known by its content, and kept buffers need no word.

        Records of 0.1, which kept them, are so gone on with where they are right.
        """
        known = dict(self.digests)
        directions = [f"sha256 {known[name]}" if name in known else name for name in self.directions]
        settings = super().settings | {"directions": directions}
        del settings["digests"]
        if self.buffers == "keep" or (self.buffers == "interpolate" and not any(map(is_checkpoint, self.directions))):
            del settings["buffers"]
        return settings

    @property
    def depends_on_run(self) -> bool:
        """See `Measurement.depends_on_run`: components are of its checkpoints."""
        return PRINCIPAL in self.directions

    def settle(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse directions that there are not, and numbers out of range."""
        directions = self.directions or self._directions_by_default
        points = self._points_by_default if self.points is None else self.points
        refuse_fractions(points=points, seed=self.seed)
        if self.reach is not None and not 0 < self.reach < np.inf:
            raise InputError(f"the reach of a slice must be a positive number, not {self.reach}")
        if self.subset is not None:
            problem.sampled(self.subset, self.seed)
        positions(-1.0, 1.0, points)
        refuse_rule(problem, self.buffers)
        refuse_unknown(problem, directions, left_out=checkpoints > 1)
        digests = tuple(digests_of(directions).items())
        return replace(self, directions=directions, points=points, digests=self.digests or digests)

    def check_run(self, run: Run, measured: Sequence[str]) -> None:
        """Principal components take one checkpoint more than there are of them, and no plane has a line to itself."""
        if own := [name for name, digest in self.digests if digest in measured and not self._of_lines]:
            raise InputError(
                f"{own[0]} is among the checkpoints that have a plane, and no line leads from it to itself: name the "
                "steps that should have one (--at)"
            )
        if asked := self.directions.count(PRINCIPAL):
            run.refuse_disorder(asked + 1, f"{counted(asked, 'principal component')}")

    def shortfalls(self, row: xr.Dataset) -> list[str]:
        """Eigenvectors that did not converge, and sides on which the loss doesn't rise, so that there is no end."""
        lines = [f"the {each} did not converge" for each in row.direction.values[~row.converged.values]]
        flat = [
            f"{direction} ({side})"
            for direction, sides in zip(row.direction.values, row.risen.values, strict=True)
            for side, risen in zip(("down", "up"), sides, strict=True)
            if not risen
        ]
        return lines + [f"the loss doesn't rise along {name}, as far as was looked: give --reach" for name in flat]

    def _on_subset(self, problem: Problem) -> Problem:
        return problem if self.subset is None else problem.sampled(self.subset, self.seed)

    def _find(self, problem: Problem, bar: ProgressBar, history: History) -> list[Found]:
        tell = part(bar, 0, 0.3)
        return find_directions(problem, self.directions, self.seed, dict(self.digests), history, tell)

    def _grid(self, extent: Extent) -> np.ndarray:
        assert self.points is not None, "settled"
        return positions(extent.low, extent.high, self.points)

    def _extent(self, problem: Problem, found: Found, history: History, ends: Sequence[float]) -> Extent:
        """As asked for, or along a principal component to where the run has been, or as the loss rises.

        Args:
            problem: at the centre.
            found: the direction.
            history: with the run.
            ends: where along the direction the checkpoints lie that lines lead to: they are shown in any case.
        """
        if found.nowhere:
            return Extent(-1.0, 1.0, np.nan, (True, True))
        if self.reach is not None:
            return Extent(-self.reach, self.reach, np.nan, (True, True))
        if np.isfinite(found.share):
            low, high = _around([*_path(problem, history, [found])[0].coordinates[:, 0], *ends])
            return Extent(low, high, np.nan, (True, True))
        extent = find_extent(problem, found.direction, buffers=self.buffers)
        low, high = _around(ends)
        return replace(extent, low=min(extent.low, low), high=max(extent.high, high))


@dataclass(frozen=True)
class Slices1D(_Slice):
    """The loss along one line or several, with every sample's own."""

    name: ClassVar[str] = "slices_1d"
    _directions_by_default = ("filter",)
    _points_by_default = 51
    _of_lines = True

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> Measured:
        """See `Measurement.measure`."""
        problem = self._on_subset(problem)
        found, hessian = self._find(problem, bar, history), problem.hessian()
        extents = [self._extent(problem, each, history, [1.0] if each.direction.ends else []) for each in found]
        lines = []
        for index, (each, extent) in enumerate(zip(found, extents, strict=True)):
            tell = part(bar, 0.3 + 0.7 * index / len(found), 0.3 + 0.7 * (index + 1) / len(found))
            grid = self._grid(extent)
            if each.nowhere:
                lines.append(_left_out(problem, each, grid))
                continue
            lines.append(line(problem, each.direction, grid, buffers=self.buffers, operator=hessian, progress=tell))
        samples = problem.by_sample().estimate().samples
        return Measured(
            _common(found, extents, samples) | _line_variables(lines, told_about(problem)),
            notes=[note for each in lines for note in each.notes],
        )

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line for each direction."""
        lines: list[RenderableType] = [
            f"loss along {counted(int((row.norm > 0).sum()), 'line')}, {row.sizes['point']} points each, on "
            f"{counted(int(row.samples), 'sample')}"
        ]
        for i in range(row.sizes["direction"]):
            each = row.isel(direction=i)
            if not each.norm:
                continue
            at, losses, errors = each.position.values, each.loss.values, each.standard_error.values
            model, lowest = each.quadratic.values, np.nanargmin(losses)
            low, high = (f"{losses[end]:.4g} ± {errors[end]:.1g} at {at[end]:.3g}" for end in (0, -1))
            lines.append(
                f"{_titles(row)[i]}: {low}, {losses[at == 0][0]:.4g} at 0, {high} (quadratic model "
                f"{model[0]:.4g} and {model[-1]:.4g}); lowest {losses[lowest]:.4g} at {at[lowest]:.3g}; "
                f"step {float(each.norm):.3g}, slope {float(each.slope):.3g}, curvature {float(each.curvature):.4g}"
            )
        return lines


def _left_out(problem: Problem, found: Found, grid: np.ndarray) -> Line:
    """What stands for a line to the checkpoint itself, beside the lines of other directions and checkpoints."""
    missing, weights = np.full(len(grid), np.nan), problem.by_sample().weights.cpu().numpy()
    return Line(
        positions=grid,
        losses=missing,
        standard_errors=missing,
        accuracies=missing,
        sample_losses=np.full((len(weights), len(grid)), np.nan),
        sample_weights=weights,
        slope=np.nan,
        curvature=np.nan,
        norm=0.0,
        notes=(f"the {found.direction.name} is left out here: this checkpoint has its weights",),
    )


@dataclass(frozen=True)
class Slices2D(_Slice):
    """The loss over the plane of two directions, the second made orthogonal to the first, and the run's path on it.

    The path is of the checkpoints that were named when the plane was drawn; a row that was there before keeps its own.

    Attributes:
        adaptive: the error by the loss's range that may be found where points are interpolated; None evaluates all.
    """

    adaptive: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Without what is left at its default, so that records of before it was there are gone on with."""
        settings = super().settings
        return settings if self.adaptive is not None else {k: v for k, v in settings.items() if k != "adaptive"}

    name: ClassVar[str] = "slices_2d"
    _directions_by_default = ("filter", "filter")
    _points_by_default = 25
    _of_lines = False

    def settle(self, problem: Problem, checkpoints: int) -> Self:
        """Two directions make a plane."""
        if self.adaptive is not None:
            refuse_tolerance(self.adaptive)
        settled = super().settle(problem, checkpoints)
        if len(settled.directions) != 2:
            raise InputError(f"a plane has two directions, and {len(settled.directions)} given")
        return settled

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> Measured:
        """See `Measurement.measure`."""
        problem = self._on_subset(problem)
        given = self._find(problem, bar, history)
        first, second = straight = orthogonalised([each.direction for each in given])
        angle = cosine(*(each.direction for each in given))
        found = [replace(each, direction=direction) for each, direction in zip(given, straight, strict=True)]
        ends = _ends(problem, given, found)
        extents = [
            self._extent(problem, each, history, along) for each, along in zip(found, ends.coordinates.T, strict=True)
        ]
        across, up = map(self._grid, extents)
        made = plane(
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
        if abs(angle) > _TURNED:  # what was known of the second was of another direction
            found[1] = Found(straight[1], "turned orthogonal to the first", found[1].converged)
        samples = problem.by_sample().estimate().samples
        path, others = _path(problem, history, found)
        return Measured(
            _common(found, extents, samples)
            | {"cosine_given": variable((), angle, "cosine of the directions as they were given")}
            | _plane_variables(made)
            | _path_variables(path, history)
            | _end_variables(ends, given),
            notes=(*made.notes, *([_not_their_own(others)] if others else [])),
        )

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """What the plane is of, and where the loss is lowest."""
        losses = row.loss.values
        lowest = np.unravel_index(np.nanargmin(losses), losses.shape)
        at, (first, second) = (row.first.values, row.second.values), _titles(row)
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


def _around(places: Sequence[float]) -> tuple[float, float]:
    """The ends of a line through the centre that shows every place on it, with a margin."""
    low, high = min([0.0, *places]), max([0.0, *places])
    return low - _MARGIN * (high - low), high + _MARGIN * (high - low)


def _ends(problem: Problem, given: Sequence[Found], found: Sequence[Found]) -> Path:
    """Where the checkpoints that lines lead to lie on the span of the directions, made orthogonal or not."""
    ends = (problem.vector + each.direction.vector for each in given if each.direction.ends)
    return project(ends, problem.vector, [each.direction for each in found])


def _path(problem: Problem, history: History, found: Sequence[Found]) -> tuple[Path, list[str]]:
    """The run's checkpoints on the span of the directions, and which of their buffers differ from the centre's.

    Of none where there is one checkpoint alone.
    """
    others: dict[str, None] = {}

    def points() -> Iterator[Tensor]:
        for each in history.run.problems():
            others.update(dict.fromkeys(differing(problem, each.buffers())))
            yield each.vector

    path = project(points() if len(history.run) > 1 else (), problem.vector, [each.direction for each in found])
    return path, list(others)


def _not_their_own(buffers: Sequence[str]) -> str:
    """A note on the losses that a plane has where the run's checkpoints lie."""
    return (
        f"the run's checkpoints have other buffers ({listed(buffers)}): where one lies on the plane, the plane's loss "
        "need not be that checkpoint's own"
    )


def _interpolated(row: xr.Dataset) -> str:
    """How many of a plane's points were evaluated, if not all."""
    if "evaluated" not in row:
        return ""
    evaluated, error, whole = row.evaluated.values, float(row.interpolation_error), span(row.loss.values)
    if evaluated.all():
        return ""
    return (
        f", {int(evaluated.sum()):,} of {evaluated.size:,} evaluated and the others interpolated; the largest error "
        f"found where most was in doubt is {error:.2g}, {error / (whole or np.nan):.1%} of the range"
    )


def _titles(row: xr.Dataset) -> list[str]:
    """Each direction with what is known of it."""
    pairs = zip(row.direction.values, row.detail.values, strict=True)
    return [f"{name}, {detail}" if detail else str(name) for name, detail in pairs]


def _of_path(row: xr.Dataset) -> list[str]:
    """How much of the run the plane shows, and where on it lines to checkpoints end."""
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


def _common(found: Sequence[Found], extents: Sequence[Extent], samples: int) -> dict[str, xr.Variable]:
    """What is known of the directions, one orthogonal to the other or not."""
    directions = [each.direction for each in found]
    cosines = [[cosine(one, other) for other in directions] for one in directions]
    return {
        "direction": variable("direction", [each.name for each in directions], "what a slice goes along", ""),
        "detail": variable("direction", [each.detail for each in found], "what is known of it at this checkpoint", ""),
        "converged": variable(
            "direction", [each.converged for each in found], "an eigenvector's solve reached its goal; else true"
        ),
        "norm": variable("direction", [each.norm for each in directions], "length of a step of 1", "parameter"),
        "cosine": variable(("direction", "other_direction"), cosines, "cosine of the angle between two directions"),
        "risen": variable(("direction", "side"), [each.risen for each in extents], "the loss has risen at this end"),
        "rise": variable("direction", [each.rise for each in extents], "by so much; NaN where ends were given", "loss"),
        "variance_share": variable(
            "direction", [each.share for each in found], "of the run's checkpoints, by a principal component; else NaN"
        ),
        "variance_share_random_walk": variable(
            "direction", [each.random_walk for each in found], "the same for a random walk in many dimensions"
        ),
        "samples": variable((), samples, "number of samples at every point"),
    }


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


def _line_variables(lines: Sequence[Line], about: dict[str, xr.Variable]) -> dict[str, xr.Variable]:
    at, samples = ("direction", "point"), np.array([each.sample_losses for each in lines])
    variables = {
        "position": variable(at, [each.positions for each in lines], "steps along the direction"),
        "loss": variable(at, [each.losses for each in lines], "objective there", "loss"),
        "standard_error": variable(at, [each.standard_errors for each in lines], "over samples", "loss"),
        "accuracy": variable(at, [each.accuracies for each in lines], "share of terms that are right"),
        "quadratic": variable(at, [each.quadratic for each in lines], "prediction of the quadratic model", "loss"),
        "slope": variable("direction", [each.slope for each in lines], "d^T g for a step d of 1", "loss"),
        "curvature": variable("direction", [each.curvature for each in lines], "d^T H d for a step d of 1", "loss"),
    }
    if samples.nbytes <= _SAMPLES_STORED:
        variables |= {
            "sample_loss": variable(("direction", "sample", "point"), samples, "mean loss of a sample's terms", "loss"),
            "sample_weight": variable("sample", lines[0].sample_weights, "weight of a sample's terms in the objective"),
            **about,
        }
    return variables


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
