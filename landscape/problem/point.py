"""A point of parameter space: the flat vector that varies, and all other tensors of the model as constants."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.problem.parameters import ParameterLayout
from landscape.problem.swap import tied_names
from landscape.reporting.messages import listed


@dataclass(frozen=True, eq=False)
class Point:
    """Values for all parameters and buffers of a model.

    Attributes:
        layout: names and shapes of the parameters that vary, in the order of the flat vector.
        vector: the flat vector, (dim,).
        constants: buffers and parameters that don't vary, by the first of their names.
        tied_names: for every place in the model that holds a tensor, the first name of the tensor.
    """

    layout: ParameterLayout
    vector: Tensor
    constants: dict[str, Tensor]
    tied_names: dict[str, str]

    @classmethod
    def of(
        cls, model: nn.Module, device: torch.device, dtype: torch.dtype, tensors: Mapping[str, Tensor] | None = None
    ) -> Self:
        """Copy the values of a model's parameters and buffers, or other values for them, to a device and a type.

        Args:
            model: model whose trainable parameters vary.
            device: device of the copies.
            dtype: type of the floating-point copies.
            tensors: every parameter and buffer by the first of its names; default: the model's own.

        Raises:
            InputError: no parameter is trainable, or a trainable parameter isn't floating-point.
        """
        layout, places = ParameterLayout.of(model), tied_names(model)
        values = dict(model.named_parameters()) | dict(model.named_buffers()) if tensors is None else tensors
        fixed = dict.fromkeys(name for name in places.values() if name not in layout.names)
        return cls(
            layout,
            _own(layout.flatten(values), device, dtype),
            {name: _own(values[name], device, dtype) for name in fixed},
            places,
        )

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.vector.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of all floating-point tensors."""
        return self.vector.dtype

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        """This point on another device, or in another precision."""
        constants = {name: _own(tensor, device, dtype) for name, tensor in self.constants.items()}
        return replace(self, vector=_own(self.vector, device, dtype), constants=constants)

    def at(self, vector: Tensor) -> Self:
        """The point with another flat vector and with these constants.

        Raises:
            InputError: the vector has another shape or isn't finite.
        """
        if vector.shape != (self.layout.dim,):
            raise InputError(
                f"the parameter vector has shape {tuple(vector.shape)}, the model's is ({self.layout.dim},)"
            )
        if not vector.isfinite().all():
            raise InputError("the parameter vector has entries that are NaN or infinite; the loss isn't defined there")
        return replace(self, vector=_own(vector, self.device, self.dtype))

    def with_state(self, state: Mapping[str, Tensor]) -> Self:
        """The point of a checkpoint's parameters and buffers, given by the model's own names.

        Constants that the checkpoint lacks stay as they are.

        Raises:
            InputError: see `at`.
        """
        constants = {
            name: _own(state.get(name, tensor), self.device, self.dtype) for name, tensor in self.constants.items()
        }
        return replace(self.at(self.layout.flatten(state)), constants=constants)

    def with_constants(self, constants: Mapping[str, Tensor]) -> Self:
        """This point with other tensors for some constants."""
        return replace(self, constants={**self.constants, **constants})

    def restricted(self, patterns: str | Iterable[str]) -> Self:
        """This point with only some parameters left to vary; see `landscape.Problem.restricted`."""
        layout = self.layout.subset(self._matching(patterns))
        tensors = self.layout.unflatten(self.vector)
        fixed = {name: tensor for name, tensor in tensors.items() if name not in layout.names}
        return replace(self, layout=layout, vector=layout.flatten(tensors), constants=self.constants | fixed)

    def _matching(self, patterns: str | Iterable[str]) -> set[str]:
        """Names in the layout that at least one pattern matches."""
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        if not patterns:
            raise InputError("no parameter is left to vary: name at least one, or a glob of some")
        chosen: set[str] = set()
        places = {place: name for place, name in self.tied_names.items() if name in self.layout.names}
        for pattern in patterns:
            matched = {name for place, name in places.items() if _matches(place, pattern)}
            if not matched:
                raise InputError(
                    f"no trainable parameter matches {pattern!r}; there are {listed(self.layout.names)} (globs such as "
                    "'*.weight', or a module's name)"
                )
            chosen |= matched
        return chosen

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer, by the first of its names."""
        return self.named(self.vector)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Every parameter and buffer by the first of its names, with ``vector`` as the flat vector."""
        return self.layout.unflatten(vector) | self.constants

    def state(self, vector: Tensor, fresh: bool = False) -> dict[str, Tensor]:
        """A tensor for every place in the model; tensors that vary are views of ``vector``.

        Args:
            vector: flat vector (dim,), used instead of the point's own.
            fresh: copy the constants, for a model that writes into them; default: no copy.
        """
        constants = {name: each.clone() for name, each in self.constants.items()} if fresh else self.constants
        tensors = self.layout.unflatten(vector) | constants
        return {slot: tensors[name] for slot, name in self.tied_names.items()}


def _own(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy of a tensor on a device, as ``dtype`` if the tensor is floating-point."""
    return tensor.detach().to(device, dtype if tensor.dtype.is_floating_point else tensor.dtype, copy=True)


def _matches(place: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(place, pattern) or fnmatch.fnmatchcase(place, f"{pattern}.*")
