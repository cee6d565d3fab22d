"""The critical learning rate along an update, and the critical sharpness, from losses.

A step along the update u is theta - eta u. The critical learning rate eta_c is the smallest eta > 0 beyond which the
loss after the step exceeds the loss before it, and the critical sharpness is 2 / eta_c (Kalra et al. 2026, "A scalable
measure of loss landscape curvature for analyzing the training dynamics of LLMs", arXiv 2601.16979). On a quadratic the
change of the loss is -eta g^T u + eta^2 u^T H u / 2, so the critical sharpness is u^T H u / g^T u exactly.

**Rounding.** A change of the loss that is smaller than its rounding has no certain sign. Three standard deviations of
the rounding in a change are added in squares. Weights and samples are taken to be rounded independently.

- Storing theta - eta u changes each weight by at most eps/2 of its size, and the loss by eps ||g * theta|| / 2 (with
  the entrywise product).
- Storing the losses changes each by at most eps/2 of its size, twice: eps sqrt(sum (w_i l_i)^2 / 2) / W.
- Rounding inside the model is measured by one loss, at weights that differ by random signs times eps |theta_i|. Each
  sample's sum then changes by d_i, and the mean by sqrt(sum d_i^2) / W. This doesn't show rounding that such small
  differences of the weights don't reach, such as that of a large constant inside the model.

The rounding limits the bracket of the search; see `landscape.sharpness.crossing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.machine.memory import ran_out
from landscape.problem import Problem
from landscape.problem.samples import SampleSums
from landscape.reporting.messages import cause
from landscape.reporting.progress import Progress
from landscape.sharpness.crossing import BESIDE, CrossingSearch
from landscape.spectrum.products import finite_products, measured_rounding

_REACH = 1.0  # largest norm of the first step, as a share of the weights' norm


@dataclass(frozen=True)
class QuadraticModel:
    """The quadratic model of the loss along an update u, in the units of the loss for a learning rate of 1.

    Attributes:
        descent: g^T u, minus the slope of the loss in the learning rate at 0.
        curvature: u^T H u; NaN where the model has no second derivative.
        norm: length of the update, ||u||, in the units of the parameters.
        descent_error: size of the rounding of ``descent``, eps ||g|| ||u||.
        curvature_error: bound on the rounding of ``curvature`` by ||u|| times the rounding in H u, which a second
            product measures. The bound doesn't contain the rounding that both products share.
        reason: why there is no curvature; empty otherwise.
    """

    descent: float
    curvature: float
    norm: float
    descent_error: float
    curvature_error: float
    reason: str

    @property
    def sharpness(self) -> float:
        """The critical sharpness of the quadratic model, u^T H u / g^T u; NaN for an update that goes uphill."""
        return self.curvature / self.descent if self.descent > 0 else math.nan

    @property
    def sharpness_error(self) -> float:
        """Error of ``sharpness`` from rounding."""
        if not self.descent > 0:
            return math.nan
        return (self.curvature_error + abs(self.sharpness) * self.descent_error) / self.descent

    @property
    def directional_curvature(self) -> float:
        """Curvature of the loss in the update's direction, u^T H u / u^T u."""
        return self.curvature / self.norm**2

    @property
    def directional_curvature_error(self) -> float:
        """Error of ``directional_curvature`` from rounding."""
        return self.curvature_error / self.norm**2


