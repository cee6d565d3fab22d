"""Put other tensors into the places of a model's parameters and buffers, or other data under its own tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn
from torch.func import functional_call

T = TypeVar("T")


def tied_names(model: nn.Module) -> dict[str, str]:
    """For every place of a model that holds a parameter or buffer, the first name of the tensor there.

    A shared module has its places once. A tied parameter has several places, all with one first name. So each place is
    swapped once. Left to itself, `functional_call` swaps the place of a module with two names twice, and then puts back
    the swapped tensor.
    """
    first = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
    return {
        f"{prefix}.{name}".removeprefix("."): first[id(tensor)]
        for prefix, module in model.named_modules()
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None
    }


class _Holder(nn.Module):
    """A module whose forward pass is any function, to be called while other tensors are in the places of ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], T]) -> T:
        return function()


def swapped(model: nn.Module, state: Mapping[str, Tensor], function: Callable[[], T]) -> T:
    """Call a function while the model's places hold the tensors of ``state``.

    The swap covers everything that the function does: the model, the loss, and a closure that reads
    `model.parameters()`.

    Args:
        model: the user's model; its own tensors are restored.
        state: a tensor for every place in `tied_names`.
        function: a function without arguments.
    """
    inside = {f"model.{slot}": tensor for slot, tensor in state.items()}
    result: T = functional_call(_Holder(model), inside, (function,), tie_weights=False)
    return result


_pointing = threading.RLock()


@contextmanager
def pointed(targets: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """Make tensors show the data of other tensors, to all code that refers to them; no memory is written.

    Only one thread may do this at a time. Otherwise a thread could save another thread's data as the tensors' own.

    Args:
        targets: for each tensor the tensor whose data it shows, of equal shape, on any device and of any type.
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
    """Make a model show other weights in its own parameters and buffers, without gradients.

    Args:
        model: the user's model; its weights and gradients are restored.
        tensors: every parameter and buffer by the first of its names; they are copied.

    Yields:
        The model's own parameters by name.
    """
    parameters = dict(model.named_parameters())
    own = parameters | dict(model.named_buffers())
    gradients = {parameter: parameter.grad for parameter in parameters.values()}

    def without_gradients() -> None:  # a gradient has the data's type, and one with a graph keeps the parameter
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
