"""The steps at which samples are learnt: by hand, and the coverage of bands and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from landscape import InputError
from landscape.dynamics import Grouping, group_curves, half_steps, half_way, milestones

STEPS = np.array([0, 10, 20, 40, 80])


def test_milestones_by_hand():
    known = np.array(
        [
            [0, 0, 1, 0, 1],
            [0, 1, 1, 1, 0],
            [0, 1, 1, 0, 1],
            [0, 1, 1, 1, 0],
            [0, 1, 1, 0, 0],
        ]
    )
    found = milestones(STEPS, known)
    np.testing.assert_array_equal(found.learnt, [np.nan, 10, 0, 10, 0])
    np.testing.assert_array_equal(found.learnt_after, [np.nan, 0, np.nan, 0, np.nan])
    np.testing.assert_array_equal(found.forgotten, [np.nan, np.nan, np.nan, 80, 40])
    np.testing.assert_array_equal(found.times_forgotten, [0, 0, 0, 2, 2])
    assert (found.known == known).all()
    one = milestones([5], [[True, False]])
    np.testing.assert_array_equal(one.learnt, [5, np.nan])
    np.testing.assert_array_equal(one.forgotten, [np.nan, np.nan])


def test_half_way_is_of_what_a_sample_gains_and_noise_is_no_gain():
    losses = np.array(
        [[2.0, 1.0, 1.0, np.nan], [1.2, 0.99, 1.2, np.nan], [0.9, 0.98, 0.5, np.nan], [0.0, 0.98, 0.8, 1]]
    )
    known = half_way(losses, 0.1)
    np.testing.assert_array_equal(known[:, 0], [False, False, True, True])
    assert not known[:, 1].any(), "a gain of 0.02"
    np.testing.assert_array_equal(known[:, 2], [False, False, True, False])
    assert not known[:, 3].any(), "a masked sample has no loss"
    infinite = half_way(np.array([[np.inf], [0.4], [0.2]]), 0.1)
    assert list(infinite[:, 0]) == [False, True, True]


def test_groups_by_label_and_by_quantile():
    grouping = Grouping.by_label(["simple", "complex", "simple"])
    assert (grouping.names, grouping.of.tolist()) == (["simple", "complex"], [0, 1, 0])
    values = np.array([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    thirds = Grouping.by_quantile(values, "bits", 3)
    assert thirds.of.tolist() == [2, 0, 1, 0, 1, 2]
    assert thirds.names[0].startswith("bits 1 to ")
    assert thirds.names[2].endswith(" to 6")
    with pytest.raises(InputError, match="too few different values"):
        Grouping.by_quantile(np.array([1.0, 1.0, 1.0, 2.0]), "bits")


def test_curves_are_weighted_means_and_masked_samples_count_nowhere():
    rng = np.random.default_rng(0)
    losses, weights = rng.random((5, 6)), np.array([1.0, 2.0, 0.0, 3.0, 1.0, 1.0])
    losses[:, 2] = np.nan
    grouping = Grouping.by_label(list("abbbac"))
    found = group_curves(losses, grouping, weights)
    assert found.sizes.tolist() == [2, 2, 1]
    np.testing.assert_allclose(found.means[:, 0], losses[:, [0, 4]].mean(1))
    np.testing.assert_allclose(found.means[:, 1], (2 * losses[:, 1] + 3 * losses[:, 3]) / 5)
    assert np.isnan(found.intervals[:, 2]).all(), "a group of one has no band"
    a, b = losses[:, [0, 4]].T
    np.testing.assert_allclose(np.ptp(found.intervals[:, 0], axis=1), 2 * stats.t.ppf(0.975, 1) * np.abs(a - b) / 2)


def test_bands_hold_as_often_as_they_say():
    hits = total = 0
    for seed in range(300):
        values = np.random.default_rng(seed).normal(3, 1, (1, 40))
        found = group_curves(values, Grouping.by_label(["a"] * 15 + ["b"] * 25))
        hits += int(((found.intervals[0, :, 0] <= 3) & (found.intervals[0, :, 1] >= 3)).sum())
        total += 2
    low, high = stats.binom.ppf((0.001, 0.999), total, 0.95)
    assert low <= hits <= high


def test_half_steps_are_interpolated_and_a_group_without_progress_has_none():
    losses = np.array([[4.0, 2.0, 1.0], [3.0, 2.0, 1.1], [1.0, 1.0, 1.2], [0.0, 0.0, 1.3], [0.5, 0.0, 1.4]])
    found = half_steps(STEPS, losses, Grouping.by_label(list("abc")))
    # a: half of 4 at 2, between 3 at step 10 and 1 at step 20; b: half of 2 at 1, at step 20 itself.
    np.testing.assert_allclose(found.steps, [15, 20, np.nan])
    np.testing.assert_allclose(found.delays, [0, 5, np.nan])
    assert np.isnan(found.intervals).all(), "of one sample nothing is known"
    alike = half_steps(STEPS, np.repeat(losses, 3, axis=1), Grouping.by_label(list("aaabbbccc")))
    np.testing.assert_allclose(alike.intervals[:2], [[10, 20], [10, 20]], err_msg="between checkpoints nobody looked")
    np.testing.assert_allclose(alike.delay_intervals[1], [-10, 10])
    assert np.isnan(alike.intervals[2]).all()


def test_a_group_that_learns_nothing_has_no_half_step():
    still = 0.7 - 1e-9 * np.arange(6)[:, None] * np.ones(20)
    found = half_steps(100 * np.arange(6), still, Grouping.by_label(["a"] * 20), least=1e-3)
    assert np.isnan([*found.steps, *found.intervals.flat, *found.delays]).all()
    assert np.isfinite(half_steps(100 * np.arange(6), still, Grouping.by_label(["a"] * 20)).steps).all()


def test_what_is_right_or_wrong_has_bands_by_wilson():
    """The bands are Wilson's intervals: between 0 and 1, and of positive width even if all samples are right."""
    right = np.array([[1.0] * 8 + [0.0] * 4, [1.0] * 7 + [0.0] + [1.0] * 4])
    found = group_curves(right, Grouping.by_label(["a"] * 8 + ["b"] * 4))
    for row, counts in enumerate(((8, 0), (7, 4))):
        for column, (count, size) in enumerate(zip(counts, (8, 4), strict=True)):
            expected = stats.binomtest(count, size).proportion_ci(0.95, "wilson")
            np.testing.assert_allclose(found.intervals[row, column], expected, rtol=1e-12)


