"""The ends of a spectrum: which eigenvalues are wanted, and in which order."""

from __future__ import annotations

from typing import Literal

import numpy as np

Which = Literal["LM", "LA", "SA", "BE"]


def select(values: np.ndarray, k: int, which: Which) -> np.ndarray:
    """Indices of the k wanted among some values, in the order of ``which``; all of them where there are fewer.

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


def edges(values: np.ndarray, margin: np.ndarray, which: Which) -> tuple[float | None, float | None]:
    """How far out an eigenvalue must lie to belong among the wanted ones: above the first number or below the second.

    Args:
        values: (k,) the wanted values in the order of ``which``.
        margin: (k,) how far each may be off.
        which: the end; None stands for an end that isn't wanted.
    """
    if which == "LM":
        edge = float((np.abs(values) + margin).min())
        return edge, -edge
    top = {"LA": len(values), "SA": 0, "BE": (len(values) + 1) // 2}[which]
    above = float((values + margin)[:top].min()) if top else None
    below = float((values - margin)[top:].max()) if top < len(values) else None
    return above, below
