"""Scalar measures of a spectrum, each with its exact range under the error of the eigenvalues.

The matrix entropy is that of Gong, Teng and Liu (2025, arXiv 2510.10089): E(H) = -sum p_i log p_i with
p_i = |lambda_i| / sum_j |lambda_j|, natural logarithm. Let each eigenvalue be off by at most f. Then its magnitude a_i
may be anything from max(a_i - f, 0) to a_i + f, independently of the others. Both ends of the entropy over this box are
found exactly:

- *Most.* dE/da_i = -(log p_i + E) / S with S = sum a_i. So E rises if an entry below t = S exp(-E) grows, or if an
  entry above t shrinks. E is concave in p and unchanged by scaling, and so quasi-concave in a. E is largest where all
  entries are clip(t, low_i, high_i) with this t.
- *Least.* A quasi-concave function is least at a corner of the box. Take two entries a_i < a_j with i at its upper end
  and j at its lower end. To exchange the two ends, or to lower i too, never raises E: the exchange spreads an equal sum
  further apart. So the least is among the n + 1 corners with the m largest entries up and the others down.

The negative mass falls whenever an eigenvalue rises. So its ends are those of all eigenvalues moved up or down by f.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from landscape.errors import InputError


@dataclass(frozen=True)
class SpectrumMeasures:
    """Measures of a spectrum (n,), each with its least and its largest possible value.

    Attributes:
        count: number n of eigenvalues.
        floor: bound of the error of each eigenvalue, in the units of the eigenvalues.
        entropy: matrix entropy E(H), from 0 to log n; NaN where all eigenvalues are zero.
        entropy_interval: exact range of the entropy when each eigenvalue is off by at most ``floor``.
        effective_rank: exp E(H), from 1 to n: the number of equal magnitudes with this entropy (Roy and Vetterli 2007).
        effective_rank_interval: exact range of the effective rank.
        negative_mass: sum of the magnitudes of the negative eigenvalues, relative to that of all eigenvalues.
        negative_mass_interval: exact range of the negative mass.
        reason: why the measures have no values; empty otherwise.
    """

    count: int
    floor: float
    entropy: float
    entropy_interval: tuple[float, float]
    effective_rank: float
    effective_rank_interval: tuple[float, float]
    negative_mass: float
    negative_mass_interval: tuple[float, float]
    reason: str


def spectrum_measures(eigenvalues: np.ndarray, floor: float = 0.0) -> SpectrumMeasures:
    """Matrix entropy, effective rank and negative mass of a spectrum.

    Args:
        eigenvalues: all eigenvalues in any order, (n,).
        floor: bound of the error of each eigenvalue, at least 0; default: 0. See `landscape.valley.noise_floor`.

    Raises:
        InputError: there is no eigenvalue, an eigenvalue isn't finite, or the floor is negative or not finite.
    """
    values = checked_spectrum(eigenvalues)
    if not 0 <= floor < math.inf:
        raise InputError(f"the error of eigenvalues is at least 0 and finite, not {floor}")
    magnitudes = np.abs(values)
    nonzero = bool(magnitudes.any())
    value = _entropy(magnitudes) if nonzero else math.nan
    lowest, highest = _entropy_range(magnitudes, floor) if nonzero or floor else (math.nan, math.nan)
    return SpectrumMeasures(
        count=len(values),
        floor=floor,
        entropy=value,
        entropy_interval=(lowest, highest),
        effective_rank=math.exp(value),
        effective_rank_interval=(math.exp(lowest), math.exp(highest)),
        negative_mass=_negative_mass(values),
        negative_mass_interval=_negative_mass_range(values, floor),
        reason="" if nonzero else "all eigenvalues are zero, so that they have no shares",
    )


def checked_spectrum(eigenvalues: np.ndarray) -> np.ndarray:
    """Check eigenvalues (n,), and convert them to float64.

    Raises:
        InputError: there is no eigenvalue, or an eigenvalue isn't finite.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError("a spectrum has at least one eigenvalue, in one row, and all of them finite")
    return values


def _entropy(weights: np.ndarray) -> float:
    """Entropy -sum p log p of weights (n,) that aren't all zero."""
    shares = weights / weights.sum()
    shares = shares[shares > 0]
    return max(0.0, -float(shares @ np.log(shares)))


def _entropy_range(magnitudes: np.ndarray, floor: float) -> tuple[float, float]:
    if len(magnitudes) == 1:
        return 0.0, 0.0
    scale = magnitudes.max() + floor  # the entropy has no unit; squares of tiny numbers would be zero
    ascending = np.sort(magnitudes) / scale
    low, high = np.maximum(ascending - floor / scale, 0.0), ascending + floor / scale
    return _least(low, high), _most(low, high)


