"""Measure valley hopping and progress along the river, over windows of a run with a checkpoint at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.errors import InputError, refuse_fractions
from landscape.measurements.base import Flag, Measurement, RowData, variable
from landscape.measurements.run import History, Run
from landscape.reporting.messages import counted
from landscape.reporting.progress import Progress, part
from landscape.reporting.progress_bar import ProgressBar
from landscape.spectrum.limits import MAX_DIM

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.dynamics import Displacement, Hops
    from landscape.problem import Problem

THRESHOLDS = (1e-3, 1e-2, 0.1)  # eps, relative to the largest eigenvalue
_UNITS = "loss / parameter^2"


@dataclass(frozen=True)
class ValleyHops(Measurement):
    """Whether steps cross the valley's floor along eigenvectors, and how steps split into valley, river and the rest.

    A window is a stretch of checkpoints one step apart. Its eigenvectors are taken at its middle checkpoint: all of
    them for up to 10,000 parameters, else the top k. See `landscape.dynamics.hops` and
    `landscape.dynamics.displacement`.

    Attributes:
        k: number of valley directions, the eigenvectors of largest eigenvalue. Default: 10.
        tol: goal for the eigenpairs' relative residual, where only the top k are computed. Default: 1e-3.
        seed: seed of the solver and of the random directions. Default: 0.
    """

    k: int = 10
    tol: float = 1e-3
    seed: int = 0

    name: ClassVar[str] = "hops"
    flag: ClassVar[Flag] = Flag("hops", "Valley hopping, from checkpoints of every step.")
    figures: ClassVar[tuple[str, ...]] = ("hops",)
    over_run: ClassVar[bool] = True

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse the settings that the eigenpairs' solver would refuse."""
        from landscape.spectrum.eigenpairs import check_arguments

        refuse_fractions(k=self.k)
        check_arguments(problem.layout.dim, self.k, "LA", self.tol, self.seed, None)
        return self

    def of_run(self, run: Run, measured: Sequence[str]) -> Self:
        """Refuse a run with an unknown step, or with no window long enough for a verdict."""
        from landscape.dynamics import fewest_updates

        needed = fewest_updates(self.k)
        if None in run.steps:
            raise InputError("hops need successive steps, and some of these checkpoints have no step: give --step-from")
        longest = max((stop - start for start, stop in _windows(run)), default=0)
        if longest < needed:
            raise InputError(
                f"hops along {counted(self.k, 'direction')} need at least {needed} successive steps, each with its "
                f"checkpoint; the longest stretch here has {longest}: ask for fewer directions (-k), or save more steps"
            )
        return self

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.dynamics import fewest_updates

        stretches = _windows(history.run)
        windows = [each for each in stretches if each[1] - each[0] >= fewest_updates(self.k)]
        results = []
        for index, (start, stop) in enumerate(windows):
            tell = part(bar, index / len(windows), (index + 1) / len(windows))
            results.append(self._window(history.run, start, stop, tell))
        short = variable((), len(stretches) - len(windows), "stretches of steps too short for any answer, left out")
        return RowData(_variables(results, history.run) | {"left_out": short})

    def _window(self, run: Run, start: int, stop: int, tell: Callable[[Progress], None]) -> _Window:
        from landscape.dynamics import displacement, hops

        middle = (start + stop) // 2
        points = np.array([run.load(place).vector.cpu().numpy() for place in range(start, stop + 1)])
        values, vectors, error, converged = self._eigenpairs(run.load(middle), tell)
        updates = np.diff(points, axis=0)
        largest = float(values[0])
        eps = np.array(THRESHOLDS) * max(largest, 0.0)
        return _Window(
            start,
            middle,
            stop,
            values[: self.k],
            error,
            converged,
            hops(updates, vectors[:, : self.k], seed=self.seed),
            displacement(updates, vectors, values, eps),
        )

    def _eigenpairs(
        self, problem: Problem, tell: Callable[[Progress], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The eigenpairs at one checkpoint, m of them: all n, or the top k.

        Returns:
            Eigenvalues (m,), descending; eigenvectors (n, m), orthonormal; errors (k,) of the first k eigenvalues;
            whether each of the first k converged (k,).
        """
        from landscape.spectrum.eigenpairs import top_eigenpairs
        from landscape.spectrum.full import full_spectrum

        if problem.layout.dim <= MAX_DIM:
            full = full_spectrum(problem.hessian(problem.layout.dim), eigenvectors=True, progress=tell)
            assert full.eigenvectors is not None, "asked for"
            return full.eigenvalues, full.eigenvectors, np.full(self.k, full.rounding), np.full(self.k, True)
        pairs = top_eigenpairs(problem.hessian(), self.k, "LA", self.tol, self.seed, progress=tell)
        vectors = np.linalg.qr(pairs.eigenvectors.cpu().numpy().astype(np.float64))[0]
        return pairs.eigenvalues, vectors, pairs.residuals + pairs.rounding, pairs.converged & pairs.complete

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for directions that did not converge."""
        open_ones = int((~row.converged.values).sum())
        return [f"{open_ones} of the directions did not converge: raise --tol"] if open_ones else []

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """Tables of the rates of each window, and how its steps split."""
        from rich.table import Table

        lines: list[RenderableType] = []
        if left_out := int(row.left_out):
            lines.append(f"hops: {left_out} of the stretches of successive steps are too short and left out")
        for i in range(row.sizes["window"]):
            each = row.isel(window=i)
            table = Table("direction", "eigenvalue", "crossings of the floor", "sign changes of updates", "verdict")
            for j in range(row.sizes["direction"]):
                one = each.isel(direction=j)
                table.add_row(
                    str(j + 1), f"{float(one.eigenvalue):.4g}", _rate(one.crossing_rate, one.crossing_interval),
                    _rate(one.rate, one.rate_interval), str(one.verdict.values),
                )  # fmt: skip
            lines += [
                f"hops over steps {int(each.window_start)} to {int(each.window_end)}, eigenvectors at "
                f"{int(each.window_middle)}: how often a step crosses the floor, more than 0.5 where it hops; how "
                "often successive updates change sign, 0.5 if independent, along random directions "
                f"{_rate(each.rate_random, each.rate_random_interval)}",
                table,
                *(_split(each.isel(threshold=j)) for j in range(row.sizes["threshold"])),
            ]
        return lines


@dataclass(frozen=True)
class _Window:
    """Results of one window: indices of checkpoints in the run, eigenvalues (k,) with errors, hops and displacement."""

    start: int
    middle: int
    stop: int
    eigenvalues: np.ndarray
    errors: np.ndarray
    converged: np.ndarray
    hops: Hops
    displacement: Displacement


def _windows(run: Run) -> list[tuple[int, int]]:
    """The indices of the first and the last checkpoint of each stretch of checkpoints one step apart."""
    stretches: list[tuple[int, int]] = []
    for place in range(1, len(run)):
        before, here = run.steps[place - 1], run.steps[place]
        if before is None or here is None or here != before + 1:
            continue
        if stretches and stretches[-1][1] == place - 1:
            stretches[-1] = (stretches[-1][0], place)
        else:
            stretches.append((place - 1, place))
    return stretches


def _rate(rate: xr.DataArray, interval: xr.DataArray) -> str:
    low, high = interval.values
    return f"{float(rate):.2f} [{low:.2f}, {high:.2f}]"


def _split(row: xr.Dataset) -> str:
    """A line on how the steps of a window split, at one threshold."""
    from landscape.dynamics import PARTS

    parts = ", ".join(
        f"{part} {path:.1%} of the path (at random {random:.1%}), {net:.1%} of the way, straightness {straight:.2f}"
        for part, path, random, net, straight in zip(
            PARTS, row.path_share.values, row.random_share.values, row.net_share.values, row.straightness.values,
            strict=True,
        )
        if path > 0
    )  # fmt: skip
    return f"eps {float(row.eps):.2g}: {parts}"


def _variables(found: list[_Window], run: Run) -> dict[str, xr.Variable]:
    from landscape.dynamics import PARTS, verdicts

    steps, at, split = run.positions, ("window", "direction"), ("window", "threshold", "part")
    longest = max(len(each.hops.components) for each in found)
    components = np.full((len(found), longest, len(found[0].eigenvalues)), np.nan)
    for row, each in zip(components, found, strict=True):
        row[: len(each.hops.components)] = each.hops.components

    def of(name: str) -> np.ndarray:
        return np.array([getattr(each.hops, name) for each in found])

    def shares(name: str) -> np.ndarray:
        return np.array([getattr(each.displacement, name) for each in found])

    return {
        "window_start": variable("window", [steps[each.start] for each in found], "first step of a window"),
        "window_middle": variable("window", [steps[each.middle] for each in found], "step of the eigenvectors"),
        "window_end": variable("window", [steps[each.stop] for each in found], "last step of a window"),
        "eigenvalue": variable(at, [each.eigenvalues for each in found], "of a valley direction", _UNITS),
        "eigenvalue_error": variable(at, [each.errors for each in found], "its error", _UNITS),
        "converged": variable(at, [each.converged for each in found], "the solve reached its goal"),
        "component": variable(
            ("window", "update", "direction"), components, "of each update along a direction; NaN beyond", "parameter"
        ),
        "usable": variable(at, of("usable"), "components that aren't rounding"),
        "crossing_rate": variable(at, of("crossing_rates"), "steps that cross the floor by all steps"),
        "crossing_interval": variable((*at, "bound"), of("crossing_intervals"), "95 %, as of independent crossings"),
        "rate": variable(at, of("rates"), "changes of sign by pairs of successive updates"),
        "rate_interval": variable((*at, "bound"), of("rate_intervals"), "95 %, as of independent changes"),
        "rate_random": variable("window", of("random_rate"), "mean rate along random directions"),
        "rate_random_interval": variable(("window", "bound"), of("random_interval"), "95 % of their rates"),
        "p_value": variable(at, of("p_values"), "of neither hops nor drift, two-sided, each direction by itself"),
        "verdict": variable(
            at,
            verdicts([each.hops for each in found]),
            "hops, drifts, like noise or undecided, at 5 % for all together",
            "",
        ),
        "eps": variable(("window", "threshold"), shares("eps"), "threshold of valley and river", _UNITS),
        "part": variable("part", list(PARTS), "part of parameter space", ""),
        "path_share": variable(split, shares("path_shares"), "of the summed squared lengths of the updates"),
        "net_share": variable(split, shares("net_shares"), "of the squared length of their sum"),
        "random_share": variable(split, shares("random_shares"), "of a random direction"),
        "straightness": variable(split, shares("straightness"), "length of the sum by the sum of the lengths"),
    }
