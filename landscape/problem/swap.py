"""Other tensors in the places of a model's parameters and buffers, and other data under its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn
from torch.func import functional_call

T = TypeVar("T")


def tied_names(model: nn.Module) -> dict[str, str]:
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


class _Holder(nn.Module):
    """A module whose forward pass is a function, called while other tensors are in the places of ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], T]) -> T:
        return function()


def swapped(model: nn.Module, state: Mapping[str, Tensor], function: Callable[[], T]) -> T:
    """Call a function while the model's places hold the tensors of ``state``.

    Everything that the function does is inside: the model, the loss, and a closure that reads `model.parameters()`.

    Args:
        model: the user's; put back as it was.
        state: a tensor for every place in `tied_names`.
        function: without arguments.
    """
    inside = {f"model.{slot}": tensor for slot, tensor in state.items()}
    result: T = functional_call(_Holder(model), inside, (function,), tie_weights=False)
    return result


_pointing = threading.RLock()


@contextmanager
def pointed(targets: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """Have tensors show the data of others, for everyone who holds them; their own memory is never written to.

    One thread at a time, so that no thread takes another one's data for the tensors' own.

    Args:
        targets: each tensor with the one whose data it shows; of its shape, on any device and of any type.
    """
    with _pointing:
        own = {tensor: tensor.data for tensor in targets}
        try:
            for tensor, other in targets.items():
                tensor.data = other
            yield
        finally:
            for tensor, data in own.items():
                tensor.data = data


@contextmanager
def written(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, nn.Parameter]]:
    """Have a model show other weights, in its own parameters and buffers, and have no gradients.

    Args:
        model: the user's; put back as it was, its gradients too.
        tensors: every parameter and buffer under the first of its names; they are copied.

    Yields:
        The model's own parameters by their names.
    """
    parameters = dict(model.named_parameters())
    own = parameters | dict(model.named_buffers())
    gradients = {parameter: parameter.grad for parameter in parameters.values()}

    def without_gradients() -> None:  # which have the data's type, and hold the parameter where they have a graph
        for parameter in gradients:
            parameter.grad = None

    try:
        without_gradients()
        with pointed({own[name]: tensor.clone() for name, tensor in tensors.items()}):
            try:
                yield parameters
            finally:
                without_gradients()
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
