"""The smoothing width that turns quadrature nodes into a curve.

A Gauss rule gives the mass of the spectrum around each node, but not how that mass is spread between nodes. Smooth
equal nodes a distance d apart with a Gaussian of standard deviation h. The result is a constant with a ripple of
relative amplitude 2 exp(-2 pi^2 (h / d)^2) (Poisson summation). The amplitude is 1.4 % at h = d / 2, and 58 % at
h = d / 4. So the width is half the distance of neighbouring nodes, averaged over the mass of the spectrum.

Estimates of a width from the scatter of a sample (Silverman 1986; Sheather and Jones 1991; cross-validation over
probes) don't apply, because the nodes are no independent sample. For a large operator all probes have almost equal
nodes. A probe that is left out therefore confirms the comb of the other probes.
"""

from __future__ import annotations

import numpy as np


def choose_width(nodes: np.ndarray, weights: np.ndarray, rounding: float) -> float:
    """Half the distance of neighbouring nodes, averaged over the weights and over the probes.

    In a spectrum of several scales, the scale with the most mass decides. The width is equivariant: c A has |c| times
    the width of A. The width is 0 if no probe has two nodes further apart than rounding can move them.

    Args:
        nodes: quadrature nodes, (p, m), each row ascending, NaN where a chain was shorter.
        weights: quadrature weights, (p, m), adding up to 1 in each row, 0 where the node is NaN.
        rounding: bound on how far rounding may move a node.
    """
    rows = [(row[np.isfinite(row)], weight[np.isfinite(row)]) for row, weight in zip(nodes, weights, strict=True)]
    apart = any(len(row) and np.ptp(row) > 2 * rounding for row, _ in rows)
    return float(np.mean([_half_spacing(*row) for row in rows])) if apart else 0.0


def _half_spacing(nodes: np.ndarray, weights: np.ndarray) -> float:
    """sum_j w_j (x_{j+1} - x_{j-1}) / 4; an end has one neighbour, and its term is w_j times half that distance."""
    return float(weights @ np.gradient(nodes)) / 2 if len(nodes) > 1 else 0.0
