"""Bounds on eigenvalues from Ritz pairs and a bound on what lies outside them.

Let Y be l orthonormal Ritz vectors of A with Ritz values Theta and A Y = Y Theta + Q R, where the columns of Q are p
orthonormal vectors outside Y. In the splitting into span Y and its complement A is [[Theta, (Q R)^T], [Q R, C]] with C
the compression to the complement. Let eta be at least the largest eigenvalue of C. Then, in the Loewner order,

    A <= [[Theta, (Q R)^T], [Q R, eta I]],

and the matrix on the right has the eigenvalues of [[Theta, R^T], [R, eta I_p]], of dimension l + p, and eta n - l - p
times more. The j-th largest eigenvalue of A is therefore at most the j-th largest of these, and by Cauchy's interlacing
at least the j-th largest Ritz value (Parlett 1998, sections 10.1 and 10.2). The bound exceeds theta_j by about
|r_j|^2 / (theta_j - eta), as the residual bounds of Kato (1949) and Temple (1928) do, but it holds for clusters and
multiples too, each counted as often as it occurs. The lower end is the upper one of -A.

eta comes from a Lanczos chain in the complement; see `landscape.spectrum.search`.
"""

from __future__ import annotations

import math

import numpy as np

from landscape.spectrum.ends import Edges, Which


def certified_intervals(
    values: np.ndarray, border: np.ndarray, edges: tuple[float, float], dim: int, k: int, which: Which
) -> np.ndarray:
    """For each of k wanted Ritz values an interval (k, 2) of which it is one end.

    The interval of the i-th largest contains the i-th largest eigenvalue, that of the i-th smallest the i-th smallest.
    For LM, where positive values count from above and negative ones from below, an interval with its mirror image also
    contains the eigenvalue of the same place by magnitude.

    Args:
        values: (l,) Theta, the k wanted ones first, in the order of ``which``; the others are further in.
        border: (p, l) R.
        edges: bounds above and below on the eigenvalues of C; -inf and inf where there is nothing outside.
        dim: n.
        k: how many are wanted.
        which: the end.
    """
    above, below = edges
    upper = _upper_bounds(values, border, above, dim)
    lower = -_upper_bounds(-values, border, -below, dim)
    # Places from above and from below; of equal values the wanted ones, which come first, are the further out.
    places = np.empty((2, len(values)), dtype=int)
    for place, outwards in zip(places, (-values, values), strict=True):
        place[np.argsort(outwards, kind="stable")] = np.arange(len(values))
    high, low = upper[places[0]][:k], lower[places[1]][:k]
    from_above = np.arange(k) < {"LA": k, "SA": 0, "BE": (k + 1) // 2, "LM": 0}[which]
    wanted = values[:k]
    if which == "LM":
        magnitudes = np.sort(np.maximum(np.concatenate([upper, -lower]), 0))[::-1][:k]
        high, low = np.maximum(high, magnitudes), np.minimum(low, -magnitudes)
        from_above = wanted >= 0
    return np.stack([np.where(from_above, wanted, low), np.where(from_above, high, wanted)], axis=1)


def edges_for_the_rest(values: np.ndarray, border: np.ndarray, edges: Edges) -> Edges:
    """The furthest bounds on the eigenvalues of C at which A has none beyond the edges.

    The bounding matrix isn't above an edge e if its Schur complement there, (e - eta) I - R (e - Theta)^-1 R^T, has no
    negative eigenvalue.

    Args:
        values: (l,) Theta, all within the edges.
        border: (p, l) R.
        edges: above and below.
    """
    if border.size == 0:
        return edges
    above, below = (np.linalg.eigvalsh(border / abs(edge - values) @ border.T)[-1] for edge in edges)
    return edges[0] - float(above), edges[1] + float(below)


def _upper_bounds(values: np.ndarray, border: np.ndarray, eta: float, dim: int) -> np.ndarray:
    """(l,) descending: at least the l largest eigenvalues of A."""
    held, p = len(values), len(border)
    if eta == -math.inf:
        return np.sort(values)[::-1]
    if eta == math.inf:
        return np.full(held, math.inf)
    bounding = np.block([[np.diag(values), border.T], [border, eta * np.eye(p)]])
    more = np.full(min(held, dim - held - p), eta)
    return np.sort(np.concatenate([np.linalg.eigvalsh(bounding), more]))[::-1][:held]
