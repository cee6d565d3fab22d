"""Directions in parameter space: random and normalised, along the gradient, towards another point.

Random directions of different networks are made comparable by the normalisation of Li, Xu, Taylor, Studer and Goldstein
(2018, "Visualizing the loss landscape of neural nets", section 4). Each filter of a Gaussian direction gets the norm of
the weights' own filter. A filter is the weights of one output, see `landscape.slices.filters`. The direction is zero
for biases and for the scales and shifts of normalisation layers, as in the authors' figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.problem import Problem
from landscape.reporting.messages import listed
from landscape.slices.filters import Filters, filters_of
from landscape.spectrum.basis_store import outside
from landscape.spectrum.probes import probe

Normalisation = Literal["filter", "layer", "none"]


@dataclass(frozen=True, eq=False)
class End:
    """The tensors of another problem that directions lead to, without its trainable parameters.

    Attributes:
        buffers: buffers and frozen parameters of the other problem, with the names, device and dtype of the centre's.
        notes: differences that remain between this end and the other problem, a sentence each.
    """

    buffers: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Direction:
    """A direction of a slice: position a on it is the point theta + a vector.

    Attributes:
        vector: (n,), on the problem's device and of its dtype, in the units of the parameters; its length is 1 only
            where that is stated.
        name: label of the direction for an axis or a table.
        ends: ends that the direction leads to, each with the fraction of the way to it that position 1 is at; empty
            where nothing is known of buffers. See `landscape.slices.buffers`.
    """

    vector: Tensor
    name: str
    ends: Mapping[End, float] = field(default_factory=dict)

    @property
    def norm(self) -> float:
        """Length of the direction: the distance that a step of 1 goes."""
        return float(torch.linalg.vector_norm(self.vector, dtype=torch.float64))


def gaussian(problem: Problem, seed: int, index: int = 0, normalisation: Normalisation = "filter") -> Direction:
    """A random direction with independent normal entries, made comparable between networks.

    The draw depends only on ``seed``, ``index`` and the number of parameters. Two checkpoints of a model therefore get
    one draw.

    Args:
        problem: the problem at the point theta.
        seed: seed of the draw.
        index: number of the direction, 0, 1, ..., among those of one seed; default: 0.
        normalisation: ``filter`` (default) gives each filter of the direction the norm of theta's filter; see the
            module's docstring. ``layer`` gives each parameter tensor the norm of theta's tensor. ``none`` leaves the
            entries as drawn, biases included.

    Raises:
        InputError: an argument is out of range, or the direction is zero because the parts of theta that count are.
    """
    drawn = probe(problem.layout.dim, seed, index, "gaussian").to(problem.device, problem.dtype)
    if normalisation == "none":
        return Direction(drawn, f"Gaussian {index + 1}")
    return normalised(problem, drawn, f"Gaussian {index + 1}", normalisation)


def normalised(problem: Problem, vector: Tensor, name: str, normalisation: Normalisation = "filter") -> Direction:
    """A vector (n,) made comparable between networks, such as an eigenvector; see `gaussian`.

    Args:
        problem: the problem at the point theta.
        vector: the direction, (n,).
        name: name of the direction.
        normalisation: ``filter`` (default) or ``layer``.

    Raises:
        InputError: the normalisation is unknown, or the direction is zero because the parts of theta that count are.
    """
    if normalisation not in ("filter", "layer"):
        raise InputError(f"a direction is normalised by filter, layer or none, not {normalisation!r}")
    at, along = (problem.layout.unflatten(each) for each in (problem.vector, vector))
    filters = filters_of(problem.model)
    parts = {each: _normalised(along[each], at[each], filters[each], normalisation) for each in problem.layout.names}
    direction = Direction(problem.layout.flatten(parts), f"{normalisation}-normalised {name}")
    if direction.norm == 0:
        raise InputError(
            f"a {normalisation}-normalised direction has nothing to go along: every filter of the weights is zero, or "
            "all that varies are biases; take normalisation none"
        )
    return direction


def _normalised(along: Tensor, at: Tensor, filters: Filters | None, normalisation: Normalisation) -> Tensor:
    """One tensor of a direction with the norms of the weights' filters; zeros where either one's filter is zero."""
    if filters is None:
        return torch.zeros_like(along)
    if normalisation == "layer":
        filters = Filters((-1,), (0,))
    lengths, wanted = filters.lengths(along), filters.lengths(at)
    factors = torch.where(lengths > 0, wanted / lengths.clamp(min=torch.finfo(at.dtype).tiny), 0.0)
    return filters.scaled(along, factors)


def gradient_direction(problem: Problem) -> Direction:
    """The unit vector along the gradient, uphill.

    Raises:
        InputError: the gradient is zero.
    """
    return unit(problem.gradient(), "gradient")


def towards(problem: Problem, end: Tensor, name: str = "line") -> Direction:
    """The line to another point: position 0 is theta, position 1 the other (Goodfellow, Vinyals and Saxe 2015).

    Args:
        problem: the problem at the point theta.
        end: the other point, (n,).
        name: name of the direction; default: ``line``.

    Raises:
        InputError: ``end`` has another shape than theta, isn't finite, or is theta itself.
    """
    difference = problem.at(end).vector - problem.vector
    if not difference.any():
        raise InputError("the line has no direction: both ends are the same point")
    return Direction(difference, name)


Aim = Direction | Callable[[Problem], Direction]
"""A direction, or a function that makes one of the problem at the centre: `toward` another, or `gradient_direction`."""


def toward(end: Problem, name: str = "line") -> Callable[[Problem], Direction]:
    """The line to another problem of one model, from the centre of whichever slice it is used for.

    ``line(problem, toward(end), positions)`` is the line from ``problem`` to ``end``. Position 1 has the parameters,
    buffers and frozen parameters of ``end``. The loss there is therefore the loss of ``end`` on the slice's data.

    Args:
        end: the problem at the other point, with the centre's model, on any data.
        name: name of the direction; default: ``line``.

    Returns:
        A function of the problem at the centre that returns the direction. It raises InputError where names or shapes
        of parameters or buffers differ, or both problems are at one point.
    """

    def seen_from(problem: Problem) -> Direction:
        shapes = [{key: value.shape for key, value in each.tensors().items()} for each in (problem, end)]
        if shapes[0] != shapes[1]:
            raise InputError("the line leads to another model: its parameters or buffers have other names or shapes")
        end_problem = problem.with_state(end.tensors())
        direction = towards(problem, end_problem.vector, name)
        return replace(direction, ends={End(end_problem.buffers(), _staying(problem, end_problem, name)): 1.0})

    return seen_from


def _staying(problem: Problem, end: Problem, name: str) -> tuple[str, ...]:
    """A note on parameters that differ at the end of a line but don't vary along it."""
    own, others = problem.tensors(), end.tensors()
    fixed = own.keys() - problem.layout.names - problem.buffers().keys()
    staying = [each for each in own if each in fixed and not torch.equal(own[each], others[each])]
    if not staying:
        return ()
    return (
        f"{listed(staying)} differ at the end of {name} and don't vary: the loss at position 1 isn't the loss of "
        "that checkpoint",
    )