@dataclass(frozen=True)
class CriticalLearningRate:
    """The learning rate at which a step along an update leaves the loss unchanged, or the reason why none was found.

    Attributes:
        learning_rate: critical learning rate eta_c: the root of the chord of r between the bracket's ends. NaN without
            a crossing, as are the attributes down to ``width_by_rounding``.
        bracket: learning rates on both sides. The loss is lower than before the step at the first, and higher at the
            second. The loss was lower at every learning rate below ``bracket`` at which it was evaluated. Between
            these points the loss may exceed the loss before the step, so a smaller crossing isn't excluded.
        standard_error: standard error of eta_c over the samples, for this update: that of the change of the loss at
            eta_c, paired by sample, over the slope of the change there. NaN for a single sample.
        width_by_rounding: smallest meaningful width of the bracket; see the module's docstring.
        rounding: standard deviation of the rounding in a change of the loss; NaN where no step was made.
        reason: why there is no critical learning rate; empty otherwise.
        converged: whether the bracket is as narrow as asked for. Without a crossing, whether ``reason`` is certain,
            and not a lack of digits or of losses.
        learning_rates: learning rates at which the loss was evaluated, (m,) ascending, with 0.
        losses: losses there, (m,); they may be NaN or infinite.
        forward_passes: number of evaluations of the loss on all data: m, and one for the rounding.
        samples: number of samples of nonzero weight; 0 where no loss was evaluated.
        quadratic: the quadratic model at theta.
    """

    learning_rate: float
    bracket: tuple[float, float]
    standard_error: float
    width_by_rounding: float
    rounding: float
    reason: str
    converged: bool
    learning_rates: np.ndarray
    losses: np.ndarray
    forward_passes: int
    samples: int
    quadratic: QuadraticModel

    @property
    def sharpness(self) -> float:
        """Critical sharpness 2 / eta_c; NaN without a crossing."""
        return 2 / self.learning_rate

    @property
    def sharpness_bracket(self) -> tuple[float, float]:
        """Critical sharpness of the bracket's ends, ascending."""
        return 2 / self.bracket[1], 2 / self.bracket[0]

    @property
    def sharpness_standard_error(self) -> float:
        """Standard error of the critical sharpness over the samples, 2 / eta_c^2 times that of eta_c."""
        return 2 * self.standard_error / self.learning_rate**2

    @property
    def sharpness_error(self) -> float:
        """Standard error over the samples plus the bracket's width, both of the critical sharpness."""
        low, high = self.sharpness_bracket
        return self.sharpness_standard_error + high - low


