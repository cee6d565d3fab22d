"""Curvature of the form J^T S J, of which the Gauss-Newton matrix and every kind of Fisher are one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.curvature.products.batched import BatchedOperator, Linearised

Middle = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class SandwichParts:
    """One batch's J^T S J as its two parts.

    Attributes:
        inner: the values of the map that J is the Jacobian of, with their graph down to the flat vector.
        middle: S: directions of the shapes of ``inner`` to the same shapes; symmetric.
        derivatives: the first derivatives that ``middle`` differentiates once more.
        tensors: what ``middle`` holds beside their graph.
    """

    inner: tuple[Tensor, ...]
    middle: Middle
    derivatives: tuple[Tensor, ...] = ()
    tensors: tuple[Tensor, ...] = ()


class Sandwich(BatchedOperator):
    """A sum over batches of J^T S J, with J the Jacobian of some map of the parameters.

    Products are exact up to rounding and in reverse mode alone, which nearly every torch layer supports: u -> J^T u is
    linear, so the derivative of its own graph along v is J v (the "double-vjp trick", J. Townsend 2017); then S, then
    J^T. Neither J nor S is ever formed: memory is that of the graphs. With the graphs kept, a product is two backward
    passes, of which the first goes through the part that depends on u alone.
    """

    @abstractmethod
    def _parts(self, index: int) -> SandwichParts:
        """The parts of the batch of this index at ``_vector``; called inside `Problem.evaluating`."""

    def _linearise(self, index: int) -> Linearised:
        vector, parts = self._vector, self._parts(index)
        cotangents = tuple(torch.zeros_like(tensor, requires_grad=True) for tensor in parts.inner)
        (pulled,) = torch.autograd.grad(parts.inner, vector, cotangents, create_graph=True, materialize_grads=True)

        def product(along: Tensor) -> Tensor:
            pushed = torch.autograd.grad(pulled, cotangents, along, retain_graph=True, materialize_grads=True)
            weighted = parts.middle(pushed)
            return torch.autograd.grad(parts.inner, vector, weighted, retain_graph=True, materialize_grads=True)[0]

        return Linearised(product, (pulled, *parts.derivatives), (*parts.inner, *cotangents, *parts.tensors))
