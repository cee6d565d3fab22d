"""SHIFT's criterion as an instrument: tells when a training has reached a plateau.

The SHIFT Criterion with Patience (Gong, Teng and Liu 2025, arXiv:2510.10089) watches two numbers: the training's mean
loss since the last turn, and the norm of the gradient on the evaluation set. See `landscape.dynamics.plateau`. With
``every`` equal to the steps of an epoch, the turns are at the ends of epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from landscape.dynamics.plateau import ShiftCriterion
from landscape.live.events import Event
from landscape.live.instrument import Instrument, Turn
from landscape.live.steps import Moment
from landscape.measurements import RowData, variable
from landscape.measurements.cost import Cost
from landscape.problem import Problem


class Plateau(Instrument):
    """The SHIFT Criterion with Patience; the event ``plateau`` is told once, at the turn at which it fires."""

    name = "plateau"

    def __init__(self, delta_loss: float | None = None, delta_grad: float | None = None, patience: int = 10) -> None:
        """Choose the thresholds of the criterion; see `landscape.dynamics.plateau.ShiftCriterion`.

        Args:
            delta_loss: change of the mean loss from turn to turn below which it is calm; default: by its noise.
            delta_grad: change of the gradient's norm below which it is calm; default: by its noise.
            patience: calm turns in a row before the criterion fires. Default: 10.

        Raises:
            InputError: a threshold isn't above 0, or the patience is below 1.
        """
        self._settings = {"delta_loss": delta_loss, "delta_grad": delta_grad, "patience": patience}
        self._criterion = ShiftCriterion(delta_loss, delta_grad, patience)
        self._losses, self._heard, self._fired = 0.0, 0, False

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """See `Instrument.settings`."""
        return {self.name: self._settings}

    def cost(self, problem: Problem) -> Cost:
        """See `Instrument.cost`: one gradient."""
        return Cost(losses=3)

    def hear(self, loss: float) -> None:
        """See `Instrument.hear`."""
        self._losses += loss
        self._heard += 1

    def measure(self, moment: Moment) -> Turn:
        """See `Instrument.measure`."""
        norm = float(torch.linalg.vector_norm(moment.before.gradient(), dtype=torch.float64))
        loss = self._losses / self._heard if self._heard else math.nan
        fires = bool(self._heard) and self._criterion.update(loss, norm)
        self._losses, self._heard = 0.0, 0
        events = []
        if fires and not self._fired:
            self._fired = True
            calm = self._criterion.calm
            events = [Event(moment.step, "plateau", f"loss and gradient norm were calm for {calm} turns", float(calm))]
        row = RowData(
            {
                "loss": variable((), loss, "mean loss of the training since the last turn; NaN at the first", "loss"),
                "gradient_norm": variable((), norm, "norm of the gradient on the evaluation set", "loss / parameter"),
                "calm": variable((), self._criterion.calm, "turns in a row at which both were calm"),
                "fires": variable((), fires, "the criterion fires"),
            }
        )
        return Turn({self.name: row}, events=events)

    def state_dict(self) -> dict[str, Any]:
        """See `Instrument.state_dict`."""
        own = {"losses": self._losses, "heard": self._heard, "fired": self._fired}
        return {"criterion": self._criterion.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Instrument.load_state_dict`."""
        self._criterion.load_state_dict(state["criterion"])
        self._losses, self._heard, self._fired = state["losses"], state["heard"], state["fired"]
