"""The objective on random mini-batches, as a training sees it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.errors import InputError
from landscape.problem.problem import Problem


def mini_batches(problem: Problem, size: int, seed: int = 0) -> Iterator[Problem]:
    """The problem on each mini-batch of one pass over the data in random order.

    No sample is in two mini-batches. The samples that are left over, fewer than ``size``, are in none. The objective of
    a mini-batch is the mean over its own terms.

    Args:
        problem: the problem on all its data.
        size: number of samples of a mini-batch.
        seed: seed of the order.

    Raises:
        InputError: see `check_size`; also if the samples of a batch can't be separated.
    """
    check_size(problem, size)
    problem.refuse_dependent_samples()
    order = np.random.default_rng(seed).permutation(problem.data.samples)
    for start in range(0, count_of(problem, size) * size, size):
        yield problem.on_samples(np.sort(order[start : start + size]))


def count_of(problem: Problem, size: int) -> int:
    """The number of mini-batches of one pass."""
    return problem.data.samples // size


def check_size(problem: Problem, size: int) -> None:
    """Refuse a size of which the data have no mini-batch.

    Raises:
        InputError: the size isn't from 1 to the number of samples, or the samples of a batch mix.
    """
    samples = problem.data.samples
    if not 1 <= size <= samples:
        raise InputError(f"a mini-batch has 1 to {samples} samples here, not {size}")
    if problem.mixing:
        raise InputError(
            "the samples of a batch depend on one another here (BatchNorm by batches?), so mini-batches of other sizes "
            "have another objective: pose the problem on mini-batches of its own"
        )
