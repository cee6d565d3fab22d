"""The two forms of an objective's terms: ``loss(model(input), target)`` and the user's own ``fn(model, batch)``.

A form evaluates the model and the loss on a batch, while other tensors are in the model's places. Both forms have

- ``terms``: loss and weight of each term of a batch; ``evaluated_terms``: the terms with their correctness;
- ``check``: the terms of a batch, compared with the loss itself where the loss has a value of its own;
- ``as_is``: the sum of a batch's weighted losses, with the tensors that the model holds now;
- ``on`` (the form on another device or in another precision), ``with_model`` and ``loss_name``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from landscape.errors import InputError
from landscape.problem import batches as data
from landscape.problem.losses import Loss, Terms, broadcast, terms_of
from landscape.problem.swap import swapped
from landscape.reporting.messages import listed

T = TypeVar("T")
SampleLosses = Callable[[nn.Module, Any], Tensor | Terms]
Read = Callable[[Any], Any]
EvaluatedTerms = tuple[Tensor, Tensor, Tensor | None]  # losses, weights, correctness (None: unknown)


def _loss_name(loss: Loss) -> str:
    """Name of a loss with its settings, which the repr of a torch module leaves out."""
    if not isinstance(loss, nn.Module):
        return repr(loss)
    plain = {name: value for name, value in vars(loss).items() if isinstance(value, str | int | float)}
    return f"{loss!r} {plain} { {name: buffer.tolist() for name, buffer in loss.named_buffers()} }"


def predicted(output: Any) -> Any:
    """Input of a torch loss in a model's output: the ``logits`` of a mapping or an object, the first item of a tuple.

    Raises:
        InputError: the output is a list, or a mapping of several entries without ``logits``.
    """
    if isinstance(output, Mapping):
        if "logits" not in output and len(output) != 1:
            raise InputError(
                f"the model returns {listed(output)}: choose the output that the loss takes by Problem(..., "
                "read=function)"
            )
        return output.get("logits", next(iter(output.values())))
    if isinstance(output, list):
        raise InputError(
            "the model returns a list: choose the output that the loss takes by Problem(..., read=function)"
        )
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, tuple) and output else output


class _Form:
    """Common part of both forms: the calls of the model and the loss.

    Attributes:
        model: the user's model.
        differentiates: whether the model or the loss takes derivatives by the parameters, such as a penalty on the
            gradient's norm. Every evaluation then builds a graph. Set when an evaluation without a graph fails.
    """

    model: nn.Module
    differentiates = False

    def _inside(self, state: dict[str, Tensor], function: Callable[[], T]) -> T:
        """Call a function while the model's places hold the tensors of ``state``; build a graph if it needs one."""
        if not self.differentiates:
            try:
                return swapped(self.model, state, function)
            except RuntimeError as error:
                if "not require grad" not in str(error):
                    raise
        varied = {id(each): each for each in self._trainable(state)}
        if torch.is_grad_enabled() and any(each.requires_grad for each in varied.values()):
            return swapped(self.model, state, function)
        with torch.enable_grad():
            leaves = {place: each.detach().requires_grad_() for place, each in varied.items()}
            inside = {slot: leaves.get(id(tensor), tensor) for slot, tensor in state.items()}
            result: T = data.map_tensors(Tensor.detach, swapped(self.model, inside, function))
        self.differentiates = True
        return result

    def _trainable(self, state: dict[str, Tensor]) -> Iterator[Tensor]:
        names = {name for name, each in self.model.named_parameters(remove_duplicate=False) if each.requires_grad}
        return (tensor for slot, tensor in state.items() if slot in names)


def _target(batch: Any) -> Any:
    return data.content(batch)[1]


_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.KLDivLoss)
_FUNCTIONS = (
    functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss,
    functional.poisson_nll_loss, functional.kl_div,
)  # fmt: skip


def _elementwise(loss: Any) -> bool:
    """Whether a torch loss compares output and target entry by entry."""
    return isinstance(loss, _ELEMENTWISE) or getattr(loss, "function", None) in _FUNCTIONS


def _fixed(loss: Any, model: nn.Module) -> str:
    """A sentence on trainable parameters of a loss that aren't the model's; empty if there are none."""
    if not isinstance(loss, nn.Module):
        return ""
    own = {id(each) for each in model.parameters()}
    names = [name for name, each in loss.named_parameters() if each.requires_grad and id(each) not in own]
    return (
        f"the loss has trainable parameters ({listed(names)}), which stay constant: make the loss a part of the model "
        "to vary them"
        if names
        else ""
    )


