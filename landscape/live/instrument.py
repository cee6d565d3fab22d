"""What every instrument is: asked for a turn at a step of the training, it gives rows of the record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from landscape.errors import InputError
from landscape.live.budget import Unit
from landscape.live.events import Event
from landscape.live.steps import Moment
from landscape.measurements import History, Measurement, RowData
from landscape.measurements.cost import Cost
from landscape.problem import Problem
from landscape.reporting.progress_bar import ProgressBar


@dataclass(frozen=True)
class Turn:
    """The rows and events of one turn of an instrument, and the turn's work.

    Attributes:
        rows: a row for each group of the record that the instrument writes.
        units: work of the turn in units of the instrument's own, such as products. The first turn's work is counted;
            a later turn is charged in proportion to its units. Default: 1, turns of equal work.
        events: events of this turn.
        following: units that the next turn will take, about; None for those of this turn.
    """

    rows: Mapping[str, RowData]
    units: float = 1.0
    events: Sequence[Event] = ()
    following: float | None = None


class Instrument(ABC):
    """One kind of measurement within a training.

    Attributes:
        every: steps of the optimiser from one turn to the next; None where the budget decides. See `every`.
        unit: what a unit of its turns' work is, counted before the training; None counts the first turn instead.
    """

    every: int | None = None
    unit: Unit | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the instrument, and of its account."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, dict[str, Any]]:
        """For each group of the record that the instrument writes, the settings that decide its numbers."""

    def resolve(self, problem: Problem) -> None:  # noqa: B027 - most instruments measure on every problem
        """Refuse a problem on which the instrument can't measure, before the training begins.

        Raises:
            InputError: one line that says why.
        """

    def cost(self, problem: Problem) -> Cost | None:
        """The foreseen work of one turn; None where the work can't be foreseen."""
        return None

    @abstractmethod
    def measure(self, moment: Moment) -> Turn:
        """Take a turn at one step of the training."""

    def state_dict(self) -> dict[str, Any]:
        """State that later turns depend on, as tensors, numbers and texts; empty where turns are independent."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most instruments have no state
        """Go on from a state that `state_dict` gave."""

    def hear(self, loss: float) -> None:  # noqa: B027 - most instruments don't use the training's losses
        """Take the training's loss of a step, after the turn at that step."""


class Measured(Instrument):
    """A measurement of checkpoints as an instrument: its row at theta_t, in the group of that measurement.

    Attributes:
        measurement: the measurement with its settings.
    """

    def __init__(self, measurement: Measurement) -> None:
        """Take a measurement.

        Raises:
            InputError: the measurement is of a whole run, not of one point.
        """
        if measurement.over_run:
            raise InputError(
                f"{measurement.name} is measured over the checkpoints of a whole run, not at one step of a training"
            )
        self.measurement, self._units = measurement, 1.0

    @property
    def name(self) -> str:
        """See `Instrument.name`: the group of the record."""
        return self.measurement.name

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """See `Instrument.settings`."""
        return {self.name: self.measurement.settings}

    def resolve(self, problem: Problem) -> None:
        """Decide the settings that were left open, on the problem; see `Measurement.resolve`."""
        self.measurement = self.measurement.resolve(problem, 1)
        cost = self.measurement.cost(problem)
        if cost is not None and cost.groups:
            self.unit, self._units = "groups", float(cost.groups)

    def cost(self, problem: Problem) -> Cost | None:
        """See `Measurement.cost`."""
        return self.measurement.cost(problem)

    def measure(self, moment: Moment) -> Turn:
        """See `Instrument.measure`."""
        return Turn({self.name: self.measurement.measure(moment.problem, self._bar, History())}, self._units)

    @cached_property
    def _bar(self) -> ProgressBar:
        return ProgressBar(shown=False)
