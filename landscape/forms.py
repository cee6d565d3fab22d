"""How a batch becomes its terms: the model called with other tensors in its places, then the loss.

There are two forms, ``loss(model(input), target)`` and the user's own ``fn(model, batch)``; both have ``terms``,
``judged`` (the same, and which are right), ``check`` (the same, held to what terms must be), ``on`` (the form on
another device or in another precision), ``with_model`` and ``loss_name``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape.errors import InputError
from landscape.losses import Loss, Terms, terms_of
from landscape.wording import listed

SampleLosses = Callable[[nn.Module, Any], Tensor | Terms]
Read = Callable[[Any], Any]
Judged = tuple[Tensor, Tensor, Tensor | None]  # terms, and which of them are right where that can be told


def slots(model: nn.Module) -> dict[str, str]:
    """For every place that holds a parameter or buffer, the name under which its tensor comes first.

    Shared modules have their places once, tied parameters several that lead to one name: each place is then swapped
    once. Left to itself, `functional_call` swaps the place of a module with two names twice, and puts back what it
    swapped in.
    """
    first = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
    return {
        f"{prefix}.{name}".removeprefix("."): first[id(tensor)]
        for prefix, module in model.named_modules()
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None
    }


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


class PairForm:
    """``loss(model(input), target)`` over batches of ``(input, target)``."""

    def __init__(
        self, model: nn.Module, loss: Loss, device: torch.device, dtype: torch.dtype, read: Read | None = None
    ) -> None:
        self.model = model
        self.given = loss
        self.loss_name = _loss_name(loss)
        self.loss = terms_of(loss, device, dtype)
        # A function of the user's own takes whatever the model gives.
        self.read = read or (predicted if hasattr(self.loss.reduced, "reduction") else None)

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        return type(self)(self.model, self.given, device, dtype, self.read)

    def with_model(self, model: nn.Module) -> Self:
        other = copy.copy(self)
        other.model = model
        return other

    def output(self, state: dict[str, Tensor], batch: Any) -> Any:
        """What the loss is of, on one batch, with the model's parameters and buffers from ``state``."""
        inputs, _ = batch
        if isinstance(inputs, Mapping):
            output = functional_call(self.model, state, (), dict(inputs), tie_weights=False)
        else:
            positional = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
            output = functional_call(self.model, state, positional, tie_weights=False)
        return output if self.read is None else self.read(output)

    def terms(self, state: dict[str, Tensor], batch: Any) -> Terms:
        return self.loss.terms(self.output(state, batch), batch[1])

    def judged(self, state: dict[str, Tensor], batch: Any) -> Judged:
        output = self.output(state, batch)
        correct = None if self.loss.correct is None else self.loss.correct(output, batch[1])
        return *self.loss.terms(output, batch[1]), correct

    def check(self, state: dict[str, Tensor], batch: Any) -> Terms:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InputError("each batch must be a pair (input, target); use Problem.from_sample_losses for others")
        return self.loss.check(self.output(state, batch), batch[1])


class OwnForm:
    """``fn(model, batch) -> losses`` or ``(losses, weights)`` over batches of any kind."""

    def __init__(self, model: nn.Module, fn: SampleLosses) -> None:
        self.call = _Call(model, fn)
        self.loss_name = repr(fn)

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        return self  # its tensors are the user's own affair

    def with_model(self, model: nn.Module) -> Self:
        return type(self)(model, self.call.fn)

    def terms(self, state: dict[str, Tensor], batch: Any) -> Terms:
        inner = {f"model.{name}": tensor for name, tensor in state.items()}
        with torch.enable_grad():  # a loss may differentiate by its inputs, as physics-informed ones do
            result = functional_call(self.call, inner, (batch,), tie_weights=False)
        losses, weights = result if isinstance(result, tuple) else (result, None)
        if not isinstance(losses, Tensor):
            raise InputError(f"fn returned {type(losses).__name__}; it must return a tensor of losses, one a sample")
        return losses, torch.ones_like(losses) if weights is None else weights.to(losses)

    def judged(self, state: dict[str, Tensor], batch: Any) -> Judged:
        return *self.terms(state, batch), None

    def check(self, state: dict[str, Tensor], batch: Any) -> Terms:
        return self.terms(state, batch)


class _Call(nn.Module):
    """A function of a model as a module, so that functional_call can swap the parameters the function sees."""

    def __init__(self, model: nn.Module, fn: SampleLosses) -> None:
        super().__init__()
        self.model = model
        self.fn = fn

    def forward(self, batch: Any) -> Any:
        return self.fn(self.model, batch)
