"""When each sample is learnt and forgotten, and how groups of samples learn, from the losses at each checkpoint.

A model learns the simple samples first and the complex samples later, or never: this is claim 3 of Gong, Teng and Liu
(2025, arXiv 2510.10089). Here each group of samples has a curve with a band, and a step with an interval at which the
group has made half of its progress. The delay after the first group has an interval too, which shows whether a group is
later than the first. Forgetting is counted as in Toneva et al. (2019, "An empirical study of example forgetting").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

from landscape.errors import InputError

_LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class Milestones:
    """Steps at which each of n samples is learnt and forgotten, over c checkpoints.

    A sample's state between two checkpoints is unknown. So a change may have come at any time since the checkpoint
    before its step.

    Attributes:
        learnt: first step at which the sample is known, (n,); NaN if never.
        learnt_after: step of the checkpoint before, at which the sample wasn't known yet, (n,); NaN if there is none.
        forgotten: last step at which the sample is unknown after it was known at the checkpoint before, (n,); NaN if
            never.
        times_forgotten: number of changes from known to unknown, (n,).
        known: whether the sample is known at each checkpoint, (c, n).
    """

    learnt: np.ndarray
    learnt_after: np.ndarray
    forgotten: np.ndarray
    times_forgotten: np.ndarray
    known: np.ndarray


def milestones(steps: np.ndarray, known: np.ndarray) -> Milestones:
    """Find the steps at which samples are learnt and forgotten.

    Args:
        steps: ascending steps of the checkpoints, (c,).
        known: whether each sample counts as known at each checkpoint, (c, n); see `half_way` for a criterion.

    Raises:
        InputError: shapes don't fit, or steps don't ascend.
    """
    steps, known = _checked_steps(steps), np.asarray(known, dtype=bool)
    if known.ndim != 2 or len(known) != len(steps):
        raise InputError(f"samples are known or not at {len(steps)} steps: (steps, samples), not {known.shape}")
    ever, first = known.any(axis=0), known.argmax(axis=0)
    lost = known[:-1] & ~known[1:]
    last_lost = len(lost) - lost[::-1].argmax(axis=0) if len(lost) else np.zeros(known.shape[1], dtype=int)
    return Milestones(
        learnt=np.where(ever, steps[first], np.nan),
        learnt_after=np.where(ever & (first > 0), steps[first - 1], np.nan),
        forgotten=np.where(lost.any(axis=0), steps[np.minimum(last_lost, len(steps) - 1)], np.nan),
        times_forgotten=lost.sum(axis=0),
        known=known,
    )


def half_way(losses: np.ndarray, least: float) -> np.ndarray:
    """Whether each sample has made half of its gain: a loss at most the mean of its first and its lowest loss.

    Args:
        losses: losses at each checkpoint, (c, n).
        least: gain, in the units of the loss, that a sample must exceed to be known. A smaller gain counts as noise.

    Returns:
        Booleans, (c, n).
    """
    losses = np.asarray(losses, dtype=np.float64)
    first, lowest = losses[0], losses.min(axis=0)
    with np.errstate(invalid="ignore"):  # a loss that is infinite throughout gains nothing
        return np.isfinite(losses) & (losses <= (first + lowest) / 2) & (first - lowest > least)


@dataclass(frozen=True)
class Grouping:
    """Assignment of n samples to g groups.

    Attributes:
        names: names of the g groups.
        of: index of each sample's group, (n,); -1 for a sample in no group.
    """

    names: list[str]
    of: np.ndarray

    @classmethod
    def by_label(cls, labels: Sequence[str] | np.ndarray) -> Grouping:
        """A group for each label, in the order of first occurrence."""
        texts = [str(label) for label in labels]
        names = list(dict.fromkeys(texts))
        return cls(names, np.array([names.index(text) for text in texts], dtype=np.int64))

    @classmethod
    def by_quantile(cls, values: np.ndarray, name: str, parts: int = 3) -> Grouping:
        """Groups of about equal size by a number of each sample, ascending and named by their ranges.

        Raises:
            InputError: there are too few different values for ``parts`` groups.
        """
        values = np.asarray(values, dtype=np.float64)
        edges = np.quantile(values, np.linspace(0, 1, parts + 1))
        if len(np.unique(edges)) <= parts:
            raise InputError(f"{name} has too few different values for {parts} groups")
        of = np.clip(np.searchsorted(edges, values, "right") - 1, 0, parts - 1)
        names = [f"{name} {low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        return cls(names, of)


@dataclass(frozen=True)
class GroupCurves:
    """The mean of a quantity for each of g groups of samples at c checkpoints.

    Attributes:
        sizes: number of samples in each group, (g,).
        means: weighted means, (c, g).
        intervals: 95 % intervals, (c, g, 2), by Student's t over samples, which cover less where few samples are
            skewed. Intervals of values that are all 0 or 1 are by Wilson's score. NaN for a group of one sample.
    """

    sizes: np.ndarray
    means: np.ndarray
    intervals: np.ndarray


def group_curves(values: np.ndarray, groups: Grouping, weights: np.ndarray | None = None) -> GroupCurves:
    """Means over groups of samples, with 95 % bands.

    A weighted mean is that of a ratio estimator, whose error comes from the spread between samples.

    Args:
        values: values such as losses or accuracies, (c, n); NaN throughout where there is none.
        groups: groups of the n samples.
        weights: weights of the samples, (n,); default: equal weights. Samples of weight 0 are left out.

    Raises:
        InputError: shapes don't fit, or no sample has a weight.
    """
    values, of, weights = _checked_samples(values, groups, weights)
    members = [of == index for index in range(len(groups.names))]
    means = np.stack([_means(values[:, each], weights[each]) for each in members], axis=1)
    bands = [_band(values[:, each], weights[each], mean) for each, mean in zip(members, means.T, strict=True)]
    return GroupCurves(np.array([each.sum() for each in members]), means, np.stack(bands, axis=1))


def _means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(values @ weights / weights.sum()) if len(weights) else np.full(len(values), np.nan)


def _band(values: np.ndarray, weights: np.ndarray, means: np.ndarray) -> np.ndarray:
    """95 % band (c, 2) of a weighted mean over samples."""
    n = len(weights)
    if n < 2:
        return np.full((len(means), 2), np.nan)
    if np.isin(values, (0, 1)).all():
        return _wilson(means, float(weights.sum() ** 2 / (weights**2).sum()))
    with np.errstate(invalid="ignore", over="ignore"):  # an infinite loss has no band: NaN
        deviations = (values - means[:, None]) * weights / weights.sum()
        error = np.sqrt((deviations**2).sum(axis=1) * n / (n - 1))
        half = stats.t.ppf(_LEVELS[1], n - 1) * error
        return np.stack([means - half, means + half], axis=1)


def _wilson(shares: np.ndarray, n: float) -> np.ndarray:
    """95 % intervals (c, 2) of shares of about n samples (Wilson 1927), within 0 and 1 and never of zero width."""
    z = stats.norm.ppf(_LEVELS[1])
    middle = (shares + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(shares * (1 - shares) / n + z**2 / (4 * n**2))
    return np.stack([middle - half, middle + half], axis=1)


@dataclass(frozen=True)
class HalfSteps:
    """Steps at which groups have made half of their progress, and delays of the groups after the first group.

    Attributes:
        steps: steps at which a group's mean first crosses the mean of its first and its lowest value, (g,),
            interpolated between checkpoints; NaN where a group makes no progress.
        intervals: 95 % intervals of the steps, (g, 2), by resampling the samples of each group. An interval reaches
            from the 2.5 % quantile of the checkpoint before to the 97.5 % quantile of the checkpoint after, since the
            curve between them isn't known. NaN where more than 1 in 40 resamples makes no progress.
        delays: number of steps after the first group's step, (g,).
        delay_intervals: 95 % intervals of the delays, (g, 2): the 2.5 % quantile of the least and the 97.5 % quantile
            of the largest possible delay.
    """

    steps: np.ndarray
    intervals: np.ndarray
    delays: np.ndarray
    delay_intervals: np.ndarray


def half_steps(
    steps: np.ndarray,
    losses: np.ndarray,
    groups: Grouping,
    weights: np.ndarray | None = None,
    *,
    least: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> HalfSteps:
    """Find the step at which each group of samples has made half of its progress.

    Args:
        steps: ascending steps of the checkpoints, (c,).
        losses: losses of the samples at each checkpoint, (c, n).
        groups: groups of the n samples.
        weights: weights of the samples, (n,); default: equal weights.
        least: largest fall of a group's mean, in the units of the loss, that counts as no progress; default: 0.
        resamples: number of resamples of the bootstrap over samples, within groups; default: 1000.
        seed: seed of the bootstrap; default: 0.

    Raises:
        InputError: shapes don't fit, or steps don't ascend.
    """
    steps = _checked_steps(steps)
    losses, of, weights = _checked_samples(losses, groups, weights)
    if len(losses) != len(steps):
        raise InputError(f"there are {len(steps)} steps and losses at {len(losses)}")
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(len(groups.names)):
        own, own_weights = losses[:, of == index], weights[of == index]
        n = own.shape[1]
        if n == 0:
            rows.append(np.full((3, resamples + 1), np.nan))
            continue
        counts = np.vstack([np.ones(n), generator.multinomial(n, np.full(n, 1 / n), resamples)]) * own_weights
        with np.errstate(invalid="ignore"):  # a resample without an infinite loss has 0 times infinity: NaN
            rows.append(_crossings(steps, counts @ own.T / counts.sum(axis=1, keepdims=True), least))
        if n == 1:
            rows[-1][:, 1:] = np.nan
    at, before, after = np.swapaxes(np.array(rows), 0, 1)  # (g, 1 + resamples) each
    earliest, latest = before - after[0], after - before[0]
    earliest[0], latest[0] = at[0] - at[0], at[0] - at[0]  # the first group isn't later than itself
    return HalfSteps(
        steps=at[:, 0],
        intervals=_interval(before[:, 1:], after[:, 1:]),
        delays=at[:, 0] - at[0, 0],
        delay_intervals=_interval(earliest[:, 1:], latest[:, 1:]),
    )


def _crossings(steps: np.ndarray, curves: np.ndarray, least: float) -> np.ndarray:
    """Steps (3, b) of half the fall of each of b curves (b, c): interpolated, at the checkpoint before, and after.

    Half of the fall is the mean of the first and the lowest value. NaN if a curve falls by no more than ``least``.
    """
    fallen = curves[:, 0] - curves.min(axis=1) > least
    half = (curves[:, 0] + curves.min(axis=1)) / 2
    below = curves <= half[:, None]
    place, at = below.argmax(axis=1), np.arange(len(curves))
    before = np.maximum(place - 1, 0)
    high, low = curves[at, before], curves[at, place]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (high - half) / (high - low)
    crossings = np.stack([steps[before] + part * (steps[place] - steps[before]), steps[before], steps[place]])
    return np.where(fallen, crossings, np.nan)


def _interval(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Intervals (g, 2) from the 2.5 % quantile of ``low`` (g, b) to the 97.5 % quantile of ``high`` (g, b).

    NaN where more than 2.5 % of a row are NaN.
    """
    known = np.isnan(low).mean(axis=1) <= _LEVELS[0]
    ends = [
        np.nanquantile(np.where(known[:, None], each, 0.0), level, axis=1)
        for each, level in zip((low, high), _LEVELS, strict=True)
    ]
    return np.where(known[:, None], np.stack(ends, axis=1), np.nan)


def _checked_steps(steps: np.ndarray) -> np.ndarray:
    steps = np.asarray(steps, dtype=np.float64)
    if steps.ndim != 1 or not len(steps) or not (np.diff(steps) > 0).all():
        raise InputError("the steps of a run ascend, and there is at least one")
    return steps


def _checked_samples(
    values: np.ndarray, groups: Grouping, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check values, groups and weights, and keep the samples of positive weight."""
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones(len(groups.of)) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.ndim != 2 or groups.of.shape != values.shape[1:] or weights.shape != groups.of.shape:
        raise InputError(
            f"values are (steps, samples), with a group and a weight for each sample, not {values.shape}, "
            f"{groups.of.shape} and {weights.shape}"
        )
    kept = weights > 0
    if not kept.any():
        raise InputError("no sample has a weight")
    return values[:, kept], groups.of[kept], weights[kept]
