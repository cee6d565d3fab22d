"""Routes (ways of making products), and the choice between them: first by memory, then by the cost of all products."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from landscape.curvature.products.work import Work
from landscape.errors import InputError
from landscape.problem.problem import Compile
from landscape.reporting.messages import amount

EXPECTED = 60
"""Default number of products: about that of ten eigenpairs."""

NOT_COMPILED = "products of this matrix are never compiled"
_KEPT = {"cached": "cached double-backward graph", "linearised": "linearised once and kept",
         "compiled": "linearised once, kept and compiled"}  # fmt: skip
_INEXACT = "central differences of the gradient"
_REBUILT = {"rebuilt": "graph rebuilt for each product",
            "recompiled": "compiled, with all intermediate results recomputed for each product"}  # fmt: skip

# Costs in gradients on one thread, rounded. `python -m benchmarks.peers` measures them (docs/performance.md).
_CACHED, _LINEARISED, _REBUILDING, _PREPARING = 2.2, 2.0, 3.3, 1.3
WORTH_COUNTING = 5e9
"""Bytes of graphs that all products read together. Below this number a traced program doesn't pay."""

_CHECKING = _REBUILDING + _PREPARING + _LINEARISED  # comparing a program's product with autograd's, once
# Seconds for each operation of a gradient. One such operation becomes some six in the program of a product.
_TRACING, _COMPILING = 0.02, 0.15
# Fraction of the time outside matrix products that compiling saves. Networks whose products are convolutions gain
# nothing: changes of layout cost the time saved.
_FUSED = 0.45


@dataclass(frozen=True)
class Route:
    """The way in which products are made, decided once, before the first product.

    Attributes:
        name: name of the route. ``cached`` keeps the graph of every batch; a product is two backward passes through
            this graph. ``rebuilt`` makes the graph anew for each product. ``linearised`` traces a program of the
            product, and keeps the results that don't depend on the vector. ``compiled`` also compiles the other part of
            the program. ``recompiled`` compiles this part too, and keeps nothing. ``differences`` takes differences of
            the gradient, which aren't exact.
        graph_bytes: bytes that the graphs of all batches hold beyond parameters and data. They are counted on the first
            batch and scaled to all by the number of samples, with a flat vector for each batch.
        budget_bytes: largest number of bytes that kept graphs may hold.
        note: reason why another route wasn't taken, or the error of inexact products; empty if there is neither.
    """

    name: str
    graph_bytes: int
    budget_bytes: int
    note: str = ""

    @property
    def keeps(self) -> bool:
        """Whether a graph or prepared tensors of every batch are kept from one product to the next."""
        return self.name in _KEPT

    @property
    def traced(self) -> bool:
        """Whether programs make the products, rather than autograd."""
        return self.name in ("linearised", "compiled", "recompiled")

    @property
    def compiles(self) -> bool:
        """Whether these programs are compiled."""
        return self.name in ("compiled", "recompiled")

    def plain(self) -> dict[str, str | int]:
        """The route as a dictionary, the form in which a record keeps it."""
        return asdict(self)

    def inexact(self, note: str, compile_products: Compile) -> Route:
        """This route with a note on the error of its products; nothing is compiled for such a matrix."""
        return replace(self, note=f"{note}; {NOT_COMPILED}" if compile_products == "on" else note)

    def without_program(self, why: str) -> Route:
        """The route to take where a product can't be traced or compiled."""
        fits = self.keeps and self.graph_bytes <= self.budget_bytes
        return replace(self, name="cached" if fits else "rebuilt", note=why)

    def named(self, name: str, traceable: bool) -> Route:
        """This route with another name, for an operator whose products can be traced or not.

        Raises:
            InputError: the operator has no route of this name.
        """
        other = replace(self, name=name)
        if name not in (*_KEPT, *_REBUILT) or (other.traced and not traceable):
            known = [each for each in (*_KEPT, *_REBUILT) if traceable or not replace(self, name=each).traced]
            raise InputError(f"products of this matrix have no route {name!r}; the routes are {', '.join(known)}")
        return other

    def __str__(self) -> str:
        """The route in words, for the screen."""
        note = f" ({self.note})" if self.note else ""
        if self.name == "differences":
            return f"{_INEXACT}{note}"
        if self.keeps:
            return f"{_KEPT[self.name]}, {amount(self.graph_bytes)}{note}"
        return (
            f"{_REBUILT[self.name]}: a kept graph would hold {amount(self.graph_bytes)} of the "
            f"{amount(self.budget_bytes)} allowed{note}"
        )


def cheapest(work: Work, autograd: Route, products: int, compile_products: Compile, device: torch.device) -> Route:
    """The cheapest route by counted work and fixed rates; the choice doesn't vary between runs.

    Args:
        work: work of one gradient over all data; its ``operations`` are those of one batch.
        autograd: the route without programs, within the memory available.
        products: expected number of products.
        compile_products: ``on`` always compiles, ``off`` never compiles, ``auto`` compiles where it is cheapest.
        device: device of the computation.
    """
    seconds = _seconds(work, autograd.keeps, device, products)
    routes = [replace(autograd, name=name) for name in seconds]
    allowed = [route for route in routes if compile_products == "auto" or route.compiles == (compile_products == "on")]
    return min(allowed, key=lambda route: seconds[route.name])


def _seconds(work: Work, kept: bool, device: torch.device, products: int) -> dict[str, float]:
    """Total seconds of each route, among the routes that keep graphs or among those that don't."""
    gradient = work.seconds(device)
    checking = _CHECKING * gradient
    saved = 0.0 if 2 * work.convolutions > work.flops else _FUSED * work.pointwise(device)
    tracing, fusing = _TRACING * work.operations, (_TRACING + _COMPILING) * work.operations
    if kept:
        return {
            "cached": products * _CACHED * gradient,
            "linearised": tracing + checking + products * _LINEARISED * gradient,
            "compiled": fusing + checking + products * _LINEARISED * (gradient - saved),
        }
    return {
        "rebuilt": products * _REBUILDING * gradient,
        "recompiled": fusing + checking + products * (_PREPARING * gradient + _LINEARISED * (gradient - saved)),
    }
