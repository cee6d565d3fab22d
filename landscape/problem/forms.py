"""How a batch becomes its terms: the model and the loss, both while other tensors are in the model's places.

There are two forms, ``loss(model(input), target)`` and the user's own ``fn(model, batch)``. Both have

- ``terms``, the loss and the weight of each term of a batch, and ``evaluated_terms``, with the terms answered rightly;
- ``check``, which refuses terms that no sum of losses can have;
- ``as_is``, a batch's sum of weighted losses with whatever tensors the model holds now;
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
EvaluatedTerms = tuple[Tensor, Tensor, Tensor | None]  # terms, and which of them are right where that can be told


def _loss_name(loss: Loss) -> str:
    """A loss with its settings; a torch module prints none of them."""
    if not isinstance(loss, nn.Module):
        return repr(loss)
    plain = {name: value for name, value in vars(loss).items() if isinstance(value, str | int | float)}
    return f"{loss!r} {plain} { {name: buffer.tolist() for name, buffer in loss.named_buffers()} }"


def predicted(output: Any) -> Any:
    """What a torch loss is of: of a mapping or an object what is called ``logits``, of a tuple the first.

    Raises:
        InputError: it is a list, or a mapping of several things of which none is called so.
    """
    if isinstance(output, Mapping):
        if "logits" not in output and len(output) != 1:
            raise InputError(
                f"the model returns {listed(output)}: say what the loss is of by Problem(..., read=function)"
            )
        return output.get("logits", next(iter(output.values())))
    if isinstance(output, list):
        raise InputError("the model returns a list: say what the loss is of by Problem(..., read=function)")
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, tuple) and output else output


class _Form:
    """What both forms share: how their functions are called.

    Attributes:
        model: the user's.
        differentiates: whether the model or the loss takes derivatives by the parameters, such as a penalty on the
            gradient's norm: they then need a graph where none is asked for. Seen at the first evaluation.
    """

    model: nn.Module
    differentiates = False

    def _inside(self, state: dict[str, Tensor], function: Callable[[], T]) -> T:
        """Call a function while the model's places hold the tensors of ``state``, with a graph where it needs one."""
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
    """Whether a torch loss compares an output and a target number by number."""
    return isinstance(loss, _ELEMENTWISE) or getattr(loss, "function", None) in _FUNCTIONS


def _fixed(loss: Any, model: nn.Module) -> str:
    """A sentence on trainable parameters of a loss, which aren't the model's; empty if there are none."""
    if not isinstance(loss, nn.Module):
        return ""
    own = {id(each) for each in model.parameters()}
    names = [name for name, each in loss.named_parameters() if each.requires_grad and id(each) not in own]
    return (
        f"the loss has trainable parameters ({listed(names)}), which stay as they are: make the loss a part of the "
        "model to have them vary"
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
        # A function of the user's own takes whatever the model gives.
        # A function of the user's own, and a loss of several outputs, take whatever the model gives.
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
        """What the loss is of, on one batch, with the model's parameters and buffers from ``state``."""
        return self._inside(state, lambda: self._output(batch))

    def terms(self, state: dict[str, Tensor], batch: Any) -> Terms:
        return self._inside(state, lambda: self.loss.terms(self._output(batch), _target(batch)))

    def terms_of_output(self, state: dict[str, Tensor], output: Any, batch: Any) -> Terms:
        """The terms of an output that was made before; ``state`` is what the loss itself may read of the model."""
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
        """What a user may not know of the loss, a sentence each; complete once batches were checked."""
        told = f"{self._broadcast.upper()}: probably that isn't meant" if self._broadcast else ""
        return tuple(filter(None, (told, _fixed(self.given, self.model))))

    def as_is(self, batch: Any) -> Tensor:
        output = self._output(batch)
        with torch.no_grad():
            weight = self.loss.terms(output, _target(batch))[1].sum()
        # Of no weight at all, the mean is no number.
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
        return self  # its tensors are the user's own affair

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
