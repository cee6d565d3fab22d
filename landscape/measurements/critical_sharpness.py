"""Measure the critical sharpness: two over the learning rate beyond which a step along an update raises the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from landscape.errors import InputError
from landscape.measurements.base import Flag, Measurement, RowData, variable
from landscape.measurements.cost import Cost, hessian
from landscape.measurements.directions import digests_of, find_directions, is_checkpoint, refuse_unknown
from landscape.measurements.run import History, Run
from landscape.reporting.messages import counted
from landscape.reporting.progress import Progress
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.sharpness.critical import CriticalLearningRate
    from landscape.sharpness.update import Update

OPTIMIZER, NEXT, GRADIENT = "optimizer", "next", "gradient"
_LOSSES = 8  # about as many losses as a search takes
_GRADIENTS = 2  # of the quadratic model and of the optimiser's step; each is the work of three losses
_RATE, _INVERSE, _CURVATURE = "learning rate", "1 / learning rate", "loss / parameter^2"


@dataclass(frozen=True)
class CriticalSharpness(Measurement):
    """Critical sharpness 2 / eta_c along an update, beside the sharpness of the quadratic model along that update.

    A step of learning rate eta goes to theta - eta u. The loss exceeds the loss before the step for learning rates
    above eta_c; see `landscape.sharpness.critical`.

    Attributes:
        update: update u. ``optimizer`` is the next step of the checkpoint's optimiser on all data, for a learning rate
            of 1. ``next`` is the displacement to the run's next checkpoint, for a learning rate of 1. ``gradient`` is
            the gradient. A path of a .npy file is a vector u, a path of a record (.h5) an eigenvector u in it, and a
            path of a checkpoint the displacement to that checkpoint. Default: None, ``optimizer`` where the
            checkpoint has the state of a known optimiser, else ``gradient``.
        tol_value: goal for the width of the bracket around eta_c, as a share of its upper end. Default: 0.05.
        seed: seed of the signs by which the loss's rounding is measured. Default: 0.
        other_data: factory of a problem on other data, whose losses are evaluated along the update of the checkpoint's
            own problem: the relative critical sharpness (Kalra et al. 2026). Default: None, the same data.
        digests: path and sha256 of a file of the update, set by `resolve`.
        data_sha256: sha256 of the other data, set by `of_run`.
    """

    update: str | None = None
    tol_value: float = 0.05
    seed: int = 0
    other_data: str | None = None
    digests: tuple[tuple[str, str], ...] = ()
    data_sha256: str | None = None

    group: ClassVar[str] = "critical_sharpness"
    flag: ClassVar[Flag] = Flag("critical_sharpness", "2 / the learning rate that raises the loss.")
    figures: ClassVar[tuple[str, ...]] = ("critical-sharpness",)

    @classmethod
    def asked(cls, options: Mapping[str, Any]) -> list[Self]:
        """The critical sharpness, and with ``--other-data`` the relative one beside it."""
        own = super().asked({**options, "other_data": None})
        return [*own, *super().asked(options)] if options.get("other_data") else own

    @property
    def name(self) -> str:
        """The group of the record: ``relative_critical_sharpness`` for losses on other data."""
        return self.group if self.other_data is None else f"relative_{self.group}"

    @property
    def directions(self) -> tuple[str, ...]:
        """The file of the update, if there is one."""
        known = (None, OPTIMIZER, NEXT, GRADIENT)
        return () if self.update in known else (str(self.update),)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Measurement.settings`. A file of the update is stored by its sha256."""
        update = f"sha256 {dict(self.digests)[self.directions[0]]}" if self.digests else self.update
        other = {} if self.other_data is None else {"other_data": f"sha256 {self.data_sha256}"}
        return {"update": update, "tol_value": self.tol_value, "seed": self.seed, **other}

    @property
    def depends_on_run(self) -> bool:
        """See `Measurement.depends_on_run`; only the displacement to the next checkpoint depends on the run."""
        return self.update == NEXT

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Choose the update, and refuse an update that a checkpoint doesn't have."""
        from landscape.sharpness.critical import check_tolerance
        from landscape.sharpness.update import reason_without_update

        check_tolerance(self.tol_value)
        if self.directions:
            refuse_unknown(problem, self.directions, left_out=True)
            return replace(self, digests=self.digests or tuple(digests_of(self.directions).items()))
        if self.update not in (None, OPTIMIZER):
            return self
        reason = reason_without_update(problem)
        if reason and self.update == OPTIMIZER:
            raise InputError(f"no update of the optimiser is known: {reason}; give --update gradient, next or a file")
        return replace(self, update=GRADIENT if reason else OPTIMIZER)

    def of_run(self, run: Run, measured: Sequence[str]) -> Self:
        """Refuse a run without a displacement between two checkpoints; take the digest of the other data."""
        if self.update == NEXT:
            run.refuse_disorder(2, "displacements to the next checkpoint are")
        if self.other_data is None:
            return self
        return replace(self, data_sha256=self._on_other_data(run.load(0), run, 0).data_sha256)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`."""
        return Cost(2, _LOSSES + 3 * _GRADIENTS, "about", hessian, 2)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.sharpness.critical import critical_learning_rate, without_crossing

        update = self._update(problem, history, bar)
        if self.other_data is not None:
            problem = self._on_other_data(problem, history.run, history.run.digests.index(history.digest))
        if update.reason:
            found = without_crossing(update.reason)
        else:
            found = critical_learning_rate(problem, update.vector, self.tol_value, seed=self.seed, progress=bar)
        return critical_row(self._title, update, found)

    def _on_other_data(self, problem: Problem, run: Run, position: int) -> Problem:
        """The problem of the other factory at the weights of a checkpoint.

        Raises:
            InputError: the other problem has other parameters than the checkpoint's own problem.
        """
        assert self.other_data is not None, "asked for only where there are other data"
        try:
            other = run.load_with(self.other_data, position)
        except InputError as error:
            raise InputError(f"--other-data {self.other_data}: {error}") from error
        if other.layout != problem.layout:
            raise InputError(
                f"--other-data {self.other_data} has {other.layout.dim} parameters that vary, and the problem has "
                f"{problem.layout.dim}: give a factory of the same model"
            )
        return other

    @property
    def _title(self) -> str:
        titles = {
            OPTIMIZER: "the optimiser's next step",
            NEXT: "the displacement to the next checkpoint",
            GRADIENT: "the gradient",
        }
        title = titles.get(str(self.update), f"the update of {self.update}")
        return title if self.other_data is None else f"{title}, losses of {self.other_data}"

    def _update(self, problem: Problem, history: History, progress: Callable[[Progress], None]) -> Update:
        from landscape.sharpness.update import Update, optimizer_update

        if self.update == OPTIMIZER:
            return optimizer_update(problem)
        if self.update == GRADIENT:
            return Update(problem.gradient(), np.nan, "")
        if self.update == NEXT:
            following = history.run.digests.index(history.digest) + 1
            if following == len(history.run):
                return Update(problem.vector, np.nan, "the last checkpoint of the run has no next checkpoint")
            return Update(problem.vector - history.run.load(following).vector, 1.0, "")
        (name,) = self.directions
        (found,) = find_directions(problem, [name], self.seed, dict(self.digests), history, progress)
        if is_checkpoint(name):
            return Update(-found.direction.vector, 1.0, "")
        return Update(found.direction.vector, np.nan, "")

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line if rounding or the number of losses kept the search from its goal."""
        if row.converged:
            return []
        if row.reason:
            return [f"no critical sharpness: {row.reason.values}: compute in float64 (--dtype float64)"]
        return [
            f"the critical learning rate is known to {_width(row):.1%} only, because of the loss's rounding: compute "
            "in float64 (--dtype float64), or raise --tol-value"
        ]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The critical sharpness with its error, or the reason why there is none, and the quadratic model."""
        lines: list[RenderableType] = []
        losses = counted(int(row.forward_passes), "loss")
        if row.reason:
            lines.append(f"critical sharpness along {row.along.values}: none ({losses}): {row.reason.values}")
        else:
            lines.append(f"critical sharpness along {row.along.values}: {_estimate(row)}")
            low, high = (f"{value:.4g}" for value in row.learning_rate_bracket.values)
            lines.append(
                f"the loss crosses its value before the step between the learning rates {low} and {high}, by {losses}"
            )
            if row.step_learning_rate.notnull():
                rate = float(row.step_learning_rate)
                share = rate / float(row.learning_rate)
                lines.append(f"learning rate of the step itself: {rate:.4g}, {share:.3g} of the critical learning rate")
        for name, title in (
            ("quadratic_sharpness", "quadratic model of the critical sharpness, u^T H u / g^T u"),
            ("directional_curvature", "curvature in the update's direction, u^T H u / u^T u"),
        ):
            if row[name].notnull():
                lines.append(f"{title}: {float(row[name]):.4g} (rounding {float(row[name + '_error']):.0e})")
        if row.quadratic_reason:
            lines.append(f"no quadratic model: {row.quadratic_reason.values}")
        return lines


def _estimate(row: xr.Dataset) -> str:
    """The critical sharpness with the parts of its error."""
    value, width = float(row.sharpness), float(np.ptp(row.sharpness_bracket.values))
    if row.sharpness_standard_error.isnull():
        return f"{value:.4g} (bracket {width:.2g} wide; one sample: no standard error known)"
    error, standard_error = float(row.sharpness_error), float(row.sharpness_standard_error)
    return (
        f"{value:.4g} ± {error:.2g} (standard error over {counted(int(row.samples), 'sample')} {standard_error:.2g}, "
        f"with this update; bracket {width:.2g} wide)"
    )


def _width(row: xr.Dataset) -> float:
    """Width of the bracket, as a share of its upper end."""
    low, high = row.learning_rate_bracket.values
    return float((high - low) / high)


def critical_row(title: str, update: Update, found: CriticalLearningRate) -> RowData:
    """The row of a critical sharpness.

    Args:
        title: the update, in words.
        update: update u, with the learning rate of the step itself.
        found: critical learning rate along the update.
    """
    model = found.quadratic
    numbers = {
        "learning_rate": (found.learning_rate, "critical learning rate eta_c", _RATE),
        "learning_rate_standard_error": (found.standard_error, "its standard error, over samples", _RATE),
        "width_by_rounding": (found.width_by_rounding, "smallest meaningful width of the bracket", _RATE),
        "rounding": (found.rounding, "standard deviation of the rounding in a change of the loss", "loss"),
        "sharpness": (found.sharpness, "critical sharpness 2 / eta_c", _INVERSE),
        "sharpness_standard_error": (found.sharpness_standard_error, "its standard error, over samples", _INVERSE),
        "sharpness_error": (found.sharpness_error, "that standard error plus the width of the bracket", _INVERSE),
        "quadratic_sharpness": (model.sharpness, "u^T H u / g^T u", _INVERSE),
        "quadratic_sharpness_error": (model.sharpness_error, "its error, from rounding", _INVERSE),
        "directional_curvature": (model.directional_curvature, "u^T H u / u^T u", _CURVATURE),
        "directional_curvature_error": (model.directional_curvature_error, "its error, from rounding", _CURVATURE),
        "descent": (model.descent, "g^T u, minus the slope of the loss in the learning rate", "loss / learning rate"),
        "update_norm": (model.norm, "norm of the update u", "parameter / learning rate"),
        "step_learning_rate": (update.learning_rate, "learning rate of the step itself; NaN where unknown", _RATE),
    }
    variables = {
        "along": variable((), title, "update u", ""),
        "reason": variable((), found.reason, "why there is no critical sharpness; empty otherwise", ""),
        "quadratic_reason": variable((), model.reason, "why there is no quadratic model; empty otherwise", ""),
        "converged": variable((), found.converged, "rounding and the number of losses allowed the goal"),
        "forward_passes": variable((), found.forward_passes, "evaluations of the loss on all data"),
        "samples": variable((), found.samples, "number of samples"),
        **{name: variable((), *each) for name, each in numbers.items()},
        "learning_rate_bracket": variable(
            "bound", found.bracket, "the loss is lower at one, higher at the other", _RATE
        ),
        "sharpness_bracket": variable("bound", found.sharpness_bracket, "the sharpness of these, ascending", _INVERSE),
        "tried_learning_rate": variable("point", found.learning_rates, "where the loss was evaluated", _RATE),
        "tried_loss": variable("point", found.losses, "the loss there", "loss"),
    }
    return RowData(variables)
