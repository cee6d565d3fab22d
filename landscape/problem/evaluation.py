"""Evaluation of an objective at one point on one data set: losses, sums per sample, gradient."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.machine.processes import Processes
from landscape.problem.batches import shape_of, signature
from landscape.problem.data import Data
from landscape.problem.forms import EvaluatedTerms, PairForm
from landscape.problem.losses import LossTerms, Terms
from landscape.problem.objective import Objective
from landscape.problem.parameters import ParameterLayout
from landscape.problem.penalty import Penalty
from landscape.problem.point import Point
from landscape.problem.samples import LossEstimate, SampleSums
from landscape.problem.switches import differentiating


class Evaluation:
    """Evaluations of an objective at a point on data; the base class of `landscape.Problem`.

    Attributes:
        data: the batches, with facts about their samples.
        objective: the model, the loss and the penalty.
        point: the flat vector and the model's other tensors.
        total_weight: weight of the whole data, sum w_i.
    """

    data: Data
    objective: Objective
    point: Point
    total_weight: float

    @property
    def model(self) -> nn.Module:
        """The user's model, without wrappers and without compilation."""
        return self.objective.model

    @property
    def training(self) -> bool:
        """Whether the model is evaluated in training mode."""
        return self.objective.training

    @property
    def penalty(self) -> Penalty | None:
        """Function of the parameters that is added to the mean loss; None for no penalty."""
        return self.objective.penalty

    @property
    def layout(self) -> ParameterLayout:
        """Names and shapes of the parameters that vary, in the order of the flat vector."""
        return self.point.layout

    @property
    def vector(self) -> Tensor:
        """The flat vector of the parameters that vary, (dim,)."""
        return self.point.vector

    @property
    def device(self) -> torch.device:
        """Device of all computations."""
        return self.point.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of parameters, buffers and data."""
        return self.point.dtype

    @property
    def batches(self) -> list[Any]:
        """The data in micro-batches."""
        return self.data.batches

    @property
    def about(self) -> dict[str, np.ndarray]:
        """Facts about the samples by name: arrays (samples,) of text or numbers."""
        return self.data.about

    @property
    def data_sha256(self) -> str:
        """SHA-256 of the data as they were read."""
        return self.data.sha256

    @property
    def processes(self) -> Processes:
        """Processes that share the work, see `landscape.Problem.distributed_over`."""
        return self.data.processes

    @property
    def description(self) -> str:
        """The model, the loss and the penalty as text; see `landscape.problem.objective.Objective.description`."""
        return self.objective.description

    @property
    def loss_terms(self) -> LossTerms:
        """The loss as a function of the model's output and the target.

        Raises:
            InputError: the problem is of the form `from_sample_losses`.
        """
        return self.objective.pair_form.loss

    @property
    def torch_loss(self) -> nn.Module | None:
        """The loss as a torch module.

        None for a plain function of the user's own, for a torch loss of more than two arguments, and for the form
        `from_sample_losses`.
        """
        form = self.objective.form
        loss = form.loss.reduced if isinstance(form, PairForm) else None
        return loss if isinstance(loss, nn.Module) else None

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer at this point, by the first of its names."""
        return self.point.tensors()

    def constants(self) -> Iterable[Tensor]:
        """The buffers and the parameters that don't vary."""
        return self.point.constants.values()

    def signature(self, batch: Any) -> Hashable:
        """Key of a traced computation: points and batches of equal signature can share the computation."""
        constants = tuple((name, signature(tensor)) for name, tensor in self.point.constants.items())
        point = self.layout.names, self.dtype, self.device, self.training
        return self.objective.form, self.total_weight, point, constants, shape_of(batch)

    # ------------------------------------------------------------------ evaluation

    def evaluating(self) -> AbstractContextManager[None]:
        """The state in which the model is evaluated; see `landscape.problem.objective.Objective.evaluating`."""
        return self.objective.evaluating(self.dtype)

    def terms(self, vector: Tensor, batch: Any) -> Terms:
        """Losses and weights of one batch at a flat vector, differentiable in the vector; call inside `evaluating`."""
        return self.objective.terms(self.point, vector, batch)

    def output(self, vector: Tensor, batch: Any) -> Any:
        """The model's output on one batch at a flat vector, differentiable in the vector; call inside `evaluating`.

        Raises:
            InputError: the problem is of the form `from_sample_losses`. Only the user's function sees the output there.
        """
        return self.objective.output(self.point, vector, batch)

    def penalty_at(self, vector: Tensor) -> Tensor:
        """The penalty at a flat vector, differentiable in the vector, 0 if there is none; call inside `evaluating`.

        Raises:
            InputError: the penalty isn't a scalar tensor.
        """
        return self.objective.penalty_at(self.point, vector)

    def share(self, vector: Tensor, batch: Any) -> Tensor:
        """One batch's part of the objective: sum w l / W, a scalar with a graph, with W the weight of the whole data.

        Raises:
            InputError: autograd sees no dependence of the losses on the vector.
        """
        return self._weigh(self.terms(vector, batch))

    def share_of_output(self, vector: Tensor, output: Any, batch: Any) -> Tensor:
        """One batch's part of the objective, see `share`, from the model's output on the batch at the vector.

        Raises:
            InputError: the problem is of the form `from_sample_losses`, or the losses don't depend on the output.
        """
        return self._weigh(self.objective.terms_of_output(self.point, vector, output, batch))

    def share_as_is(self, batch: Any) -> Tensor:
        """One batch's part of the objective, by the model with the weights that it holds now.

        Call inside `evaluating`. The penalty is spread evenly over the batches.
        """
        share = self.objective.as_is(batch) / self.total_weight
        return share if self.penalty is None else share + self.objective.penalty_as_is() / len(self.batches)

    def _weigh(self, terms: Terms) -> Tensor:
        losses, weights = terms
        if not losses.requires_grad:
            raise InputError(
                "the losses have no gradient: the model or the loss is detached from its parameters (no_grad inside?)"
            )
        return (weights * losses).sum() / self.total_weight

    def sample_losses(self) -> list[Terms]:
        """Losses and weights of every term: a pair for each batch, with the sample's dimension first."""
        return [(losses, weights) for losses, weights, _ in self.evaluated_terms()]

    def evaluated_terms(self) -> list[EvaluatedTerms]:
        """Losses, weights and correctness of every term: a triple for each batch.

        Correctness is 1 or 0, or a share between them for several outputs. It is None where the loss has no classes or
        the form is `from_sample_losses`.
        """
        with torch.no_grad(), self.evaluating():
            evaluated = (self.objective.evaluated_terms(self.point, self.vector, batch) for batch in self.batches)
            return [(losses.detach(), weights.detach(), right) for losses, weights, right in evaluated]

    def by_sample(self) -> SampleSums:
        """Per-sample sums of the objective at this point, by one evaluation; NaN and infinite losses aren't refused.

        The penalty is added to the loss of every term, so the objective is the mean of these losses.
        """
        with torch.no_grad(), self.evaluating():
            return self.sums_at(self.vector)

    def sums_at(self, vector: Tensor) -> SampleSums:
        """Per-sample sums of the objective at a flat vector (dim,), which may be non-finite.

        Call inside `evaluating`, which may be entered once for many points.
        """
        evaluated_terms = (
            self.objective.evaluated_terms(self.point, vector, batch) for batch in self.data.local_shard().batches
        )
        return self.data.gathered(SampleSums.of(evaluated_terms, self.total_weight).raised(self.penalty_at(vector)))

    def loss(self) -> float:
        """The objective at this point, summed in float64.

        Raises:
            InputError: see `evaluate`.
        """
        return self.evaluate().loss

    def evaluate(self) -> LossEstimate:
        """The objective with its standard error; see `LossEstimate`.

        Raises:
            InputError: a loss is NaN or infinite (the message gives the batch and the number of terms), or the weights
                of the losses depend on the parameters.
        """
        sums = self.by_sample()
        if not sums.losses.isfinite().all():
            self._refuse_nonfinite_losses()
        if not math.isclose(float(sums.weights.sum()), self.total_weight, rel_tol=1e-6):
            raise InputError(
                f"the losses' weights sum to {float(sums.weights.sum()):.6g} here and to {self.total_weight:.6g} "
                "where the problem was posed: weights must not depend on the model's parameters"
            )
        return sums.estimate()

    def _refuse_nonfinite_losses(self) -> None:
        for index, (losses, _) in enumerate(self.sample_losses()):
            if bad := int((~losses.isfinite()).sum()):
                raise InputError(
                    f"the loss is NaN or infinite for {bad} of {losses.numel()} terms of batch {index}; check the "
                    "weights, the data and the loss function"
                )
        raise InputError("the penalty is NaN or infinite here; check the weights and the function")

    def gradient(self) -> Tensor:
        """Gradient (dim,) of the objective, summed over batches in float64."""
        with differentiating(), self.evaluating():
            total = torch.zeros(self.layout.dim, device=self.device, dtype=torch.float64)
            vector = self.vector.clone().requires_grad_()
            for batch in self.data.local_shard().batches:
                (part,) = torch.autograd.grad(self.share(vector, batch), vector)
                total += part
            total = self.processes.total(total)
            if (penalty := self.penalty_at(vector)).requires_grad:
                (part,) = torch.autograd.grad(penalty, vector, materialize_grads=True)
                total += part
        return total.to(self.dtype)
