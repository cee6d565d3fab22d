"""Measure the loss with its standard error, and the norm of the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from landscape.errors import InputError
from landscape.measurements.base import Measurement, RowData, variable
from landscape.measurements.cost import Cost
from landscape.measurements.run import History
from landscape.reporting.messages import counted
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem


@dataclass(frozen=True)
class Loss(Measurement):
    """The objective over the data and the norm of its gradient, from two forward passes and one backward pass."""

    name: ClassVar[str] = "loss"
    makes_products: ClassVar[bool] = False

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Return the measurement unchanged: no setting is left to decide."""
        return self

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: the loss, and the gradient at about three times the work of a loss."""
        return Cost(losses=4)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        import torch

        estimate = problem.evaluate()
        gradient_norm = float(torch.linalg.vector_norm(problem.gradient(), dtype=torch.float64))
        if not math.isfinite(gradient_norm):
            raise InputError("the gradient is NaN or infinite though the loss isn't: the loss has no derivative here")
        return RowData(
            {
                "loss": variable((), estimate.loss, "mean loss over the data", "loss"),
                "standard_error": variable((), estimate.standard_error, "standard error over samples", "loss"),
                "gradient_norm": variable((), gradient_norm, "norm of the gradient", "loss / parameter"),
                "samples": variable((), estimate.samples, "number of samples"),
                "terms": variable((), estimate.terms, "number of terms (samples or tokens) of nonzero weight"),
                "parameters": variable((), problem.layout.dim, "number of trainable parameters"),
            }
        )

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """No lines: a loss has no goal."""
        return []

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line for the loss, and a line for the gradient norm and the number of parameters."""
        from landscape.problem.samples import LossEstimate

        estimate = LossEstimate(float(row.loss), float(row.standard_error), int(row.samples), int(row.terms))
        parameters = counted(int(row.parameters), "parameter")
        return [*estimate.summary, f"gradient norm {float(row.gradient_norm):.3g}, {parameters}"]
