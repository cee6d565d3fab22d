"""A problem's model in plain PyTorch, for other libraries and for comparisons."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from landscape.problem import Problem


class PlainModel:
    """The model of a problem at its point on its one batch, in evaluation mode.

    Attributes:
        model: a copy of the problem's model.
        parameters: parameters of this copy.
        inputs: inputs of the batch.
        targets: targets of the batch.
        criterion: the loss function.
    """

    def __init__(self, problem: Problem) -> None:
        self.model = copy.deepcopy(problem.model).to(problem.device, problem.dtype).eval()
        self.parameters = list(self.model.parameters())
        nn.utils.vector_to_parameters(problem.vector, self.parameters)
        ((self.inputs, self.targets),) = problem.batches
        self.criterion = nn.CrossEntropyLoss()

    def loss(self) -> Tensor:
        """The loss with its graph."""
        return self.criterion(self.model(self.inputs), self.targets)

    def gradient(self, create_graph: bool = False) -> tuple[Tensor, ...]:
        """The gradient, one tensor for each parameter."""
        return torch.autograd.grad(self.loss(), self.parameters, create_graph=create_graph)

    def product(self, pieces: list[Tensor]) -> tuple[Tensor, ...]:
        """One Hessian-vector product: a new gradient with its graph, differentiated again."""
        return torch.autograd.grad(self.gradient(create_graph=True), self.parameters, pieces)

    def forward_over_reverse(self) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
        """A function for Hessian-vector products as in the documentation of `torch.func`: ``jvp(grad(loss))``."""
        point = {name: each.detach() for name, each in self.model.named_parameters()}

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return self.criterion(functional_call(self.model, parameters, (self.inputs,)), self.targets)

        return lambda along: jvp(grad(loss), (point,), (along,))[1]

    def pieces(self, vector: Tensor) -> list[Tensor]:
        """A flat vector, split into the shapes of the parameters."""
        sizes = [each.numel() for each in self.parameters]
        return [part.view_as(each) for part, each in zip(vector.split(sizes), self.parameters, strict=True)]
