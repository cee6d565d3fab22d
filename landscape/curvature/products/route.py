"""The ways of making products, and the choice between them: by memory first, then by what all products will cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from landscape.curvature.products.work import Work
from landscape.errors import InputError
from landscape.problem.problem import Compile
from landscape.reporting.messages import amount

EXPECTED = 60
"""Products, where nobody says how many: those of ten eigenpairs."""

NOT_COMPILED = "of this matrix nothing is compiled"
_KEPT = {"cached": "cached double-backward graph", "linearised": "linearised once and kept",
         "compiled": "linearised once, kept and compiled"}  # fmt: skip
_INEXACT = "central differences of the gradient"
_REBUILT = {"rebuilt": "graph rebuilt for each product",
            "recompiled": "compiled, with all that it needs made anew for each product"}  # fmt: skip

# In gradients, from trials on one thread (docs/performance.md); `python -m benchmarks.peers` measures them anew.
_CACHED, _LINEARISED, _REBUILDING, _PREPARING = 2.2, 2.0, 3.3, 1.3
WORTH_COUNTING = 5e9
"""Bytes of graphs that all products together go through, below which no program pays: some seconds' work."""

_CHECKING = _REBUILDING + _PREPARING + _LINEARISED  # a program's product beside autograd's, once
# Seconds for each operation of a gradient, which makes some six in the program of a product.
_TRACING, _COMPILING = 0.02, 0.15
# What compiling saves of the time of everything but matrix products. Networks whose products are convolutions gain
# nothing: what is saved there goes into changes of layout.
_FUSED = 0.45


@dataclass(frozen=True)
class Route:
    """How products are made, decided once before the first of them.

    Attributes:
        name: ``cached`` keeps the graph of every batch, so that a product is two backward passes through what exists;
            ``rebuilt`` makes the graph anew for each product; ``linearised`` keeps, of a program of the product, what
            is the same for every vector; ``compiled`` has the rest of it compiled; ``recompiled`` as well, and keeps
            nothing. ``differences`` are of the gradient, and not exact.
        graph_bytes: what the graphs of all batches hold beyond parameters and data: counted on the first batch and
            scaled to all by the number of samples, and a flat vector for each batch.
        budget_bytes: the most that kept graphs may hold.
        note: why another route that would have been cheaper wasn't taken; empty if none.
    """

    name: str
    graph_bytes: int
    budget_bytes: int
    note: str = ""

    @property
    def keeps(self) -> bool:
        """Whether something of every batch is kept from one product to the next."""
        return self.name in _KEPT

    @property
    def traced(self) -> bool:
        """Whether programs make the products, rather than autograd."""
        return self.name in ("linearised", "compiled", "recompiled")

    @property
    def compiles(self) -> bool:
        """Whether these are compiled."""
        return self.name in ("compiled", "recompiled")

    def plain(self) -> dict[str, str | int]:
        """As a dictionary, the form in which a record keeps it."""
        return asdict(self)

    def inexact(self, note: str, compile_products: Compile) -> Route:
        """The same with a note of what its products are off by; of such a matrix nothing is compiled."""
        return replace(self, note=f"{note}; {NOT_COMPILED}" if compile_products == "on" else note)

    def without_program(self, why: str) -> Route:
        """The route to take where a product can't be traced or compiled."""
        fits = self.keeps and self.graph_bytes <= self.budget_bytes
        return replace(self, name="cached" if fits else "rebuilt", note=why)

    def named(self, name: str, traceable: bool) -> Route:
        """The same with another name, of an operator whose products can be traced or not.

        Raises:
            InputError: there is no such route.
        """
        other = replace(self, name=name)
        if name not in (*_KEPT, *_REBUILT) or (other.traced and not traceable):
            known = [each for each in (*_KEPT, *_REBUILT) if traceable or not replace(self, name=each).traced]
            raise InputError(f"products of this matrix go no route {name!r}; there are {', '.join(known)}")
        return other

    def __str__(self) -> str:
        """What the screen says of it."""
        note = f" ({self.note})" if self.note else ""
        if self.name == "differences":
            return f"{_INEXACT}{note}"
        if self.keeps:
            return f"{_KEPT[self.name]}, {amount(self.graph_bytes)}{note}"
        return (
            f"{_REBUILT[self.name]}: kept, it would hold {amount(self.graph_bytes)} of the "
            f"{amount(self.budget_bytes)} allowed{note}"
        )


def cheapest(work: Work, autograd: Route, products: int, compile_products: Compile, device: torch.device) -> Route:
    """The cheapest route by counted work and round figures, so the same in each run.

    Args:
        work: of one gradient over all data; its operations are those of one batch.
        autograd: the route without programs, within the memory that there is.
        products: so many are expected.
        compile_products: ``on`` compiles whatever it costs, ``off`` never.
        device: where.
    """
    seconds = _seconds(work, autograd.keeps, device, products)
    routes = [replace(autograd, name=name) for name in seconds]
    allowed = [route for route in routes if compile_products == "auto" or route.compiles == (compile_products == "on")]
    return min(allowed, key=lambda route: seconds[route.name])


def _seconds(work: Work, kept: bool, device: torch.device, products: int) -> dict[str, float]:
    """What each route would take in all, with what is kept or without."""
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
