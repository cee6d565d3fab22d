"""The number of threads that torch uses for a model, from the counted work of the model's loss."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape.problem import Problem

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def threads_that_pay(problem: Problem) -> Iterator[None]:
    """A context in which torch uses no more threads than pay: with short operations, threads mostly wait.

    Nothing changes on a device other than the CPU, or where the user has set the number of threads (`VARIABLES`).
    """
    import torch

    from landscape.curvature.products.work import Counting

    before = torch.get_num_threads()
    if before > 1 and problem.device.type == "cpu" and not any(name in os.environ for name in VARIABLES):
        with problem.evaluating(), Counting() as counting:
            problem.terms(problem.vector, problem.batches[0])
        torch.set_num_threads(counting.work.threads(before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
