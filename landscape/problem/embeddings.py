"""Embedding lookups that are differentiated like any other function.

Two settings of `torch.nn.Embedding` make a gradient that isn't the derivative of the loss. A third setting makes a
gradient that has no second derivative:

- ``max_norm`` writes shortened rows into the table while a loss is computed. Here the lookup takes shortened rows, and
  the shortening is differentiated.
- ``scale_grad_by_freq`` divides gradients by how often a token occurs. Here nothing is divided.
- ``sparse`` changes how a gradient is stored, not its numbers. Here gradients are dense.

``padding_idx`` names a row that isn't trained: its gradient is 0, and the row counts as a constant. A direction along
which a loss is compared with its gradient must not change that row, see `without_padding`.
"""

from __future__ import annotations

import contextlib
import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from landscape.problem.parameters import ParameterLayout

_SIGNATURES = {each: inspect.signature(each) for each in (functional.embedding, functional.embedding_bag)}
_PLAIN = {"max_norm": None, "scale_grad_by_freq": False, "sparse": False}
_TINY = 1e-7  # torch adds this to a norm before dividing by the norm


def plain_embeddings(model: nn.Module) -> AbstractContextManager[Any]:
    """Context without the embedding settings that change gradients; does nothing if no table of the model has one."""
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag))
    special = any(getattr(table, name) not in (None, False) for table in tables for name in _PLAIN)
    return _Plain() if special else contextlib.nullcontext()


class _Plain(TorchFunctionMode):
    """Replaces each lookup by a plain lookup in a table whose rows were shortened before."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SIGNATURES:
            bound = _SIGNATURES[func].bind(*args, **kwargs)
            bound.apply_defaults()
            if (limit := bound.arguments["max_norm"]) is not None:
                bound.arguments["weight"] = _shortened(bound.arguments["weight"], limit, bound.arguments["norm_type"])
            bound.arguments.update(_PLAIN)
            args, kwargs = bound.args, bound.kwargs
        return func(*args, **kwargs)


def _shortened(table: Tensor, limit: float, order: float) -> Tensor:
    """The table with rows shortened to the norm ``limit``, as `torch.embedding_renorm_` shortens them."""
    norms = torch.linalg.vector_norm(table, order, dim=1, keepdim=True)
    beyond = norms > limit
    return torch.where(beyond, table * (limit / (torch.where(beyond, norms, 1.0) + _TINY)), table)


def without_padding(model: nn.Module, layout: ParameterLayout, direction: Tensor) -> Tensor:
    """A direction (dim,) with zeros at the rows of ``padding_idx``, which aren't trained."""
    direction = direction.clone()
    rows = layout.unflatten(direction)
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    for table in model.modules():
        if isinstance(table, nn.Embedding | nn.EmbeddingBag) and table.padding_idx is not None:
            name = first.get(id(table.weight), "")
            if name in rows:
                rows[name][table.padding_idx] = 0
    return direction
