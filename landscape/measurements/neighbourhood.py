"""Measure the rise of the loss in a neighbourhood of the weights: the largest rise found, and the mean under noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.errors import InputError, refuse_fractions
from landscape.measurements.base import Flag, Measurement, RowData, variable
from landscape.measurements.cost import Cost
from landscape.measurements.eigenpairs import known_eigenpairs
from landscape.measurements.matrix import Matrix
from landscape.measurements.run import History
from landscape.reporting.display import to_error
from landscape.reporting.messages import counted, listed
from landscape.reporting.progress import part
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import torch
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.sharpness.average_case import AverageCase
    from landscape.sharpness.neighbourhood import WorstCase

RADII = (0.001, 0.005, 0.01, 0.05, 0.1)
"""Default radii: 0.001 of the box in Keskar et al. 2017, 0.05 of the ball in SAM, two between them, and twice SAM's.

ASAM's published code has 0.5 for the adaptive ball. A box of that radius changes every weight by at least 0.5, and an
ascent in such a box rarely settles. So 0.5 isn't a default.
"""
PAIRS = 30
"""Default number of pairs: with 10, intervals hold less often where one eigenvalue dominates (docs/sharpness.md)."""
_EVALUATIONS = 340  # work of a radius without that of the noise, in losses of the problem's type
_NAMES = {"ball": "ball", "adaptive": "adaptive ball", "box": "box"}


@dataclass(frozen=True)
class Neighbourhood(Measurement):
    """The rise of the loss in a ball, an adaptive ball and a box, and under Gaussian noise, for each radius.

    The largest rise found in a neighbourhood is a lower bound of the maximum; see `landscape.sharpness.neighbourhood`.
    The mean under noise is an estimate; see `landscape.sharpness.average_case`. If the record has the Hessian's top
    eigenpairs of this checkpoint, the ascents also start along the eigenvector of the largest eigenvalue, and the row
    has an upper bound of the local quadratic model in the ball.

    Attributes:
        radii: radii of the neighbourhoods. Default: None, which takes `RADII`.
        steps: largest number of steps of an ascent. Default: 100.
        probes: number of antithetic pairs of noise. Default: None, which takes `PAIRS`.
        seed: seed of all random vectors. Default: 0.
    """

    radii: Sequence[float] | None = None
    steps: int = 100
    probes: int | None = None
    seed: int = 0

    name: ClassVar[str] = "neighbourhood"
    flag: ClassVar[Flag] = Flag("neighbourhood", "Rise of the loss in a neighbourhood, by radius.")
    figures: ClassVar[tuple[str, ...]] = ("neighbourhood",)
    makes_products: ClassVar[bool] = False
    selective: ClassVar[bool] = True

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse settings out of range, and put the radii in ascending order, each once."""
        from landscape.spectrum.probes import check_goal

        probes = PAIRS if self.probes is None else self.probes
        check_goal("mean under noise", None, probes, self.seed, None)
        refuse_fractions(steps=self.steps)
        if self.steps < 1:
            raise InputError(f"an ascent has at least 1 step, not {self.steps}")
        radii = tuple(sorted({float(each) for each in self.radii or RADII}))
        if wrong := [each for each in radii if not 0 < each < math.inf]:
            raise InputError(f"a radius is a positive number, not {wrong[0]:g}")
        return replace(self, radii=radii, probes=probes)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: the ascents, and two kinds of noise with two losses in float64 for each pair."""
        assert self.radii is not None, "resolved"
        assert self.probes is not None, "resolved"
        return Cost(losses=len(self.radii) * (_EVALUATIONS + 8 * self.probes), vectors=2 * 10)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.sharpness.average_case import NOISES, average_case
        from landscape.sharpness.neighbourhood import NAMES, worst_case
        from landscape.sharpness.rises import Rises

        assert self.radii is not None, "resolved"
        assert self.probes is not None, "resolved"
        rises, top = Rises(problem), self._top(history)
        directions, worst, average = [] if top is None else [top[1]], [], []
        for place, name in enumerate(NAMES):
            tell = part(bar, place / 4, (place + 1) / 4)
            worst.append(
                worst_case(
                    rises, name, self.radii, directions=directions, steps=self.steps, seed=self.seed, progress=tell
                )
            )
        for place, noise in enumerate(NOISES):
            tell = part(bar, 0.75 + place / 8, 0.75 + (place + 1) / 8)
            average.append(average_case(rises, noise, self.radii, pairs=self.probes, seed=self.seed, progress=tell))
        model = np.full(len(self.radii), np.nan)
        if top is not None:
            radii = np.array(self.radii)
            model = radii * float(rises.gradient.norm()) + radii**2 * top[0] / 2
        samples = rises.estimate(rises.base.losses)
        return RowData(
            {
                "radius": variable("radius", self.radii, "radius of the neighbourhoods, in the units of each"),
                "loss": variable((), rises.loss, "loss at the weights", "loss"),
                "gradient_norm": variable((), float(rises.gradient.norm()), "of the gradient", "loss / parameter"),
                **_worst(NAMES, worst),
                "keskar": variable(
                    "radius",
                    _keskar(worst[NAMES.index("box")].rises, rises.loss),
                    "100 rise / (1 + loss), of the box",
                    "%",
                ),
                "quadratic_bound": variable(
                    "radius", model, "upper bound of the local quadratic model in the ball, not of the loss", "loss"
                ),
                **_average(tuple(NOISES), average),
                "pairs": variable((), self.probes, "antithetic pairs of noise"),
                "rounding": variable((), rises.rounding, "estimated size of the rounding error of a rise", "loss"),
                "rounding_is_measured": variable((), rises.rounding_is_measured, "by float32 against float64"),
                "arithmetic": variable((), rises.arithmetic, "how the losses are computed", ""),
                "losses": variable((), rises.losses, "losses evaluated on all samples"),
                "gradients": variable((), rises.gradients, "gradients evaluated on all samples"),
                "samples": variable((), samples.samples, "number of samples"),
                "parameters": variable((), problem.layout.dim, "number of trainable parameters"),
                "moving": variable(
                    (), int((rises.vector != 0).sum()), "parameters that aren't 0: these move adaptively"
                ),
            },
            {"eigenvector": top is not None},
        )

    def _top(self, history: History) -> tuple[float, torch.Tensor] | None:
        """Upper end of the largest eigenvalue's interval, and its eigenvector (dim,), if the record has converged ones.

        Eigenpairs of largest magnitude contain the largest eigenvalue, if one of them is positive.
        """
        pairs = known_eigenpairs(Matrix(seed=self.seed), history)
        if pairs is None or not pairs.complete:
            return None
        place = int(np.argmax(pairs.eigenvalues))
        if not pairs.eigenvalues[place] > 0:
            return None
        return float(pairs.intervals[place, 1]), pairs.eigenvectors[:, place]

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for ascents that the limit on steps ended, for points without a finite loss, and for such means."""
        lines = []
        for place, name in enumerate(row.set_name.values):
            within = f"the {_NAMES[str(name)]} of radius"
            if open_radii := row.radius.values[~row.settled.values[place].astype(bool)].tolist():
                lines.append(
                    f"an ascent in {within} {_radii(open_radii)} still rose after {self.steps} steps, or met a "
                    "gradient that isn't finite: raise --steps, or give smaller --radii"
                )
            if skipped := row.radius.values[row.skipped.values[place] > 0].tolist():
                lines.append(
                    f"the loss is NaN or infinite at points of {within} {_radii(skipped)}, which the search left out: "
                    "give smaller --radii"
                )
        for place, noise in enumerate(row.noise_name.values):
            if lost := row.radius.values[~np.isfinite(row.average.values[place])].tolist():
                lines.append(
                    f"the mean under {noise} noise of radius {_radii(lost)} is NaN or infinite: give smaller --radii"
                )
        return lines

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A table of the largest rises found, a table of the means under noise, and the work."""
        from rich.table import Table

        known = row.quadratic_bound.notnull().any()
        worst = Table("set", "radius", "one step", "largest", "± (samples)", "")
        average = Table("noise", "radius", "mean", "95 % interval", "± (samples)")
        for table in (worst, average):
            for column in table.columns[1:5]:
                column.justify = "right"
        for name, each in _by_radius(row, "set"):
            further = ""
            if name == "ball" and known:
                further = f"model ≤ {float(each.quadratic_bound):.3g}"
            elif name == "box":
                further = f"Keskar {float(each.keskar):.3g} %"
            values = (_above(float(value), row) for value in (each.one_step, each.rise))
            worst.add_row(name, f"{float(each.radius):g}", *values, f"{float(each.rise_standard_error):.1e}", further)
        for name, each in _by_radius(row, "noise"):
            low, high = each.average_interval.values
            width = (high - low) / 2
            average.add_row(
                name, f"{float(each.radius):g}", to_error(float(each.average), width),
                f"{to_error(low, width)} to {to_error(high, width)}", f"{float(each.average_sample_error):.1e}",
            )  # fmt: skip
        qualified = "about" if row.rounding_is_measured else "at least"
        return [
            f"largest rise of the loss that was found within each radius, a lower bound of the maximum; losses "
            f"{row.arithmetic.values}",
            worst,
            *(["model ≤: upper bound of the local quadratic model in the ball, not of the loss"] if known else []),
            f"mean rise under Gaussian noise, an estimate from {counted(int(row.pairs), 'antithetic pair')}",
            average,
            f"± (samples): standard error over {counted(int(row.samples), 'sample')} for these steps; rounding "
            f"{qualified} {float(row.rounding):.0e}",
            f"{counted(int(row.losses), 'loss')} and {counted(int(row.gradients), 'gradient')}",
        ]


def _worst(names: Sequence[str], found: Sequence[WorstCase]) -> dict[str, xr.Variable]:
    at = ("set", "radius")
    return {
        "set_name": variable("set", list(names), "shape of the neighbourhood", ""),
        "rise": variable(
            at, [each.rises for each in found], "largest rise found, a lower bound of the maximum", "loss"
        ),
        "rise_standard_error": variable(
            at, [each.standard_errors for each in found], "over samples, for the step that was found", "loss"
        ),
        "one_step": variable(at, [each.one_step for each in found], "rise at SAM's step along the gradient", "loss"),
        "settled": variable(at, [each.settled for each in found], "no ascent was ended by the limit on its steps"),
        "skipped": variable(at, [each.skipped for each in found], "points without a finite loss, left out"),
    }


def _average(names: Sequence[str], found: Sequence[AverageCase]) -> dict[str, xr.Variable]:
    at, estimates = ("noise", "radius"), [each.estimates for each in found]
    return {
        "noise_name": variable("noise", list(names), "kind of the Gaussian noise", ""),
        "average": variable(at, [[one.value for one in each] for each in estimates], "mean rise under noise", "loss"),
        "average_standard_error": variable(
            at, [[one.standard_error for one in each] for each in estimates], "over pairs of noise", "loss"
        ),
        "average_interval": variable(
            (*at, "bound"), [[(one.low, one.high) for one in each] for each in estimates], "95 %, over pairs", "loss"
        ),
        "average_sample_error": variable(
            at, [each.sample_errors for each in found], "standard error over samples, for the noise drawn", "loss"
        ),
    }


def _keskar(rises: np.ndarray, loss: float) -> np.ndarray:
    """Metric 2.1 of Keskar et al. 2017 in percent, (r,); NaN where the loss is -1 or less, where it has no sense."""
    return 100 * rises / (1 + loss) if loss > -1 else np.full(len(rises), np.nan)


def _by_radius(row: xr.Dataset, kind: str) -> list[tuple[str, xr.Dataset]]:
    """The name and the numbers of every neighbourhood, or of every noise, at every radius."""
    names = row[f"{kind}_name"].values
    return [
        (str(name), row.isel({kind: place, "radius": radius}))
        for place, name in enumerate(names)
        for radius in range(row.sizes["radius"])
    ]


def _above(value: float, row: xr.Dataset) -> str:
    """A rise as text; marked where its size is below that of its rounding error."""
    return f"{value:.4g}" + (" (rounding)" if abs(value) <= float(row.rounding) else "")


def _radii(radii: Sequence[float]) -> str:
    return listed([f"{each:g}" for each in radii])
