"""What every measurement is: settings in, an xarray Dataset out, and how that is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from rich.console import RenderableType

from landscape.problem import Problem
from landscape.progress import ProgressBar
from landscape.spectrum.trace import Estimate


class Measurement(ABC):
    """One kind of measurement with its settings; a frozen dataclass whose fields are these settings.

    Everything that is shown is made from the stored row, so that a finished record shows what the run showed.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The group of the record."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers, as stored in the record and compared on resuming."""
        return asdict(self)  # type: ignore[call-overload]

    @abstractmethod
    def settle(self, problem: Problem, checkpoints: int) -> Self:
        """Itself with every setting decided that was left open, before anything is measured.

        Args:
            problem: at the weights of one of the checkpoints; each is asked.
            checkpoints: how many will be measured.

        Raises:
            InputError: one line that says which setting the problem can't have, and why.
        """

    @abstractmethod
    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> Measured:
        """Measure one checkpoint.

        Args:
            problem: at the checkpoint's weights.
            bar: to show progress on.
            history: what is there already of the same measurement.
        """

    @abstractmethod
    def shortfalls(self, row: xr.Dataset) -> list[str]:
        """A line for everything in a stored row that did not converge or stayed undecided; empty when all is well."""

    @abstractmethod
    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """What the screen shows of a stored row."""


@dataclass(frozen=True)
class History:
    """What the record has already of a measurement.

    Attributes:
        choices: the provenance of its first row, whose choices hold for all; None where there is no row.
        previous: the row of the checkpoint before, as it was measured; None for the first.
    """

    choices: Mapping[str, Any] | None = None
    previous: xr.Dataset | None = None


class Measured:
    """A row of the record in the making, and what was chosen on the way."""

    def __init__(self, variables: dict[str, xr.Variable], choices: Mapping[str, Any] | None = None) -> None:
        """Take variables by name, made with `variable`, and choices that go into the provenance (JSON-able)."""
        self.dataset = xr.Dataset(variables)
        self.choices = dict(choices or {})


def variable(dims: str | tuple[str, ...], values: ArrayLike, long_name: str, units: str = "1") -> xr.Variable:
    """An array with its dimensions, its meaning and its units ("1" for a pure number)."""
    return xr.Variable(dims, np.asarray(values), {"long_name": long_name, "units": units})


def estimated(name: str, estimate: Estimate, long_name: str, units: str = "1") -> dict[str, xr.Variable]:
    """An estimate as three variables: its value, its standard error and its 95 % interval."""
    return {
        name: variable((), estimate.value, long_name, units),
        f"{name}_standard_error": variable((), estimate.standard_error, "its standard error, over probes", units),
        f"{name}_interval": variable("bound", [estimate.low, estimate.high], f"95 % interval of {name}", units),
    }


def estimate_in(row: xr.Dataset, name: str) -> Estimate:
    """The estimate that `estimated` stored."""
    low, high = map(float, row[f"{name}_interval"].values)
    return Estimate(float(row[name]), float(row[f"{name}_standard_error"]), low, high)
