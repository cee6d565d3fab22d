"""How far to smooth quadrature nodes so that they make a curve.

A Gauss rule tells how much of the spectrum lies around each node, not how it is spread until the next: below the
distance of its nodes there is nothing to be seen but the nodes themselves. Equal nodes a distance d apart, smoothed
with a Gaussian of standard deviation h, are a constant with a ripple of relative amplitude 2 exp(-2 pi^2 (h / d)^2)
(Poisson summation), which is 1.4 % at h = d / 2 and 60 % at half of that. So the width is half the distance of
neighbouring nodes, averaged over where the eigenvalues are.

Estimates of a width from the scatter of a sample (Silverman 1986; Sheather and Jones 1991; cross-validation over
probes) don't apply: the nodes are no independent sample. For a large operator those of all probes are almost the same,
and a probe left out confirms the comb that the others show.
"""

from __future__ import annotations

import numpy as np


def choose_width(nodes: np.ndarray, weights: np.ndarray, rounding: float) -> float:
    """Half the distance of neighbouring nodes, in the mean over the weights and over probes.

    In a picture of several scales it is the mass that decides. The width is equivariant: of c A it is |c| times as
    large. It is 0 where no probe has two nodes that rounding leaves apart: there is no distance to tell.

    Args:
        nodes: (p, m), each row ascending, NaN where a chain was shorter.
        weights: (p, m), adding up to 1 in each row, 0 where the node is NaN.
        rounding: how far rounding alone may move a node.
    """
    rows = [(row[np.isfinite(row)], weight[np.isfinite(row)]) for row, weight in zip(nodes, weights, strict=True)]
    apart = any(len(row) and np.ptp(row) > 2 * rounding for row, _ in rows)
    return float(np.mean([_half_spacing(*row) for row in rows])) if apart else 0.0


def _half_spacing(nodes: np.ndarray, weights: np.ndarray) -> float:
    """sum_j w_j (x_{j+1} - x_{j-1}) / 4, with one neighbour at the ends."""
    return float(weights @ np.gradient(nodes)) / 2 if len(nodes) > 1 else 0.0
