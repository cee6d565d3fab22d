"""Slices of the loss through a checkpoint: along lines, and over a plane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import xarray as xr
from rich.console import RenderableType

from landscape.checkpoint import fit_state, read_checkpoint
from landscape.display import to_error
from landscape.errors import InputError, refuse_fractions
from landscape.measurements.base import History, Measured, Measurement, variable
from landscape.measurements.files import digest_of, read_vector, refuse_changed
from landscape.problem import Problem
from landscape.progress import ProgressBar
from landscape.slices.directions import (
    Direction,
    cosine,
    gaussian,
    gradient_direction,
    orthogonalised,
    towards,
    unit,
)
from landscape.slices.extent import Extent, find_extent
from landscape.slices.grid import positions
from landscape.slices.line import Line, line
from landscape.slices.plane import Plane, plane
from landscape.spectrum.eigenpairs import top_eigenpairs
from landscape.spectrum.progress import part

RANDOM: dict[str, Literal["filter", "layer", "none"]] = {"filter": "filter", "layer": "layer", "gaussian": "none"}
ENDS: dict[str, Literal["LA", "SA"]] = {"top": "LA", "bottom": "SA"}

_SAMPLES_STORED = 1e8  # bytes; of more the losses of single samples aren't kept


@dataclass(frozen=True)
class _Slice(Measurement):
    """What slices of one and of two dimensions have in common.

    Attributes:
        directions: ``filter``, ``layer`` or ``gaussian`` (random, so normalised), ``top`` or ``bottom`` (Hessian
            eigenvectors), ``gradient``, a checkpoint (the line to it) or a .npy file of a vector. One that is named
            again is the next of its kind: the second draw, the second eigenvector. Default: random ones, filter by
            filter.
        points: on each axis; an even number is raised by one. Default: 51 on a line, 25 across a plane and up.
        reach: half the length of each axis, in steps along its direction; None finds the ends by the loss's rise.
        seed: of the random directions and of the eigenvectors' solves.
        digests: sha256 of the files among the directions, in their order, once they are settled.
    """

    directions: tuple[str, ...] = ()
    points: int | None = None
    reach: float | None = None
    seed: int = 0
    digests: tuple[str, ...] = ()

    _directions_by_default: ClassVar[tuple[str, ...]]
    _points_by_default: ClassVar[int]

    @property
    def settings(self) -> dict[str, Any]:
        """See `Measurement.settings`: a file is known by its content."""
        known = self._digests
        directions = [f"sha256 {known[name]}" if name in known else name for name in self.directions]
        settings = super().settings | {"directions": directions}
        del settings["digests"]
        return settings

    @property
    def _digests(self) -> dict[str, str]:
        """Of each file, once it is settled."""
        return dict(zip(filter(_is_file, self.directions), self.digests, strict=False))

    def settle(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse directions that there are not, and numbers out of range."""
        directions = self.directions or self._directions_by_default
        points = self._points_by_default if self.points is None else self.points
        refuse_fractions(points=points, seed=self.seed)
        if self.reach is not None and not 0 < self.reach < np.inf:
            raise InputError(f"the reach of a slice must be a positive number, not {self.reach}")
        positions(-1.0, 1.0, points)
        for name in filter(_is_file, directions):
            _from_file(problem, name, self._digests.get(name))
        digests = tuple(map(digest_of, filter(_is_file, directions)))
        return replace(self, directions=directions, points=points, digests=digests)

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

    def _directions(self, problem: Problem, bar: ProgressBar) -> tuple[list[Direction], list[bool]]:
        """In the order asked for, and whether each is what it says; eigenvectors are from one solve for each end."""
        asked = Counter(self.directions)
        solved = {
            name: top_eigenpairs(problem.hessian(), asked[name], which, seed=self.seed, progress=part(bar, 0, 0.3))
            for name, which in ENDS.items()
            if name in asked
        }
        found, sure, used = [], [], Counter[str]()
        for name in self.directions:
            index, known = used[name], True
            used[name] += 1
            if name in RANDOM:
                direction = gaussian(problem, self.seed, index, RANDOM[name])
            elif name in solved:
                pairs = solved[name]
                known = bool(pairs.converged[index]) and pairs.complete
                value = to_error(float(pairs.eigenvalues[index]), float(pairs.residuals[index]) + pairs.rounding)
                direction = unit(pairs.eigenvectors[:, index], f"{name} eigenvector {index + 1}, eigenvalue {value}")
            elif name == "gradient":
                direction = gradient_direction(problem)
            else:
                direction = _from_file(problem, name, self._digests.get(name))
            found.append(direction)
            sure.append(known)
        return found, sure

    def _grid(self, extent: Extent) -> np.ndarray:
        assert self.points is not None, "settled"
        return positions(extent.low, extent.high, self.points)

    def _extent(self, problem: Problem, direction: Direction) -> Extent:
        """As asked for, or as the loss rises."""
        if self.reach is not None:
            return Extent(-self.reach, self.reach, np.nan, (True, True))
        return find_extent(problem, direction)


