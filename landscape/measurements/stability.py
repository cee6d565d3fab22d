"""Measure how far a checkpoint is from the threshold at which its optimiser's steps become unstable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.errors import InputError
from landscape.measurements.base import Flag, Measurement, RowData, variable
from landscape.measurements.cost import Cost, hessian, of_solve
from landscape.measurements.run import History
from landscape.reporting.display import to_error
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.dynamics import Stability as OptimizerStability
    from landscape.operator import SymmetricOperator
    from landscape.problem import Problem
    from landscape.problem.penalty import Penalty


@dataclass(frozen=True)
class Stability(Measurement):
    """The largest eigenvalue of the Hessian, as the optimiser preconditions it, beside the optimiser's threshold.

    See `landscape.dynamics.stability` for the thresholds. For an unknown optimiser, or a checkpoint without the
    optimiser's state, there is no threshold. The eigenvalue is then that of the Hessian without preconditioning.

    Attributes:
        tol: goal for the eigenpair's relative residual. Default: 1e-3.
        seed: seed of the solver's random vectors. Default: 0.
    """

    tol: float = 1e-3
    seed: int = 0

    name: ClassVar[str] = "stability"
    flag: ClassVar[Flag] = Flag("dynamics", "Entropy, stability and phases of a run.")
    figures: ClassVar[tuple[str, ...]] = ("edge-of-stability",)

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Return the measurement unchanged: no setting is left to decide."""
        return self

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`."""
        return Cost(of_solve(1), certainty="about", operator=hessian, vectors=of_solve(1))

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.spectrum.eigenpairs import top_eigenpairs

        seen = seen_by_optimizer(problem)
        pairs = top_eigenpairs(seen.operator, 1, "LA", self.tol, self.seed, progress=bar)
        error = float(pairs.residuals[0]) + pairs.rounding
        return seen.row(float(pairs.eigenvalues[0]), error, bool(pairs.converged[0]) and pairs.complete)

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line if the eigenvalue did not converge."""
        return [] if row.converged else ["the largest eigenvalue that the optimiser sees did not converge: raise --tol"]

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line with the eigenvalue, and its ratio to the threshold where there is one."""
        value = to_error(float(row.eigenvalue), float(row.eigenvalue_error))
        if row.reason:
            return [f"stability: largest eigenvalue {value}; no threshold is claimed: {row.reason.values}"]
        ratio = to_error(float(row.ratio), float(row.ratio_error))
        return [
            f"stability: {row.optimizer.values} with learning rate {float(row.learning_rate):g} sees the largest "
            f"eigenvalue {value}, {ratio} of its threshold {float(row.threshold):.4g}"
        ]


@dataclass(frozen=True)
class SeenByOptimizer:
    """The matrix whose largest eigenvalue decides whether an optimiser's steps are stable, and the threshold.

    Attributes:
        optimizer: the optimiser's threshold.
        operator: the Hessian, or the Hessian as Adam preconditions it.
        reason: why no threshold is claimed; empty otherwise.
    """

    optimizer: OptimizerStability
    operator: SymmetricOperator
    reason: str

    def row(self, value: float, error: float, converged: bool) -> RowData:
        """The row of the matrix's largest eigenvalue.

        Args:
            value: largest eigenvalue.
            error: its error.
            converged: whether the solve reached its goal.
        """
        optimizer, ratio, ratio_error = self.optimizer, np.nan, np.nan
        if not self.reason:
            ratio = optimizer.ratio(value)
            ratio_error = optimizer.ratio(value + error) - ratio
        return RowData(
            {
                "optimizer": variable((), optimizer.name, "optimiser by its settings; empty where it isn't known", ""),
                "reason": variable((), self.reason, "why nothing is claimed", ""),
                "learning_rate": variable((), optimizer.learning_rate, "learning rate"),
                "momentum": variable((), optimizer.momentum, "momentum, or Adam's first beta"),
                "eigenvalue": variable((), value, "largest eigenvalue of what the steps see", "loss / parameter^2"),
                "eigenvalue_error": variable((), error, "its error", "loss / parameter^2"),
                "converged": variable((), converged, "the solve reached its goal"),
                "threshold": variable(
                    (), np.nan if self.reason else optimizer.threshold, "at which steps become unstable"
                ),
                "ratio": variable((), ratio, "how far to the threshold the eigenvalue is: 1 there, above it unstable"),
                "ratio_error": variable((), ratio_error, "its error"),
            }
        )


def seen_by_optimizer(problem: Problem) -> SeenByOptimizer:
    """The Hessian as a problem's optimiser preconditions it, and the threshold of `landscape.dynamics.stability`."""
    from landscape.dynamics import stability
    from landscape.problem.parameters import ParameterLayout

    optimizer = _beside_penalty(stability(problem.optimizer), problem.penalty)
    if problem.layout.dim < ParameterLayout.of(problem.model).dim:
        reason = "only some of the parameters vary here, and the optimiser moves all parameters"
        optimizer = replace(optimizer, reason=reason, preconditioned=False)
    if optimizer.preconditioned:
        return SeenByOptimizer(optimizer, *_as_preconditioned(problem))
    return SeenByOptimizer(optimizer, problem.hessian(), optimizer.reason)


def _beside_penalty(optimizer: OptimizerStability, penalty: Penalty | None) -> OptimizerStability:
    """The threshold for an objective whose penalty may be the optimiser's weight decay (``--weight-decay``).

    The Hessian of such an objective includes the weight decay, which therefore has no part in the threshold.
    """
    from landscape.problem.penalty import WeightDecay

    if optimizer.reason or not isinstance(penalty, WeightDecay):
        return optimizer
    if optimizer.preconditioned or penalty.weight != optimizer.weight_decay:
        reason = "the objective has a weight decay that isn't the optimiser's"
        return replace(optimizer, reason=reason, preconditioned=False)
    return replace(optimizer, threshold=optimizer.threshold + optimizer.weight_decay, weight_decay=0.0)


def _as_preconditioned(problem: Problem) -> tuple[SymmetricOperator, str]:
    """The Hessian as Adam preconditions it, or the plain Hessian with the reason why Adam's diagonal isn't known."""
    from landscape.curvature.preconditioned import Preconditioned, adam_diagonal

    try:
        assert problem.optimizer is not None, "an optimiser was recognised"
        diagonal = adam_diagonal(problem.optimizer, problem.model, problem.layout)
        return Preconditioned(problem.hessian(), diagonal), ""
    except InputError as error:
        return problem.hessian(), str(error)
