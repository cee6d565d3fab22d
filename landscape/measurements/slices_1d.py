"""Measure the loss along lines through a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from landscape.measurements.base import Flag, RowData, variable
from landscape.measurements.cost import EXTENT, Cost, hessian, of_solve
from landscape.measurements.directions import Found
from landscape.measurements.run import History
from landscape.measurements.samples import about_variables
from landscape.measurements.slices import SLICES, Slice, common_variables, titles
from landscape.reporting.messages import counted
from landscape.reporting.progress import part
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.slices.lines import Line

_SAMPLES_STORED = 1e8  # bytes, up to which the losses of single samples are stored


@dataclass(frozen=True)
class Slices1D(Slice):
    """The loss along one line or several, with the loss of each sample; see `Slice` for the settings."""

    name: ClassVar[str] = "slices_1d"
    flag: ClassVar[Flag] = Flag("slices", SLICES, ("--slice",), choice="1d")
    figures: ClassVar[tuple[str, ...]] = ("slices-1d",)
    _directions_by_default = ("filter",)
    _points_by_default = 51
    _of_lines = True

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: the points and the ends of each line, and a solve for eigenvectors."""
        assert self.points is not None, "resolved"
        number, solves = len(self.directions), len({"top", "bottom"}.intersection(self.directions))
        products = number + solves * of_solve(1)
        return Cost(products, number * (self.points + EXTENT), "about", hessian, solves * of_solve(1))

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.slices.lines import line

        problem = self._on_subset(problem)
        directions, hessian = self._find(problem, bar, history), problem.hessian()
        extents = [self._extent(problem, each, history, [1.0] if each.direction.ends else []) for each in directions]
        lines = []
        for index, (each, extent) in enumerate(zip(directions, extents, strict=True)):
            tell = part(bar, 0.3 + 0.7 * index / len(directions), 0.3 + 0.7 * (index + 1) / len(directions))
            grid = self._grid(extent)
            if each.nowhere:
                lines.append(_left_out(problem, each, grid))
                continue
            lines.append(line(problem, each.direction, grid, buffers=self.buffers, operator=hessian, progress=tell))
        samples = problem.by_sample().estimate().samples
        return RowData(
            common_variables(directions, extents, samples) | _line_variables(lines, about_variables(problem)),
            notes=[note for each in lines for note in each.notes],
        )

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line of text for each direction."""
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
                f"{titles(row)[i]}: {low}, {losses[at == 0][0]:.4g} at 0, {high} (quadratic model "
                f"{model[0]:.4g} and {model[-1]:.4g}); lowest {losses[lowest]:.4g} at {at[lowest]:.3g}; "
                f"step {float(each.norm):.3g}, slope {float(each.slope):.3g}, curvature {float(each.curvature):.4g}"
            )
        return lines


def _left_out(problem: Problem, found: Found, grid: np.ndarray) -> Line:
    """A `Line` of NaN for the line from a checkpoint to itself.

    Rows of other checkpoints have losses there, and all rows have the shape of the directions.
    """
    from landscape.slices.lines import Line

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
        notes=(f"the {found.direction.name} is left out: this checkpoint has the same weights",),
    )


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
