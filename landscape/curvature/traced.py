"""The programs of a problem's products, by the shapes of its batches: held to autograd, and kept for other points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from landscape.batches import refilled, shape_of, tensors_in
from landscape.curvature.program import Program, UntraceableError
from landscape.problem import Problem

Product = Callable[[Tensor], Tensor]
Linearise = Callable[[Problem, Tensor], Product]

# By how many measured roundings two ways to a product may differ: compiled, sums are in another order.
_ROUNDINGS = 30


def programs_of(problem: Problem, linearise: Linearise, kind: str, compiling: bool) -> dict[str, Program]:
    """A program for each shape that the problem's batches have; those of an earlier point are taken as they are.

    Args:
        problem: where products are made; call inside `Problem.evaluating`.
        linearise: ``linearise(problem, point)`` gives the products of a problem's first batch at a flat vector, by
            autograd.
        kind: what they are products of.
        compiling: compile that of the first batch; one of another shape, as a last one is, stays as it was traced.

    Raises:
        UntraceableError: a program gives something else than autograd.
        Exception: see `Program.trace` and `Program.compiled`.
    """
    programs: dict[str, Program] = {}
    for index, batch in enumerate(problem.batches):
        shape, compiled = shape_of(batch), compiling and index == 0
        key = (kind, problem.signature(batch), compiled)
        if shape not in programs:
            if key not in problem.programs:
                problem.programs[key] = _program(problem, linearise, batch, compiled)
            programs[shape] = problem.programs[key]
    return programs


def prepared(program: Program, problem: Problem, batch: Any) -> tuple[Product, tuple[Tensor, ...]]:
    """The batch's share of a product with any vector, and the tensors that were made for it."""
    with torch.no_grad():
        tensors = program.prepare(problem.vector, *problem.constants(), *tensors_in(batch))

    def product(vector: Tensor) -> Tensor:
        with torch.no_grad():
            # Compiled programs take the strides of one vector for those of all.
            return program.apply(*tensors, vector.contiguous())[0]

    return product, tensors


def _program(problem: Problem, linearise: Linearise, batch: Any, compiling: bool) -> Program:
    constants = tuple(problem.constants())

    def product(point: Tensor, vector: Tensor, *tensors: Tensor) -> Tensor:
        traced = refilled(batch, tensors[len(constants) :])
        return linearise(problem.with_tensors(tensors[: len(constants)], traced), point)(vector)

    program = Program.trace(product, problem.vector, (*constants, *tensors_in(batch)))
    vector = torch.randn(len(problem.vector), generator=torch.Generator().manual_seed(0)).to(problem.vector)
    if compiling:
        program = program.compiled(prepared(program, problem, batch)[1], vector)
    eager = linearise(problem.with_tensors(constants, batch), problem.vector)
    _refuse_other(eager, prepared(program, problem, batch)[0], vector)
    return program


def _refuse_other(eager: Product, traced: Product, vector: Tensor) -> None:
    """Hold a program to autograd, whose rounding is seen by another scale."""
    expected = eager(vector)
    rounding = torch.linalg.vector_norm(3 * eager(vector / 3) - expected)
    rounding += torch.finfo(vector.dtype).eps * torch.linalg.vector_norm(expected)
    off = torch.linalg.vector_norm(traced(vector) - expected)
    if not off <= _ROUNDINGS * rounding:
        raise UntraceableError(
            f"it differs from autograd's by {float(off / torch.linalg.vector_norm(expected)):.1e} of the product"
        )
