"""Positions of a slice: evenly spaced, with the centre always among them."""

from __future__ import annotations

import math

import numpy as np

from landscape.errors import InputError


def positions(low: float, high: float, points: int) -> np.ndarray:
    """Evenly spaced positions from ``low`` to ``high`` with exactly 0 among them.

    Where the ends are on either side of 0, an even number of points is raised by one. The spacing is equal on both
    sides of 0 where both ends are equally far. Otherwise each side has its own spacing, and the two are as equal as
    whole numbers of points allow.

    Returns:
        Positions, (m,) float64, ascending; m is ``points`` or one more.

    Raises:
        InputError: the ends aren't finite and ordered, 0 isn't between them, or there are fewer than 3 points.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high and low < high):
        raise InputError(f"a slice goes from a finite number to a larger one with 0 between, not from {low} to {high}")
    if points < 3:
        raise InputError(f"a slice needs at least 3 points, not {points}")
    if low == 0 or high == 0:
        return np.linspace(low, high, points)
    points += points % 2 == 0
    below = min(max(1, round((points - 1) * -low / (high - low))), points - 2)
    return np.concatenate([np.linspace(low, 0, below + 1), np.linspace(0, high, points - below)[1:]])
