"""What all curvature of a Problem shares: batches whose contributions are linear maps, once their graph is made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

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
    """How products are made, decided once before the first of them.

    Attributes:
        name: ``cached`` keeps the graph of every batch, so that a product is two backward passes through what exists;
            ``rebuilt`` makes the graph anew for each product.
        graph_bytes: what the graphs of all batches hold beyond parameters and data: counted on the first batch and
            scaled to all by the number of samples, and a flat vector for each batch.
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


@dataclass(frozen=True)
class Linearised:
    """One batch's contribution to an operator as a linear map, with the graph it goes through.

    It must not refer to its operator: the cycle would keep graphs alive whose size Python's collector doesn't see.

    Attributes:
        apply: the contribution (dim,) to the product with a vector (dim,).
        derivatives: the first derivatives that ``apply`` differentiates once more.
        tensors: what ``apply`` holds beside the graph and one flat vector, for the memory to be counted.
    """

    apply: Callable[[Tensor], Tensor]
    derivatives: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...] = ()


class BatchedOperator(SymmetricOperator):
    """Curvature of a Problem's objective as a sum over its batches, made in float64.

    A subclass gives `_linearise`, which is called by the constructor: what it needs is set before that.

    Attributes:
        route: which way the products are made and why; see `Route`.
    """

    def __init__(self, problem: Problem, memory: int | None = None, route: str | None = None) -> None:
        """Prepare products at the problem's point.

        Args:
            problem: where the curvature is taken.
            memory: bytes that kept graphs may hold; default: half of the device's memory. 0 rebuilds always.
            route: ``cached`` or ``rebuilt``, to make products as an earlier run did; default: decided by the memory.

        Raises:
            InputError: the problem isn't of a kind that this curvature is defined for, or has no second derivative.
        """
        super().__init__(problem.layout.dim, problem.device, problem.dtype)
        self._problem = problem
        self._vector = problem.vector.clone().requires_grad_()
        self._one = torch.ones((), device=problem.device, dtype=problem.dtype, requires_grad=True)
        budget = _half_of_memory(problem.device) if memory is None else memory
        needed = self._graph_bytes()
        self.route = Route(route or ("cached" if needed <= budget else "rebuilt"), needed, budget)
        with problem.evaluating():
            self._kept = list(self._linearised()) if self.route.name == "cached" else None

    @abstractmethod
    def _linearise(self, index: int) -> Linearised:
        """The contribution of the batch of this index at ``_vector``; called inside `Problem.evaluating`.

        What is differentiated first is multiplied by ``_one``: then all of its derivative has a graph, and what
        has no second derivative can be told from what is constant.
        """

    def _linearised(self) -> Iterator[Linearised]:
        for index in range(len(self._problem.batches)):
            yield self._linearise(index)

    def _graph_bytes(self) -> int:
        """What the graphs would hold: deterministic, at the price of making one batch's."""
        batches = self._problem.batches
        counter = _SavedBytes([self._vector, *self._problem.constants(), *tensors_in(batches[0])])
        with self._problem.evaluating(), torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
            linearised = self._linearise(0)
        for tensor in linearised.tensors:
            counter.pack(tensor)
        counter.let_go()
        _refuse_once_differentiable(linearised.derivatives)
        samples = sum(samples_in(batch) for batch in batches)
        flat_vectors = len(batches) * self._vector.nbytes
        return counter.bytes * samples // samples_in(batches[0]) + flat_vectors

    def _product(self, vectors: Tensor) -> Tensor:
        products = torch.zeros(vectors.shape, dtype=torch.float64, device=self.device)
        with self._problem.evaluating():
            for linearised in self._kept or self._linearised():
                for column, vector in enumerate(vectors.unbind(1)):
                    products[:, column] += _apply(linearised, vector)
                del linearised  # or a rebuilt graph would outlive the making of the next
        return products.to(self.dtype)


def _apply(linearised: Linearised, vector: Tensor) -> Tensor:
    try:
        return linearised.apply(vector)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # nothing runs here but the graph of the user's model and loss
        raise InputError(
            f"the loss can't be differentiated twice ({cause(error)}); use layers and a loss that can be"
        ) from error


def _refuse_once_differentiable(derivatives: Iterable[Tensor]) -> None:
    """Refuse what `torch.autograd.function.once_differentiable` marks: `autograd.grad` takes it for constant.

    The node that would raise leads to none of the wanted inputs, so it is never run.
    """
    seen: set[Any] = set()
    waiting: list[Any] = [derivative.grad_fn for derivative in derivatives]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise InputError(
                "the loss can't be differentiated twice (an autograd.Function of the model or the loss is marked "
                "once_differentiable); use layers and a loss that can be"
            )
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]


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
