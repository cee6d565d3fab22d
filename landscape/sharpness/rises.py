"""The rise of the loss at points near the weights, in float64 where the model can be evaluated in float64."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.machine.memory import ran_out
from landscape.machine.widened import NoFloat64Error, fast_float64, only_float64
from landscape.problem import Problem
from landscape.problem.samples import LossEstimate, SampleSums
from landscape.problem.switches import differentiating


class Rises:
    """The rise L(w + d) - L(w) of the objective L at the weights w for any step d, summed from differences by sample.

    The losses are computed in float64 if the model and the device allow float64, and in the problem's type otherwise.
    The gradients, which only guide a search, are computed in the problem's type. Buffers stay as they are at w.

    The size of the rounding error of a rise is estimated to first order. The rounding error of an evaluation is
    proportional to the unit roundoff u (Higham 2002, section 1.6), so the difference by sample between the losses in
    float32 and in float64, times u / u_float32, has the size of the error in the arithmetic of the rises. It is taken
    as at least u times the mean of the absolute losses, which rounding the losses alone causes. It counts twice, once
    for each loss. Rounding w + d adds at most u sum_i |g_i w_i|, to first order.

    Attributes:
        problem: the problem at the weights.
        vector: the weights w, (dim,) float64.
        base: sums by sample at the weights.
        gradient: gradient g at the weights, (dim,) float64.
        arithmetic: how the losses are computed: ``in float64``, or the type and the reason.
        rounding: estimated size of the rounding error of a rise, in the units of the loss.
        rounding_is_measured: whether ``rounding`` includes the comparison of float32 with float64.
        losses: number of evaluations of the loss on all samples so far.
        gradients: number of gradients so far.

    Raises:
        InputError: the loss or the gradient at the weights isn't finite.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.gradients = problem, 0
        self.vector = problem.vector.to(torch.float64)
        try:
            self._evaluated, self.arithmetic = _float64_twin(problem), "in float64"
        except NoFloat64Error as reason:
            self._evaluated, self.arithmetic = problem, f"in {str(problem.dtype).removeprefix('torch.')}: {reason}"
        self.base, self.losses = self._evaluated.by_sample(), 1
        if not self.base.losses.isfinite().all():
            self._evaluated.evaluate()  # raises the error that names the batch
        self.gradient = self.gradient_at(torch.zeros_like(self.vector))
        if not self.gradient.isfinite().all():
            raise InputError("the gradient is NaN or infinite though the loss isn't: the loss has no derivative here")
        self.rounding, self.rounding_is_measured = self._rounding()

    @property
    def loss(self) -> float:
        """The objective at the weights."""
        return self.base.mean

    def at(self, step: Tensor) -> LossEstimate:
        """The rise at a step (dim,) float64, with the standard error over samples of this step; may be non-finite."""
        return self.estimate(self.by_sample(step))

    def by_sample(self, step: Tensor) -> Tensor:
        """Each sample's part of the rise at a step, (n,) float64: the rise is their sum by the total weight."""
        with torch.no_grad(), self._evaluated.evaluating():
            sums = self._evaluated.sums_at((self.vector + step).to(self._evaluated.dtype))
        self.losses += 1
        return sums.losses - self.base.losses

    def estimate(self, differences: Tensor) -> LossEstimate:
        """The mean of differences by sample, as `by_sample` gives them, with its standard error over samples."""
        return replace(self.base, losses=differences).estimate()

    def gradient_at(self, step: Tensor) -> Tensor:
        """The gradient at a step, (dim,) float64 from the problem's type; it may be non-finite."""
        self.gradients += 1
        return self.problem.at((self.vector + step).to(self.problem.dtype)).gradient().to(torch.float64)

    def _rounding(self) -> tuple[float, bool]:
        unit, coarse_unit = (torch.finfo(each).eps / 2 for each in (self._evaluated.dtype, torch.float32))
        of_losses, measured = unit * float(self.base.losses.abs().sum()), False
        if self._evaluated.dtype == torch.float64 and (coarse := self._in_float32()) is not None:
            error = float((coarse.losses - self.base.losses).abs().sum()) * unit / coarse_unit
            measured = error < float("inf")
            of_losses = max(of_losses, error) if measured else of_losses
        of_weights = unit * float((self.gradient * self.vector).abs().sum())
        return 2 * of_losses / self.base.total_weight + of_weights, measured

    def _in_float32(self) -> SampleSums | None:
        """The sums by sample at the weights in float32; None if the model can't be evaluated in float32."""
        try:
            coarse = self.problem if self.problem.dtype == torch.float32 else self.problem.to(dtype=torch.float32)
            self.losses += 1
            return coarse.by_sample()
        except (InputError, RuntimeError, TypeError) as error:
            if ran_out(error):
                raise
            return None


def _float64_twin(problem: Problem) -> Problem:
    """The problem in float64.

    Raises:
        NoFloat64Error: the device has no fast float64, or the model can't be evaluated in float64.
    """
    if problem.dtype == torch.float64:
        return problem
    if not fast_float64(problem.device):
        raise NoFloat64Error(f"{problem.device} has no fast float64")
    wide = problem.in_float64()
    with differentiating(), wide.evaluating(), only_float64():
        vector = wide.vector.clone().requires_grad_()
        wide.terms(vector, wide.local_shard().batches[0])
        wide.penalty_at(vector)
    return wide
