"""The flat-vector view of a model's trainable parameters.

A flat vector concatenates the parameters with ``requires_grad`` in ``named_parameters()`` order, row-major. Tied
parameters are in the vector once. Every vector of this library has this layout, and so has an eigenvector in a record.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from landscape.errors import InputError


@dataclass(frozen=True)
class ParameterLayout:
    """Names and shapes of the trainable parameters, in the order of the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """The layout of a model's trainable parameters.

        Raises:
            InputError: no parameter has ``requires_grad``, or a trainable parameter isn't floating-point.
        """
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not sum(p.numel() for _, p in trainable):
            raise InputError(f"{type(model).__name__} has no trainable parameters; set requires_grad on those to probe")
        for name, parameter in trainable:
            if not parameter.dtype.is_floating_point:
                raise InputError(f"parameter {name} is {parameter.dtype}; curvature needs real floating-point weights")
        return cls(tuple(name for name, _ in trainable), tuple(p.shape for _, p in trainable))

    def subset(self, names: Container[str]) -> Self:
        """The layout of the parameters in ``names``, in the order of this layout."""
        chosen = [(name, shape) for name, shape in zip(self.names, self.shapes, strict=True) if name in names]
        return type(self)(tuple(name for name, _ in chosen), tuple(shape for _, shape in chosen))

    @property
    def sizes(self) -> list[int]:
        """Numbers of entries, one for each parameter."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def dim(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The flat vector (dim,) of tensors given by parameter name; tensors of other names are ignored."""
        return torch.cat([tensors[name].reshape(-1) for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of a flat vector (dim,) by parameter name, differentiable, with one graph node for the whole split."""
        pieces = vector.split(self.sizes)
        return {name: piece.view(shape) for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)}
