"""Measure the noise of the gradient over samples: noise scale, norm and signal-to-noise ratio, by layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.measurements.base import Flag, Measurement, RowData, variable
from landscape.measurements.cost import Cost
from landscape.measurements.layers import layers_of
from landscape.measurements.run import History
from landscape.reporting.messages import counted
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem

WHOLE = "all"


@dataclass(frozen=True)
class NoiseScale(Measurement):
    """Gradient noise scale, gradient norm and signal-to-noise ratio; see `landscape.sampling.gradient_noise`.

    Attributes:
        seed: seed of the groups of samples. Default: 0.
    """

    seed: int = 0

    name: ClassVar[str] = "noise_scale"
    flag: ClassVar[Flag] = Flag("noise_scale", "Noise of the gradient over samples, by layers.")
    makes_products: ClassVar[bool] = False
    figures: ClassVar[tuple[str, ...]] = ("noise-scale",)

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse samples that can't be taken apart."""
        from landscape.sampling.groups import check_independent

        check_independent(problem)
        return self

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: the gradient of all samples, and as much again for all groups together."""
        return Cost(losses=8, groups=1)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.sampling import gradient_noise

        found = gradient_noise(problem, layers_of(problem), self.seed, progress=bar)
        each = list(found.values())
        bounds = ("layer", "bound")
        return RowData(
            {
                "layer": variable("layer", list(found), "module with trainable parameters of its own, or all", ""),
                "noise_scale": variable("layer", [one.noise_scale for one in each], "tr S / |G|^2", "samples"),
                "noise_scale_interval": variable(
                    bounds, [one.noise_scale_interval for one in each], "its 95 % interval over samples", "samples"
                ),
                "gradient_norm": variable(
                    "layer", [one.gradient_norm for one in each], "|G| without noise", "loss / parameter"
                ),
                "gradient_norm_interval": variable(
                    bounds, [one.gradient_norm_interval for one in each], "its 95 % interval over samples",
                    "loss / parameter",
                ),
                "signal_to_noise": variable(
                    "layer", [one.signal_to_noise for one in each], "|G|^2 / (tr S / n) of the mean over n samples"
                ),
                "signal_to_noise_interval": variable(
                    bounds, [one.signal_to_noise_interval for one in each], "its 95 % interval over samples"
                ),
                "variance": variable(
                    "layer", [one.variance for one in each], "tr S, of the gradient of one sample",
                    "(loss / parameter)^2",
                ),
                "samples": variable((), each[0].samples, "number of samples"),
                "groups": variable((), each[0].groups, "groups of samples"),
            }
        )  # fmt: skip

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """No lines: an interval without an upper end says that the samples are too few."""
        return []

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A table of all parameters and of the layers, and a line if the samples are too few."""
        from rich.table import Table

        table = Table("layer", "noise scale (95 %)", "gradient norm (95 %)", "signal to noise")
        for column in table.columns[1:]:
            column.justify = "right"
        for i, layer in enumerate(map(str, row.layer.values)):
            cells = (
                "{:.3g} ({:.3g} to {:.3g})".format(float(row[name][i]), *row[f"{name}_interval"].values[i])
                for name in ("noise_scale", "gradient_norm")
            )
            table.add_row(layer, *cells, f"{float(row.signal_to_noise[i]):.3g}")
        samples = counted(int(row.samples), "sample")
        lines: list[RenderableType] = [
            f"noise of the gradient over {samples} in {int(row.groups)} groups; noise scale in samples, signal to "
            "noise of the mean over all samples",
            table,
        ]
        if not np.isfinite(row.noise_scale_interval.values[0, 1]):
            lines.append("the gradient isn't distinguishable from noise with these samples: only a lower bound holds")
        return lines
