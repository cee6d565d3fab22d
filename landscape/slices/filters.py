"""Filters: the weights of one output, by the kind of module that holds them.

A filter is ``weights[i]`` of a linear layer, of a convolution or of an embedding. Two modules have their outputs in the
second dimension of their weights: a transposed convolution, in one block for each group, and the ``Conv1D`` of GPT-2. A
weight-normalised or otherwise parametrised weight is treated as the weight itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Filters:
    """How the entries of one parameter make filters.

    Attributes:
        view: a shape with the parameter's number of entries.
        within: the dimensions of ``view`` along which a filter lies; the other dimensions number the filters.
    """

    view: Shape
    within: tuple[int, ...]

    def lengths(self, tensor: Tensor) -> Tensor:
        """The norm of each filter, in the shape of ``view`` with 1 along ``within``."""
        return torch.linalg.vector_norm(tensor.reshape(self.view), dim=self.within, keepdim=True)

    def scaled(self, tensor: Tensor, factors: Tensor) -> Tensor:
        """The parameter with each filter multiplied by its factor; ``factors`` has the shape of `lengths`."""
        return (tensor.reshape(self.view) * factors).reshape(tensor.shape)


def filters_of(model: nn.Module) -> dict[str, Filters | None]:
    """The filters of every parameter, by its first name; None for those that random directions leave out.

    Left out are parameters of one dimension or none, such as biases and the scales and shifts of normalisation layers.
    Left out too are parameters of LayerNorm and RMSNorm over several dimensions.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    filters: dict[str, Filters | None] = {}
    for prefix, module in model.named_modules():
        owner = model.get_submodule(f".{prefix}".partition(".parametrizations.")[0].removeprefix("."))
        for parameter in module.parameters(recurse=False):
            filters.setdefault(names[id(parameter)], _filters(owner, tuple(parameter.shape)))
    return filters


def _filters(module: nn.Module, shape: Shape) -> Filters | None:
    if len(shape) <= 1 or isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return None
    return next((of(module, shape) for kind, of in _SECOND if kind(module)), _rows(module, shape))


def _rows(_: nn.Module, shape: Shape) -> Filters:
    return Filters((shape[0], -1), (1,))


def _transposed_convolution(module: nn.Module, shape: Shape) -> Filters:
    """The filters of weights (in, out / groups, ...), whose inputs and outputs lie group by group."""
    assert isinstance(module, _ConvTransposeNd)
    groups = module.groups if shape[0] == module.in_channels else 1  # else: lengths of weight_norm along outputs
    return Filters((groups, shape[0] // groups, shape[1], -1), (1, 3))


def _columns(_: nn.Module, shape: Shape) -> Filters:
    return Filters(shape, (0,))


def _is_conv1d(module: nn.Module) -> bool:
    """Whether a module is the ``Conv1D`` of transformers, which need not be installed."""
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.") for kind in type(module).__mro__
    )


# Modules whose outputs are in the second dimension of their weights.
_SECOND: list[tuple[Callable[[nn.Module], bool], Callable[[nn.Module, Shape], Filters]]] = [
    (lambda module: isinstance(module, _ConvTransposeNd), _transposed_convolution),
    (_is_conv1d, _columns),
]
