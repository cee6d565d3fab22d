"""How a batch becomes its terms: the model and the loss, both while other tensors are in the model's places.

There are two forms, ``loss(model(input), target)`` and the user's own ``fn(model, batch)``; both have ``terms``,
``judged`` (the same, and which are right), ``check`` (the same, held to what terms must be), ``as_is`` (a batch's sum
of weighted losses with whatever is in the model), ``on`` (the form on another device or in another precision),
``with_model`` and ``loss_name``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.losses import Loss, Terms, terms_of
from landscape.swap import swapped
from landscape.wording import listed

SampleLosses = Callable[[nn.Module, Any], Tensor | Terms]
Read = Callable[[Any], Any]
Judged = tuple[Tensor, Tensor, Tensor | None]  # terms, and which of them are right where that can be told


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
        self.loss = terms_of(loss, device, dtype, model)
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
        return swapped(self.model, state, lambda: self._output(batch))

    def terms(self, state: dict[str, Tensor], batch: Any) -> Terms:
        return swapped(self.model, state, lambda: self.loss.terms(self._output(batch), batch[1]))

    def terms_of_output(self, state: dict[str, Tensor], output: Any, batch: Any) -> Terms:
        """The terms of an output that was made before; ``state`` is what the loss itself may read of the model."""
        return swapped(self.model, state, lambda: self.loss.terms(output, batch[1]))

    def judged(self, state: dict[str, Tensor], batch: Any) -> Judged:
        def judge() -> Judged:
            output = self._output(batch)
            correct = None if self.loss.correct is None else self.loss.correct(output, batch[1])
            return *self.loss.terms(output, batch[1]), correct

        return swapped(self.model, state, judge)

    def check(self, state: dict[str, Tensor], batch: Any) -> Terms:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InputError("each batch must be a pair (input, target); use Problem.from_sample_losses for others")
        return swapped(self.model, state, lambda: self.loss.check(self._output(batch), batch[1]))

    def as_is(self, batch: Any) -> Tensor:
        output = self._output(batch)
        with torch.no_grad():
            weight = self.loss.terms(output, batch[1])[1].sum()
        # Of no weight at all, the mean is no number.
        loss = self.loss.reduced(output, batch[1]) if weight else output.new_zeros(())
        return weight * loss if loss.ndim == 0 else loss.sum()

    def _output(self, batch: Any) -> Any:
        inputs, _ = batch
        if isinstance(inputs, Mapping):
            output = self.model(**inputs)
        else:
            output = self.model(*inputs) if isinstance(inputs, tuple | list) else self.model(inputs)
        return output if self.read is None else self.read(output)


class OwnForm:
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
        return swapped(self.model, state, lambda: self._terms(batch))

    def judged(self, state: dict[str, Tensor], batch: Any) -> Judged:
        return *self.terms(state, batch), None

    def check(self, state: dict[str, Tensor], batch: Any) -> Terms:
        return self.terms(state, batch)

    def as_is(self, batch: Any) -> Tensor:
        losses, weights = self._terms(batch)
        return (losses * weights).sum()

    def _terms(self, batch: Any) -> Terms:
        with torch.enable_grad():  # a loss may differentiate by its inputs, as physics-informed ones do
            result = self.fn(self.model, batch)
        losses, weights = result if isinstance(result, tuple) else (result, None)
        if not isinstance(losses, Tensor):
            raise InputError(f"fn returned {type(losses).__name__}; it must return a tensor of losses, one a sample")
        return losses, torch.ones_like(losses) if weights is None else weights.to(losses)
