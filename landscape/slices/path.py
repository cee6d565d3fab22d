"""The path of a run, projected onto a plane, and the plane of its principal components."""

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
        coordinates: coordinates of the projections, (c, d) float64, in steps along each direction. The projection is
            centre + sum_k coordinates[:, k] d_k, whatever the angles between the directions.
        distances: distance of each point from its projection, (c,), in the units of the parameters.
    """

    coordinates: np.ndarray
    distances: np.ndarray


def project(points: Iterable[Tensor], centre: Tensor, directions: Sequence[Direction]) -> Path:
    """Project points (n,) onto the span of directions through a centre (n,), one point at a time.

    Raises:
        InputError: the directions are linearly dependent.
    """
    basis = torch.stack([each.vector.to(torch.float64) for each in directions], dim=1)
    q, r = torch.linalg.qr(basis)
    lengths = torch.linalg.vector_norm(basis, dim=0)
    if (r.diagonal().abs() <= len(basis) * torch.finfo(torch.float64).eps * lengths).any():
        raise InputError("the directions are linearly dependent, so a point has no unique place on them")
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

    A high share of variance shows little by itself. A random walk in many dimensions has no direction at all. Yet its
    first two components explain 61 % and 15 % (Antognini and Sohl-Dickstein 2018, "PCA of high dimensional random walks
    with comparison to neural network training").

    Attributes:
        directions: the components, of length 1 and orthogonal to each other. Along each, the last checkpoint is further
            than the first.
        shares: share of each component in the variance of the checkpoints about their mean, (k,).
        random_walk: shares for a random walk in many dimensions, sampled at the checkpoints' steps, (k,).
    """

    directions: list[Direction]
    shares: np.ndarray
    random_walk: np.ndarray


def principal_components(points: Sequence[Tensor], steps: np.ndarray, count: int) -> Principal:
    """The leading principal components of a run's checkpoints about their mean (Li et al. 2018, section 7).

    Args:
        points: parameter vectors of the c checkpoints, (n,) each, in the order of training.
        steps: training steps of the checkpoints, (c,), for the comparison with a random walk.
        count: number of components.

    Raises:
        InputError: ``count`` is above c - 1, or above the number of dimensions in which the checkpoints differ.
    """
    if count > len(points) - 1:
        raise InputError(
            f"{counted(len(points), 'checkpoint')} have at most {len(points) - 1} principal components, and {count} "
            "are asked for; name more checkpoints of the run"
        )
    centred = torch.stack([each.to(torch.float64) for each in points])
    centred -= centred.mean(0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # Gram matrix (c, c), smaller than (n, n)
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
    """Shares of variance, (c - 1,), of the principal components of a random walk, as its dimension grows.

    Positions at steps s and t then have the inner product min(s, t), to which each dimension adds equally.

    Args:
        steps: steps at which the walk is sampled, (c,), ascending.
    """
    since = np.asarray(steps, dtype=np.float64) - steps[0]
    inner = np.minimum.outer(since, since)
    centred = inner - inner.mean(0) - inner.mean(1, keepdims=True) + inner.mean()
    values = np.linalg.eigvalsh(centred)[:0:-1]
    return np.asarray(values / values.sum())
