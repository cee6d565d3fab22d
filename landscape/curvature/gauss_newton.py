"""The generalised Gauss-Newton matrix of a Problem's objective."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from landscape.curvature.products.sandwich import Sandwich, SandwichParts
from landscape.errors import InputError
from landscape.problem import Problem


@final
class GaussNewton(Sandwich):
    """The generalised Gauss-Newton matrix G = J^T H_out J of sum w_i l_i / sum w_i (Schraudolph 2002).

    J is the Jacobian of the model's outputs with respect to the flat parameter vector. H_out is the second derivative
    of the objective with respect to the outputs. G is the Hessian without the curvature of the model itself; G and the
    Hessian are equal for a model that is linear in its parameters. Where the loss is convex in the outputs, G is
    positive semidefinite. Where the loss is piecewise linear in the outputs (L1Loss, NLLLoss on log-probabilities), G
    is zero.

    The factor of 2: MSELoss averages the squares of a sample's K outputs, without 1/2. For MSELoss over N samples
    therefore G = (2/K) sum_n J_n^T J_n / N. This G is the exact Fisher of a normal distribution of variance K/2 around
    each output; see `landscape.curvature.fisher.ExactFisher`.

    Raises:
        InputError: the problem is of the form `Problem.from_sample_losses`, which knows no output. Or the loss depends
            on the parameters in another way than through the tensors in the model's output.
    """

    @staticmethod
    def check(problem: Problem) -> None:
        """Refuse a problem that doesn't know its model's output, before anything is computed.

        Raises:
            InputError: the problem is of the form `Problem.from_sample_losses`.
        """
        _ = problem.loss_terms

    def _parts(self, index: int) -> SandwichParts:
        problem, batch = self._problem, self._problem.batches[index]
        output = problem.output(self._vector, batch)
        inner: dict[int, Tensor] = {}  # by identity: a tensor that occurs twice in the output is one variable
        leaves: dict[int, Tensor] = {}

        def as_leaf(tensor: Tensor) -> Tensor:
            """A separate variable of the loss for each tensor, even where one output is a view of another."""
            if not tensor.requires_grad:
                return tensor
            inner[id(tensor)] = tensor
            return leaves.setdefault(id(tensor), tensor.detach().requires_grad_())

        share = self._one * problem.share_of_output(self._vector, _with_tensors(as_leaf, output), batch)
        variables = tuple(leaves.values())
        *slopes, beyond = torch.autograd.grad(share, (*variables, self._vector), create_graph=True, allow_unused=True)
        if beyond is not None or not inner:
            raise InputError(
                f"the loss uses more than the tensors in the model's output, a {type(output).__name__}: let the model "
                "return these in tuples, lists, mappings and dataclasses, and give a term over the parameters "
                "themselves as Problem(penalty=...)"
            )
        curved = {i: slope for i, slope in enumerate(slopes) if slope is not None}

        def second_derivative(directions: Sequence[Tensor]) -> Sequence[Tensor]:
            along = [directions[i] for i in curved]
            return torch.autograd.grad(
                list(curved.values()), variables, along, retain_graph=True, materialize_grads=True
            )

        return SandwichParts(tuple(inner.values()), second_derivative, tuple(curved.values()), variables)


def _with_tensors(function: Callable[[Tensor], Tensor], output: Any) -> Any:
    """The nesting of ``output``, every container of its own type, with ``function`` applied to every tensor."""
    if isinstance(output, Tensor):
        return function(output)
    if isinstance(output, tuple | list):
        items = [_with_tensors(function, item) for item in output]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    if isinstance(output, Mapping):  # before dataclasses: model libraries have outputs that are both
        replaced: Any = copy.copy(output)
        for key, value in output.items():
            replaced[key] = _with_tensors(function, value)
        return replaced
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        replaced = copy.copy(output)
        for field in dataclasses.fields(output):
            object.__setattr__(replaced, field.name, _with_tensors(function, getattr(output, field.name)))
        return replaced
    return output
