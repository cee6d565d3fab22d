"""The shape of one profile of the loss (V, U, undecided, or no valley), from its exponent with an interval.

The profile |t - t0|^p with p near 1 is a V, whose walls reach the floor with a slope. With p of 2 or more it is a U,
whose floor is flat. A smooth loss is a U close enough to its minimum, whatever its shape further away. So the height at
which the exponent is read is part of the verdict. The centre is fitted too, because symmetrising about a point beside a
kink would make the kink a flat floor. The two walls are fitted separately and need not be equal.

Walls that flatten as they rise are undecided. A cusp has an exponent below 1, but so has a round hole in a plateau,
whose floor is flat. So the verdict is V only if no bowl explains the profile better (Vuong 1989, "Likelihood ratio
tests for model selection and non-nested hypotheses"). There is no verdict U or V unless the loss changes along the line
beyond noise.

The mean may have another shape than single samples. Take V-shaped losses whose minima are scattered about a common
centre by s. Their mean is smooth at the scale s, and a U up to a height of about s times their slope. docs/valleys.md
has figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from landscape.errors import InputError
from landscape.valley.wall import EXPONENTS, Walls, fit_bowls, fit_walls

Label = Literal["U", "V", "undecided", "no valley"]

V_AT_LEAST, V_AT_MOST, U_AT_LEAST = 0.9, 1.4, 1.6
_LEVELS = (0.025, 0.975)
_HALF_STEP = math.sqrt(float(EXPONENTS[1] / EXPONENTS[0]))
FEWEST_SAMPLES = 8
_RISES = 0.1  # a side rises if it rises by this share of the other one
_MISFIT = 0.1  # as a share of the depth; a profile with a larger misfit isn't of the fitted form
_STRAIGHT = np.append(1.0, EXPONENTS[(EXPONENTS > 1) & (EXPONENTS <= V_AT_MOST)])
_FLATTER = 1.28  # standard errors by which a bowl must fit better than a V: by chance one time in ten
_COARSE = EXPONENTS[::20]  # enough exponents to test whether the loss changes at all
_FLIPS, _RISE_LEVEL = 999, 0.01


@dataclass(frozen=True)
class ProfileVerdict:
    """The shape of a profile, read at a height.

    Attributes:
        label: ``V`` if the 97.5 % quantile of the exponent over bootstrapped samples is between 0.9 and 1.4 and no
            bowl fits better by 1.28 standard errors. ``U`` if the 2.5 % quantile is at least 1.6. ``no valley`` if a
            side doesn't rise by a tenth of the other. Otherwise ``undecided``. If the loss doesn't change along the
            line at all, the label is U or V at most once in 100 times.
        exponent: exponent p of the two walls c + a |t - t0|^p, on the grid of `landscape.valley.wall.EXPONENTS`.
        interval: 2.5 % and 97.5 % quantile of p, widened by half a step of the grid of exponents, 1.5 %.
        height: rise above the floor at which p was read: the smaller of ``left`` and ``right``.
        centre: position t0 of the floor.
        left: rise from the floor to the first position.
        right: rise from the floor to the last position.
        left_interval: 2.5 % and 97.5 % quantile of ``left``.
        right_interval: 2.5 % and 97.5 % quantile of ``right``.
        floor: loss c at the floor.
        ends: the first and the last fitted position.
        misfit: root mean square of the fit's residuals beyond the noise, relative to the larger rise.
        reason: why the label is undecided or no valley; empty for U and V.
    """

    label: Label
    exponent: float
    interval: tuple[float, float]
    height: float
    centre: float
    left: float
    right: float
    left_interval: tuple[float, float]
    right_interval: tuple[float, float]
    floor: float
    ends: tuple[float, float]
    misfit: float
    reason: str

    def walls(self, t: np.ndarray) -> np.ndarray:
        """The fitted losses c + a |t - t0|^p at positions (m,); NaN beyond the ends."""
        (low, high), t = self.ends, np.asarray(t, dtype=np.float64)
        down, up = (
            rise * (np.maximum(sign * (t - self.centre), 0) / (abs(end - self.centre) or 1.0)) ** self.exponent
            for sign, end, rise in ((-1, low, self.left), (1, high, self.right))
        )
        return np.where((t >= low) & (t <= high), self.floor + down + up, np.nan)


def classify_profile(
    t: np.ndarray,
    sample_losses: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    height: float | None = None,
    resamples: int = 400,
    seed: int = 0,
) -> ProfileVerdict:
    """Classify the shape of a profile of the loss along a direction.

    Args:
        t: ascending positions, (m,), at least 7.
        sample_losses: each sample's loss at each position, (samples, m); at least 8 samples.
        weights: weights of the samples in the mean, (samples,); default: equal.
        height: rise above the lowest point up to which the exponent is read; default: the whole profile.
        resamples: number of resamples of the bootstrap over samples, default 400.
        seed: seed of the bootstrap, default 0.

    Raises:
        InputError: shapes don't fit, positions don't ascend, or a loss isn't finite.
    """
    t, losses, weights = _checked(t, sample_losses, weights)
    rises = _rises(t, losses, weights, seed)
    if height is not None:
        if not height > 0:
            raise InputError(f"a height must be positive, not {height}")
        low, high = _window(losses, weights, height)
        t, losses = t[low:high], losses[:, low:high]
        if len(t) < 7:
            raise InputError(f"only {len(t)} positions lie below a height of {height:g}: the exponent needs at least 7")
        rises = rises and _rises(t, losses, weights, seed)
    shares = np.random.default_rng(seed).multinomial(len(losses), np.full(len(losses), 1 / len(losses)), resamples)
    mean, resampled = _means(losses, weights, np.ones((1, len(losses)))), _means(losses, weights, shares)
    scaled = _scaled(t)
    return _Reading(scaled, mean, resampled, fit_walls(scaled, mean), fit_walls(scaled, resampled), rises).verdict(t)


@dataclass(frozen=True)
class _Reading:
    """The fits from which a verdict follows.

    Attributes:
        t: positions from -1 to 1, (m,).
        mean: mean losses, (1, m).
        resampled: mean losses of bootstrap resamples, (b, m).
        best: walls fitted to ``mean``.
        spread: walls fitted to ``resampled``.
        rises: whether the loss changes along the line beyond noise.
    """

    t: np.ndarray
    mean: np.ndarray
    resampled: np.ndarray
    best: Walls
    spread: Walls
    rises: bool

    def verdict(self, t: np.ndarray) -> ProfileVerdict:
        """The verdict, with the positions t (m,) in the profile's own unit."""
        best, spread = self.best, self.spread
        low, high = _quantiles(spread.exponent)
        label, reason = self._label(low, high)
        left, right = float(best.left[0]), float(best.right[0])
        return ProfileVerdict(
            label=label,
            exponent=float(best.exponent[0]),
            interval=(low / _HALF_STEP, high * _HALF_STEP),
            height=min(left, right),
            centre=float(t[-1] + t[0] + (t[-1] - t[0]) * best.centre[0]) / 2,
            left=left,
            right=right,
            left_interval=_quantiles(spread.left),
            right_interval=_quantiles(spread.right),
            floor=float(best.floor[0]),
            ends=(float(t[0]), float(t[-1])),
            misfit=self._misfit,
            reason=reason,
        )

    @property
    def _misfit(self) -> float:
        """Root mean square of the fit's residuals beyond the mean's noise, divided by the larger rise.

        The noise is taken without shifts of a whole curve.
        """
        noise = float((self.resampled - self.resampled.mean(axis=1, keepdims=True)).var(axis=0).mean())
        deepest = max(float(self.best.left[0]), float(self.best.right[0]))
        beyond_noise = math.sqrt(max(0.0, float(self.best.misfit[0]) ** 2 - noise))
        return beyond_noise / deepest if deepest > 0 else math.inf

    def _label(self, low: float, high: float) -> tuple[Label, str]:
        """The label for given quantiles of the exponent, and the reason if the label is neither U nor V."""
        if (no_walls := self._no_walls) is not None:
            return no_walls
        if low >= U_AT_LEAST:
            return "U", ""
        if high < V_AT_LEAST or (high <= V_AT_MOST and self._flattens()):
            return (
                "undecided",
                "the walls flatten as they rise: read the floor's shape at a lower height",
            )
        if high <= V_AT_MOST:
            return "V", ""
        return "undecided", f"the exponent may be anything from {low:.2f} to {high:.2f}"

    @property
    def _no_walls(self) -> tuple[Label, str] | None:
        """The label and the reason if the profile isn't certainly two walls about one floor; otherwise None."""
        # The excess of the lower side over a tenth of the higher side, for each resample.
        left, right = self.spread.left, self.spread.right
        lower, upper = _quantiles(np.minimum(left, right) - _RISES * np.maximum(left, right))
        side = "left" if float(np.median(left - right)) < 0 else "right"
        if upper <= 0:
            return "no valley", f"the loss doesn't rise to the {side}"
        if not self.rises:
            return (
                "undecided",
                f"no change of the loss along the line stands out from noise at {_RISE_LEVEL:.0%}",
            )
        if lower <= 0:
            return "undecided", f"whether the loss rises to the {side} can't be decided from these samples"
        if self._misfit > _MISFIT:
            return "undecided", "the profile isn't two walls about one floor"
        return None

    def _flattens(self) -> bool:
        """Whether a bowl fits better than any V: the sums of squares differ by more than 1.28 standard errors."""
        straight, bowl = fit_walls(self.t, self.mean, _STRAIGHT).fitted, fit_bowls(self.t, self.mean)
        gain = float(((self.mean - straight) ** 2 - (self.mean - bowl) ** 2).sum())
        return gain > _FLATTER * 2 * float((self.resampled @ (bowl - straight)[0]).std())


