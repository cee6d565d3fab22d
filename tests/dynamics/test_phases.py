"""Phases of a curve: they are found in curves with phases, and hardly ever in curves without."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import isotonic_regression

from benchmarks.accuracy.phases import WANDERING, WITH, WITHOUT, alarms
from landscape import InputError
from landscape.dynamics import phases
from landscape.dynamics.phase_search import THREE_PHASES

three, _ = WITH["fall, rise, level"]


@pytest.mark.parametrize("name", sorted(WITHOUT.keys() - {WANDERING}))
def test_curves_without_phases_have_none(name):
    assert alarms(name, 14, 20) <= stats.binom.ppf(0.999, 20, 0.05)


def test_a_walk_of_correlated_steps_is_the_one_that_is_not_told_from_phases():
    """docs/dynamics.md states this exception. If it ends some day, the curve belongs among the others."""
    assert alarms(WANDERING, 14, 40) > stats.binom.ppf(0.95, 40, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("m", [10, 20, 35, 60])
@pytest.mark.parametrize("name", sorted(WITHOUT.keys() - {WANDERING}))
def test_curves_without_phases_have_none_over_100_seeds(name, m):
    assert alarms(name, m, 100) <= stats.binom.ppf(0.999, 100, 0.05)


@pytest.mark.parametrize("m", [20, 35])
def test_three_phases_are_found_with_their_changes(m):
    found = [phases(10 * np.arange(m), three(np.random.default_rng(seed), m), seed=seed) for seed in range(10)]
    # That the last piece has a slope after all costs log m in the criterion, which chi^2_1 exceeds in some 10 % of
    # curves at m = 20; 15 % with the noise estimated from few points.
    assert sum(each.label == THREE_PHASES for each in found) >= stats.binom.ppf(0.001, 10, 0.85)
    for each in found:
        if each.label == THREE_PHASES:
            np.testing.assert_allclose(each.change_steps, [10 * (m // 4), 10 * (3 * m // 5)], atol=25)
            assert (each.change_intervals[:, 0] <= each.change_steps).all()
            assert (each.change_intervals[:, 1] >= each.change_steps).all()
            assert max(each.false_alarms_shuffled, each.false_alarms_monotone, each.chance_wandering) <= 0.05
            assert each.criteria[THREE_PHASES] == 0 < min(each.criteria["level"], each.criteria["monotone"])


@pytest.mark.parametrize(("sign", "label"), [(1, "fall, rise"), (-1, "rise, fall")])
def test_one_turn_is_one_turn(sign, label):
    rng = np.random.default_rng(0)
    found = phases(np.arange(25), sign * (np.abs(np.arange(25) - 10) + 0.05 * rng.standard_normal(25)))
    assert found.label == label
    assert list(found.change_steps) == [10]
    assert found.change_intervals[0, 0] <= 9, "as the points leave it"
    assert found.change_intervals[0, 1] >= 11


def test_two_turns_that_end_in_no_level_are_another_course():
    found = phases(np.arange(30), np.interp(np.arange(30), [0, 10, 20, 29], [0, 5, -5, 4]))
    assert found.label == "other"
    assert list(found.change_steps) == [10, 20]


def test_a_level_and_an_exact_monotone_curve():
    assert phases(np.arange(9), np.full(9, 2.0)).label == "level"
    found = phases(np.arange(9), np.arange(9.0))
    assert (found.label, len(found.change_steps), found.change_intervals.shape) == ("monotone", 0, (0, 2))


def test_a_shift_a_scale_and_another_unit_of_steps_change_nothing():
    curve = three(np.random.default_rng(1), 20)
    ours, theirs = phases(np.arange(20), curve), phases(7.0 * np.arange(20), 1e6 + 1e3 * curve)
    assert ours.label == theirs.label
    np.testing.assert_allclose(theirs.change_steps, 7 * ours.change_steps)
    np.testing.assert_allclose(list(theirs.criteria.values()), list(ours.criteria.values()), atol=1e-3)


def test_the_monotone_account_is_no_worse_than_either_regression():
    """Its criterion is at most that of isotonic regression with as many parameters as it has levels."""
    rng = np.random.default_rng(2)
    curve = rng.standard_normal(15) + 0.3 * np.arange(15)
    found = phases(np.arange(15), curve)
    unit = (curve - curve.mean()) / np.ptp(curve)
    level = 15 * np.log((unit**2).sum() / 15) + np.log(15)
    fit = isotonic_regression(unit).x
    levels = len(np.unique(np.round(fit, 12)))
    isotonic = 15 * np.log(((unit - fit) ** 2).sum() / 15) + levels * np.log(15)
    assert found.criteria["level"] - found.criteria["monotone"] >= level - isotonic - 1e-9


@pytest.mark.parametrize(
    ("steps", "values", "line"),
    [
        (np.arange(7), np.arange(7.0), "at least 8 steps"),
        (np.arange(8), np.arange(9.0), "at least 8 steps"),
        (np.arange(8), np.array([np.nan] * 8), "finite"),
        (np.zeros(8), np.arange(8.0), "ascend"),
    ],
)
def test_refused(steps, values, line):
    with pytest.raises(InputError, match=line):
        phases(steps, values)
