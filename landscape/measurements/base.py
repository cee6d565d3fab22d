"""What every measurement is: settings in, an xarray Dataset out, and how that is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from landscape.measurements.run import History, Run
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike
    from rich.console import RenderableType

    from landscape.measurements.cost import Cost
    from landscape.problem import Problem
    from landscape.spectrum.estimate import Estimate


@dataclass(frozen=True)
class Flag:
    """How the command asks for a measurement.

    Attributes:
        parameter: that the option sets; measurements of one parameter are asked for together.
        help: of the option.
        names: of the option; default: the parameter's, with dashes.
        sets: the setting that the option's value is; None for an option without a value.
        whole: whether this value is a whole number.
        choice: the word for this measurement among the option's values; None for an option without words.
    """

    parameter: str
    help: str
    names: tuple[str, ...] = ()
    sets: str | None = None
    whole: bool = False
    choice: str | None = None

    def given(self, options: Mapping[str, Any]) -> bool:
        """Whether the command asks for the measurement."""
        value = options.get(self.parameter)
        if self.choice is not None:
            return self.choice in (value or ())
        return value is not None if self.sets else bool(value)

    @property
    def option(self) -> str:
        """The option's first name."""
        return self.names[0] if self.names else "--" + self.parameter.replace("_", "-")


class Measurement(ABC):
    """One kind of measurement with its settings; a frozen dataclass whose fields are these settings.

    Everything that is shown is made from the stored row, so that a finished record shows what the run showed.

    Attributes:
        over_run: one row for the whole run instead of one for each checkpoint; made last, from the others' rows.
        selective: large enough that one may want it of some checkpoints alone; see ``at`` of `landscape.probe`.
        flag: how the command asks for it; None where the command always makes it.
        makes_products: whether the settings of products (``--compile``, ``--memory``) are of use to it.
        figures: names of the figures that are drawn from it.
    """

    over_run: ClassVar[bool] = False
    selective: ClassVar[bool] = False
    flag: ClassVar[Flag | None] = None
    makes_products: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def asked(cls, options: Mapping[str, Any]) -> list[Self]:
        """The measurements of this kind that the command asks for.

        Args:
            options: values of the command's parameters by name, ``checkpoints`` and ``matrix`` among them.
        """
        return [cls.of(options)] if cls.flag is None or cls.flag.given(options) else []

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """A measurement whose settings are the command's parameters of the same names; None leaves the default."""
        given = dict(options)
        if cls.flag is not None and cls.flag.sets:
            given[cls.flag.sets] = options[cls.flag.parameter]
        return cls(**{name: given[name] for name in cls.setting_names() if given.get(name) is not None})

    @classmethod
    def setting_names(cls) -> list[str]:
        """The names of the settings."""
        return [each.name for each in fields(cls)]  # type: ignore[arg-type]

    @property
    @abstractmethod
    def name(self) -> str:
        """The group of the record."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the numbers, as stored in the record and compared on resuming."""
        return asdict(self)  # type: ignore[call-overload]

    @property
    def depends_on_run(self) -> bool:
        """Whether the numbers of one checkpoint are others in another run; the run is part of the request then."""
        return False

    @abstractmethod
    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Itself with every setting decided that was left open, before anything is measured.

        Args:
            problem: at the weights of one of the checkpoints; each is asked.
            checkpoints: how many will be measured.

        Raises:
            InputError: one line that says which setting the problem can't have, and why.
        """

    def of_run(self, run: Run, measured: Sequence[str]) -> Self:
        """Itself with every setting decided that the run decides; before anything is measured, and after `resolve`.

        Args:
            run: all checkpoints.
            measured: sha256 of those that the measurement is made of.

        Raises:
            InputError: one line that says why the measurement can't be made of this run.
        """
        return self

    def cost(self, problem: Problem) -> Cost | None:
        """The work at one checkpoint, after `resolve`; None where the work can't be foreseen.

        Args:
            problem: at the checkpoint's weights. Nothing is evaluated.
        """
        return None

    @abstractmethod
    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """Measure one checkpoint.

        Args:
            problem: at the checkpoint's weights; at the run's last ones for a measurement of the whole run.
            bar: to show progress on.
            history: what is there already of the same measurement, and the run.
        """

    @abstractmethod
    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for everything in a stored row that did not converge or stayed undecided; empty when all is well."""

    @abstractmethod
    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The lines and tables that the screen shows of a stored row.

        Args:
            row: without the variables that have a value for each parameter: these can be larger than memory. What the
                screen or a figure shows of them is stored as variables of its own. `landscape.open_record` has them.
        """


class RowData:
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
        import xarray as xr

        self.dataset = xr.Dataset(variables)
        self.choices = dict(choices or {})
        self.notes = list(dict.fromkeys(notes))


def variable(dims: str | tuple[str, ...], values: ArrayLike, long_name: str, units: str = "1") -> xr.Variable:
    """An array with its dimensions, its meaning and its units ("1" for a pure number)."""
    import xarray as xr

    return xr.Variable(dims, np.asarray(values), {"long_name": long_name, "units": units})


def tensors_of(problem: Problem) -> dict[str, xr.Variable]:
    """Where each parameter tensor lies in the flat vector, for variables with a value for each parameter."""
    layout = problem.layout
    shapes = [" ".join(map(str, shape)) for shape in layout.shapes]
    return {
        "tensor_name": variable("tensor", list(layout.names), "parameter tensor, in the order of the flat vector", ""),
        "tensor_shape": variable("tensor", shapes, "its shape", ""),
        "tensor_start": variable("tensor", np.cumsum([0, *layout.sizes[:-1]]), "where it begins in the flat vector"),
    }


def estimated(name: str, estimate: Estimate, long_name: str, units: str = "1") -> dict[str, xr.Variable]:
    """An estimate as three variables: its value, its standard error and its 95 % interval."""
    return {
        name: variable((), estimate.value, long_name, units),
        f"{name}_standard_error": variable((), estimate.standard_error, "its standard error, over probes", units),
        f"{name}_interval": variable("bound", [estimate.low, estimate.high], f"95 % interval of {name}", units),
    }


def estimate_in(row: xr.Dataset, name: str) -> Estimate:
    """The estimate that `estimated` stored."""
    from landscape.spectrum.estimate import Estimate

    low, high = map(float, row[f"{name}_interval"].values)
    return Estimate(float(row[name]), float(row[f"{name}_standard_error"]), low, high)


def arithmetic_variable(arithmetic: str) -> dict[str, xr.Variable]:
    """The matrix that the errors of a row refer to, as a variable; see `landscape.Eigenpairs`."""
    return {"arithmetic": variable((), arithmetic, "the matrix that intervals and errors are of", "")}


def arithmetic_in(row: xr.Dataset) -> str:
    """The matrix that the errors of a stored row refer to; version 0.1 stored none."""
    return str(row.arithmetic.values) if "arithmetic" in row else "as its products computed it"
