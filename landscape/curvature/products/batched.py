"""What all curvature of a Problem shares: batches whose contributions are linear maps, once their graph is made."""

from __future__ import annotations

import contextlib
import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from landscape.curvature.products.program import Program, UntraceableError
from landscape.curvature.products.route import EXPECTED, NOT_COMPILED, WORTH_COUNTING, Route, cheapest
from landscape.curvature.products.traced import prepared, programs_of
from landscape.curvature.products.work import Counting, Made
from landscape.errors import InputError
from landscape.machine.memory import OVERHEAD, half_of_memory, ran_out
from landscape.machine.widened import NoFloat64Error, Rounds, fast_float64
from landscape.operator import SymmetricOperator
from landscape.problem.batches import of_all_batches, samples_in, shape_of, strided, tensors_in
from landscape.problem.switches import differentiating
from landscape.reporting.deprecation import renamed_settings
from landscape.reporting.messages import amount, cause

if TYPE_CHECKING:
    from landscape.problem.problem import Compile, Problem


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


_REMEDY = "use layers and a loss that can be, or the Hessian by differences of the gradient (--matrix differences)"
# By how many measured roundings a program may differ from autograd: compiled, sums are in another order.
_ROUNDINGS = 30
# Bytes of a batch's graph up to which that in float64 is made whole.
_SMALL = 16_000_000


