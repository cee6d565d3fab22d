"""The shape of one profile of the loss: V, U, neither, or no valley, by its exponent and how sure the samples leave it.

|t - t0|^p with p near 1 is a V, whose walls come down to the floor with a slope; with p of 2 or more it is a U, whose
floor is flat. A smooth loss is a U near enough to its minimum, whatever it is further away, so the height at which the
exponent is read is part of the verdict. The centre is fitted too, since symmetrising about a point beside a kink makes
a flat floor of it, and so are the two walls, which need not be equal.

Walls that flatten as they rise are neither. An exponent below 1 is what a cusp has, and also a round hole in a plateau,
whose floor is flat. So V is said only where no bowl explains the profile better (Vuong 1989, "Likelihood ratio tests
for model selection and non-nested hypotheses"), and no shape where the loss can't be told to change along the line.

What the mean shows isn't what single samples do. Of V-shaped losses whose minima are scattered about a common centre by
s the mean is smooth at the scale s, and a U up to a height of about s times their slope: docs/valleys.md has figures.
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
_MISFIT = 0.1  # of the depth: beyond this the profile isn't of the form that is fitted
_STRAIGHT = np.append(1.0, EXPONENTS[(EXPONENTS > 1) & (EXPONENTS <= V_AT_MOST)])
_FLATTER = 1.28  # by so many standard errors a bowl has to fit better than a V: one chance in ten
_COARSE = EXPONENTS[::20]  # enough to see whether there is anything
_FLIPS, _RISE_LEVEL = 999, 0.01


@dataclass(frozen=True)
class ProfileVerdict:
    """What shape a profile has, read at a height.

    Attributes:
        label: ``V`` if the 97.5 % quantile of the exponent over bootstrapped samples is between 0.9 and 1.4 and no
            bowl fits better by 1.28 standard errors, ``U`` if the 2.5 % quantile is at least 1.6, ``no valley`` if a
            side doesn't rise by a tenth of the other, else ``undecided``. U and V are said at most once in 100 times
            where the loss doesn't change along the line at all.
        exponent: p of the two walls c + a |t - t0|^p, on the grid of `landscape.valley.wall.EXPONENTS`.
        interval: these two quantiles of p, widened by half a step of that grid, 1.5 %.
        height: the rise above the floor at which it was read: that of the lower wall's end.
        centre: t0.
        left: the rise to the first position.
        right: the rise to the last position.
        left_interval: quantiles of ``left``.
        right_interval: quantiles of ``right``.
        floor: c.
        ends: the first and the last position that was fitted.
        misfit: root mean square of what the fit leaves, less that of the noise, relative to the larger rise.
        reason: why it is undecided or no valley; empty otherwise.
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
    """Tell the shape of a profile of the loss along a direction.

    Args:
        t: (m,) ascending positions, at least 7.
        sample_losses: (samples, m), each sample's loss at each position; at least 8 samples.
        weights: (samples,) of the samples in the mean; default: equal.
        height: read the exponent up to this rise above the lowest point; default: as far as the profile goes.
        resamples: of the bootstrap over samples.
        seed: of the bootstrap.

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
    """What a verdict is made from.

    Attributes:
        t: (m,) positions from -1 to 1.
        mean: (1, m) losses.
        resampled: (b, m) of them over resampled samples.
        best: the walls fitted to the mean.
        spread: to the resampled means.
        rises: whether the loss can be told to change along the line.
    """

    t: np.ndarray
    mean: np.ndarray
    resampled: np.ndarray
    best: Walls
    spread: Walls
    rises: bool

    def verdict(self, t: np.ndarray) -> ProfileVerdict:
        """At these positions (m,) in the profile's own unit."""
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
        """What the fit leaves beyond the noise of the mean, but for a shift of a whole curve, by the larger rise."""
        noise = float((self.resampled - self.resampled.mean(axis=1, keepdims=True)).var(axis=0).mean())
        deepest = max(float(self.best.left[0]), float(self.best.right[0]))
        beyond_noise = math.sqrt(max(0.0, float(self.best.misfit[0]) ** 2 - noise))
        return beyond_noise / deepest if deepest > 0 else math.inf

    def _label(self, low: float, high: float) -> tuple[Label, str]:
        """The label, and why it is neither U nor V, for these quantiles of the exponent."""
        if (no_walls := self._no_walls) is not None:
            return no_walls
        if low >= U_AT_LEAST:
            return "U", ""
        if high < V_AT_LEAST or (high <= V_AT_MOST and self._flattens()):
            return (
                "undecided",
                "the walls flatten as they rise: what the floor is like has to be read at a lower height",
            )
        if high <= V_AT_MOST:
            return "V", ""
        return "undecided", f"the exponent may be anything from {low:.2f} to {high:.2f}"

    @property
    def _no_walls(self) -> tuple[Label, str] | None:
        """Why the profile can't be told to be two walls about one floor, if so."""
        # By how much the lower side exceeds a tenth of the higher one, resample by resample.
        left, right = self.spread.left, self.spread.right
        least, most = _quantiles(np.minimum(left, right) - _RISES * np.maximum(left, right))
        side = "left" if float(np.median(left - right)) < 0 else "right"
        if most <= 0:
            return "no valley", f"the loss doesn't rise to the {side}"
        if not self.rises:
            return "undecided", f"no change of the loss along the line can be told from noise at {_RISE_LEVEL:.0%}"
        if least <= 0:
            return "undecided", f"whether the loss rises to the {side} can't be told from these samples"
        if self._misfit > _MISFIT:
            return "undecided", "the profile isn't two walls about one floor"
        return None

    def _flattens(self) -> bool:
        """Whether a bowl fits better than any V, by more than the standard error of the difference of their squares."""
        straight, bowl = fit_walls(self.t, self.mean, _STRAIGHT).fitted, fit_bowls(self.t, self.mean)
        gain = float(((self.mean - straight) ** 2 - (self.mean - bowl) ** 2).sum())
        return gain > _FLATTER * 2 * float((self.resampled @ (bowl - straight)[0]).std())


