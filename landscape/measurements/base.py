"""What every measurement is: settings in, an xarray Dataset out, and how that is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from rich.console import RenderableType

from landscape.measurements.run import History, Run
from landscape.problem import Problem
from landscape.reporting.progress_bar import ProgressBar
from landscape.spectrum.estimate import Estimate


class Measurement(ABC):
    """One kind of measurement with its settings; a frozen dataclass whose fields are these settings.

    Everything that is shown is made from the stored row, so that a finished record shows what the run showed.

    Attributes:
        over_run: one row for the whole run instead of one for each checkpoint; made last, from the others' rows.
        selective: large enough that one may want it of some checkpoints alone; see ``at`` of `landscape.probe`.
    """

    over_run: ClassVar[bool] = False
    selective: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The group of the record."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the numbers, as stored in the record and compared on resuming."""
        return asdict(self)  # type: ignore[call-overload]

    @property
    def depends_on_run(self) -> bool:
        """Whether the numbers of one checkpoint are others in another run; the run is part of the request then."""
        return False

    @abstractmethod
    def settle(self, problem: Problem, checkpoints: int) -> Self:
        """Itself with every setting decided that was left open, before anything is measured.

        Args:
            problem: at the weights of one of the checkpoints; each is asked.
            checkpoints: how many will be measured.

        Raises:
            InputError: one line that says which setting the problem can't have, and why.
        """

    def check_run(self, run: Run, measured: Sequence[str]) -> None:  # noqa: B027
        """Refuse a run that the measurement can't be made of; before anything is measured, and after `settle`.

        Args:
            run: all checkpoints.
            measured: sha256 of those that the measurement is made of.

        Raises:
            InputError: one line that says what is missing.
        """

    @abstractmethod
    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> Measured:
        """Measure one checkpoint.

        Args:
            problem: at the checkpoint's weights; at the run's last ones for a measurement of the whole run.
            bar: to show progress on.
            history: what is there already of the same measurement, and the run.
        """

    @abstractmethod
    def shortfalls(self, row: xr.Dataset) -> list[str]:
        """A line for everything in a stored row that did not converge or stayed undecided; empty when all is well."""

    @abstractmethod
    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """What the screen shows of a stored row."""


class Measured:
    """A row of the record in the making, and what was chosen on the way."""

    def __init__(
        self,
        variables: dict[str, xr.Variable],
        choices: Mapping[str, Any] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        """Take variables by name, made with `variable`, and what goes into the provenance: choices (JSON-able), notes.

        Notes say what was decided on the user's behalf, a sentence each, and follow those of the problem.
        """
        self.dataset = xr.Dataset(variables)
        self.choices = dict(choices or {})
        self.notes = list(dict.fromkeys(notes))


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


def arithmetic_variable(arithmetic: str) -> dict[str, xr.Variable]:
    """What the errors of a row are errors of, see `landscape.Eigenpairs`."""
    return {"arithmetic": variable((), arithmetic, "the matrix that intervals and errors are of", "")}


def arithmetic_in(row: xr.Dataset) -> str:
    """What `arithmetic_variable` stored; version 0.1 stored nothing."""
    return str(row.arithmetic.values) if "arithmetic" in row else "as its products computed it"
