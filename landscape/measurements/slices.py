"""Settings, directions and extents of slices of the loss, along lines and over planes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from landscape.errors import InputError, refuse_fractions
from landscape.measurements.base import Measurement, variable
from landscape.measurements.directions import (
    PRINCIPAL,
    Found,
    digests_of,
    find_directions,
    is_checkpoint,
    refuse_unknown,
)
from landscape.measurements.run import History, Run
from landscape.reporting.messages import counted
from landscape.reporting.progress import part
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from landscape.problem import Problem
    from landscape.slices.buffers import BufferRule
    from landscape.slices.extent import Extent
    from landscape.slices.path import Path

SLICES = "Loss on lines, or a plane."
_MARGIN = 0.1  # margin beyond the run's checkpoints on either side, as a share of their span


@dataclass(frozen=True)
class Slice(Measurement):
    """A slice of the loss of one or two dimensions.

    Attributes:
        directions: names of the directions. ``filter``, ``layer`` and ``gaussian`` are random directions, normalised by
            filter, by layer or not at all. ``top`` and ``bottom`` are Hessian eigenvectors, ``gradient`` is the
            gradient, and ``pca`` is a principal component of the run's checkpoints. A path of a checkpoint is the line
            to that checkpoint, a path of a record (.h5) an eigenvector in it, and a path of a .npy file a vector. A
            repeated name stands for the next direction of its kind: the second draw, the second eigenvector. Default:
            ``filter``, one on a line and two on a plane.
        points: number of points on each axis; an even number is raised by one. Default: 51 on a line, 25 on each axis
            of a plane.
        reach: half the length of each axis, in steps along its direction. Default: None, up to where the loss has
            risen, or along a principal component up to the run's checkpoints.
        seed: seed of the random directions, of the eigenvectors' solves and of the subset. Default: 0.
        subset: number of samples, which all points and checkpoints share. Default: None, all samples.
        digests: path and sha256 of each file among the directions, set by `resolve`.
        buffers: rule for the model's buffers at the points. ``interpolate`` goes from the centre's buffers to those of
            the checkpoints that lines lead to, ``keep`` keeps the centre's, ``re-estimate`` computes BatchNorm's
            statistics at each point; see `landscape.slices.buffers.Points`. Default: ``interpolate``.
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
        """See `Measurement.settings`. A file among the directions is stored by its sha256.

        The rule for buffers is left out where the buffers stay those of the centre. Version 0.1 always kept the
        centre's buffers, so that its records have equal settings there and can be continued.
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
        """See `Measurement.depends_on_run`; principal components depend on all checkpoints of the run."""
        return PRINCIPAL in self.directions

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse unusable directions and numbers out of range; fill in defaults and the digests of files."""
        from landscape.slices.buffers import refuse_rule
        from landscape.slices.grid import positions

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

    def of_run(self, run: Run, measured: Sequence[str]) -> Self:
        """Refuse a run with too few checkpoints, or a plane along the line from a checkpoint to itself.

        k principal components need at least k + 1 checkpoints.
        """
        if own := [name for name, digest in self.digests if digest in measured and not self._of_lines]:
            raise InputError(
                f"{own[0]} is a checkpoint that gets a plane, and no line leads from a checkpoint to itself: name the "
                "steps that get a plane (--at)"
            )
        if asked := self.directions.count(PRINCIPAL):
            run.refuse_disorder(asked + 1, f"{counted(asked, 'principal component')} {'is' if asked == 1 else 'are'}")
        return self

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for each eigenvector that did not converge, and for each side on which the loss doesn't rise."""
        lines = [f"the {each} did not converge" for each in row.direction.values[~row.converged.values]]
        flat = [
            f"{direction} ({side})"
            for direction, sides in zip(row.direction.values, row.risen.values, strict=True)
            for side, risen in zip(("down", "up"), sides, strict=True)
            if not risen
        ]
        return lines + [f"the loss doesn't rise along {name} within the searched range: give --reach" for name in flat]

    def _on_subset(self, problem: Problem) -> Problem:
        return problem if self.subset is None else problem.sampled(self.subset, self.seed)

    def _find(self, problem: Problem, bar: ProgressBar, history: History) -> list[Found]:
        tell = part(bar, 0, 0.3)
        return find_directions(problem, self.directions, self.seed, dict(self.digests), history, tell)

    def _grid(self, extent: Extent) -> np.ndarray:
        from landscape.slices.grid import positions

        assert self.points is not None, "settled"
        return positions(extent.low, extent.high, self.points)

    def _extent(self, problem: Problem, found: Found, history: History, ends: Sequence[float]) -> Extent:
        """The ends of a slice along one direction.

        They are -1 and 1 for a direction of zeros, and -reach and reach if ``reach`` is set. Otherwise a principal
        component goes to the run's checkpoints, and any other direction to where the loss has risen. In these two
        cases ``ends`` lie on the slice too, with a margin.

        Args:
            problem: the problem at the centre.
            found: the direction.
            history: history with the run.
            ends: positions along the direction of the checkpoints that lines lead to.
        """
        from landscape.slices.extent import Extent, find_extent

        if found.nowhere:
            return Extent(-1.0, 1.0, np.nan, (True, True))
        if self.reach is not None:
            return Extent(-self.reach, self.reach, np.nan, (True, True))
        if np.isfinite(found.share):
            low, high = _around([*path_of_run(problem, history, [found])[0].coordinates[:, 0], *ends])
            return Extent(low, high, np.nan, (True, True))
        extent = find_extent(problem, found.direction, buffers=self.buffers)
        low, high = _around(ends)
        return replace(extent, low=min(extent.low, low), high=max(extent.high, high))


def _around(places: Sequence[float]) -> tuple[float, float]:
    """The ends of a line that holds the centre (position 0) and all of `places`, with a margin."""
    low, high = min([0.0, *places]), max([0.0, *places])
    return low - _MARGIN * (high - low), high + _MARGIN * (high - low)


def path_of_run(problem: Problem, history: History, found: Sequence[Found]) -> tuple[Path, list[str]]:
    """Project the run's checkpoints onto the span of the directions.

    Returns:
        The path, empty for a run of a single checkpoint, and the names of buffers that differ from the centre's.
    """
    from landscape.slices.buffers import differing
    from landscape.slices.path import project

    others: dict[str, None] = {}

    def points() -> Iterator[Tensor]:
        for each in history.run.problems():
            others.update(dict.fromkeys(differing(problem, each.buffers())))
            yield each.vector

    path = project(points() if len(history.run) > 1 else (), problem.vector, [each.direction for each in found])
    return path, list(others)


def titles(row: xr.Dataset) -> list[str]:
    """Name of each direction, with its detail at this checkpoint if there is any."""
    pairs = zip(row.direction.values, row.detail.values, strict=True)
    return [f"{name}, {detail}" if detail else str(name) for name, detail in pairs]


def common_variables(found: Sequence[Found], extents: Sequence[Extent], samples: int) -> dict[str, xr.Variable]:
    """Variables for the directions and extents of a slice; the directions need not be orthogonal."""
    from landscape.slices.directions import cosine

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
