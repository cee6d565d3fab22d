"""The Hessian of a Problem's objective, and the two ways its products are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, final

import psutil
import torch
from torch import Tensor

from landscape.batches import samples_in, tensors_in
from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.wording import cause

if TYPE_CHECKING:
    from landscape.problem import Problem


@dataclass(frozen=True)
class Route:
    """How Hessian-vector products are made, decided once before the first of them.

    Attributes:
        name: ``cached`` keeps the graph of the gradient of every batch, so that a product is two backward passes
            through what exists (2.0 gradients at the least); ``rebuilt`` makes the gradient's graph anew for each
            product (3.0).
        graph_bytes: what the graphs of all batches hold beyond parameters and data: counted on the first batch and
            scaled to all by the number of samples, and a gradient for each batch.
        budget_bytes: the most that kept graphs may hold.
    """

    name: str
    graph_bytes: int
    budget_bytes: int

    def plain(self) -> dict[str, str | int]:
        """As a dictionary, the form in which a record keeps it."""
        return asdict(self)

    def __str__(self) -> str:
        """What the screen says of it."""
        if self.name == "cached":
            return f"cached double-backward graph, {self.graph_bytes / 1e6:.0f} MB"
        return (
            f"graph rebuilt for each product: kept, it would hold {self.graph_bytes / 1e9:.1f} GB of the "
            f"{self.budget_bytes / 1e9:.1f} GB allowed"
        )


@final
class Hessian(SymmetricOperator):
    """The Hessian H of sum w_i l_i / sum w_i with respect to the flat parameter vector.

    Products are exact up to rounding, by differentiating the gradient once more in reverse (Pearlmutter 1994, in its
    reverse-over-reverse form, which nearly every torch layer supports). Batches are summed in float64.

    Attributes:
        route: which way the products are made and why; see `Route`.
    """

    def __init__(self, problem: Problem, memory: int | None = None, route: str | None = None) -> None:
        """Prepare products at the problem's point.

        Args:
            problem: where the Hessian is taken.
            memory: bytes that kept graphs may hold; default: half of the device's memory. 0 rebuilds always.
            route: ``cached`` or ``rebuilt``, to make products as an earlier run did; default: decided by the memory.
        """
        super().__init__(problem.layout.dim, problem.device, problem.dtype)
        self._problem = problem
        self._vector = problem.vector.clone().requires_grad_()
        budget = _half_of_memory(problem.device) if memory is None else memory
        needed = self._graph_bytes()
        self.route = Route(route or ("cached" if needed <= budget else "rebuilt"), needed, budget)
        with problem.evaluating():
            self._kept = list(self._gradients()) if self.route.name == "cached" else None

    def _graph_bytes(self) -> int:
        """What the gradient's graphs would hold: deterministic, at the price of one gradient."""
        batches = self._problem.batches
        counter = _SavedBytes([self._vector, *self._problem.constants(), *tensors_in(batches[0])])
        with self._problem.evaluating(), torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
            self._gradient(batches[0])
        counter.let_go()
        samples = sum(samples_in(batch) for batch in batches)
        gradients = len(batches) * self._vector.nbytes
        return counter.bytes * samples // samples_in(batches[0]) + gradients

    def _gradients(self) -> Iterator[Tensor]:
        """The gradient of each batch's share of the objective, with its graph; call inside `Problem.evaluating`."""
        for batch in self._problem.batches:
            yield self._gradient(batch)

    def _gradient(self, batch: object) -> Tensor:
        share = self._problem.share(self._vector, batch)
        (gradient,) = torch.autograd.grad(share, self._vector, create_graph=True, materialize_grads=True)
        return gradient

    def _product(self, vectors: Tensor) -> Tensor:
        products = torch.zeros(vectors.shape, dtype=torch.float64, device=self.device)
        with self._problem.evaluating():
            for gradient in self._kept or self._gradients():
                if gradient.requires_grad:  # else the objective is linear in the parameters, without curvature
                    for column, vector in enumerate(vectors.unbind(1)):
                        products[:, column] += self._differentiate(gradient, vector)
                del gradient  # or a rebuilt graph would outlive the making of the next
        return products.to(self.dtype)

    def _differentiate(self, gradient: Tensor, vector: Tensor) -> Tensor:
        try:
            (product,) = torch.autograd.grad(gradient, self._vector, vector, retain_graph=True, materialize_grads=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # nothing runs here but the graph of the user's model and loss
            raise InputError(
                f"the loss can't be differentiated twice ({cause(error)}); use layers and a loss that can be"
            ) from error
        return product


class _SavedBytes:
    """Counts the bytes of distinct storages that a graph saves, leaving out those that exist anyway."""

    def __init__(self, existing: Iterable[Tensor]) -> None:
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in existing}
        self.saved: list[Tensor] = []  # kept alive, so that no address is used twice
        self.bytes = 0

    def pack(self, tensor: Tensor) -> int:
        """Take a tensor from the graph; its place in the list stands for it."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        self.saved.append(tensor)
        return len(self.saved) - 1

    def unpack(self, place: int) -> Tensor:
        """Give the tensor back to the graph."""
        return self.saved[place]

    def let_go(self) -> None:
        """Break the cycle of graph, hooks and saved tensors, which no garbage collector sees."""
        self.saved.clear()


def _half_of_memory(device: torch.device) -> int:
    """Half of the device's memory in bytes: of its total, so that the route doesn't depend on the moment."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 2
    return psutil.virtual_memory().total // 2
