"""Where a run's steps go: into the valley, along the river or down the negative directions, and how straight.

By Gong, Teng and Liu (2025, arXiv 2510.10089, Definition 1) the valley is spanned by the eigenvectors of the Hessian
with lambda > eps and the river by those with |lambda| <= eps; those with lambda < -eps are neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.dynamics.hopping import checked_updates
from landscape.dynamics.spectra import orthonormal
from landscape.errors import InputError

PARTS = ("valley", "river", "negative", "unresolved")


@dataclass(frozen=True)
class Displacement:
    """The updates of a window, split at e thresholds into the four `PARTS`.

    The last part is what lies outside the eigenvectors that are known; it is empty where all are.

    Attributes:
        eps: (e,) thresholds, in the units of the eigenvalues.
        path_shares: (e, 4) of the summed squared lengths of the updates.
        net_shares: (e, 4) of the squared length of their sum; NaN where the run came back to where it was.
        random_shares: (e, 4) of a random direction's, which are the parts' dimensions by n.
        straightness: (e, 4) length of the sum of the updates within a part by the sum of their lengths there: 1 of
            straight progress, near 0 of steps to and fro; NaN where there are none.
    """

    eps: np.ndarray
    path_shares: np.ndarray
    net_shares: np.ndarray
    random_shares: np.ndarray
    straightness: np.ndarray


def displacement(
    updates: np.ndarray, eigenvectors: np.ndarray, eigenvalues: np.ndarray, eps: float | np.ndarray
) -> Displacement:
    """Split the updates of a window by the eigenvectors at one point of it.

    Args:
        updates: (t, n) differences of successive points of a run.
        eigenvectors: (n, m) orthonormal.
        eigenvalues: (m,) in the order of the eigenvectors.
        eps: one threshold or several (e,), at least 0.

    Raises:
        InputError: shapes don't fit, something isn't finite, the eigenvectors aren't orthonormal, a threshold is
            negative, or nothing moves.
    """
    updates, _ = checked_updates(updates)
    eigenvectors, _ = orthonormal(eigenvectors, "the eigenvectors")
    values, eps = np.asarray(eigenvalues, dtype=np.float64), np.atleast_1d(np.asarray(eps, dtype=np.float64))
    if eigenvectors.shape != (updates.shape[1], len(values)) or not np.isfinite(values).all():
        raise InputError(
            f"updates (t, {updates.shape[1]}) have eigenvectors ({updates.shape[1]}, m) and m finite eigenvalues, not "
            f"{eigenvectors.shape} and {values.shape}"
        )
    if not (np.isfinite(eps).all() and (eps >= 0).all()):
        raise InputError("a threshold eps is finite and at least 0")
    if not updates.any():
        raise InputError("nothing moves: all updates are zero")
    within = updates @ eigenvectors  # (t, m)
    outside = np.linalg.norm(updates - within @ eigenvectors.T, axis=1)
    net_outside = float(np.linalg.norm(updates.sum(0) - eigenvectors @ within.sum(0)))
    if len(values) == updates.shape[1]:  # what is left is rounding
        outside, net_outside = np.zeros_like(outside), 0.0
    split = [_split(within, outside, net_outside, masks) for masks in (_masks(values, each) for each in eps)]
    path, net, straightness = (np.array(each) for each in zip(*split, strict=True))
    counts = np.array([[mask.sum() for mask in _masks(values, each)] for each in eps])
    counts = np.column_stack([counts, np.full(len(eps), updates.shape[1] - len(values))])
    return Displacement(eps, path, net, counts / updates.shape[1], straightness)


def _masks(values: np.ndarray, eps: float) -> list[np.ndarray]:
    return [values > eps, np.abs(values) <= eps, values < -eps]


def _split(
    within: np.ndarray, outside: np.ndarray, net_outside: float, masks: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of the path, of the net displacement, and the straightness of each part, (4,) each."""
    lengths = np.array([*(np.linalg.norm(within[:, mask], axis=1) for mask in masks), outside])  # (4, t)
    net = np.array([*(np.linalg.norm(within[:, mask].sum(0)) for mask in masks), net_outside])
    with np.errstate(invalid="ignore"):
        squares, net_squares = (lengths**2).sum(1), net**2
        return squares / squares.sum(), net_squares / net_squares.sum(), net / lengths.sum(1)
