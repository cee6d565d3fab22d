"""Halve the micro-batches of a problem after memory ran out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from landscape.errors import InputError
from landscape.reporting.messages import counted

if TYPE_CHECKING:
    from landscape.problem import Problem


def with_less(problem: Problem, why: str) -> Problem:
    """The problem in micro-batches of half the size, with half the memory for a measurement.

    Args:
        problem: the problem whose measurement ran out of memory.
        why: cause, from the exception, for the messages.

    Raises:
        InputError: a micro-batch has one sample or can't be split, or several processes share the problem.
    """
    from landscape.machine.memory import half_of_memory
    from landscape.problem.batches import samples_in

    largest = max(map(samples_in, problem.batches))
    if problem.processes.size > 1:
        raise InputError(f"memory ran out ({why}): give a --batch-size below {largest}, or give --memory")
    if largest == 1:
        raise InputError(f"memory ran out with one sample at a time ({why}): ask for less, or use a larger machine")
    fewer = math.ceil(largest / 2)
    try:
        smaller = problem.micro_batched(fewer)
    except InputError as error:
        raise InputError(f"memory ran out ({why}), and {error}") from error
    half = (problem.memory or 2 * half_of_memory(problem.device)) // 2
    return smaller.limited(half).noted(
        f"memory ran out with {largest} samples at a time: now {counted(fewer, 'sample')}"
    )
