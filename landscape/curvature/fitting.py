"""Split a problem's batches to fit the memory that its products may take."""

from __future__ import annotations

from landscape.curvature.hessian import Hessian
from landscape.machine.memory import OVERHEAD
from landscape.problem import Problem
from landscape.problem.batches import part, samples_in

_SHARE = 4
"""A batch's graph takes at most one such part of the memory. A backward pass takes about as much again."""


def fitted(problem: Problem) -> Problem:
    """The problem, in micro-batches where a product of its batches would take more than half of its memory.

    The memory of a batch is extrapolated from two samples and from four, before anything large is made.

    Raises:
        InputError: a batch can't be split, because its samples aren't independent.
    """
    largest = max(problem.batches, key=samples_in)
    if problem.memory is None or samples_in(largest) < 5:
        return problem
    constants = tuple(problem.constants())
    two, four = (
        Hessian(problem.with_tensors(constants, part(largest, 0, count)), route="rebuilt").route.graph_bytes
        for count in (2, 4)
    )
    allowed = (problem.memory - OVERHEAD) // _SHARE
    fitting = max(1, 2 * (allowed - (2 * two - four)) // max(1, four - two))
    return problem.micro_batched(fitting) if fitting < samples_in(largest) else problem
