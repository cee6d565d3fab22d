"""The critical sharpness along the update that the training makes, as an instrument."""

from __future__ import annotations

from typing import Any

from landscape.errors import InputError
from landscape.live.instrument import Instrument, Turn
from landscape.live.steps import Moment
from landscape.measurements import CriticalSharpness
from landscape.measurements.cost import Cost
from landscape.measurements.critical_sharpness import critical_row
from landscape.problem import Problem
from landscape.sharpness.critical import check_tolerance, critical_learning_rate, without_crossing
from landscape.sharpness.update import Update

_ALONG = "the update of the training"
_MORE_LOSSES = 18  # work of a gradient and two products in losses


class CriticalAlongUpdate(Instrument):
    """Critical sharpness 2 / eta_c along the update from theta_t to theta_{t+1}; see `landscape.sharpness.critical`.

    A turn takes as many losses as the search, and a gradient and two products.

    The update is divided by the learning rate of the step, so eta_c is in the units of the learning rate: a step with a
    learning rate above eta_c raises the loss on the evaluation set.
    """

    unit = "loss"

    def __init__(self, tol_value: float = 0.05, seed: int = 0, other_data: Problem | None = None) -> None:
        """Choose the settings.

        Args:
            tol_value: goal for the width of the bracket around eta_c, as a share of its upper end. Default: 0.05.
            seed: seed of the signs by which the loss's rounding is measured. Default: 0.
            other_data: the same model on other data, whose losses are evaluated along the update: the relative critical
                sharpness (Kalra et al. 2026). Default: None, the evaluation set.

        Raises:
            InputError: ``tol_value`` isn't between 0 and 1.
        """
        check_tolerance(tol_value)
        self.tol_value, self.seed, self.other_data = tol_value, seed, other_data

    @property
    def name(self) -> str:
        """See `Instrument.name`."""
        return CriticalSharpness.group if self.other_data is None else f"relative_{CriticalSharpness.group}"

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """See `Instrument.settings`."""
        other = {} if self.other_data is None else {"other_data": f"sha256 {self.other_data.data_sha256}"}
        return {self.name: {"update": _ALONG, "tol_value": self.tol_value, "seed": self.seed, **other}}

    def resolve(self, problem: Problem) -> None:
        """Refuse other data of another model."""
        if self.other_data is not None and self.other_data.layout != problem.layout:
            raise InputError("the other data are posed on a model with other parameters: give the model in training")

    def cost(self, problem: Problem) -> Cost:
        """See `Instrument.cost`."""
        return CriticalSharpness().cost(problem)

    def measure(self, moment: Moment) -> Turn:
        """See `Instrument.measure`."""
        problem, title = moment.before, _ALONG
        if self.other_data is not None:
            problem, title = self.other_data.with_state(problem.tensors()), f"{title}, losses on other data"
        direction = moment.update
        if direction is None:
            found = without_crossing("the weights after the step are NaN or infinite")
            update = Update(problem.vector, moment.learning_rate, found.reason)
        else:
            update = Update(direction, moment.learning_rate, "")
            found = critical_learning_rate(problem, direction, self.tol_value, seed=self.seed)
        return Turn({self.name: critical_row(title, update, found)}, found.forward_passes + _MORE_LOSSES)
