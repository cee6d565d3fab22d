"""A part of a whole as a share, with an interval that holds although the whole is uncertain too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Share:
    """A part of a whole, which may be negative or exceed 1 where parts have different signs.

    Attributes:
        value: the share; NaN where it is undefined, the whole being no larger than its own error.
        error: of ``value``; NaN where undefined.
        interval: its lower and upper bound; -inf and inf where undefined or unknown.
    """

    value: float
    error: float
    interval: tuple[float, float]

    @property
    def defined(self) -> bool:
        """Whether the whole could be told from zero."""
        return not math.isnan(self.value)


UNDEFINED = Share(math.nan, math.nan, (-math.inf, math.inf))


def share_of_means(parts: np.ndarray, wholes: np.ndarray, rounding: float) -> Share:
    """The mean of ``parts`` by that of ``wholes``, from m independent pairs; a single pair is taken as exact.

    Its error is the standard error by linearisation, its interval Fieller's at 95 % (Fieller 1954), which is exact for
    normal means: with R the ratio of the means and d = a - R b for a pair (a, b), all R + x for which
    x^2 (b^2 - t^2 v_bb) + 2 x t^2 v_db <= t^2 v_dd, where v are (co)variances of the means. Both are widened by the
    rounding. Undefined where the t-interval of the whole contains zero, for the share is unbounded then.

    Args:
        parts: (m,).
        wholes: (m,).
        rounding: the error of both means that isn't in their spread.
    """
    whole = float(wholes.mean())
    t = float(stdtrit(len(wholes) - 1, 0.975)) if len(wholes) > 1 else 0.0
    spread = t * math.sqrt(_covariances(wholes, wholes)[0, 1])
    if not abs(whole) > spread + rounding:
        return UNDEFINED
    ratio = float(parts.mean()) / whole
    (v_dd, v_db), _ = _covariances(parts - ratio * wholes, wholes)
    leading = whole**2 - spread**2
    middle = ratio - t**2 * v_db / leading
    off = rounding * (1 + abs(ratio)) / (abs(whole) - rounding)
    reach = math.sqrt(t**4 * v_db**2 + leading * t**2 * v_dd) / leading + off
    return Share(ratio, math.sqrt(v_dd) / abs(whole) + off, (float(middle - reach), float(middle + reach)))


def _covariances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(2, 2): variances and covariance of the means of m pairs of values; zero for a single pair."""
    return np.cov(x, y) / len(x) if len(x) > 1 else np.zeros((2, 2))
