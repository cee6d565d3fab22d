"""The ends of a spectrum: the selection and the order of wanted eigenvalues."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Which = Literal["LM", "LA", "SA", "BE"]
Edges = tuple[float, float]  # upper and lower edge; infinite for an end that isn't wanted


def select(values: np.ndarray, k: int, which: Which) -> np.ndarray:
    """Indices of the k wanted values, in the order of ``which``; all indices if there are fewer than k values.

    LM by magnitude, descending; LA descending; SA ascending; BE the ceil(k/2) largest, descending, then the floor(k/2)
    smallest, ascending.
    """
    if which == "LM":
        return np.argsort(-np.abs(values), kind="stable")[:k]
    descending = np.argsort(-values, kind="stable")
    if which == "LA":
        return descending[:k]
    if which == "SA":
        return descending[::-1][:k]
    k = min(k, len(values))
    return np.concatenate([descending[: (k + 1) // 2], descending[::-1][: k // 2]])


def order_by_which(values: np.ndarray, k: int, which: Which) -> np.ndarray:
    """Indices of all values: the k wanted ones in the order of ``which``, then the others, the outermost first.

    For any c >= k, the first c indices are the values that would be wanted if k were c.
    """
    wanted, everything = select(values, k, which), select(values, len(values), which)
    if which != "BE":
        return everything
    half = (len(values) + 1) // 2
    ends = everything[:half], everything[half:]
    further = [ends[count % 2][count // 2] for count in range(len(wanted), len(values))]
    return np.concatenate([wanted, np.array(further, dtype=wanted.dtype)])


def edges(values: np.ndarray, margin: np.ndarray, which: Which) -> Edges:
    """The upper and the lower edge: an eigenvalue above the first or below the second belongs to the wanted ones.

    Args:
        values: the wanted values, (k,), in the order of ``which``.
        margin: bound on the error of each value, (k,).
        which: the wanted end of the spectrum.
    """
    if which == "LM":
        edge = float((np.abs(values) + margin).min())
        return edge, -edge
    top = {"LA": len(values), "SA": 0, "BE": (len(values) + 1) // 2}[which]
    above = float((values + margin)[:top].min()) if top else math.inf
    below = float((values - margin)[top:].max()) if top < len(values) else -math.inf
    return above, below
