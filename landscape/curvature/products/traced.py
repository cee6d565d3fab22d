"""The programs of a problem's products, by the shapes of its batches, kept for other points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from landscape.curvature.products.program import Program
from landscape.problem import Problem
from landscape.problem.batches import refilled, shape_of, tensors_in

Product = Callable[[Tensor], Tensor]
Linearise = Callable[[Problem, Tensor], Product]


def programs_of(
    problem: Problem, linearise: Linearise, kind: str, compile_products: bool, fresh: bool = False
) -> dict[str, Program]:
    """A program for each shape of the problem's batches; programs from an earlier point are used as they are.

    Args:
        problem: the problem at whose point products are made; call inside `Problem.evaluating`.
        linearise: ``linearise(problem, point)`` gives a function for the products of a problem's first batch at a flat
            vector, by autograd.
        kind: name of the matrix that the products are of.
        compile_products: whether to compile the program of the first batch. A batch of another shape keeps its traced
            program.
        fresh: whether to trace programs anew that are known already; default: no.

    Raises:
        Exception: see `Program.trace` and `Program.compiled`.
    """
    programs: dict[str, Program] = {}
    for index, batch in enumerate(problem.batches):
        shape = shape_of(batch)
        key = (kind, problem.signature(batch), compile_products and index == 0)
        if shape in programs:
            continue
        if fresh or key not in problem.programs:
            problem.programs.keep(key, _program(problem, linearise, batch, compile_products and index == 0))
        programs[shape] = problem.programs[key]
    return programs


def prepared(program: Program, problem: Problem, batch: Any) -> tuple[Product, tuple[Tensor, ...]]:
    """The function for a batch's share of a product with a vector, and the tensors prepared for this function."""
    with torch.no_grad():
        tensors = program.prepare(problem.vector, *problem.constants(), *tensors_in(batch))

    def product(vector: Tensor) -> Tensor:
        with torch.no_grad():
            # Compiled programs assume the strides of one vector for all vectors.
            return program.apply(*tensors, vector.contiguous())[0]

    return product, tensors


def _program(problem: Problem, linearise: Linearise, batch: Any, compile_products: bool) -> Program:
    constants = tuple(problem.constants())

    def product(point: Tensor, vector: Tensor, *tensors: Tensor) -> Tensor:
        traced = refilled(batch, tensors[len(constants) :])
        return linearise(problem.with_tensors(tensors[: len(constants)], traced), point)(vector)

    program = Program.trace(product, problem.vector, (*constants, *tensors_in(batch)))
    if not compile_products:
        return program
    return program.compiled(prepared(program, problem, batch)[1], torch.zeros_like(problem.vector))