def aimed(problem: Problem, aim: Aim) -> Direction:
    """The direction that an aim gives at the centre of a slice."""
    return aim if isinstance(aim, Direction) else aim(problem)


def unit(vector: Tensor, name: str) -> Direction:
    """A vector (n,) scaled to length 1.

    Raises:
        InputError: the vector is zero or isn't finite.
    """
    length = float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    if not 0 < length < math.inf:
        raise InputError(f"{name} has the length {length:g}, so it is not a direction")
    return Direction(vector / length, name)


def orthogonalised(directions: Sequence[Direction]) -> list[Direction]:
    """Each direction without its part along those before it, rescaled to its original length.

    Raises:
        InputError: a direction lies within the span of those before it, up to rounding.
    """
    first, *others = directions
    orthogonal, rows = [first], (first.vector.to(torch.float64) / first.norm).unsqueeze(0)
    for each in others:
        float64_vector = each.vector.to(torch.float64)
        remainder = outside(float64_vector, rows)
        length = float(torch.linalg.vector_norm(remainder))
        if not length > math.sqrt(len(remainder)) * torch.finfo(each.vector.dtype).eps * each.norm:
            raise InputError(f"{each.name} lies within the span of the directions before it, so they make no plane")
        ends = _ends_outside(each, orthogonal, rows @ float64_vector, each.norm / length)
        rows = torch.cat([rows, (remainder / length).unsqueeze(0)])
        orthogonal.append(Direction((rows[-1] * each.norm).to(each.vector.dtype), each.name, ends))
    return orthogonal


def _ends_outside(direction: Direction, before: Sequence[Direction], along: Tensor, factor: float) -> dict[End, float]:
    """The ends of a direction without its parts along those before it, of lengths ``along``, times a factor."""
    ends = {end: factor * share for end, share in direction.ends.items()}
    for each, part in zip(before if ends else (), along.tolist() if ends else (), strict=True):
        for end, share in each.ends.items():
            ends[end] = ends.get(end, 0.0) - factor * share * part / each.norm
    return ends


def cosine(first: Direction, second: Direction) -> float:
    """The cosine of the angle between two directions; NaN where one of them is zero."""
    product = first.vector.to(torch.float64) @ second.vector.to(torch.float64)
    lengths = first.norm * second.norm
    return float(product) / lengths if lengths else math.nan