class PairForm(_Form):
    """``loss(model(input), target)`` over batches of ``(input, target)``."""

    def __init__(
        self, model: nn.Module, loss: Loss, device: torch.device, dtype: torch.dtype, read: Read | None = None
    ) -> None:
        self.model = model
        self.given = loss
        self.loss_name = _loss_name(loss)
        self.loss = terms_of(loss, device, dtype, model)
        # A function of the user's own, and a loss of several outputs, take the model's whole output.
        plain = hasattr(self.loss.reduced, "reduction")
        self.read = read or (predicted if plain else None)
        self._broadcast = ""

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        return type(self)(self.model, self.given, device, dtype, self.read)

    def with_model(self, model: nn.Module) -> Self:
        other = copy.copy(self)
        other.model = model
        return other

    def output(self, state: dict[str, Tensor], batch: Any) -> Any:
        """The input of the loss on one batch, with the model's parameters and buffers from ``state``."""
        return self._inside(state, lambda: self._output(batch))

    def terms(self, state: dict[str, Tensor], batch: Any) -> Terms:
        return self._inside(state, lambda: self.loss.terms(self._output(batch), _target(batch)))

    def terms_of_output(self, state: dict[str, Tensor], output: Any, batch: Any) -> Terms:
        """Terms from a model output that was computed before; the loss itself may read ``state`` from the model."""
        return self._inside(state, lambda: self.loss.terms(output, _target(batch)))

    def evaluated_terms(self, state: dict[str, Tensor], batch: Any) -> EvaluatedTerms:
        def judge() -> EvaluatedTerms:
            output = self._output(batch)
            correct = None if self.loss.correct is None else self.loss.correct(output, _target(batch))
            return *self.loss.terms(output, _target(batch)), correct

        return self._inside(state, judge)

    def check(self, state: dict[str, Tensor], batch: Any) -> Terms:
        pair = data.content(batch)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError("each batch must be a pair (input, target); use Problem.from_sample_losses for others")

        def check() -> Terms:
            output, target = self._output(batch), _target(batch)
            if _elementwise(self.loss.reduced):
                self._broadcast = broadcast(output, target)
            return self.loss.check(output, target)

        return self._inside(state, check)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on facts of the loss that a user may not know; complete once batches were checked."""
        shapes = f"{self._broadcast.upper()}: this is probably a mistake" if self._broadcast else ""
        return tuple(filter(None, (shapes, _fixed(self.given, self.model))))

    def as_is(self, batch: Any) -> Tensor:
        output = self._output(batch)
        with torch.no_grad():
            weight = self.loss.terms(output, _target(batch))[1].sum()
        # Without any weight the mean is 0 / 0.
        loss = self.loss.reduced(output, _target(batch)) if weight else output.new_zeros(())
        return weight * loss if loss.ndim == 0 else loss.sum()

    def _output(self, batch: Any) -> Any:
        inputs, _ = data.content(batch)
        if isinstance(inputs, Mapping):
            output = self.model(**inputs)
        elif isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence):
            output = self.model(*inputs)
        else:
            output = self.model(inputs)
        return output if self.read is None else self.read(output)


class OwnForm(_Form):
    """``fn(model, batch) -> losses`` or ``(losses, weights)`` over batches of any kind."""

    def __init__(self, model: nn.Module, fn: SampleLosses) -> None:
        self.model = model
        self.fn = fn
        self.loss_name = repr(fn)

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        return self  # the user places the tensors of the function

    def with_model(self, model: nn.Module) -> Self:
        return type(self)(model, self.fn)

    def terms(self, state: dict[str, Tensor], batch: Any) -> Terms:
        return self._inside(state, lambda: self._terms(batch))

    def evaluated_terms(self, state: dict[str, Tensor], batch: Any) -> EvaluatedTerms:
        return *self.terms(state, batch), None

    def check(self, state: dict[str, Tensor], batch: Any) -> Terms:
        return self.terms(state, batch)

    @property
    def notes(self) -> tuple[str, ...]:
        """See `PairForm.notes`."""
        return tuple(filter(None, [_fixed(self.fn, self.model)]))

    def as_is(self, batch: Any) -> Tensor:
        losses, weights = self._terms(batch)
        return (losses * weights).sum()

    def _terms(self, batch: Any) -> Terms:
        with torch.enable_grad():  # a loss may differentiate by its inputs, as physics-informed ones do
            result = self.fn(self.model, data.content(batch))
        losses, weights = result if isinstance(result, tuple) else (result, None)
        if not isinstance(losses, Tensor):
            raise InputError(f"fn returned {type(losses).__name__}; it must return a tensor of losses, one a sample")
        return losses, torch.ones_like(losses) if weights is None else weights.to(losses)
