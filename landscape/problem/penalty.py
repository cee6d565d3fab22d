"""Penalties: terms of the objective that depend only on the parameters, such as weight decay."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.reporting.messages import listed

Penalty = Callable[[dict[str, Tensor]], Tensor]
"""``penalty(named_parameters)`` gives one number, differentiable in the tensors of the mapping."""


@dataclass(frozen=True, repr=False)
class WeightDecay:
    """The penalty W/2 sum theta_i^2 over some parameters, whose gradient is W theta.

    Attributes:
        weight: the weight W, positive and finite.
        names: names of the parameters in the sum.
        of: number of parameter tensors of the model.
    """

    weight: float
    names: tuple[str, ...]
    of: int

    def __post_init__(self) -> None:
        """Refuse a weight that isn't positive and finite."""
        if not 0 < self.weight < float("inf"):
            raise InputError(f"a weight decay is positive and finite, not {self.weight:g}")

    def __call__(self, named: Mapping[str, Tensor]) -> Tensor:
        """The penalty at these parameters, a scalar tensor."""
        return torch.stack([named[name].square().sum() for name in self.names]).sum() * (self.weight / 2)

    def __repr__(self) -> str:
        """The weight and the names of the parameters, or "all parameters"."""
        where = "all parameters" if len(self.names) == self.of else listed(self.names, 8)
        return f"weight decay {self.weight:g}/2 |theta|^2 over {where}"


def value_of(penalty: Penalty, named: dict[str, Tensor]) -> Tensor:
    """The penalty at named parameters: a scalar tensor.

    Raises:
        InputError: the penalty isn't a real scalar tensor.
    """
    value = penalty(named)
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        text = f"a tensor of {value.dtype}, shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise InputError(f"the penalty must give one real number as a tensor without dimensions, and gave {text}")
    return value


def name_of(penalty: Penalty) -> str:
    """The repr of a penalty without memory addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(penalty))
