"""The steps between which an eigenvalue first crosses an optimiser's threshold of stability.

An eigenvalue is measured at checkpoints, with errors. At a checkpoint it is *below* its threshold if value + error <
threshold, *above* if value - error > threshold, and otherwise *undecided*. The crossing lies between two checkpoints:

- `high` is the first checkpoint at which the eigenvalue is above.
- `low` is the last checkpoint up to which the eigenvalue is below at every checkpoint.

So some step in (low, high] is the first at which the eigenvalue exceeds the threshold, of all steps that these
checkpoints can show. An eigenvalue that exceeds the threshold and comes back between two checkpoints isn't seen. Each
checkpoint has its own threshold, as the schedule of the learning rate makes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from landscape.errors import InputError


@dataclass(frozen=True)
class Crossing:
    """The interval of steps in which an eigenvalue first exceeds its threshold, or the reason why there is none.

    Attributes:
        low: last step up to which the eigenvalue is below its threshold at every checkpoint; NaN without a crossing.
        high: first step at which the eigenvalue is above its threshold; NaN without a crossing.
        reason: why there is no interval; empty otherwise.
        left_out: number of checkpoints without a finite value, error or threshold, which are left out.
    """

    low: float
    high: float
    reason: str
    left_out: int


def crossing(steps: ArrayLike, values: ArrayLike, errors: ArrayLike, thresholds: ArrayLike) -> Crossing:
    """Find the interval of steps in which an eigenvalue first exceeds the threshold.

    Args:
        steps: step of each checkpoint, (c,), increasing.
        values: eigenvalue at each checkpoint, (c,); NaN where it isn't known, or its computation did not converge.
        errors: half-widths of the eigenvalues' intervals, (c,), not negative.
        thresholds: threshold at each checkpoint, (c,), in the eigenvalue's units; infinite for a learning rate of 0,
            NaN where none is claimed.

    Raises:
        InputError: shapes differ, steps don't increase, or an error is negative.
    """
    arrays = [np.asarray(each, dtype=np.float64) for each in (steps, values, errors, thresholds)]
    step, value, error, threshold = arrays
    if step.ndim != 1 or any(each.shape != step.shape for each in arrays):
        raise InputError(f"a crossing needs four arrays (c,) of equal length, not {[each.shape for each in arrays]}")
    if not (np.diff(step) > 0).all():
        raise InputError("a crossing needs the checkpoints in the order of their steps, each step once")
    if (error < 0).any():
        raise InputError("the error of an eigenvalue is not negative")
    known = np.isfinite(value) & np.isfinite(error) & ~np.isnan(threshold)
    step, value, error, threshold = (each[known] for each in arrays)
    left_out = int((~known).sum())
    below, above = value + error < threshold, value - error > threshold
    reason = _reason(below, above)
    if reason:
        return Crossing(math.nan, math.nan, reason, left_out)
    first = int(np.argmin(below))  # the first checkpoint that is not below; there is one, because one is above
    return Crossing(float(step[first - 1]), float(step[np.argmax(above)]), "", left_out)


def _reason(below: np.ndarray, above: np.ndarray) -> str:
    """Why there is no interval; empty if there is one."""
    if not len(below):
        return "no checkpoint has both an eigenvalue and a threshold"
    if above[0]:
        return "above the threshold at the first checkpoint already"
    if not above.any():
        return "below the threshold at every checkpoint" if below.all() else "above the threshold at no checkpoint"
    return "" if below[0] else "too close to the threshold at the first checkpoint to tell"
