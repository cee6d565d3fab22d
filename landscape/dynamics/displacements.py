"""Where a run's steps go (into the valley, along the river or down the negative directions), and how straight.

By Gong, Teng and Liu (2025, arXiv 2510.10089, Definition 1) the valley is spanned by the eigenvectors of the Hessian
with lambda > eps, and the river by the eigenvectors with |lambda| <= eps. Eigenvectors with lambda < -eps belong to
neither.
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

    The last part lies outside the known eigenvectors; it is empty where all eigenvectors are known.

    Attributes:
        eps: thresholds, (e,), in the units of the eigenvalues.
        path_shares: shares of the parts in the summed squared lengths of the updates, (e, 4).
        net_shares: shares of the parts in the squared length of the summed updates, (e, 4); NaN where the run came back
            to its start.
        random_shares: shares expected of a random direction, (e, 4): the dimension of each part divided by n.
        straightness: length of the summed updates within a part, divided by the sum of their lengths there, (e, 4): 1
            for straight progress, near 0 for steps to and fro; NaN for a part without steps.
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
        updates: differences of successive points of a run, (t, n).
        eigenvectors: orthonormal eigenvectors, (n, m).
        eigenvalues: eigenvalues in the order of the eigenvectors, (m,).
        eps: one threshold or several, (e,), at least 0, in the units of the eigenvalues.

    Raises:
        InputError: shapes don't fit, a number isn't finite, the eigenvectors aren't orthonormal, a threshold is
            negative, or all updates are zero.
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
    if len(values) == updates.shape[1]:  # all eigenvectors are known: the remainder is rounding
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
    """Shares of the path, shares of the net displacement, and straightness of each part, (4,) each."""
    lengths = np.array([*(np.linalg.norm(within[:, mask], axis=1) for mask in masks), outside])  # (4, t)
    net = np.array([*(np.linalg.norm(within[:, mask].sum(0)) for mask in masks), net_outside])
    with np.errstate(invalid="ignore"):
        squares, net_squares = (lengths**2).sum(1), net**2
        return squares / squares.sum(), net_squares / net_squares.sum(), net / lengths.sum(1)
