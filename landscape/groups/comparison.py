"""The result of comparing groups of runs, and its summary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from landscape.dynamics.inference import LEVEL
from landscape.reporting.display import HasSummary
from landscape.reporting.messages import counted, listed


@dataclass(frozen=True)
class GroupComparison(HasSummary):
    """Means of groups of runs, and the differences between the groups.

    Attributes:
        data: an xarray Dataset with the dimensions ``group``, ``scalar``, ``step``, ``run``, ``pair`` (of groups) and
            ``bound``. The coordinates of the first three, and of ``pair``, are names and training steps; -1 is an
            unknown step. Values that a scalar doesn't have at a step are NaN. Its variables are:

            - ``value (run, scalar, step)``: the runs' values; NaN where left out. ``run_group``, ``run_path``,
              ``run_seed`` (-1 without one) and ``run_fingerprint (run)`` say which run it is.
            - ``mean (group, scalar, step)`` and ``mean_interval (..., bound)``: mean over the runs, and its 95 % t
              interval; NaN for fewer than two runs.
            - ``runs``, ``not_finite``, ``not_converged (group, scalar, step)``: number of values in the mean, and of
              values left out because they aren't finite, or because their computation did not converge.
            - ``difference (pair, scalar, step)``: mean of the pair's first group less that of the second.
            - ``difference_interval`` and ``simultaneous_interval (..., bound)``: its 95 % interval by itself, and the
              wider interval that holds for all comparisons at once with 95 % (Bonferroni).
            - ``p_value`` and ``p_adjusted (pair, scalar, step)``: two-sided p-value of the t test by itself, and
              adjusted for all comparisons (Holm). Holm's test rejects more than simultaneous intervals that miss zero.
            - ``degrees_of_freedom``, ``first_runs``, ``second_runs (pair, scalar, step)``; ``paired (pair)``.
            - ``long_name`` and ``units (scalar)``.
        comparisons: number of comparisons that Holm's correction is for: the p-values of all pairs of groups, scalars
            and steps.
        notes: sentences on what was left out, how runs were paired, and in what the records differ.
    """

    data: xr.Dataset
    comparisons: int
    notes: tuple[str, ...]

    @property
    def summary(self) -> list[str]:
        """The last step of every scalar with intervals, the size of the family, and the notes."""
        data = self.data
        counts = [f"{name} {counted(int((data.run_group == name).sum()), 'run')}" for name in data.group.values]
        lines = [f"{', '.join(counts)}; 95 % t intervals over runs"]
        for name in data.scalar.values:
            lines += self._of_scalar(data.sel(scalar=name))
        if data.sizes["pair"]:
            shape = [counted(data.sizes[dim], noun) for dim, noun in (("scalar", "scalar"), ("step", "step"))]
            lines.append(
                f"{counted(self.comparisons, 'comparison')} are corrected together (Holm): {shape[0]}, {shape[1]}, "
                f"{counted(data.sizes['pair'], 'pair')} of groups, where a test can be made"
            )
        return [*lines, *self.notes]

    def _of_scalar(self, data: xr.Dataset) -> list[str]:
        """Lines for one scalar: means at its last step, and a line for each pair of groups."""
        last = data.isel(step=_last_of(data))
        means = [
            f"{each.group.values} {_with_interval(float(each['mean']), each.mean_interval.values)}" + _left_out(each)
            for each in (last.sel(group=group) for group in data.group.values)
        ]
        lines = [f"{data.scalar.values} at step {int(last.step)}: {', '.join(means)}"]
        for place in range(data.sizes["pair"]):
            pair = last.isel(pair=place)
            found = _with_interval(float(pair.difference), pair.difference_interval.values)
            p_values = data.p_adjusted.isel(pair=place).values
            tested, differ = int(np.isfinite(p_values).sum()), int((p_values <= LEVEL).sum())
            runs = f"{int(pair.first_runs)}" if pair.paired else f"{int(pair.first_runs)} and {int(pair.second_runs)}"
            kind = f"{runs} pairs" if pair.paired else f"{runs} runs"
            verdict = f"adjusted p {float(pair.p_adjusted):.2g}" if pair.p_adjusted.notnull() else "no test"
            lines.append(
                f"    {pair.pair.values}: {found}, {kind}, {verdict}; differs at {differ} of {counted(tested, 'step')}"
            )
        return lines


def _last_of(data: xr.Dataset) -> int:
    """The last step at which a scalar was compared."""
    there = (data.runs + data.not_finite + data.not_converged).sum("group").values > 0
    return int(np.flatnonzero(there)[-1])


def _with_interval(value: float, interval: np.ndarray) -> str:
    low, high = interval
    return f"{value:.4g} [{low:.4g}, {high:.4g}]" if np.isfinite(low) else f"{value:.4g}"


def _left_out(place: xr.Dataset) -> str:
    """Text on the runs that one mean leaves out."""
    parts = [f"{int(place[name])} {text}" for name, text in
             (("not_finite", "not finite"), ("not_converged", "not converged")) if place[name] > 0]  # fmt: skip
    return f" (left out: {listed(parts)})" if parts else ""