@dataclass(frozen=True)
class Slices1D(_Slice):
    """The loss along one line or several, with every sample's own."""

    name: ClassVar[str] = "slices_1d"
    _directions_by_default = ("filter",)
    _points_by_default = 51

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> Measured:
        """See `Measurement.measure`."""
        (directions, sure), hessian = self._directions(problem, bar), problem.hessian()
        extents = [self._extent(problem, each) for each in directions]
        lines = []
        for index, (direction, extent) in enumerate(zip(directions, extents, strict=True)):
            tell = part(bar, 0.3 + 0.7 * index / len(directions), 0.3 + 0.7 * (index + 1) / len(directions))
            lines.append(line(problem, direction, self._grid(extent), operator=hessian, progress=tell))
        return Measured(_common(directions, sure, extents) | _line_variables(lines))

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line for each direction."""
        lines: list[RenderableType] = [f"loss along {row.sizes['direction']} line(s), {row.sizes['point']} points each"]
        for i in range(row.sizes["direction"]):
            each = row.isel(direction=i)
            at, losses, errors = each.position.values, each.loss.values, each.standard_error.values
            model, lowest = each.quadratic.values, np.nanargmin(losses)
            low, high = (f"{losses[end]:.4g} ± {errors[end]:.1g} at {at[end]:.3g}" for end in (0, -1))
            lines.append(
                f"{each.direction.values}: {low}, {losses[at == 0][0]:.4g} at 0, {high} (quadratic model "
                f"{model[0]:.4g} and {model[-1]:.4g}); lowest {losses[lowest]:.4g} at {at[lowest]:.3g}; "
                f"step {float(each.norm):.3g}, slope {float(each.slope):.3g}, curvature {float(each.curvature):.4g}"
            )
        return lines


@dataclass(frozen=True)
class Slices2D(_Slice):
    """The loss over the plane of two directions, the second orthogonal to the first."""

    name: ClassVar[str] = "slices_2d"
    _directions_by_default = ("filter", "filter")
    _points_by_default = 25

    def settle(self, problem: Problem, checkpoints: int) -> Self:
        """Two directions make a plane."""
        settled = super().settle(problem, checkpoints)
        if len(settled.directions) != 2:
            raise InputError(f"a plane has two directions, and {len(settled.directions)} given")
        return settled

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> Measured:
        """See `Measurement.measure`."""
        given, sure = self._directions(problem, bar)
        first, second = directions = orthogonalised(given)
        extents = [self._extent(problem, each) for each in directions]
        across, up = map(self._grid, extents)
        found = plane(problem, first, second, across, up, part(bar, 0.3, 1.0))
        angle = {"cosine_given": variable((), cosine(*given), "cosine of the directions as they were given")}
        return Measured(_common(directions, sure, extents) | angle | _plane_variables(found))

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """What the plane is of, and where the loss is lowest."""
        losses = row.loss.values
        lowest = np.unravel_index(np.nanargmin(losses), losses.shape)
        at, first, second = (row.first.values, row.second.values), row.direction.values[0], row.direction.values[1]
        centre = losses[np.flatnonzero(at[1] == 0)[0], np.flatnonzero(at[0] == 0)[0]]
        return [
            f"loss over the plane of {first} (across) and {second} (up): {losses.shape[1]} x {losses.shape[0]} points",
            f"{centre:.4g} at the checkpoint, lowest {losses[lowest]:.4g} at ({at[0][lowest[1]]:.3g}, "
            f"{at[1][lowest[0]]:.3g}), highest {np.nanmax(losses):.4g}; across {at[0][0]:.3g} to {at[0][-1]:.3g}, up "
            f"{at[1][0]:.3g} to {at[1][-1]:.3g}, in steps of {row.norm.values[0]:.3g} and {row.norm.values[1]:.3g}",
        ]


def _is_file(direction: str) -> bool:
    return direction not in (*RANDOM, *ENDS, "gradient")


def _from_file(problem: Problem, path: str, digest: str | None) -> Direction:
    """A vector of the user's, or the line to another checkpoint."""
    name = Path(path).name
    if path.endswith(".npy"):
        vector = read_vector(path, digest)
        if vector.shape != (problem.layout.dim,) or vector.is_complex():
            raise InputError(f"{path} has shape {tuple(vector.shape)}, the parameters' vector ({problem.layout.dim},)")
        vector = vector.to(problem.device, problem.dtype)
        if not vector.isfinite().all() or not vector.any():
            raise InputError(f"{path} is no direction: it is zero, or has entries that are NaN or infinite")
        return Direction(vector, name)
    if not Path(path).exists():
        raise InputError(
            f"there is no direction {path!r}: it is {', '.join([*RANDOM, *ENDS])}, gradient, a checkpoint's path or "
            "that of a .npy file"
        )
    checkpoint = read_checkpoint(path)
    refuse_changed(path, digest, checkpoint.sha256)
    state, _ = fit_state(checkpoint.state, problem.model, path)
    return towards(problem, problem.with_state(state).vector, f"line to {name}")


def _common(directions: Sequence[Direction], sure: Sequence[bool], extents: Sequence[Extent]) -> dict[str, xr.Variable]:
    """What is known of the directions, one orthogonal to the other or not."""
    cosines = [[cosine(one, other) for other in directions] for one in directions]
    return {
        "direction": variable("direction", [each.name for each in directions], "what a slice goes along", ""),
        "converged": variable(
            "direction", sure, "an eigenvector's solve reached its goal; true of any other direction"
        ),
        "norm": variable("direction", [each.norm for each in directions], "length of a step of 1", "parameter"),
        "cosine": variable(("direction", "other_direction"), cosines, "cosine of the angle between two directions"),
        "risen": variable(("direction", "side"), [each.risen for each in extents], "the loss has risen at this end"),
        "rise": variable("direction", [each.rise for each in extents], "by so much; NaN where ends were given", "loss"),
    }


def _line_variables(lines: Sequence[Line]) -> dict[str, xr.Variable]:
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
    }
