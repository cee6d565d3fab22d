"""The base of a Problem's curvature operators: each batch contributes a linear map, once its graph is made."""

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
from landscape.machine.widened import NoFloat64Error, fast_float64, only_float64
from landscape.operator import SymmetricOperator
from landscape.problem.batches import of_all_batches, samples_in, shape_of, strided, tensors_in
from landscape.problem.switches import differentiating
from landscape.reporting.deprecation import renamed_settings
from landscape.reporting.messages import amount, cause

if TYPE_CHECKING:
    from landscape.problem.problem import Compile, Problem


@dataclass(frozen=True)
class Linearised:
    """One batch's contribution to an operator as a linear map, with the graph that the map goes through.

    The map must not refer to its operator. Such a cycle would keep graphs alive whose size Python's garbage collector
    doesn't see.

    Attributes:
        apply: map from a vector (dim,) to the contribution (dim,) to the product with this vector.
        derivatives: first derivatives that ``apply`` differentiates once more.
        tensors: tensors that ``apply`` holds beside the graph and one flat vector; their memory is counted.
    """

    apply: Callable[[Tensor], Tensor]
    derivatives: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...] = ()


_REMEDY = "use layers and a loss that can be, or the Hessian by differences of the gradient (--matrix differences)"
# Measured roundings by which a program may differ from autograd. Compiled sums are in another order.
_ROUNDINGS = 30
# Bytes of a batch's graph up to which the graph in float64 isn't made in pieces.
_SMALL = 16_000_000


