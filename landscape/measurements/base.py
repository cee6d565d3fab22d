"""What every measurement is: settings in, an xarray Dataset out, and how that is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from rich.console import RenderableType

from landscape.problem import Problem
from landscape.progress import ProgressBar


class Measurement(ABC):
    """One kind of measurement with its settings; a frozen dataclass whose fields are these settings.

    Everything that is shown is made from the stored row, so that a finished record shows what the run showed.
    """

    name: ClassVar[str]
    """The group of the record."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers, as stored in the record and compared on resuming."""
        return asdict(self)  # type: ignore[call-overload]

    @abstractmethod
    def settle(self, problem: Problem, checkpoints: int) -> Self:
        """Itself with every setting decided that was left open, before anything is measured.

        Args:
            problem: at any weights.
            checkpoints: how many will be measured.

        Raises:
            InputError: one line that says which setting the problem can't have, and why.
        """

    @abstractmethod
    def measure(self, problem: Problem, bar: ProgressBar, earlier: Mapping[str, Any] | None) -> Measured:
        """Measure one checkpoint.

        Args:
            problem: at the checkpoint's weights.
            bar: to show progress on.
            earlier: the provenance of a row measured before for the same request, whose choices are to be kept.
        """

    @abstractmethod
    def shortfalls(self, row: xr.Dataset) -> list[str]:
        """A line for everything in a stored row that did not converge or stayed undecided; empty when all is well."""

    @abstractmethod
    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """What the screen shows of a stored row."""


class Measured:
    """A row of the record in the making, and what was chosen on the way."""

    def __init__(self, variables: dict[str, xr.Variable], choices: Mapping[str, Any] | None = None) -> None:
        """Take variables by name, made with `variable`, and choices that go into the provenance (JSON-able)."""
        self.dataset = xr.Dataset(variables)
        self.choices = dict(choices or {})


def variable(dims: str | tuple[str, ...], values: ArrayLike, long_name: str, units: str = "1") -> xr.Variable:
    """An array with its dimensions, its meaning and its units ("1" for a pure number)."""
    return xr.Variable(dims, np.asarray(values), {"long_name": long_name, "units": units})
