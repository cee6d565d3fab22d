"""What one spectrum says in one number, with the exact range of that number under the error of the eigenvalues.

The matrix entropy is that of Gong, Teng and Liu (2025, arXiv 2510.10089): E(H) = -sum p_i log p_i with
p_i = |lambda_i| / sum_j |lambda_j|, natural logarithm. With each eigenvalue off by at most f its magnitude a_i may be
anything from max(a_i - f, 0) to a_i + f, independently of the others, and both ends of the entropy over that box are
found exactly:

- *Most.* dE/da_i = -(log p_i + E) / S with S = sum a_i, so an entry below t = S exp(-E) wants to grow and one above it
  to shrink. As E is concave in p and unchanged by scaling, it is quasi-concave in a, and where all entries are
  clip(t, low_i, high_i) with that t it is largest.
- *Least.* A quasi-concave function is least at a corner of the box. Of two entries a_i < a_j with i at its upper end
  and j at its lower one, exchanging the two ends, or lowering i too, never raises E (the first spreads the same sum
  further apart), so that the least is among the n + 1 corners with the m largest entries up and the others down.

The negative mass falls whenever an eigenvalue rises, so its ends are those of all eigenvalues moved up or down by f.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from landscape.errors import InputError


@dataclass(frozen=True)
class SpectrumMeasures:
    """Measures of a spectrum (n,), each with the least and the most that it may be.

    Attributes:
        count: n.
        floor: how far each eigenvalue may be off.
        entropy: E(H), from 0 to log n; NaN where all eigenvalues are zero.
        entropy_interval: its exact range when each eigenvalue is off by at most ``floor``.
        effective_rank: exp E(H), from 1 to n: how many equal magnitudes have this entropy (Roy and Vetterli 2007).
        effective_rank_interval: of it.
        negative_mass: sum of the magnitudes of the negative eigenvalues, relative to that of all.
        negative_mass_interval: of it.
        reason: why there are no values; empty otherwise.
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
        eigenvalues: (n,) all of them, in any order.
        floor: at least 0: no eigenvalue is further from the true one; see `landscape.valley.noise_floor`.

    Raises:
        InputError: there is no eigenvalue or one isn't finite, or the floor is negative or isn't.
    """
    values = checked_spectrum(eigenvalues)
    if not 0 <= floor < math.inf:
        raise InputError(f"the error of eigenvalues is at least 0 and finite, not {floor}")
    magnitudes = np.abs(values)
    some = bool(magnitudes.any())
    value = _entropy(magnitudes) if some else math.nan
    least, most = _entropy_range(magnitudes, floor) if some or floor else (math.nan, math.nan)
    return SpectrumMeasures(
        count=len(values),
        floor=floor,
        entropy=value,
        entropy_interval=(least, most),
        effective_rank=math.exp(value),
        effective_rank_interval=(math.exp(least), math.exp(most)),
        negative_mass=_negative_mass(values),
        negative_mass_interval=_negative_mass_range(values, floor),
        reason="" if some else "all eigenvalues are zero, so that they have no shares",
    )


def checked_spectrum(eigenvalues: np.ndarray) -> np.ndarray:
    """Eigenvalues (n,) in float64.

    Raises:
        InputError: there is none, or one isn't finite.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError("a spectrum has at least one eigenvalue, in one row, and all of them finite")
    return values


def _entropy(weights: np.ndarray) -> float:
    """-sum p log p of weights that aren't all zero, along the last axis."""
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
    """The smallest entropy of the corners with the largest entries up, by E = log S - sum a log a / S."""
    sums, logs = (
        np.append(0.0, np.cumsum(down)) + np.append(np.cumsum(up[::-1])[::-1], 0.0)
        for down, up in ((low, high), (_a_log_a(low), _a_log_a(high)))
    )
    some = sums > 0
    return max(0.0, float(np.min(np.log(sums[some]) - logs[some] / sums[some])))


def _most(low: np.ndarray, high: np.ndarray) -> float:
    """The entropy at the level t = S exp(-E) to which all entries are drawn."""

    def excess(log_level: float) -> float:
        drawn = np.clip(math.exp(log_level), low, high)
        return log_level - math.log(drawn.sum()) + _entropy(drawn)

    smallest, largest = math.log(max(high[0], np.finfo(float).tiny)), math.log(high[-1])
    if excess(smallest) >= 0:  # the box is so small, or so equal, that a single level draws all entries to one side
        return _entropy(np.clip(math.exp(smallest), low, high))
    level = brentq(excess, smallest, largest, xtol=1e-15) if excess(largest) > 0 else largest
    return _entropy(np.clip(math.exp(level), low, high))


def _a_log_a(values: np.ndarray) -> np.ndarray:
    return values * np.log(np.where(values > 0, values, 1.0))


def _negative_mass(values: np.ndarray) -> float:
    total = float(np.abs(values).sum())
    return abs(float(values[values < 0].sum())) / total if total else math.nan


def _negative_mass_range(values: np.ndarray, floor: float) -> tuple[float, float]:
    """Of all eigenvalues moved up and down; where all are zero just there, what is next to it is all of one sign."""
    least, most = _negative_mass(values + floor), _negative_mass(values - floor)
    if not floor:
        return least, most
    return (0.0 if math.isnan(least) else least), (1.0 if math.isnan(most) else most)


@dataclass(frozen=True)
class Overlap:
    """How much of one subspace lies in another of the same dimension.

    Attributes:
        value: ||V^T W||_F^2 / k, from 0 (orthogonal) to 1 (the same).
        error: by which ``value`` may be off because V and W aren't exactly orthonormal.
        random: its mean for random subspaces, k / n.
        random_deviation: its standard deviation for these.
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
        V: (n, k) orthonormal.
        W: (n, k) orthonormal.

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


# Columns further than this from orthonormal weren't meant to be.
_ORTHONORMAL = 1e-3


def orthonormal(columns: np.ndarray, name: str) -> tuple[np.ndarray, float]:
    """Columns (n, k) in float64, and by how much the projection on them may be off, relative to itself.

    With V^T V = I + D and d the spectral norm of D, V (V^T V)^(-1/2) is orthonormal, and squared projections on it
    differ from those on V by a factor between 1 / (1 + d) and 1 / (1 - d).

    Raises:
        InputError: there is no column, more than n, one isn't finite, or d is above 1e-3.
    """
    columns = np.asarray(columns, dtype=np.float64)
    if columns.ndim != 2 or not 0 < columns.shape[1] <= columns.shape[0] or not np.isfinite(columns).all():
        raise InputError(f"{name} must be finite columns (n, k) with 1 <= k <= n, not of shape {columns.shape}")
    off = float(np.linalg.norm(columns.T @ columns - np.eye(columns.shape[1]), 2))
    if off > _ORTHONORMAL:
        raise InputError(f"the columns of {name} aren't orthonormal: V^T V differs from the identity by {off:.1e}")
    return columns, off / (1 - off)
