"""The way of a run through parameter space, seen on a plane, and the plane that shows most of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.reporting.messages import counted
from landscape.slices.directions import Direction


@dataclass(frozen=True)
class Path:
    """Points of parameter space, projected orthogonally onto the span of directions through a centre.

    Attributes:
        coordinates: (c, d) float64, in steps along each direction: the nearest point of the span is centre + sum_k
            coordinates[:, k] d_k, whatever the angles between the directions.
        distances: (c,) from that point, in the units of the parameters: how far off the plane a point is.
    """

    coordinates: np.ndarray
    distances: np.ndarray


def project(points: Iterable[Tensor], centre: Tensor, directions: Sequence[Direction]) -> Path:
    """Project points (n,) onto the span of directions through a centre (n,); they are taken one at a time.

    Raises:
        InputError: the directions are linearly dependent.
    """
    basis = torch.stack([each.vector.to(torch.float64) for each in directions], dim=1)
    q, r = torch.linalg.qr(basis)
    lengths = torch.linalg.vector_norm(basis, dim=0)
    if (r.diagonal().abs() <= len(basis) * torch.finfo(torch.float64).eps * lengths).any():
        raise InputError("the directions lie within the span of each other: there is no one place for a point on them")
    coordinates, distances = [], []
    for point in points:
        difference = point.to(torch.float64) - centre.to(torch.float64)
        within = q.T @ difference
        coordinates.append(torch.linalg.solve_triangular(r, within.unsqueeze(1), upper=True).squeeze(1))
        distances.append(torch.linalg.vector_norm(difference - q @ within))
    if not coordinates:
        return Path(np.empty((0, len(directions))), np.empty(0))
    return Path(torch.stack(coordinates).cpu().numpy(), torch.stack(distances).cpu().numpy())


@dataclass(frozen=True)
class Principal:
    """Principal components of a run's checkpoints.

    A high share says little by itself: of a random walk in many dimensions, which has no direction at all, the first
    two components explain 61 % and 15 % (Antognini and Sohl-Dickstein 2018, "PCA of high dimensional random walks with
    comparison to neural network training").

    Attributes:
        directions: of length 1 and orthogonal to each other, each with the last checkpoint further along than the
            first.
        shares: (k,) of the variance of the checkpoints about their mean, one for each direction.
        random_walk: (k,) the shares for a random walk in many dimensions, looked at after as many steps.
    """

    directions: list[Direction]
    shares: np.ndarray
    random_walk: np.ndarray


def principal_components(points: Sequence[Tensor], steps: np.ndarray, count: int) -> Principal:
    """The leading principal components of a run's checkpoints about their mean (Li et al. 2018, section 7).

    Args:
        points: (n,) each, in the order of training.
        steps: (c,) at which they were, for the comparison with a random walk.
        count: how many components.

    Raises:
        InputError: there are not so many: of c checkpoints at most c - 1, and none along which they don't differ.
    """
    if count > len(points) - 1:
        raise InputError(
            f"{counted(len(points), 'checkpoint')} have at most {len(points) - 1} principal components, and {count} "
            "are asked for; name more checkpoints of the run"
        )
    centred = torch.stack([each.to(torch.float64) for each in points])
    centred -= centred.mean(0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # (c, c), which c <= n points make small
    values, vectors = values.flip(0), vectors.flip(1)
    if not values[count - 1] > len(points) * torch.finfo(points[0].dtype).eps * values[0]:
        raise InputError(f"the checkpoints don't differ in {counted(count, 'direction')}: they have fewer components")
    directions = []
    for k in range(count):
        along = centred.T @ vectors[:, k]
        sign = 1.0 if vectors[-1, k] >= vectors[0, k] else -1.0
        unit = sign * along / torch.linalg.vector_norm(along)
        directions.append(Direction(unit.to(points[0].dtype), f"principal component {k + 1}"))
    shares = (values[:count] / values.sum()).cpu().numpy()
    return Principal(directions, shares, random_walk_shares(steps)[:count])


def random_walk_shares(steps: np.ndarray) -> np.ndarray:
    """Shares of variance (c - 1,) of the principal components of a random walk, as its dimension grows.

    Positions at steps s and t then have the inner product min(s, t), each dimension adding the same.

    Args:
        steps: (c,) ascending, at which the walk is looked at.
    """
    since = np.asarray(steps, dtype=np.float64) - steps[0]
    inner = np.minimum.outer(since, since)
    centred = inner - inner.mean(0) - inner.mean(1, keepdims=True) + inner.mean()
    values = np.linalg.eigvalsh(centred)[:0:-1]
    return np.asarray(values / values.sum())
