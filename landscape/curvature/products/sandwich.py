"""Curvature of the form J^T S J, such as the Gauss-Newton matrix and every kind of Fisher matrix."""

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
        inner: values of the map that J is the Jacobian of, with their graph down to the flat vector.
        middle: S, a symmetric linear map of directions that have the shapes of ``inner``.
        derivatives: first derivatives that ``middle`` differentiates once more.
        tensors: tensors that ``middle`` holds beside the graph of ``derivatives``.
    """

    inner: tuple[Tensor, ...]
    middle: Middle
    derivatives: tuple[Tensor, ...] = ()
    tensors: tuple[Tensor, ...] = ()


class Sandwich(BatchedOperator):
    """A sum over batches of J^T S J, with J the Jacobian of some map of the parameters.

    Products are exact up to rounding. They need only reverse mode, which nearly every torch layer supports. The map
    u -> J^T u is linear, so the derivative of its own graph along v is J v (the "double-vjp trick", J. Townsend 2017).
    S and then J^T follow. Neither J nor S is ever formed: only the graphs take memory. With the graphs kept, a product
    is two backward passes. The first one goes only through the part that depends on u.
    """

    @abstractmethod
    def _parts(self, index: int) -> SandwichParts:
        """The parts of batch number ``index`` at ``_vector``; called inside `Problem.evaluating`."""

    def _linearise(self, index: int) -> Linearised:
        vector, parts = self._vector, self._parts(index)
        cotangents = tuple(torch.zeros_like(tensor, requires_grad=True) for tensor in parts.inner)
        (pulled,) = torch.autograd.grad(parts.inner, vector, cotangents, create_graph=True, materialize_grads=True)

        def product(along: Tensor) -> Tensor:
            pushed = torch.autograd.grad(pulled, cotangents, along, retain_graph=True, materialize_grads=True)
            weighted = parts.middle(pushed)
            return torch.autograd.grad(parts.inner, vector, weighted, retain_graph=True, materialize_grads=True)[0]

        return Linearised(product, (pulled, *parts.derivatives), (*parts.inner, *cotangents, *parts.tensors))
