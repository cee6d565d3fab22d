"""The objective: the losses of a model on terms, and a penalty, with the model in training or evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.machine.widened import widened
from landscape.problem.embeddings import plain_embeddings
from landscape.problem.forms import EvaluatedTerms, OwnForm, PairForm
from landscape.problem.losses import Terms
from landscape.problem.penalty import Penalty, name_of, value_of
from landscape.problem.point import Point
from landscape.problem.swap import swapped
from landscape.problem.switches import switched
from landscape.reporting.messages import without_addresses


@dataclass(frozen=True, eq=False)
class Objective:
    """The function from a batch and a flat vector to losses and weights.

    Methods that take a flat vector are differentiable in the vector. Call them inside `evaluating`.

    Attributes:
        form: the model and the loss, in one of two forms.
        training: whether the model is evaluated in training mode.
        penalty: function of the parameters that is added to the mean loss; None for no penalty.
    """

    form: PairForm | OwnForm
    training: bool
    penalty: Penalty | None = None

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self.form.model

    @property
    def description(self) -> str:
        """Text of the model, the loss and the penalty, which identifies an objective; their code isn't in the text."""
        penalty = "" if self.penalty is None else f", {name_of(self.penalty)}"
        return without_addresses(f"{self.model!r}, {self.form.loss_name}{penalty}")

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        """This objective on another device, or in another precision."""
        return replace(self, form=self.form.on(device, dtype))

    def with_model(self, model: nn.Module, penalty: Penalty | None) -> Self:
        """This loss on another model, with a penalty on that model's parameters."""
        return replace(self, form=self.form.with_model(model), penalty=penalty)

    def terms(self, point: Point, vector: Tensor, batch: Any) -> Terms:
        """Losses and weights of one batch at a flat vector."""
        return self.form.terms(self._state(point, vector), batch)

    def checked_terms(self, point: Point, batch: Any) -> Terms:
        """Losses and weights of one batch at the point, compared with the loss as the user gave it.

        Raises:
            InputError: the loss isn't the weighted mean of these terms.
        """
        return self.form.check(self._state(point, point.vector), batch)

    def evaluated_terms(self, point: Point, vector: Tensor, batch: Any) -> EvaluatedTerms:
        """Losses, weights and correctness of the terms of one batch at a flat vector."""
        return self.form.evaluated_terms(self._state(point, vector), batch)

    def output(self, point: Point, vector: Tensor, batch: Any) -> Any:
        """The model's output on one batch at a flat vector.

        Raises:
            InputError: see `pair_form`.
        """
        return self.pair_form.output(self._state(point, vector), batch)

    def terms_of_output(self, point: Point, vector: Tensor, output: Any, batch: Any) -> Terms:
        """Losses and weights of one batch at a flat vector, from the model's output at that vector.

        Raises:
            InputError: see `pair_form`.
        """
        return self.pair_form.terms_of_output(self._state(point, vector), output, batch)

    def penalty_at(self, point: Point, vector: Tensor) -> Tensor:
        """The penalty at a flat vector; 0 if there is none.

        Raises:
            InputError: the penalty isn't a scalar tensor.
        """
        penalty, tensors = self.penalty, point.named(vector)
        if penalty is None:
            return vector.new_zeros(())
        named = {name: tensors[name] for name, _ in self.model.named_parameters()}
        return swapped(self.model, self._state(point, vector), lambda: value_of(penalty, named))

    def as_is(self, batch: Any) -> Tensor:
        """Sum of one batch's weighted losses, by the model with the weights that it holds now."""
        return self.form.as_is(batch)

    def penalty_as_is(self) -> Tensor | float:
        """The penalty of the model's own parameters; 0 if there is none."""
        return 0.0 if self.penalty is None else value_of(self.penalty, dict(self.model.named_parameters()))

    @property
    def pair_form(self) -> PairForm:
        """The form ``loss(model(input), target)``.

        Raises:
            InputError: the objective is of the form ``fn(model, batch)``, which hides the model's output.
        """
        if isinstance(self.form, PairForm):
            return self.form
        raise InputError(
            "Problem.from_sample_losses doesn't separate the model's output from its loss, which Gauss-Newton and the "
            "Fisher need: use Problem(model, loss, batches), or the Hessian or the empirical Fisher"
        )

    @contextlib.contextmanager
    def evaluating(self, dtype: torch.dtype) -> Iterator[None]:
        """The state in which the model is evaluated and differentiated twice; everything is restored at the end.

        The model is in the objective's mode. For the rest of the state see `landscape.problem.switches.switched`,
        `landscape.problem.embeddings` and, for float64, `landscape.machine.widened`.
        """
        modes = {module: module.training for module in self.model.modules()}
        try:
            self.model.train(self.training)
            widening = widened() if dtype == torch.float64 else contextlib.nullcontext()
            recurrent = any(isinstance(module, nn.RNNBase) for module in modes)
            with switched(dtype, recurrent), widening, plain_embeddings(self.model):
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def _state(self, point: Point, vector: Tensor) -> dict[str, Tensor]:
        # BatchNorm in training mode writes its running statistics, which are constants of the point.
        return point.state(vector, fresh=self.training)
