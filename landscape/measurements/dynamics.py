"""Measure how the spectrum changes over a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.errors import InputError
from landscape.measurements.base import Flag, Measurement, RowData, variable
from landscape.measurements.run import History, Run
from landscape.measurements.spectrum import LEADING, Spectrum
from landscape.measurements.stability import Stability
from landscape.reporting.messages import counted
from landscape.reporting.progress_bar import ProgressBar
from landscape.spectrum.limits import MAX_DIM

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.dynamics import Information, Overlap
    from landscape.dynamics.phase_search import Phases
    from landscape.problem import Problem


def without_too_large(measurements: Sequence[Measurement], dim: int) -> tuple[list[Measurement], tuple[str, ...]]:
    """Leave out `Dynamics` and the spectra that it reads where the model is too large for full spectra.

    Args:
        measurements: the requested measurements.
        dim: number of parameters of the model.

    Returns:
        The measurements to make, and a note on those left out. A spectrum that was requested by itself stays; its
        `resolve` refuses the model.
    """
    dropped = [each for each in measurements if isinstance(each, Dynamics) or getattr(each, "leading", False)]
    if dim <= MAX_DIM or not any(isinstance(each, Dynamics) for each in dropped):
        return list(measurements), ()
    note = (
        "--dynamics leaves out entropy, information and phases: they need full spectra, which are computed for up to "
        f"{MAX_DIM:,} parameters, and there are {dim:,}; restrict the parameters (--params)"
    )
    return [each for each in measurements if each not in dropped], (note,)


@dataclass(frozen=True)
class Dynamics(Measurement):
    """Entropy, effective rank and negative mass over a run, information and overlap of successive spectra, and phases.

    Computed from the rows of `Spectrum` (with leading eigenvectors) and of `Stability`; see `landscape.dynamics`.

    Attributes:
        seed: seed of the draws under every null hypothesis. Default: 0.
    """

    seed: int = 0

    name: ClassVar[str] = "dynamics"
    flag: ClassVar[Flag] = Stability.flag
    figures: ClassVar[tuple[str, ...]] = ("dynamics",)
    over_run: ClassVar[bool] = True

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Return the measurement unchanged: no setting is left to decide."""
        return self

    def of_run(self, run: Run, measured: Sequence[str]) -> Self:
        """See `Run.refuse_disorder`."""
        run.refuse_disorder(2, "dynamics are")
        return self

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.dynamics import spectrum_measures

        rows, steps = history.run.rows(Spectrum.group), history.run.positions
        if any("leading_vectors" not in row for row in rows):
            raise InputError(f"dynamics need leading eigenvectors of each spectrum: Spectrum(leading={LEADING})")
        precision = str(problem.dtype).removeprefix("torch.")
        measures = [spectrum_measures(row.eigenvalues.values, float(row.rounding)) for row in rows]
        values = {
            "run_step": variable("run", steps, "step of each checkpoint; its place where steps aren't known"),
        }
        for name, title in (
            ("entropy", "matrix entropy -sum p log p, p = |lambda| / sum |lambda|"),
            ("effective_rank", "exp of the entropy"),
            ("negative_mass", "magnitudes of the negative eigenvalues by those of all"),
        ):
            values[name] = variable("run", [getattr(each, name) for each in measures], title)
            intervals = [getattr(each, f"{name}_interval") for each in measures]
            values[f"{name}_interval"] = variable(("run", "bound"), intervals, "its range under rounding")
        pairs = list(pairwise(rows))
        values |= _informations("information", "rank-paired", [self._paired(*each, precision) for each in pairs])
        values |= _informations("joint_information", "joint", [self._joint(*each) for each in pairs])
        parted = sum(str(after.previous.values) != str(before.sha256.values) for before, after in pairs)
        values["joint_missing"] = variable((), parted, "pairs of spectra that weren't measured one after the other")
        values["leading_count"] = variable(
            "run", [_above_rounding(row) for row in rows], "leading eigenvectors whose eigenvalue is above rounding"
        )
        overlaps = [self._overlap(*each) for each in pairs]
        values["overlap"] = variable(
            "run", [np.nan, *(each.value for each in overlaps)], "||V^T V'||_F^2 / k with the leading V' before"
        )
        values["overlap_null"] = variable(
            "run", [np.nan, *(each.random for each in overlaps)], "of random subspaces, k/n"
        )
        values |= _stability(steps, history.run.rows(Stability.name))
        return RowData(values | self._phases(steps, values["entropy"].values))

    def _overlap(self, before: xr.Dataset, after: xr.Dataset) -> Overlap:
        """The overlap of two leading subspaces of equal dimension; NaN if that dimension is 0.

        The dimension is the number of leading eigenvalues above rounding, in the row where this is smaller. Below
        rounding an eigenvector is arbitrary.
        """
        from landscape.dynamics import Overlap, overlap

        count = min(map(_above_rounding, (before, after)))
        if not count:
            return Overlap(np.nan, np.nan, np.nan, np.nan)
        return overlap(*(row.leading_vectors.values[:count].T for row in (before, after)))

    def _paired(self, before: xr.Dataset, after: xr.Dataset, precision: str) -> Information | None:
        from landscape.dynamics import rank_paired_information
        from landscape.valley import noise_floor

        floor = max(noise_floor(each.eigenvalues.values, precision, float(each.rounding)) for each in (before, after))
        if not floor:  # both spectra are zero
            return None
        return rank_paired_information(before.eigenvalues.values, after.eigenvalues.values, floor, seed=self.seed)

    def _joint(self, before: xr.Dataset, after: xr.Dataset) -> Information | None:
        """The joint information with the spectrum before, or None.

        None where the masses in ``after`` are on the eigenvectors of another checkpoint than ``before``, or where a
        row has no leading eigenvalue above rounding.
        """
        from landscape.dynamics import joint_information

        shares = np.sort(np.abs(after.eigenvalues.values))[::-1]
        k, l = _above_rounding(after), _above_rounding(before)  # noqa: E741
        if str(after.previous.values) != str(before.sha256.values) or not (k and l):
            return None
        overlaps = (after.leading_vectors.values[:k] @ before.leading_vectors.values[:l].T) ** 2
        return joint_information(shares / shares.sum(), overlaps, after.mass_on_previous.values[:l], seed=self.seed)

    def _phases(self, steps: np.ndarray, entropy: np.ndarray) -> dict[str, xr.Variable]:
        from landscape.dynamics import phases
        from landscape.dynamics.phase_search import FEWEST_POINTS

        course: Phases | None = None
        if len(steps) >= FEWEST_POINTS and np.isfinite(entropy).all():
            course = phases(steps, entropy, seed=self.seed)
        changes = np.empty(0) if course is None else course.change_steps
        return {
            "phases": variable(
                (), "too few checkpoints" if course is None else course.label, "course of the entropy", ""
            ),
            "phases_found": variable(
                (), "" if course is None else course.found, "that course by the criterion alone", ""
            ),
            "change_step": variable("change", changes, "step of a change point"),
            "change_step_interval": variable(
                ("change", "bound"), np.empty((0, 2)) if course is None else course.change_intervals, "95 %"
            ),
        } | {
            name: variable((), np.nan if course is None else getattr(course, name), title)
            for name, title in (
                ("false_alarms_shuffled", "how often phases are found in shuffled orders"),
                ("false_alarms_monotone", "how often in monotone curves of the same noise"),
                ("chance_wandering", "chance of as large a gain by a curve with these changes in a random order"),
            )
        }

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for pairs of checkpoints without joint information."""
        missing = int(row.joint_missing)
        if not missing:
            return []
        return [
            f"{missing} joint laws are missing, because those spectra were measured after other checkpoints: measure "
            "the run into a record of its own"
        ]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """First and last values, the course of the entropy, and what successive spectra share."""
        entropy, rank, negative = row.entropy.values, row.effective_rank.values, row.negative_mass.values
        if not np.isfinite(entropy).any():
            return [f"dynamics over {counted(row.sizes['run'], 'checkpoint')}: none, because every Hessian is zero"]
        lines: list[RenderableType] = [
            f"dynamics over {counted(row.sizes['run'], 'checkpoint')}: entropy {entropy[0]:.3f} to {entropy[-1]:.3f} "
            f"(lowest {np.nanmin(entropy):.3f}), effective rank {rank[0]:.3g} to {rank[-1]:.3g}, negative mass "
            f"{negative[0]:.2g} to {negative[-1]:.2g}",
            _course(row),
            _sharing("rank-paired information", row, "information"),
            _sharing("joint information", row, "joint_information"),
            _overlapping(row),
        ]
        ratios = row.stability_ratio.values
        if np.isfinite(ratios).any():
            lines.append(
                f"largest eigenvalue: {np.nanmin(ratios):.3g} to {np.nanmax(ratios):.3g} of the stability threshold"
                + _crossed(row)
            )
        return lines


def _stability(steps: np.ndarray, rows: Sequence[xr.Dataset]) -> dict[str, xr.Variable]:
    """Variables of the largest eigenvalue by the optimiser's threshold, and of the first crossing of the threshold.

    Where no threshold is claimed the stored eigenvalue may be that of another matrix, but then its threshold is NaN.
    """
    from landscape.dynamics import crossing

    ratios = np.array([float(row.ratio) for row in rows])
    values = [float(row.eigenvalue) if row.converged else np.nan for row in rows]
    errors, thresholds = ([float(row[name]) for row in rows] for name in ("eigenvalue_error", "threshold"))
    found = crossing(steps, values, errors, thresholds)
    return {
        "stability_ratio": variable("run", ratios, "largest eigenvalue by the optimiser's threshold"),
        "crossing_interval": variable("bound", [found.low, found.high], "steps of the first crossing of the threshold"),
        "crossing_reason": variable((), found.reason, "why there is no crossing; empty otherwise", ""),
    }


def _above_rounding(row: xr.Dataset) -> int:
    """How many of the first `LEADING` eigenvectors have an eigenvalue above rounding; a row may store more vectors."""
    leading = row.eigenvalues.values[row.leading_index.values[:LEADING]]
    return int((np.abs(leading) > float(row.rounding)).sum())


def _overlapping(row: xr.Dataset) -> str:
    values, counts = row.overlap.values, row.leading_count.values
    if not np.isfinite(values).any():
        return "overlap of successive leading subspaces: none has an eigenvalue above rounding"
    return (
        f"overlap of successive leading subspaces (of {counts.min()} to {counts.max()} eigenvectors) "
        f"{np.nanmin(values):.3f} to {np.nanmax(values):.3f}, {np.nanmax(row.overlap_null.values):.3f} at random"
    )


def _course(row: xr.Dataset) -> str:
    from landscape.dynamics.phase_search import FEWEST_POINTS

    label, found = str(row.phases.values), str(row.phases_found.values)
    if not found:
        return f"phases of the entropy: they need at least {FEWEST_POINTS} checkpoints"
    steps = ", ".join(
        f"{step:.0f} [{low:.0f}, {high:.0f}]"
        for step, (low, high) in zip(row.change_step.values, row.change_step_interval.values, strict=True)
    )
    return (
        f"course of the entropy: {label}{f' ({found} by the criterion alone)' if label != found else ''}"
        f"{f', changing at {steps}' if steps else ''}; false alarms {float(row.false_alarms_shuffled):.1%} shuffled, "
        f"{float(row.false_alarms_monotone):.1%} monotone; chance with the changes in random order "
        f"{float(row.chance_wandering):.1%}"
    )


def _crossed(row: xr.Dataset) -> str:
    """Text on the first crossing of the threshold; empty for a row of an earlier version."""
    if "crossing_reason" not in row:
        return ""
    low, high = row.crossing_interval.values
    return (
        f"; {row.crossing_reason.values}"
        if row.crossing_reason
        else f"; first above it after step {low:.0f}, by {high:.0f}"
    )


def _sharing(title: str, row: xr.Dataset, name: str) -> str:
    values, null = row[name].values, row[f"{name}_null"].values
    if not np.isfinite(values).any():
        return f"{title}: known for no pair of checkpoints"
    high = row[f"{name}_null_interval"].values[:, 1]
    above = int((values[1:] > high[1:]).sum())
    return (
        f"{title}: median {np.nanmedian(values):.3g} nats, without a relation {np.nanmedian(null):.3g}; above the "
        f"null in {above} of {counted(int(np.isfinite(values).sum()), 'pair')}"
    )


def _informations(name: str, title: str, found: list[Information | None]) -> dict[str, xr.Variable]:
    """Variables of the mutual information of each checkpoint with the one before; NaN for the first checkpoint."""

    def of(field: str) -> list[float]:
        return [np.nan, *(np.nan if each is None else getattr(each, field) for each in found)]

    intervals = [(np.nan, np.nan), *((np.nan, np.nan) if each is None else each.null_interval for each in found)]
    return {
        name: variable("run", of("value"), f"mutual information with the spectrum before, {title}", "nat"),
        f"{name}_most": variable("run", of("most"), "what it can't exceed", "nat"),
        f"{name}_null": variable("run", of("null"), "its mean where there is no relation", "nat"),
        f"{name}_null_interval": variable(("run", "bound"), intervals, "95 % of that null", "nat"),
    }
