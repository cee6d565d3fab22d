"""When each sample is learnt, and forgotten, and how groups of samples learn: from their losses at each checkpoint.

That a model learns the simple samples first and the complex ones later, or never, is claim 3 of Gong, Teng and Liu
(2025, arXiv 2510.10089): here it is a curve for each group with its band, the step at which the group has made half of
its progress with its interval, and the difference between groups, whose interval says whether one is before the other.
Forgetting is counted as in Toneva et al. (2019, "An empirical study of example forgetting").
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
    """What became of each of n samples over c checkpoints.

    Between two checkpoints nobody looked, so that a step is known up to the checkpoint before.

    Attributes:
        learnt: (n,) step at which it is first known; NaN if never.
        learnt_after: (n,) step of the checkpoint before, at which it wasn't known yet; NaN if there is none.
        forgotten: (n,) step at which it is last found to be known no more; NaN if never.
        times_forgotten: (n,) how often it went from known to unknown.
        known: (c, n) whether it is known at each checkpoint.
    """

    learnt: np.ndarray
    learnt_after: np.ndarray
    forgotten: np.ndarray
    times_forgotten: np.ndarray
    known: np.ndarray


def milestones(steps: np.ndarray, known: np.ndarray) -> Milestones:
    """The steps at which samples are learnt and forgotten.

    Args:
        steps: (c,) ascending.
        known: (c, n) whether a sample counts as known; see `half_way` for a criterion.

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
    """Whether each sample's loss is below the mean of its first and its lowest one: half of what it will ever gain.

    Args:
        losses: (c, n) at each checkpoint.
        least: a sample that gains less than this, in the units of the loss, is never known: it isn't learnt but noise.

    Returns:
        (c, n) booleans.
    """
    losses = np.asarray(losses, dtype=np.float64)
    first, lowest = losses[0], losses.min(axis=0)
    with np.errstate(invalid="ignore"):  # one that is infinite throughout gains nothing
        return np.isfinite(losses) & (losses <= (first + lowest) / 2) & (first - lowest > least)


@dataclass(frozen=True)
class Grouping:
    """Samples in groups.

    Attributes:
        names: of the g groups.
        of: (n,) the index of each sample's group; -1 for one that is in none.
    """

    names: list[str]
    of: np.ndarray

    @classmethod
    def by_label(cls, labels: Sequence[str] | np.ndarray) -> Grouping:
        """A group for each label, in the order in which they first occur."""
        texts = [str(label) for label in labels]
        names = list(dict.fromkeys(texts))
        return cls(names, np.array([names.index(text) for text in texts], dtype=np.int64))

    @classmethod
    def by_quantile(cls, values: np.ndarray, name: str, parts: int = 3) -> Grouping:
        """Groups of about equal size by a number that is known of each sample, named by its ranges, ascending.

        Raises:
            InputError: there are too few different values for so many groups.
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
        sizes: (g,) samples in each.
        means: (c, g) weighted means.
        intervals: (c, g, 2) 95 % by Student's t over samples, which covers less where few samples are skewed; of values
            that are 0 or 1 by Wilson's score. NaN for a group of one.
    """

    sizes: np.ndarray
    means: np.ndarray
    intervals: np.ndarray


def group_curves(values: np.ndarray, groups: Grouping, weights: np.ndarray | None = None) -> GroupCurves:
    """Means over groups of samples, with bands.

    A weighted mean is that of a ratio estimator, whose error comes from the spread between samples.

    Args:
        values: (c, n) such as losses or accuracies; NaN throughout where there is none.
        groups: of the n samples.
        weights: (n,) of the samples; default: equal. Samples of weight 0 count nowhere.

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
    """(c, 2) of a weighted mean over samples."""
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
    """(c, 2) of shares of about n samples (Wilson 1927), within 0 and 1 and of no zero width."""
    z = stats.norm.ppf(_LEVELS[1])
    middle = (shares + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(shares * (1 - shares) / n + z**2 / (4 * n**2))
    return np.stack([middle - half, middle + half], axis=1)


@dataclass(frozen=True)
class HalfSteps:
    """The steps at which groups have made half of their progress, and by how much each is later than the first group.

    Attributes:
        steps: (g,) at which a group's mean first crosses the mean of its first and its lowest value, interpolated
            between checkpoints; NaN where a group makes no progress.
        intervals: (g, 2) from the 2.5 % quantile of the checkpoint before to the 97.5 % quantile of the one after, by
            resampling the samples of each group: what happens between two checkpoints isn't known. NaN where more than
            1 in 40 resamples makes no progress.
        delays: (g,) steps after the first group's.
        delay_intervals: (g, 2) likewise, at the least and at the most.
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
    """When each group of samples has made half of its progress.

    Args:
        steps: (c,) ascending.
        losses: (c, n).
        groups: of the n samples.
        weights: (n,) of the samples; default: equal.
        least: a group whose mean falls by no more than this, in the units of the loss, makes no progress.
        resamples: of the bootstrap over samples, within groups.
        seed: of it.

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
    """Where each of b curves (b, c) falls to the mean of its first and its lowest value, and the steps about it (3, b).

    NaN if it falls by no more than ``least``.
    """
    fallen = curves[:, 0] - curves.min(axis=1) > least
    half = (curves[:, 0] + curves.min(axis=1)) / 2
    below = curves <= half[:, None]
    place, at = below.argmax(axis=1), np.arange(len(curves))
    before = np.maximum(place - 1, 0)
    high, low = curves[at, before], curves[at, place]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (high - half) / (high - low)
    found = np.stack([steps[before] + part * (steps[place] - steps[before]), steps[before], steps[place]])
    return np.where(fallen, found, np.nan)


def _interval(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(g, 2): the lower quantile of one (g, b) and the upper of the other; NaN where it would have no end."""
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
    """Values, groups and weights of the samples that have a weight."""
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
