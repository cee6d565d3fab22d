"""Random groups of samples: the units of the spread over a population."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from landscape.errors import InputError
from landscape.machine.processes import SINGLE_PROCESS
from landscape.problem import Problem

GROUPS = 32
"""Most groups: a standard error from 32 groups is known to about 13 %, and every group has its own overhead."""


@dataclass(frozen=True)
class Groups:
    """All samples of nonzero weight in random groups of nearly equal numbers of samples.

    The samples are taken as independent draws from a population; the terms (tokens) of one sample needn't be. Groups of
    independent samples are independent too.

    Attributes:
        places: positions of the samples of each group among all samples, ascending.
        shares: share of each group in the total weight, (g,) float64; the shares add up to 1.
        samples: number of samples of nonzero weight.
    """

    places: tuple[np.ndarray, ...]
    shares: np.ndarray
    samples: int

    @classmethod
    def of(cls, problem: Problem, seed: int = 0, most: int = GROUPS) -> Groups:
        """Group the samples of a problem at random.

        Args:
            problem: the problem on all its data.
            seed: seed of the order of the samples. Default: 0.
            most: most groups. Default: 32; fewer samples make groups of one sample.

        Raises:
            InputError: fewer than two samples have a weight, or the samples of a batch depend on one another.
        """
        check_independent(problem)
        weights = problem.by_sample().weights.cpu().numpy()
        weighted = np.flatnonzero(weights)
        if len(weighted) < 2:
            raise InputError(
                f"only {len(weighted)} sample has a weight, and one sample shows no spread: give more samples"
            )
        order = np.random.default_rng(seed).permutation(weighted)
        places = tuple(np.sort(each) for each in np.array_split(order, min(most, len(order))))
        sums = np.array([weights[each].sum() for each in places])
        return cls(places, sums / sums.sum(), len(weighted))

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.places)

    def problems(self, problem: Problem) -> Iterator[Problem]:
        """The problem on the samples of each group; its objective is the mean over the group's own terms.

        Of several processes, each evaluates all groups by itself: a group may have fewer samples than there are
        processes.
        """
        return map(problem.distributed_over(SINGLE_PROCESS).on_samples, self.places)

    def without_each(self, problem: Problem) -> Iterator[Problem]:
        """The problem on all groups but one, for each group."""
        for left_out in range(len(self)):
            kept = [each for index, each in enumerate(self.places) if index != left_out]
            yield problem.on_samples(np.sort(np.concatenate(kept)))


def check_independent(problem: Problem) -> None:
    """Refuse a problem whose samples can't be taken apart.

    Raises:
        InputError: there is one sample, or the samples of a batch depend on one another.
    """
    if problem.data.samples < 2:
        raise InputError("one sample shows no spread over samples: give more samples")
    if problem.mixing:
        raise InputError(
            "the samples of a batch depend on one another here (BatchNorm by batches?), so there is no spread over "
            "independent samples: pose the problem in evaluation mode"
        )
    problem.refuse_dependent_samples()