def critical_learning_rate(
    problem: Problem,
    update: Tensor,
    tol: float = 0.05,
    *,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> CriticalLearningRate:
    """Find the learning rate at which a step along an update leaves the loss unchanged.

    The update may be that of another problem: then this is the relative critical sharpness of Kalra et al.

    Args:
        problem: the problem at the point theta.
        update: update u for a learning rate of 1, (dim,); a step is theta - eta u.
        tol: goal for the bracket's width, as a share of its upper end. Default: 0.05.
        seed: seed of the signs by which the rounding is measured. Default: 0.
        progress: function that is called after every loss.

    Raises:
        InputError: ``tol`` isn't between 0 and 1, the update has another shape, or the loss at theta isn't finite.
    """
    check_tolerance(tol)
    if update.shape != problem.vector.shape:
        raise InputError(f"the update has shape {tuple(update.shape)}, the parameters {tuple(problem.vector.shape)}")
    update = update.to(problem.vector)
    if not update.isfinite().all() or not update.any():
        return without_crossing("the update is zero" if not update.any() else "the update is NaN or infinite")
    gradient = problem.gradient().to(torch.float64)
    model = _quadratic_model(problem, update, gradient)
    with torch.no_grad(), problem.evaluating():
        losses = _Losses(problem, update, progress)
        if not model.descent > 0:
            return losses.result(model, f"the update goes uphill: g^T u is {model.descent:.3g}")
        rounding = losses.measure_rounding(gradient, seed)
        length = float(torch.linalg.vector_norm(problem.vector, dtype=torch.float64)) or 1.0
        first = _REACH * length / model.norm
        if model.curvature > 0:
            first = min(first, 2 / model.sharpness * (1 + BESIDE * tol))
        search = CrossingSearch(model.descent, first, tol, rounding)
        while (rate := search.next()) is not None:
            search.take(rate, losses.change(rate))
        return losses.result(model, search.reason, search)


def check_tolerance(tol: float) -> None:
    """Raise InputError unless a goal for the bracket's relative width is between 0 and 1."""
    if not 0 < tol < 1:
        raise InputError(f"the goal for the critical learning rate is a share between 0 and 1, not {tol}")


def without_crossing(reason: str) -> CriticalLearningRate:
    """The result where no loss was evaluated, with the reason."""
    nan, none = math.nan, np.empty(0)
    model = QuadraticModel(nan, nan, nan, nan, nan, "")
    return CriticalLearningRate(nan, (nan, nan), nan, nan, nan, reason, True, none, none, 0, 0, model)


def _quadratic_model(problem: Problem, update: Tensor, gradient: Tensor) -> QuadraticModel:
    """The quadratic model, from a product with the update scaled to length 1, which can't overflow."""
    float64_update = update.to(torch.float64)
    norm = float(torch.linalg.vector_norm(float64_update))
    unit = (update / norm).to(update)
    curvature, error, reason = math.nan, math.nan, ""
    try:
        operator = problem.hessian(2)
        product = finite_products(operator, unit.unsqueeze(1)).squeeze(1).to(torch.float64)
        curvature = float(unit.to(torch.float64) @ product) * norm**2
        error = measured_rounding(operator, unit, product) * norm**2
    except (InputError, RuntimeError) as failure:  # the losses are enough for the critical sharpness
        if ran_out(failure):
            raise
        reason = f"there is no product with the Hessian ({cause(failure)})"
    descent_error = torch.finfo(problem.dtype).eps * float(torch.linalg.vector_norm(gradient)) * norm
    return QuadraticModel(float(gradient @ float64_update), curvature, norm, descent_error, error, reason)


class _Losses:
    """The losses along an update, counted; call within `Problem.evaluating`."""

    def __init__(self, problem: Problem, update: Tensor, progress: Callable[[Progress], None] | None) -> None:
        self._problem, self._update, self._progress = problem, update, progress
        self._passes, self._rounding = 0, math.nan
        self._base = self._sums(problem.vector)
        self._found = {0.0: self._base.mean}
        # The samples' changes at the latest learning rates where the loss is lower and where it is higher.
        self._latest: dict[bool, Tensor] = {}
        if not math.isfinite(self._base.mean):
            raise InputError("the loss is NaN or infinite before the step")

    def _sums(self, vector: Tensor) -> SampleSums:
        sums = self._problem.sums_at(vector)
        self._passes += 1
        if self._progress is not None:
            share = self._passes / (self._passes + 3)
            self._progress(Progress("searching", self._passes, np.empty(0), share, "losses"))
        return sums

    def change(self, rate: float) -> float:
        """L(theta - rate u) - L(theta), the mean of the samples' changes."""
        sums = self._sums(torch.add(self._problem.vector, self._update, alpha=-rate))
        self._found[rate] = sums.mean
        changes = sums.losses - self._base.losses
        change = float(changes.sum()) / self._base.total_weight
        if math.isfinite(change):
            self._latest[change > 0] = changes
        return change

    def measure_rounding(self, gradient: Tensor, seed: int) -> float:
        """The standard deviation of the rounding in a change of the loss; see the module's docstring."""
        vector = self._problem.vector
        eps = torch.finfo(vector.dtype).eps
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(2, vector.shape, generator=generator).to(vector) * 2 - 1
        changes = self._sums(torch.addcmul(vector, vector, signs, value=eps)).losses - self._base.losses
        inside = float(torch.linalg.vector_norm(changes)) / self._base.total_weight
        weights = eps / 2 * float(torch.linalg.vector_norm(gradient * vector.to(torch.float64)))
        losses = eps / math.sqrt(2) * float(torch.linalg.vector_norm(self._base.losses)) / self._base.total_weight
        self._rounding = math.hypot(inside, weights, losses)
        return self._rounding

    def result(self, model: QuadraticModel, reason: str, search: CrossingSearch | None = None) -> CriticalLearningRate:
        """The result of a search, or of none."""
        nan = math.nan
        rate, bracket, error, width = nan, (nan, nan), nan, nan
        if search is not None and not reason:
            rate, bracket, width = search.root, (search.low, search.high), search.width_by_rounding
            error = self._standard_error(search) / search.slope
        rates = sorted(self._found)
        return CriticalLearningRate(
            rate,
            bracket,
            error,
            width,
            self._rounding,
            reason,
            search is None or search.converged,
            np.array(rates),
            np.array([self._found[each] for each in rates]),
            self._passes,
            self._base.estimate().samples,
            model,
        )

    def _standard_error(self, search: CrossingSearch) -> float:
        """The standard error of the change of the loss at the root, with every sample's ratio r on its chord."""
        share = (search.root - search.low) / (search.high - search.low)
        low, high = self._latest[False] / search.low, self._latest[True] / search.high
        changes = search.root * (low + share * (high - low))
        return replace(self._base, losses=changes).estimate().standard_error