def _rises(t: np.ndarray, losses: np.ndarray, weights: np.ndarray, seed: int) -> bool:
    """Whether the loss changes along the line, by a test with random signs of whole samples at the level of 1 %.

    Each sample's losses are centred. If the loss doesn't change along the line, a centred sample is as likely as its
    negative. So the test compares how much of the mean profile two walls explain with how much they explain for random
    signs. Correlations between positions are kept.
    """
    centred = (losses - losses.mean(axis=1, keepdims=True)) * weights[:, None]
    signs = np.random.default_rng([seed, 1]).choice([-1.0, 1.0], (_FLIPS + 1, len(losses)))
    signs[0] = 1
    explained = fit_walls(_scaled(t), signs @ centred, _COARSE).fitted.var(axis=1)
    return bool((explained >= explained[0]).mean() <= _RISE_LEVEL)


def _scaled(t: np.ndarray) -> np.ndarray:
    """Positions scaled to -1 to 1, in which the unit of length cancels; rounded, so equal grids give equal bits."""
    return np.round((t - (t[-1] + t[0]) / 2) / ((t[-1] - t[0]) / 2), 12)


def _checked(
    t: np.ndarray, sample_losses: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t, losses = np.asarray(t, dtype=np.float64), np.asarray(sample_losses, dtype=np.float64)
    if t.ndim != 1 or len(t) < 7 or not (np.diff(t) > 0).all() or not np.isfinite(t).all():
        raise InputError("a profile needs at least 7 finite positions that ascend")
    if losses.ndim != 2 or losses.shape[1] != len(t) or len(losses) < FEWEST_SAMPLES:
        raise InputError(
            f"a profile of {len(t)} positions needs losses of shape (samples, {len(t)}) of at least {FEWEST_SAMPLES} "
            f"samples, not {losses.shape}"
        )
    weights = np.ones(len(losses)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(losses),) or not (weights >= 0).all() or not weights.sum() > 0:
        raise InputError("weights are one number for each sample, none negative and not all zero")
    losses, weights = losses[weights > 0], weights[weights > 0]  # a masked sample has no loss
    if len(losses) < FEWEST_SAMPLES or not np.isfinite(losses).all():
        raise InputError(
            f"a profile needs finite losses of at least {FEWEST_SAMPLES} samples; narrow it to where the loss is finite"
        )
    return t, losses, weights


def _window(losses: np.ndarray, weights: np.ndarray, height: float) -> tuple[int, int]:
    """The range of positions about the lowest one, up to and including the first on either side above the height.

    Returns:
        The first index and the index after the last.
    """
    mean = _means(losses, weights, np.ones((1, len(losses))))[0]
    lowest = int(mean.argmin())
    above = mean > mean[lowest] + height
    left, right = np.flatnonzero(above[:lowest]), np.flatnonzero(above[lowest:])
    return (int(left[-1]) if len(left) else 0), (lowest + int(right[0]) + 1 if len(right) else len(mean))


def _means(losses: np.ndarray, weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weighted means (b, m) for counts (b, samples) of how often each sample was drawn."""
    shares = counts * weights
    return (shares @ losses) / shares.sum(axis=1, keepdims=True)


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, _LEVELS)
    return float(low), float(high)
