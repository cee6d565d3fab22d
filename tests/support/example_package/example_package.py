"""An example of another package that adds a measurement, a matrix and a figure, each by an entry point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from landscape.curvature.kinds import Kind
from landscape.measurements import Flag, History, Measurement, RowData, variable
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem


@dataclass(frozen=True)
class WeightNorm(Measurement):
    """The norm of the parameters that vary.

    Attributes:
        tol: setting of the command's option of this name; the goal is a norm above it.
    """

    tol: float = 1e-3

    name: ClassVar[str] = "weight_norm"
    flag: ClassVar[Flag] = Flag("weight_norm", "Norm of the parameters.")
    makes_products: ClassVar[bool] = False
    figures: ClassVar[tuple[str, ...]] = ("weight-norm",)

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """This measurement, which has no setting to resolve."""
        return self

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        return RowData({"norm": variable((), float(problem.vector.double().norm()), "norm of the parameters")})

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """The goal that the norm exceeds the tolerance, if it isn't met."""
        return [] if row.norm > self.tol else ["the parameters are all but zero: nothing to measure"]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The norm in one line."""
        return [f"norm of the parameters: {float(row.norm):.6g}"]


TWICE = Kind("twice the Hessian", "example_package:Twice", ("route",))


def __getattr__(name: str) -> Any:
    """Import torch and matplotlib only when somebody asks for the matrix or the figure."""
    if name == "Twice":
        from landscape.curvature.hessian import Hessian

        class Twice(Hessian):
            def _product(self, vectors: Any) -> Any:
                return 2 * super()._product(vectors)

        return Twice
    if name == "FIGURE":
        from landscape.figures.page import Page

        def draw(panel: Any, shown: Any, look: Any) -> None:
            axes = panel.subplots()
            axes.plot([float(record.row("weight_norm").norm) for record in shown], "o")
            axes.set_ylabel("norm of the parameters")

        return Page({"weight_norm": ("norm",)}, "--weight-norm", lambda shown: "column", lambda shown, width: 2.5, draw)
    raise AttributeError(name)
