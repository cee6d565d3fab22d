"""The share of a part in a whole, with an interval that accounts for the uncertainty of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Share:
    """The share of a part in a whole, which may be negative or exceed 1 where parts have different signs.

    Attributes:
        value: the share, part / whole; NaN where it is undefined, because the whole is no larger than its own error.
        error: error of ``value``; NaN where undefined.
        interval: lower and upper bound of the share; -inf and inf where undefined or unknown.
    """

    value: float
    error: float
    interval: tuple[float, float]

    @property
    def defined(self) -> bool:
        """Whether the whole is distinguishable from zero."""
        return not math.isnan(self.value)


UNDEFINED = Share(math.nan, math.nan, (-math.inf, math.inf))


def share_of_means(parts: np.ndarray, wholes: np.ndarray, rounding: float) -> Share:
    """The mean of ``parts`` divided by the mean of ``wholes``, from m independent pairs; a single pair is exact.

    The error is the standard error by linearisation. The interval is Fieller's at 95 % (Fieller 1954), which is exact
    for normal means. Let R be the ratio of the means and d = a - R b for a pair (a, b). The interval holds all R + x
    with x^2 (b^2 - t^2 v_bb) + 2 x t^2 v_db <= t^2 v_dd, where v are (co)variances of the means. Error and interval are
    both widened by ``rounding``. Where the t-interval of the whole contains zero, the share is unbounded and counts as
    undefined.

    Args:
        parts: values of the part, (m,).
        wholes: values of the whole, (m,).
        rounding: error of both means that their spread doesn't show.
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
    """Variances and covariance, (2, 2), of the means of m pairs of values; zero for a single pair."""
    return np.cov(x, y) / len(x) if len(x) > 1 else np.zeros((2, 2))
