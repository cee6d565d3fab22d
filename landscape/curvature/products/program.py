"""A product as a program: traced once, split into a part for all vectors and a part for each, and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

# Values of tensors differ between points and batches. Operations with these tags would bind a program to such values.
_BY_VALUE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}


class UntraceableError(Exception):
    """A product without a program, or with none that agrees with autograd; the message gives the reason."""


@dataclass(frozen=True)
class Program:
    """A linear map of vectors that depends on a point, as two programs: one for the point, and one for each vector.

    The part that doesn't depend on the vector is computed once. Of a Hessian product, two thirds of the matrix products
    remain for each vector. The operations are those that autograd runs, without autograd.

    Attributes:
        prepare: program for the point: ``prepare(point, *tensors)`` gives the tensors that ``apply`` needs.
        apply: program for a vector: ``apply(*prepared, vector)`` gives the tuple (product,).
    """

    prepare: Callable[..., tuple[Tensor, ...]]
    apply: Callable[..., tuple[Tensor]]

    @classmethod
    def trace(cls, product: Callable[..., Tensor], point: Tensor, tensors: tuple[Tensor, ...]) -> Program:
        """Trace ``product(point, vector, *tensors)``, linear in the vector, at a point.

        The programs hold for other points and other tensors of equal shapes. Everything else is fixed as in this run:
        numbers that Python computed, and the branches that Python took.

        Raises:
            UntraceableError: an operation draws random numbers, or the shape of its result depends on values.
            Exception: any exception of torch while tracing, such as for a model whose branches depend on values.
        """
        inputs = point, torch.zeros_like(point), *tensors
        traced = make_fx(product)(*inputs)
        # A prepared tensor serves many products, so no operation may change it in place.
        if any(operation._schema.is_mutable for operation in _operations(traced.graph)):
            traced = make_fx(functionalize(traced, remove="mutations"))(*inputs)
        traced.graph.eliminate_dead_code()
        _refuse_by_value(traced.graph)
        return cls(*_split(traced))

    def compiled(self, prepared: tuple[Tensor, ...], vector: Tensor) -> Program:
        """This program with ``apply`` compiled by TorchInductor, for tensors like these.

        Raises:
            Exception: there is no compiler here, or the compiler fails.
        """
        import torch._inductor  # imported late, because the import is slow

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about its own internals
            compiled: Callable[..., tuple[Tensor]] = torch._inductor.compile(self.apply, [*prepared, vector])  # type: ignore[arg-type]
        return replace(self, apply=compiled)


def _operations(graph: fx.Graph) -> list[torch._ops.OpOverload]:
    return [node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]


def _refuse_by_value(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload) or not _BY_VALUE.intersection(node.target.tags):
            continue
        if node.target is torch.ops.aten.index.Tensor and not any(map(_is_mask, node.args[1])):
            continue
        raise UntraceableError(f"what {node.target} gives depends on the values of tensors")


def _is_mask(index: fx.Node | None) -> bool:
    if index is None or index.op == "get_attr":  # a constant, with fixed values
        return False
    return index.meta["tensor_meta"].dtype in (torch.bool, torch.uint8)


def _split(traced: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule]:
    """A traced ``product(point, vector, *tensors)``, as the part without the vector and the part with it."""
    *nodes, output = traced.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder"]
    body = [node for node in nodes if node.op != "placeholder"]
    vector = inputs.pop(1)
    bound = {vector}
    for node in body:
        if not bound.isdisjoint(node.all_input_nodes):
            bound.add(node)
    dependent = [node for node in body if node in bound]
    wanted = {each for node in (*dependent, output) for each in node.all_input_nodes}
    prepared = [node for node in nodes if node in wanted - bound]
    return (
        _program(traced, inputs, [node for node in body if node not in bound], prepared),
        _program(traced, [*prepared, vector], dependent, output.all_input_nodes),
    )


def _program(
    traced: fx.GraphModule, inputs: Iterable[fx.Node], body: Iterable[fx.Node], outputs: Iterable[fx.Node]
) -> fx.GraphModule:
    """Some nodes of a traced graph as a separate program, which returns a tuple."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(f"input_{i}") for i, node in enumerate(inputs)}
    for node in body:
        copies[node] = graph.node_copy(node, lambda each: copies[each])
    graph.output(tuple(copies[node] for node in outputs))
    graph.eliminate_dead_code()
    return fx.GraphModule(traced, graph)