def _least(low: np.ndarray, high: np.ndarray) -> float:
    """Smallest entropy over the corners with the largest entries up, by E = log S - sum a log a / S."""
    sums, logs = (
        np.append(0.0, np.cumsum(down)) + np.append(np.cumsum(up[::-1])[::-1], 0.0)
        for down, up in ((low, high), (_a_log_a(low), _a_log_a(high)))
    )
    positive = sums > 0
    return max(0.0, float(np.min(np.log(sums[positive]) - logs[positive] / sums[positive])))


def _most(low: np.ndarray, high: np.ndarray) -> float:
    """Largest entropy: all entries are drawn to the level t = S exp(-E)."""

    def excess(log_level: float) -> float:
        drawn = np.clip(math.exp(log_level), low, high)
        return log_level - math.log(drawn.sum()) + _entropy(drawn)

    smallest, largest = math.log(max(high[0], np.finfo(float).tiny)), math.log(high[-1])
    if excess(smallest) >= 0:  # all entries can be drawn to one level, up to rounding
        return _entropy(np.clip(math.exp(smallest), low, high))
    level = brentq(excess, smallest, largest, xtol=1e-15) if excess(largest) > 0 else largest
    return _entropy(np.clip(math.exp(level), low, high))


def _a_log_a(values: np.ndarray) -> np.ndarray:
    return values * np.log(np.where(values > 0, values, 1.0))


def _negative_mass(values: np.ndarray) -> float:
    total = float(np.abs(values).sum())
    return abs(float(values[values < 0].sum())) / total if total else math.nan


def _negative_mass_range(values: np.ndarray, floor: float) -> tuple[float, float]:
    """Range of the negative mass: all eigenvalues moved up, and all moved down.

    Moved eigenvalues may all be zero. Those next to them are then all of one sign.
    """
    lowest, highest = _negative_mass(values + floor), _negative_mass(values - floor)
    if not floor:
        return lowest, highest
    return (0.0 if math.isnan(lowest) else lowest), (1.0 if math.isnan(highest) else highest)


@dataclass(frozen=True)
class Overlap:
    """Share of a subspace that lies in another subspace of equal dimension.

    Attributes:
        value: overlap ||V^T W||_F^2 / k, from 0 (orthogonal) to 1 (equal).
        error: bound of the error of ``value``, since V and W aren't exactly orthonormal.
        random: mean overlap of random subspaces, k / n.
        random_deviation: standard deviation of the overlap of random subspaces.
    """

    value: float
    error: float
    random: float
    random_deviation: float


def overlap(V: np.ndarray, W: np.ndarray) -> Overlap:
    """The overlap of two subspaces (Gur-Ari, Roberts and Dyer 2018, "Gradient descent happens in a tiny subspace").

    For independent uniformly distributed subspaces the mean is k / n and the variance
    2 (n - k)^2 / (n^2 (n - 1) (n + 2)).

    Args:
        V: orthonormal basis of one subspace, (n, k).
        W: orthonormal basis of the other subspace, (n, k).

    Raises:
        InputError: shapes differ, or columns aren't orthonormal.
    """
    V, off_V = orthonormal(V, "V")
    W, off_W = orthonormal(W, "W")
    if V.shape != W.shape:
        raise InputError(f"subspaces of one dimension are compared, not V {V.shape} and W {W.shape}")
    n, k = V.shape
    value = float(np.sum((V.T @ W) ** 2)) / k
    variance = 2 * (n - k) ** 2 / (n**2 * (n - 1) * (n + 2)) if n > 1 else 0.0
    return Overlap(value, value * (off_V + off_W + off_V * off_W), k / n, math.sqrt(variance))


# Columns further than this from orthonormal are no rounding error.
_ORTHONORMAL = 1e-3


def orthonormal(columns: np.ndarray, name: str) -> tuple[np.ndarray, float]:
    """Check columns (n, k): the columns in float64, and the relative error bound of projections on them.

    Let V^T V = I + D, and d the spectral norm of D. Then V (V^T V)^(-1/2) is orthonormal. Squared projections on it
    differ from those on V by a factor between 1 / (1 + d) and 1 / (1 - d).

    Raises:
        InputError: there is no column, there are more than n, a column isn't finite, or d is above 1e-3.
    """
    columns = np.asarray(columns, dtype=np.float64)
    if columns.ndim != 2 or not 0 < columns.shape[1] <= columns.shape[0] or not np.isfinite(columns).all():
        raise InputError(f"{name} must be finite columns (n, k) with 1 <= k <= n, not of shape {columns.shape}")
    off = float(np.linalg.norm(columns.T @ columns - np.eye(columns.shape[1]), 2))
    if off > _ORTHONORMAL:
        raise InputError(f"the columns of {name} aren't orthonormal: V^T V differs from the identity by {off:.1e}")
    return columns, off / (1 - off)