def test_intervals_of_half_steps_hold():
    """Losses are 1 - t/100 plus noise in each sample's level and slope, so the mean is halfway down at t = 50."""
    steps, hits, apart = np.linspace(0, 100, 21), 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        slopes = 1 + 0.5 * rng.standard_normal(80)
        bend = rng.normal(0, 0.3, 80)
        progress = steps[:, None] / 100
        losses = 1 - slopes * progress + bend * np.sin(np.pi * progress)
        late = 1 - slopes * np.maximum(progress - 0.5, 0)
        found = half_steps(steps, np.hstack([losses, late]), Grouping.by_label(["a"] * 80 + ["b"] * 80), seed=seed,
                           resamples=300)  # fmt: skip
        hits += found.intervals[0, 0] <= 50 <= found.intervals[0, 1]
        apart += found.delay_intervals[1, 0] > 0
    low, _ = stats.binom.ppf((0.001, 0.999), 200, 0.93)  # a percentile bootstrap of 80 samples falls short by 1 or 2 %
    assert hits >= low
    assert apart == 200, "75 is after 50"


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: milestones([0, 0], np.ones((2, 3))), "ascend"),
        (lambda: milestones([0, 1], np.ones((3, 3))), "samples are known or not at 2 steps"),
        (lambda: half_steps([0, 1], np.ones((3, 2)), Grouping.by_label("ab")), "2 steps and losses at 3"),
        (lambda: group_curves(np.ones((3, 2)), Grouping.by_label("abc")), "a group and a weight for each sample"),
        (lambda: group_curves(np.ones((3, 2)), Grouping.by_label("ab"), np.zeros(2)), "no sample has a weight"),
    ],
)
def test_refused(call, line):
    with pytest.raises(InputError, match=line):
        call()


def test_infinite_losses_have_no_band_and_no_warning():
    """The mean is infinite where a loss is infinite, and the other group isn't affected."""
    losses = np.random.default_rng(0).uniform(1, 2, (5, 6))
    losses[0] += 3
    losses[:, 0] = np.inf
    groups = Grouping.by_label(["a", "b"] * 3)
    curves, halves = group_curves(losses, groups), half_steps(STEPS, losses, groups)
    assert np.isinf(curves.means[:, 0]).all()
    assert np.isnan(curves.intervals[:, 0]).all()
    assert np.isfinite(curves.intervals[:, 1]).all()
    assert np.isnan(halves.intervals[0]).all()
    assert np.isfinite(halves.steps[1])
    assert not half_way(losses, 0.1)[:, 0].any()


def test_a_group_without_samples_has_no_step_and_changes_no_other():
    rng = np.random.default_rng(0)
    losses = np.exp(-np.outer(np.arange(6), 0.2 + rng.random(8)))
    steps, of = 10 * np.arange(6), np.repeat([0, 1], 4)
    plain = half_steps(steps, losses, Grouping(["a", "b"], of), seed=1)
    found = half_steps(steps, losses, Grouping(["a", "b", "empty"], of), seed=1)
    assert np.isnan(found.steps[2])
    assert np.isnan(found.intervals[2]).all()
    np.testing.assert_array_equal(found.steps[:2], plain.steps)
    np.testing.assert_array_equal(found.intervals[:2], plain.intervals)
    weightless = half_steps(steps, losses, Grouping(["a", "b"], of), (of == 0).astype(float), seed=1)
    assert np.isnan(weightless.steps[1])
    assert weightless.steps[0] == plain.steps[0]