@renamed_settings(compiling="compile_products")
class BatchedOperator(SymmetricOperator):
    """Curvature of a Problem's objective as a sum over its batches, made in float64.

    A subclass gives `_linearise`, which is called by the constructor: what it needs is set before that.

    Attributes:
        route: which way the products are made and why; see `landscape.curvature.products.route.Route`.
    """

    traceable: ClassVar[bool] = False
    """Whether a batch's contribution is made of the problem, the flat vector and the batch alone."""

    def __init__(
        self,
        problem: Problem,
        memory: int | None = None,
        route: str | None = None,
        *,
        products: int | None = None,
        compile_products: Compile | None = None,
    ) -> None:
        """Prepare products at the problem's point.

        Args:
            problem: where the curvature is taken.
            memory: bytes that kept graphs may hold; default: half of the problem's, or of the device's. 0 rebuilds
                always.
            route: the name of one, to make products as an earlier run did; default: the cheapest within the memory.
            products: so many are expected, which decides what is worth preparing; default: those of ten eigenpairs.
            compile_products: see `Problem`; default: the problem's.

        Raises:
            InputError: the problem isn't of a kind that this curvature is defined for, or has no second derivative.
        """
        super().__init__(problem.layout.dim, problem.device, problem.dtype, processes=problem.processes)
        self._whole, self._problem = problem, problem.local_shard()
        with differentiating():
            self._vector = problem.vector.clone().requires_grad_()
            self._one = torch.ones((), device=problem.device, dtype=problem.dtype, requires_grad=True)
        self._programs: dict[str, Program] = {}  # by the shape of the batch
        if memory is None:
            device = half_of_memory(problem.device)
            memory = device if problem.memory is None else (problem.memory - OVERHEAD) // 2
        needed = self._graph_bytes()
        autograd = Route("cached" if needed <= memory else "rebuilt", needed, memory)
        if route is None:
            self.route = self._chosen(autograd, products or EXPECTED, compile_products or problem.compile_products)
        else:
            self.route = autograd.named(route, self.traceable)
        self._prepare()
        if problem.memory is not None:
            # The same for all processes, as they decide by it.
            self.memory = problem.memory - problem.processes.largest(self.peak_bytes)

    def full_precision(self) -> SymmetricOperator:
        """See `SymmetricOperator.full_precision`: the same curvature of the problem in float64, with nothing kept."""
        if self.dtype == torch.float64:
            return self
        if not fast_float64(self.device):
            raise NoFloat64Error(f"{self.device} has no fast float64")
        # Graphs of half the bytes of those in float32, unless these are small anyway.
        whole = self._whole.in_float64(pieces=4 if self._first_bytes > _SMALL else 1)
        other = self._at(whole.local_shard(), self._vector.to(torch.float64))
        SymmetricOperator.__init__(other, self.dim, self.device, torch.float64, self.memory, self.processes)
        other._whole, other._programs, other._kept = whole, {}, None
        other.route = Route("rebuilt", 0, 0)
        try:
            with other._evaluating(), Rounds() as rounds:
                other._penalty = other._penalised()
                other._problem.terms(other._vector, other._problem.batches[0])
        except (InputError, RuntimeError, TypeError) as error:
            if ran_out(error):
                raise
            raise NoFloat64Error(f"the model can't be evaluated in float64 ({cause(error)})") from error
        if rounds.what is not None:
            raise NoFloat64Error(f"the model rounds to fewer digits on its way ({rounds.what})")
        return other

    def _at(self, problem: Problem, vector: Tensor) -> Self:
        """The same curvature of another problem, at a vector (dim,), with nothing prepared."""
        other = copy.copy(self)
        other._problem, other._vector = problem, vector.detach().requires_grad_()
        other._one = torch.ones((), device=vector.device, dtype=vector.dtype, requires_grad=True)
        return other

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The state in which contributions are made and applied."""
        with differentiating(), self._problem.evaluating():
            yield

    def _prepare(self) -> None:
        """Make what all products share."""
        with self._evaluating():
            if self.route.traced:
                self._trace()
            self._kept = list(self._linearised()) if self.route.keeps else None
            self._penalty = self._penalised()

    @property
    def peak_bytes(self) -> int:
        """About what is taken while a product is made, beyond model and data: what is kept, and a batch's work."""
        first = self._first_bytes
        vectors = 4 * self._vector.nbytes + 8 * self.dim * (len(self._problem.batches) > 1)
        return (self.route.graph_bytes if self.route.keeps else first) + first + vectors + OVERHEAD

    @property
    def float64_bytes(self) -> int:
        """See `SymmetricOperator.float64_bytes`: the data in float64, and the graphs, which are larger there."""
        tensors = (each for batch in self._whole.batches for each in tensors_in(batch) if each.is_floating_point())
        # A graph has twice the bytes, or in pieces half of them, and as much again is taken while it is gone through.
        first = self._first_bytes
        return sum(8 * each.numel() for each in tensors) + max(0, min(4 * first, max(first, 4 * _SMALL)) - first)

    @property
    def _first_bytes(self) -> int:
        """What the graph of the first batch holds."""
        batches = self._problem.batches
        return self.route.graph_bytes * samples_in(batches[0]) // sum(map(samples_in, batches))

    @abstractmethod
    def _linearise(self, index: int) -> Linearised:
        """The contribution of the batch of this index at ``_vector``; called inside `Problem.evaluating`.

        What is differentiated first is multiplied by ``_one``: then all of its derivative has a graph, and what
        has no second derivative can be told from what is constant.
        """

    def _penalised(self) -> Linearised | None:
        """The penalty's Hessian, which every matrix of a penalised objective has; its graph is kept on every route."""
        penalty = self._problem.penalty_at(self._vector)
        if not penalty.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(self._one * penalty, self._vector, create_graph=True, materialize_grads=True)
        if not gradient.requires_grad:
            return None
        vector = self._vector

        def product(along: Tensor) -> Tensor:
            return torch.autograd.grad(gradient, vector, along, retain_graph=True, materialize_grads=True)[0]

        return Linearised(product, (gradient,))

    def _linearised(self) -> Iterator[Linearised]:
        for index, batch in enumerate(self._problem.batches):
            program = self._programs.get(shape_of(batch))
            if program is None:
                yield self._linearise(index)
            else:
                apply, tensors = prepared(program, self._problem, batch)
                yield Linearised(apply, (), tensors)

    def _linearise_first(self, problem: Problem, point: Tensor) -> Callable[[Tensor], Tensor]:
        """The same curvature of another problem's first batch."""
        return self._at(problem, point)._linearise(0).apply

    def _graph_bytes(self) -> int:
        """What the graphs would hold: deterministic, at the price of making one batch's."""
        batches = self._problem.batches
        saved = self._bytes_saved()
        try:
            with self._evaluating(), torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
                penalty = self._penalised()
                of_penalty = saved.bytes
                linearised = self._linearise(0)
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            # torch.func in the loss allows no hooks: at most everything that is made is saved.
            saved, of_penalty = self._bytes_saved(), 0
            with self._evaluating(), Made() as made:
                penalty = self._penalised()
                linearised = self._linearise(0)
            saved.bytes = made.bytes
        for tensor in linearised.tensors:
            saved.pack(tensor)
        saved.let_go()
        _refuse_once_differentiable([*linearised.derivatives, *(penalty.derivatives if penalty else ())])
        return of_penalty + of_all_batches(batches, saved.bytes - of_penalty) + len(batches) * self._vector.nbytes

    def _chosen(self, autograd: Route, products: int, compile_products: Compile) -> Route:
        """The cheapest route within the memory. What it goes by is counted only where programs might pay."""
        if not self.traceable:
            return replace(autograd, note=NOT_COMPILED) if compile_products == "on" else autograd
        if compile_products != "on" and products * autograd.graph_bytes < WORTH_COUNTING:
            return autograd
        with self._evaluating(), Counting() as counting:
            self._linearise(0)
        return cheapest(counting.work.of_all(self._problem.batches), autograd, products, compile_products, self.device)

    def _bytes_saved(self) -> _SavedBytes:
        """A count of the bytes that are saved beyond parameters and data, of the first batch."""
        problem = self._problem
        return _SavedBytes([self._vector, problem.vector, *problem.constants(), *tensors_in(problem.batches[0])])

    def _trace(self) -> None:
        """Get the programs of the route; where there are none, or they keep too much, take the route without."""
        problem = self._problem
        asked = type(self).__name__, self.route.name, problem.signature(problem.batches[0])
        if problem.programs.failure(asked) is None:
            try:
                self._programs = self._held_to_autograd()
            except Exception as error:  # whatever torch, a compiler or the model says to being traced
                if ran_out(error):
                    raise
                problem.programs.fail(asked, str(error) if isinstance(error, UntraceableError) else cause(error))
        if why := problem.programs.failure(asked):
            self.route = self.route.without_program(f"no program of the product: {why}")
            return
        saved = self._bytes_saved()
        for tensor in next(self._linearised()).tensors:
            saved.pack(tensor)
        held = of_all_batches(problem.batches, saved.bytes)
        if self.route.keeps and held > self.route.budget_bytes:
            self._programs = {}
            self.route = self.route.without_program(f"its program would keep {amount(held)}")
        elif self.route.keeps:
            self.route = replace(self.route, graph_bytes=held)

    def _held_to_autograd(self) -> dict[str, Program]:
        """Programs that give autograd's product here, with every batch; those known of another point first.

        A trace keeps numbers that Python took from tensors by ways that torch doesn't see (``tolist``), and what the
        model or the loss were like when it was made: a program is believed where it was tried.

        Raises:
            UntraceableError: programs traced just now give something else.
            Exception: see `programs_of`.
        """
        for fresh in (False, True):
            programs = programs_of(
                self._problem, self._linearise_first, type(self).__name__, self.route.compiles, fresh
            )
            off, allowed = self._difference(programs)
            if off <= allowed:
                return programs
        raise UntraceableError(f"it differs from autograd's by {off:.1e} of the product, rounding by {allowed:.1e}")

    def _difference(self, programs: dict[str, Program]) -> tuple[float, float]:
        """How far the programs' product with one vector is from autograd's, and how far it may be for rounding."""
        vector = torch.randn(self.dim, generator=torch.Generator().manual_seed(0)).to(self._vector.detach())
        difference, sizes, rounding = torch.zeros(self.dim, dtype=torch.float64, device=self.device), 0.0, 0.0
        for index, batch in enumerate(self._problem.batches):
            eager = self._linearise(index)
            part = _apply(eager, vector)
            size = float(torch.linalg.vector_norm(part))
            if index == 0 and size:  # whose rounding is seen by another scale
                again = 3 * _apply(eager, vector / 3)
                rounding = float(torch.linalg.vector_norm(again - part)) / size
            product, _ = prepared(programs[shape_of(batch)], self._problem, batch)
            difference += product(vector).to(torch.float64) - part
            sizes += size
        off = float(torch.linalg.vector_norm(difference))
        allowed = _ROUNDINGS * (rounding + torch.finfo(self.dtype).eps) * sizes
        return (off / sizes, allowed / sizes) if sizes else (off, 0.0)

    def _product(self, vectors: Tensor) -> Tensor:
        several = len(self._problem.batches) > 1 or self._problem.processes.size > 1 or self._penalty is not None
        with self._evaluating():
            products = torch.zeros(vectors.shape, dtype=torch.float64 if several else self.dtype, device=self.device)
            for linearised in self._kept or self._linearised():
                for column, vector in enumerate(vectors.unbind(1)):
                    products[:, column] += _apply(linearised, vector)
                del linearised  # or a rebuilt graph would outlive the making of the next
            products = self._problem.processes.total(products)
            if self._penalty is not None:  # once, whatever the batches and processes
                for column, vector in enumerate(vectors.unbind(1)):
                    products[:, column] += _apply(self._penalty, vector)
        return products.to(self.dtype)


def _apply(linearised: Linearised, vector: Tensor) -> Tensor:
    try:
        return linearised.apply(vector)
    except RuntimeError as error:  # nothing runs here but the graph of the user's model and loss
        if ran_out(error):
            raise
        raise InputError(f"the loss can't be differentiated twice ({cause(error)}); {_REMEDY}") from error


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
                f"once_differentiable); {_REMEDY}"
            )
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]


class _SavedBytes:
    """Counts the bytes of distinct storages that a graph saves, leaving out those that exist anyway."""

    def __init__(self, existing: Iterable[Tensor]) -> None:
        self.seen = {part.untyped_storage().data_ptr() for tensor in existing for part in strided(tensor)}
        self.saved: list[Tensor] = []  # kept alive, so that no address is used twice
        self.bytes = 0

    def pack(self, tensor: Tensor) -> int:
        """Take a tensor from the graph; its place in the list stands for it."""
        for part in strided(tensor):
            storage = part.untyped_storage()
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