@renamed_settings(compiling="compile_products")
class BatchedOperator(SymmetricOperator):
    """Curvature of a Problem's objective as a sum over its batches, added up in float64.

    A subclass implements `_linearise`. The constructor calls `_linearise`, so a subclass sets its attributes before.

    Attributes:
        route: the way in which products are made, and the reason; see `landscape.curvature.products.route.Route`.
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
            problem: the problem at whose point the curvature is taken.
            memory: bytes that kept graphs may hold; default: half of the problem's memory, or of the device's. With 0
                graphs are always rebuilt.
            route: name of a route, to make products as an earlier run did; default: the cheapest within the memory.
            products: expected number of products, which decides what is worth preparing; default: the number that ten
                eigenpairs take.
            compile_products: see `Problem`; default: the problem's setting.

        Raises:
            InputError: this curvature isn't defined for the problem, or the problem has no second derivative.
        """
        super().__init__(problem.layout.dim, problem.device, problem.dtype, processes=problem.processes)
        self._whole, self._problem = problem, problem.local_shard()
        with differentiating():
            self._vector = problem.vector.clone().requires_grad_()
            self._one = torch.ones((), device=problem.device, dtype=problem.dtype, requires_grad=True)
        self._programs: dict[str, Program] = {}  # by the batch's shape
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
            # One number for all processes, because their decisions depend on it.
            self.memory = problem.memory - problem.processes.largest(self.peak_bytes)

    def full_precision(self) -> SymmetricOperator:
        """See `SymmetricOperator.full_precision`: this curvature of the problem in float64, with no graph kept."""
        if self.dtype == torch.float64:
            return self
        if not fast_float64(self.device):
            raise NoFloat64Error(f"{self.device} has no fast float64")
        # Graphs of four pieces have half the bytes of those in float32. Small graphs are made whole.
        whole = self._whole.in_float64(pieces=4 if self._first_bytes > _SMALL else 1)
        other = self._at(whole.local_shard(), self._vector.to(torch.float64))
        SymmetricOperator.__init__(other, self.dim, self.device, torch.float64, self.memory, self.processes)
        other._whole, other._programs, other._kept = whole, {}, None
        other.route = Route("rebuilt", 0, 0)
        with other._evaluating(), only_float64():
            other._penalty = other._penalised()
            other._problem.terms(other._vector, other._problem.batches[0])
        return other

    def _at(self, problem: Problem, vector: Tensor) -> Self:
        """This curvature of another problem, at a vector (dim,), with nothing prepared."""
        other = copy.copy(self)
        other._problem, other._vector = problem, vector.detach().requires_grad_()
        other._one = torch.ones((), device=vector.device, dtype=vector.dtype, requires_grad=True)
        return other

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The context in which contributions are made and applied."""
        with differentiating(), self._problem.evaluating():
            yield

    def _prepare(self) -> None:
        """Make the parts that all products share."""
        with self._evaluating():
            if self.route.traced:
                self._trace()
            self._kept = list(self._linearised()) if self.route.keeps else None
            self._penalty = self._penalised()

    @property
    def peak_bytes(self) -> int:
        """Estimated bytes that a product takes beyond model and data: kept graphs, and the work of one batch."""
        first = self._first_bytes
        vectors = 4 * self._vector.nbytes + 8 * self.dim * (len(self._problem.batches) > 1)
        return (self.route.graph_bytes if self.route.keeps else first) + first + vectors + OVERHEAD

    @property
    def float64_bytes(self) -> int:
        """See `SymmetricOperator.float64_bytes`: the data in float64, and the extra bytes of graphs in float64."""
        tensors = (each for batch in self._whole.batches for each in tensors_in(batch) if each.is_floating_point())
        # A float64 graph has twice the bytes, or half of them in pieces. Going through it takes as many bytes again.
        first = self._first_bytes
        return sum(8 * each.numel() for each in tensors) + max(0, min(4 * first, max(first, 4 * _SMALL)) - first)

    @property
    def _first_bytes(self) -> int:
        """Bytes that the graph of the first batch holds."""
        batches = self._problem.batches
        return self.route.graph_bytes * samples_in(batches[0]) // sum(map(samples_in, batches))

    @abstractmethod
    def _linearise(self, index: int) -> Linearised:
        """The contribution of batch number ``index`` at ``_vector``; called inside `Problem.evaluating`.

        A subclass multiplies the function that it differentiates first by ``_one``. The whole derivative then has a
        graph, and a part without a second derivative is distinguishable from a constant.
        """

    def _penalised(self) -> Linearised | None:
        """The penalty's Hessian, a part of every matrix of a penalised objective; its graph is kept on every route."""
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
        """This curvature of another problem's first batch, as a map of vectors."""
        return self._at(problem, point)._linearise(0).apply

    def _graph_bytes(self) -> int:
        """Bytes that the graphs of all batches would hold: a reproducible number, at the cost of one batch's graph."""
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
            # torch.func in the loss allows no hooks. All tensors created are an upper bound on those saved.
            saved, of_penalty = self._bytes_saved(), 0
            with self._evaluating(), Made() as created:
                penalty = self._penalised()
                linearised = self._linearise(0)
            saved.bytes = created.bytes
        for tensor in linearised.tensors:
            saved.pack(tensor)
        saved.let_go()
        _refuse_once_differentiable([*linearised.derivatives, *(penalty.derivatives if penalty else ())])
        return of_penalty + of_all_batches(batches, saved.bytes - of_penalty) + len(batches) * self._vector.nbytes

    def _chosen(self, autograd: Route, products: int, compile_products: Compile) -> Route:
        """The cheapest route within the memory; the work is counted only where a program might pay."""
        if not self.traceable:
            return replace(autograd, note=NOT_COMPILED) if compile_products == "on" else autograd
        if compile_products != "on" and products * autograd.graph_bytes < WORTH_COUNTING:
            return autograd
        with self._evaluating(), Counting() as counting:
            self._linearise(0)
        return cheapest(counting.work.of_all(self._problem.batches), autograd, products, compile_products, self.device)

    def _bytes_saved(self) -> _SavedBytes:
        """A counter of the bytes that the first batch's graph saves beyond parameters and data."""
        problem = self._problem
        return _SavedBytes([self._vector, problem.vector, *problem.constants(), *tensors_in(problem.batches[0])])

    def _trace(self) -> None:
        """Get the programs of the route; without programs, or where they keep too much, take a route without them."""
        problem = self._problem
        asked = type(self).__name__, self.route.name, problem.signature(problem.batches[0])
        if problem.programs.failure(asked) is None:
            try:
                self._programs = self._held_to_autograd()
            except Exception as error:  # torch, a compiler or the model may raise anything while traced
                if ran_out(error):
                    raise
                problem.programs.fail(asked, str(error) if isinstance(error, UntraceableError) else cause(error))
        if why := problem.programs.failure(asked):
            self.route = self.route.without_program(f"no program of the product: {why}")
            return
        saved = self._bytes_saved()
        for tensor in next(self._linearised()).tensors:
            saved.pack(tensor)
        kept_bytes = of_all_batches(problem.batches, saved.bytes)
        if self.route.keeps and kept_bytes > self.route.budget_bytes:
            self._programs = {}
            self.route = self.route.without_program(f"its program would keep {amount(kept_bytes)}")
        elif self.route.keeps:
            self.route = replace(self.route, graph_bytes=kept_bytes)

    def _held_to_autograd(self) -> dict[str, Program]:
        """Programs that give autograd's product at this point; programs known from another point are tried first.

        A trace keeps numbers that Python took from tensors unseen by torch (``tolist``). It also keeps the state that
        the model and the loss had when it was made. A program is therefore trusted only where it was compared with
        autograd.

        Raises:
            UntraceableError: programs traced just now give another product.
            Exception: see `programs_of`.
        """
        for fresh in (False, True):
            programs = programs_of(
                self._problem, self._linearise_first, type(self).__name__, self.route.compiles, fresh
            )
            off, allowed = self._difference(programs)
            if off <= allowed:
                return programs
        raise UntraceableError(
            f"its result differs from autograd's by {off:.1e} of the product, and rounding explains {allowed:.1e}"
        )

    def _difference(self, programs: dict[str, Program]) -> tuple[float, float]:
        """The distance of the programs' product with one vector from autograd's, and its bound by rounding."""
        vector = torch.randn(self.dim, generator=torch.Generator().manual_seed(0)).to(self._vector.detach())
        difference, sizes, rounding = torch.zeros(self.dim, dtype=torch.float64, device=self.device), 0.0, 0.0
        for index, batch in enumerate(self._problem.batches):
            eager = self._linearise(index)
            part = _apply(eager, vector)
            size = float(torch.linalg.vector_norm(part))
            if index == 0 and size:  # the rounding shows at another scale of the vector
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
            if self._penalty is not None:  # once, for any number of batches and processes
                for column, vector in enumerate(vectors.unbind(1)):
                    products[:, column] += _apply(self._penalty, vector)
        return products.to(self.dtype)


def _apply(linearised: Linearised, vector: Tensor) -> Tensor:
    try:
        return linearised.apply(vector)
    except RuntimeError as error:  # only the graph of the user's model and loss runs here
        if ran_out(error):
            raise
        raise InputError(f"the loss can't be differentiated twice ({cause(error)}); {_REMEDY}") from error


def _refuse_once_differentiable(derivatives: Iterable[Tensor]) -> None:
    """Refuse what `torch.autograd.function.once_differentiable` marks, because `autograd.grad` takes it for constant.

    The node that would raise leads to none of the wanted inputs and is therefore never run.
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
    """A counter of the bytes of distinct storages that a graph saves, without storages that exist anyway."""

    def __init__(self, existing: Iterable[Tensor]) -> None:
        self.seen = {part.untyped_storage().data_ptr() for tensor in existing for part in strided(tensor)}
        self.saved: list[Tensor] = []  # kept alive: no address may be used twice
        self.bytes = 0

    def pack(self, tensor: Tensor) -> int:
        """Take a tensor from the graph; the returned place in the list stands for the tensor."""
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
