"""What is done when memory runs out: the same again, with less at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from landscape.errors import InputError
from landscape.reporting.messages import counted

if TYPE_CHECKING:
    from landscape.problem import Problem


def with_less(problem: Problem, why: str) -> Problem:
    """The same problem in micro-batches of half the size, for measurements that take half the memory.

    Args:
        problem: of which something didn't fit into memory.
        why: what was said of that.

    Raises:
        InputError: there is nothing to halve, or only all processes together could.
    """
    from landscape.machine.memory import half_of_memory
    from landscape.problem.batches import samples_in

    largest = max(map(samples_in, problem.batches))
    if problem.processes.size > 1:
        raise InputError(f"memory ran out ({why}): give a --batch-size below {largest}, or a --memory")
    if largest == 1:
        raise InputError(f"memory ran out with one sample at a time ({why}): ask for less, or take a larger machine")
    fewer = math.ceil(largest / 2)
    try:
        smaller = problem.micro_batched(fewer)
    except InputError as error:
        raise InputError(f"memory ran out ({why}), and {error}") from error
    half = (problem.memory or 2 * half_of_memory(problem.device)) // 2
    return smaller.limited(half).noted(
        f"memory ran out with {largest} samples at a time: now {counted(fewer, 'sample')}"
    )
