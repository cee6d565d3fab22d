"""Buffers along a slice: running statistics, and the other tensors that a model keeps beside its parameters.

A point of a slice is theta + sum_k a_k d_k, and its loss depends on the buffers too. A direction to another problem
knows that problem's buffers e. At a point with coefficient c of that direction the buffers are b + c (e - b), with b
the buffers of the centre. At c = 1 they are the other problem's own buffers. Entries that aren't finite real or complex
numbers (counters, masks of truth values or infinities) are the other problem's from c = 1/2 on. Variances that
extrapolation would make negative are 0. Along any other direction nothing is known of the buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.problem import Problem
from landscape.problem.samples import SampleSums
from landscape.reporting.messages import counted, listed
from landscape.slices.batchnorm import re_estimated, refuse_no_statistics, statistics_of
from landscape.slices.directions import Direction, End

BufferRule = Literal["interpolate", "keep", "re-estimate"]
_VARIANCE = "running_var"
_FOLLOWING = ("running_mean", _VARIANCE, "_u", "_v", "weight_u", "weight_v")  # of BatchNorm and of spectral norm


def refuse_rule(problem: Problem, rule: BufferRule) -> None:
    """Raise InputError for an unknown rule, or a rule that the problem's buffers can't follow."""
    if rule not in get_args(BufferRule):
        raise InputError(f"buffers must be {', '.join(get_args(BufferRule))}, not {rule!r}")
    if rule == "re-estimate":
        refuse_no_statistics(problem)


def differing(problem: Problem, buffers: Mapping[str, Tensor]) -> list[str]:
    """Names of the buffers whose values differ from the problem's own, without BatchNorm's counters of steps."""
    own = problem.buffers()
    return [
        name
        for name, other in buffers.items()
        if _last(name) != "num_batches_tracked" and not torch.equal(own[name], other)
    ]


class Points:
    """A problem at the points of a slice, with the buffers that belong to each point.

    Args:
        problem: the problem at the centre of the slice.
        directions: directions of the slice.
        rule: the buffers at a point: ``interpolate`` (default) between the buffers of the centre and those that
            directions know; ``keep`` those of the centre; ``re-estimate`` BatchNorm's running statistics from the
            problem's data, see `landscape.slices.batchnorm`, and interpolate all others.

    Raises:
        InputError: there is no such rule, or there are no statistics to re-estimate.
    """

    def __init__(self, problem: Problem, directions: Sequence[Direction], rule: BufferRule = "interpolate") -> None:
        refuse_rule(problem, rule)
        self._problem, self._directions, self._rule = problem, directions, rule
        self._own = problem.buffers()
        pairs = statistics_of(problem.model).values() if rule == "re-estimate" else ()
        self._anew = {name for pair in pairs for name in pair}
        ends = dict.fromkeys(end for each in directions for end in each.ends)
        self._moving = {
            end: [name for name in differing(problem, end.buffers) if name not in self._anew] for end in ends
        }
        self._clipped = self._passes = 0

    def at(self, vector: Tensor, positions: Sequence[float]) -> Problem:
        """The problem with the buffers of a point; call inside `Problem.evaluating`.

        Args:
            vector: flat vector of the point, (dim,).
            positions: the point's coefficients of the directions.
        """
        if self._rule == "keep":
            return self._problem
        interpolated = self._problem.with_buffers(self._interpolated(positions))
        if self._rule == "interpolate":
            return interpolated
        statistics, passes = re_estimated(interpolated, vector)
        self._passes = max(self._passes, passes)
        return interpolated.with_buffers(statistics)

    def sums_at(self, vector: Tensor, positions: Sequence[float]) -> SampleSums:
        """The sums of every sample's part of the objective at a point; see `at`."""
        return self.at(vector, positions).sums_at(vector)

    def _interpolated(self, positions: Sequence[float]) -> dict[str, Tensor]:
        shares: dict[End, float] = {}
        for position, direction in zip(positions, self._directions, strict=True):
            for end, share in direction.ends.items():
                shares[end] = shares.get(end, 0.0) + float(position) * share
        values = {
            name: _between(self._own[name], [(end.buffers[name], share) for end, share in shares.items()])
            for name in dict.fromkeys(name for names in self._moving.values() for name in names)
        }
        negative = [name for name, value in values.items() if _last(name) == _VARIANCE and (value < 0).any()]
        self._clipped += bool(negative)
        return values | {name: values[name].clamp(min=0) for name in negative}

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the buffers at the points so far, a sentence each."""
        notes = [note for end in self._moving for note in end.notes]
        following = [name for name in self._own if name not in self._anew and _last(name) in _FOLLOWING]
        unknown = [each.name for each in self._directions if not each.ends]
        known = [each.name for each in self._directions if any(self._moving[end] for end in each.ends)]
        moving = listed(dict.fromkeys(name for names in self._moving.values() for name in names))
        if self._rule == "re-estimate":
            notes.append(
                "BatchNorm's running statistics are computed anew at every point from the data of the slice (forward "
                f"passes more a point: {self._passes}); slope and curvature use the statistics of the centre"
            )
        if unknown and following and not self._problem.training:
            notes.append(f"along {listed(unknown)} the buffers stay as they are at the centre ({listed(following)})")
        if known and self._rule == "keep":
            notes.append(
                f"along {listed(known)} the buffers stay as they are at the centre, and differ there ({moving})"
            )
        elif known:
            notes.append(
                f"along {listed(known)} the buffers go with the parameters ({moving}); slope and curvature are of the "
                "parameters alone"
            )
        if self._clipped:
            notes.append(f"running variances extrapolate below 0 at {counted(self._clipped, 'point')}, and are 0 there")
        return tuple(notes)


def _last(name: str) -> str:
    """A buffer's name within its own module."""
    return name.rpartition(".")[2]


def _between(own: Tensor, ends: Sequence[tuple[Tensor, float]]) -> Tensor:
    """A buffer at a point, from its value at the centre, and its values at the ends with their coefficients."""
    nearest, largest = max(ends, key=lambda end: end[1])
    chosen = nearest if largest >= 0.5 else own
    if not (own.is_floating_point() or own.is_complex()):
        return chosen
    wide_dtype = torch.promote_types(own.dtype, torch.float64)
    value = own.to(wide_dtype) + sum(share * (end.to(wide_dtype) - own.to(wide_dtype)) for end, share in ends)
    finite = torch.stack([own, *(end for end, _ in ends)]).isfinite().all(0)
    return torch.where(finite, value.to(own.dtype), chosen)
