"""The certificate: bounds on eigenvalues from Ritz pairs and a bound on the spectrum of their complement.

Let Y be l orthonormal Ritz vectors of A with Ritz values Theta and A Y = Y Theta + Q R. The columns of Q are p
orthonormal vectors outside span Y. Split the space into span Y and its complement. Then A is
[[Theta, (Q R)^T], [Q R, C]], with C the compression of A to the complement. Let eta be at least the largest eigenvalue
of C. In the Loewner order,

    A <= [[Theta, (Q R)^T], [Q R, eta I]].

The matrix on the right has the l + p eigenvalues of [[Theta, R^T], [R, eta I_p]], and eta another n - l - p times. The
j-th largest eigenvalue of A is therefore at most the j-th largest of these n numbers. By Cauchy's interlacing it is at
least the j-th largest Ritz value (Parlett 1998, sections 10.1 and 10.2).

The bound exceeds theta_j by about |r_j|^2 / (theta_j - eta), like the residual bounds of Kato (1949) and Temple (1928).
It also holds for clusters and multiple eigenvalues, each counted with its multiplicity. Bounds for the lower end are
those for the upper end of -A.

eta comes from a Lanczos chain in the complement; see `landscape.spectrum.search`.
"""

from __future__ import annotations

import math

import numpy as np

from landscape.spectrum.ends import Edges, Which


def certified_intervals(
    values: np.ndarray, border: np.ndarray, edges: tuple[float, float], dim: int, k: int, which: Which
) -> np.ndarray:
    """Intervals (k, 2) for the wanted eigenvalues; each Ritz value is one end of its interval.

    The interval of the i-th largest Ritz value contains the i-th largest eigenvalue. The interval of the i-th smallest
    contains the i-th smallest eigenvalue. For LM, positive values count from above and negative values from below. The
    interval of the i-th value by magnitude, or its mirror image, also contains the i-th eigenvalue by magnitude.

    Args:
        values: Ritz values Theta, (l,), the k wanted ones first, in the order of ``which``; the others are further in.
        border: R, (p, l).
        edges: upper and lower bound on the eigenvalues of C; -inf and inf if the complement is empty.
        dim: dimension n of A.
        k: number of wanted eigenvalues.
        which: the wanted end of the spectrum.
    """
    above, below = edges
    upper = _upper_bounds(values, border, above, dim)
    lower = -_upper_bounds(-values, border, -below, dim)
    # Ranks from above and from below. Of equal values the wanted ones come first, so they count as further out.
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
    """The loosest bounds on the eigenvalues of C for which A has no eigenvalue beyond the edges.

    The bounding matrix has no eigenvalue above an edge e if its Schur complement there, (e - eta) I - R (e - Theta)^-1
    R^T, has no negative eigenvalue.

    Args:
        values: Ritz values Theta, (l,), all within the edges.
        border: R, (p, l).
        edges: the upper and the lower edge.
    """
    if border.size == 0:
        return edges
    above, below = (np.linalg.eigvalsh(border / abs(edge - values) @ border.T)[-1] for edge in edges)
    return edges[0] - float(above), edges[1] + float(below)


def _upper_bounds(values: np.ndarray, border: np.ndarray, eta: float, dim: int) -> np.ndarray:
    """Upper bounds (l,), descending, on the l largest eigenvalues of A."""
    count, p = len(values), len(border)
    if eta == -math.inf:
        return np.sort(values)[::-1]
    if eta == math.inf:
        return np.full(count, math.inf)
    bounding = np.block([[np.diag(values), border.T], [border, eta * np.eye(p)]])
    further = np.full(min(count, dim - count - p), eta)
    return np.sort(np.concatenate([np.linalg.eigvalsh(bounding), further]))[::-1][:count]
