"""Measure the largest eigenvalue on each mini-batch: the sharpness that a step of training meets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.measurements.base import Flag, RowData, arithmetic_in, arithmetic_variable, variable
from landscape.measurements.cost import Cost, of_solve
from landscape.measurements.eigenpairs import chance_of_miss, known_eigenpairs
from landscape.measurements.matrix import Matrix, OfMatrix, kept_route
from landscape.measurements.run import History
from landscape.reporting.display import to_error
from landscape.reporting.messages import counted
from landscape.reporting.progress import part
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.spectrum.eigenpairs import Eigenpairs

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class PerBatch(OfMatrix):
    """Largest eigenvalue of every mini-batch of one pass over the data in random order, and that of all samples.

    The matrix of a mini-batch is that of the mean over the mini-batch's own terms. The largest eigenvalue is a convex
    function of the matrix. So where all mini-batches have one weight and no sample is left over, the mean over the
    mini-batches is at least the eigenvalue of all samples.

    Attributes:
        size: number of samples of a mini-batch.
        tol: goal for the relative residual norm of each eigenpair. Default: 1e-3.
        seed: seed of the order of the samples, and of the solves. Default: 0.
        matrix: the matrix whose eigenvalues are computed. Default: the Hessian.
    """

    size: int
    tol: float = 1e-3
    seed: int = 0
    matrix: Matrix = field(default_factory=Matrix)

    group: ClassVar[str] = "per_batch"
    flag: ClassVar[Flag] = Flag("per_batch", "Sharpness of mini-batches of this size.", sets="size", whole=True)
    figures: ClassVar[tuple[str, ...]] = ("per-batch",)

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse a size of which the data have no mini-batch, and settings that `top_eigenpairs` would refuse."""
        from landscape.problem.mini_batches import check_size
        from landscape.spectrum.eigenpairs import check_arguments

        check_arguments(problem.layout.dim, 1, "LA", self.tol, self.seed, None)
        check_size(problem, self.size)
        return self.with_matrix(problem)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: a solve on all samples, and as much again for all mini-batches together."""
        from landscape.spectrum.basis_memory import vectors_beside

        products = of_solve(1)
        vectors = min(products, problem.layout.dim) + vectors_beside(1)
        return Cost(2 * products, certainty="about", operator=self.operator, vectors=vectors)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; products on all samples take the route of an earlier row, if there is one."""
        from landscape.problem.mini_batches import count_of, mini_batches
        from landscape.spectrum.eigenpairs import top_eigenpairs

        operator, base = self.matrix.operator(problem, kept_route(history.choices), of_solve(1))
        known, count = known_eigenpairs(self.matrix, history), count_of(problem, self.size)
        start = None if known is None else known.eigenvectors.to(problem.vector)
        tell = part(bar, 0, 0.5, "all samples")
        whole = top_eigenpairs(operator, 1, "LA", self.tol, self.seed, start=start, progress=tell)
        found, losses = [], []
        for number, batch in enumerate(mini_batches(problem, self.size, self.seed)):
            tell = part(bar, 0.5 + number / count / 2, 0.5 + (number + 1) / count / 2, f"{number + 1} of {count}")
            found.append(
                top_eigenpairs(
                    self.matrix.operator(batch, None, of_solve(1))[0],
                    1,
                    "LA",
                    self.tol,
                    self.seed,
                    start=whole.eigenvectors,
                    progress=tell,
                )
            )
            losses.append(batch.loss())
        return RowData(self._variables(problem, whole, found, losses), {"route": base.route.plain()})

    def _variables(
        self, problem: Problem, whole: Eigenpairs, found: list[Eigenpairs], losses: list[float]
    ) -> dict[str, xr.Variable]:
        units, values = self.matrix.units, np.array([float(each.eigenvalues[0]) for each in found])
        deviation = values.std(ddof=1) if len(values) > 1 else np.nan
        return {
            "eigenvalue": variable("batch", values, "largest eigenvalue of a mini-batch", units),
            "interval": variable(
                ("batch", "bound"), [each.intervals[0] for each in found], "an exact eigenvalue lies within", units
            ),
            "converged": variable("batch", [each.complete for each in found], "the eigenvalue reached its goal"),
            "miss_probability": variable(
                "batch", [each.miss_probability for each in found], "bound on the chance that a larger one was missed"
            ),
            "loss": variable("batch", losses, "loss of the mini-batch", "loss"),
            "batch_size": variable((), self.size, "samples of a mini-batch"),
            "samples": variable((), problem.data.samples, "samples of all data"),
            "left_over": variable((), problem.data.samples - self.size * len(found), "samples in no mini-batch"),
            "share": variable("share", SHARES, "of the mini-batches at or below a quantile"),
            "quantiles": variable("share", np.quantile(values, SHARES), "quantiles over the mini-batches", units),
            "mean": variable((), values.mean(), "mean over the mini-batches", units),
            "mean_standard_error": variable(
                (), deviation / np.sqrt(len(values)), "its standard error, over the mini-batches", units
            ),
            "deviation": variable((), deviation, "standard deviation over the mini-batches", units),
            "whole": variable((), whole.eigenvalues[0], "largest eigenvalue of all samples", units),
            "whole_interval": variable("bound", whole.intervals[0], "an exact eigenvalue lies within", units),
            "whole_converged": variable((), whole.complete, "the eigenvalue of all samples reached its goal"),
            "whole_miss_probability": variable(
                (), whole.miss_probability, "bound on the chance that a larger one was missed"
            ),
            **arithmetic_variable(whole.arithmetic),
            "products": variable((), whole.products, "products with the matrix of all samples"),
            "products_batches": variable((), sum(each.products for each in found), "products of all mini-batches"),
        }

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line if eigenvalues did not converge, or if a larger one may have been missed."""
        lines = []
        if not row.whole_converged:
            lines.append("the largest eigenvalue of all samples did not converge, or may not be the largest")
        if unmet := int((~row.converged).sum()):
            of = counted(row.sizes["batch"], "mini-batch")
            lines.append(f"the largest eigenvalue of {unmet} of {of} did not converge, or may not be the largest")
        return [f"{line}: raise --tol, or compute in float64" for line in lines]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The quantiles over the mini-batches, their mean and spread, and the eigenvalue of all samples."""
        low, _, middle, _, high = (f"{value:.4g}" for value in row.quantiles.values)
        radius = float(np.ptp(row.whole_interval.values)) / 2
        batches = counted(row.sizes["batch"], "mini-batch")
        left, missed = int(row.left_over), float(row.miss_probability.sum() + row.whole_miss_probability)
        spread = ""
        if row.deviation.notnull():
            error, deviation = float(row.mean_standard_error), float(row.deviation)
            spread = f" ± {error:.2g} (standard error over mini-batches), standard deviation {deviation:.2g}"
        return [
            f"largest eigenvalue of the {self.matrix.title} on {batches} of {counted(int(row.batch_size), 'sample')}"
            + (f" ({counted(left, 'sample')} left over)" if left else "")
            + f", of the matrix {arithmetic_in(row)}",
            f"half below {middle}, 5 % below {low}, 95 % below {high}; mean {float(row['mean']):.4g}{spread}",
            f"on all samples {to_error(float(row.whole), radius)} ± {radius:.0e}; {int(row.products)} products with "
            f"all samples, {int(row.products_batches)} with mini-batches",
            f"chance that in any of them a larger eigenvalue was missed: {chance_of_miss(min(missed, 1.0))}",
        ]
