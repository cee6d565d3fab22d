"""Directions in parameter space, and what has been done to them.

Random directions of networks are made comparable by the normalisation of Li, Xu, Taylor, Studer and Goldstein (2018,
"Visualizing the loss landscape of neural nets", section 4): each filter of a Gaussian direction gets the norm of the
weights' own filter. A filter is what makes one output, see `landscape.slices.filters`. Biases and the scales and shifts
of normalisation layers are left out of the direction, as in the authors' figures: it has zeros there.
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
    """Another problem that directions lead to, as far as it isn't trainable parameters.

    Attributes:
        buffers: its buffers and frozen parameters, under the names, on the device and of the dtype of the centre's.
        notes: what of the other problem isn't met there, a sentence each.
    """

    buffers: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Direction:
    """A direction of a slice: position a on it is the point theta + a vector.

    Attributes:
        vector: (n,), on the problem's device and of its dtype, in the units of the parameters; not of unit length
            unless it says so.
        name: what it is, for an axis or a table.
        ends: the problems that it leads to, each with the coefficient that the way to it has in this direction; none
            where nothing is known of buffers. See `landscape.slices.buffers`.
    """

    vector: Tensor
    name: str
    ends: Mapping[End, float] = field(default_factory=dict)

    @property
    def norm(self) -> float:
        """Its length, which is how far a step of 1 goes."""
        return float(torch.linalg.vector_norm(self.vector, dtype=torch.float64))


def gaussian(problem: Problem, seed: int, index: int = 0, normalisation: Normalisation = "filter") -> Direction:
    """A random direction with independent normal entries, made comparable between networks.

    It depends on ``seed`` and ``index`` and on the sizes of the parameters: at two checkpoints it is the same draw.

    Args:
        problem: at the point theta.
        seed: of the draw.
        index: 0, 1, ...: further directions of the same seed.
        normalisation: ``filter`` gives each filter of the direction the norm of theta's (see the module's docstring),
            ``layer`` each parameter tensor as a whole, ``none`` leaves the entries as drawn, biases included.

    Raises:
        InputError: an argument is out of range, or nothing is left: all of theta that counts is zero.
    """
    drawn = probe(problem.layout.dim, seed, index, "gaussian").to(problem.device, problem.dtype)
    if normalisation == "none":
        return Direction(drawn, f"Gaussian {index + 1}")
    return normalised(problem, drawn, f"Gaussian {index + 1}", normalisation)


def normalised(problem: Problem, vector: Tensor, name: str, normalisation: Normalisation = "filter") -> Direction:
    """A vector (n,) made comparable between networks, such as an eigenvector; see `gaussian`.

    Args:
        problem: at the point theta.
        vector: the direction.
        name: what to call it.
        normalisation: ``filter`` or ``layer``.

    Raises:
        InputError: the normalisation is another, or nothing is left: all of theta that counts is zero.
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
    """One tensor of a direction with the norms of the weights' filters, zeros where these or the direction are zero."""
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
    """The line to another point: position 0 is theta, and position 1 the other (Goodfellow, Vinyals and Saxe 2015).

    Args:
        problem: at the point theta.
        end: (n,) the other point.
        name: what to call the direction.

    Raises:
        InputError: it has another shape or isn't finite, or is theta itself.
    """
    difference = problem.at(end).vector - problem.vector
    if not difference.any():
        raise InputError("the line has no direction: both ends are the same point")
    return Direction(difference, name)


Aim = Direction | Callable[[Problem], Direction]
"""A direction, or a function that makes one of the problem at the centre: `toward` another, or `gradient_direction`."""


def toward(end: Problem, name: str = "line") -> Callable[[Problem], Direction]:
    """The line to another problem of the same model, from wherever a slice begins.

    ``line(problem, toward(end), positions)`` is the line from ``problem`` to ``end``.
    Position 1 is the other problem with its parameters, its buffers and its frozen parameters, so that the loss there
    is its own on the data of the slice.

    Args:
        end: at the other point; of the same model, on any data.
        name: what to call the direction.

    Returns:
        A function of the problem at the centre that returns the direction. It raises InputError where names or shapes
        of parameters or buffers differ, or both problems are at the same point.
    """

    def seen_from(problem: Problem) -> Direction:
        shapes = [{key: value.shape for key, value in each.tensors().items()} for each in (problem, end)]
        if shapes[0] != shapes[1]:
            raise InputError("the line leads to another model: its parameters or buffers have other names or shapes")
        there = problem.with_state(end.tensors())
        direction = towards(problem, there.vector, name)
        return replace(direction, ends={End(there.buffers(), _staying(problem, there, name)): 1.0})

    return seen_from


def _staying(problem: Problem, end: Problem, name: str) -> tuple[str, ...]:
    """A note on parameters that differ at the end of a line and don't vary along it."""
    here, there = problem.tensors(), end.tensors()
    fixed = here.keys() - problem.layout.names - problem.buffers().keys()
    staying = [each for each in here if each in fixed and not torch.equal(here[each], there[each])]
    if not staying:
        return ()
    return (f"{listed(staying)} differ at the end of {name} and don't vary: its loss at position 1 is of a mixture",)


def aimed(problem: Problem, aim: Aim) -> Direction:
    """The direction that is meant at the centre of a slice."""
    return aim if isinstance(aim, Direction) else aim(problem)


def unit(vector: Tensor, name: str) -> Direction:
    """A vector (n,) made one of length 1.

    Raises:
        InputError: it is zero or not finite.
    """
    length = float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    if not 0 < length < math.inf:
        raise InputError(f"{name} has the length {length:g}: it is no direction")
    return Direction(vector / length, name)


def orthogonalised(directions: Sequence[Direction]) -> list[Direction]:
    """Each of one direction or more without its part along those before it, at the length it had.

    Raises:
        InputError: one of them lies within the span of those before it, up to rounding.
    """
    first, *others = directions
    found, rows = [first], (first.vector.to(torch.float64) / first.norm).unsqueeze(0)
    for each in others:
        wide = each.vector.to(torch.float64)
        rest = outside(wide, rows)
        length = float(torch.linalg.vector_norm(rest))
        if not length > math.sqrt(len(rest)) * torch.finfo(each.vector.dtype).eps * each.norm:
            raise InputError(f"{each.name} lies within the span of the directions before it, so they make no plane")
        ends = _ends_outside(each, found, rows @ wide, each.norm / length)
        rows = torch.cat([rows, (rest / length).unsqueeze(0)])
        found.append(Direction((rows[-1] * each.norm).to(each.vector.dtype), each.name, ends))
    return found


def _ends_outside(direction: Direction, before: Sequence[Direction], along: Tensor, factor: float) -> dict[End, float]:
    """The ends of a direction without its parts along those before it, which are of these lengths, times a factor."""
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