def _rises(t: np.ndarray, losses: np.ndarray, weights: np.ndarray, seed: int) -> bool:
    """Whether walls explain more of the mean profile than of those with whole samples' signs dealt anew, at 1 %.

    A sample's losses less their mean are as likely turned over as not where nothing changes along the line. Whatever
    correlation there is between positions is kept.
    """
    own = (losses - losses.mean(axis=1, keepdims=True)) * weights[:, None]
    signs = np.random.default_rng([seed, 1]).choice([-1.0, 1.0], (_FLIPS + 1, len(losses)))
    signs[0] = 1
    explained = fit_walls(_scaled(t), signs @ own, _COARSE).fitted.var(axis=1)
    return bool((explained >= explained[0]).mean() <= _RISE_LEVEL)


def _scaled(t: np.ndarray) -> np.ndarray:
    """Positions from -1 to 1: the same numbers in any unit of length, rounded so that equal grids are equal."""
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
    """The positions about the lowest one up to where the mean has first risen by a height, that place included."""
    mean = _means(losses, weights, np.ones((1, len(losses))))[0]
    lowest = int(mean.argmin())
    above = mean > mean[lowest] + height
    left, right = np.flatnonzero(above[:lowest]), np.flatnonzero(above[lowest:])
    return (int(left[-1]) if len(left) else 0), (lowest + int(right[0]) + 1 if len(right) else len(mean))


def _means(losses: np.ndarray, weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(b, m) weighted means with each sample counted so often, for (b, samples) counts."""
    shares = counts * weights
    return (shares @ losses) / shares.sum(axis=1, keepdims=True)


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, _LEVELS)
    return float(low), float(high)
