"""Hops and displacement: gradient descent on quadratics in closed form, exact nulls by brute force, false alarms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import ortho_group

from benchmarks.accuracy.hops import Descent, falling, heavy_tailed, normal, one_of_ten, skewed, told
from landscape import InputError
from landscape.dynamics import Hops, displacement, fewest_updates, hops, verdicts
from landscape.dynamics.hopping import _signed_rank, _signed_rank_chances

EPS = np.finfo(float).eps
ROTATION = ortho_group.rvs(4, random_state=7)


def descent(values: np.ndarray, eta: float, steps: int, rotation: np.ndarray | None = None) -> np.ndarray:
    """Updates (steps, n) of gradient descent on sum lambda x^2 / 2 from x = 1 along every eigenvector."""
    at = (1 - eta * values) ** np.arange(steps + 1)[:, None]
    updates = np.diff(at, axis=0)
    return updates if rotation is None else updates @ rotation.T


@pytest.mark.parametrize("dim", [2, 50])
def test_descent_beyond_one_over_lambda_hops_along_the_top_eigenvector_alone(dim):
    """With 1/l1 < eta < min(2/l1, 1/l2) the sign changes at every step along v1, and never along other directions."""
    values = np.concatenate([[10.0], np.linspace(5, 1, dim - 1)])
    rotation = ortho_group.rvs(dim, random_state=0)
    eta = 0.15  # 1/10 < eta < min(2/10, 1/5)
    steps = 1 + math.floor(math.log(1e3 * EPS) / math.log(abs(1 - eta * values).min()))
    found = hops(descent(values, eta, steps, rotation), rotation[:, :10])
    assert found.rates[0] == 1
    assert not found.rates[1:].any()
    assert found.usable[0] == steps, "its components shrink by half each step and are above 1e3 epsilons to the end"
    if steps >= fewest_updates(len(found.rates)):
        assert found.verdicts == ["hops"] + ["drifts"] * (len(found.rates) - 1)


def test_two_directions_hop_where_both_are_beyond():
    values = np.array([11.0, 10.0, 1.0])
    found = hops(descent(values, 0.15, 20), np.eye(3))
    assert list(found.rates) == [1, 1, 0]
    assert found.verdicts == ["hops", "hops", "drifts"]


def test_components_that_rounding_has_made_are_left_out():
    """In float64, (1 - eta lambda)^t ends in rounding noise; its signs are no hops."""
    rng = np.random.default_rng(0)
    updates = descent(np.array([10.0, 1.0]), 0.12, 60)
    updates[:, 0] = np.where(np.abs(updates[:, 0]) < 1e-14, 1e-17 * rng.standard_normal(60), updates[:, 0])
    rotation = ortho_group.rvs(2, random_state=1)
    found = hops(updates @ rotation.T, rotation)
    assert found.rates[0] == 1
    assert found.usable[0] < 30
    single = hops((updates @ rotation.T).astype(np.float32), rotation)
    assert single.usable[0] < found.usable[0], "float32 has fewer digits to see"
    assert single.rates[0] == 1


def test_noise_is_like_noise():
    """Signs change at a rate of one half on average; false alarms in 200 seeds stay below the binomial bound of 5 %."""
    rates, alarms = [], 0
    for seed in range(200):
        noise = np.random.default_rng(seed).standard_normal((60, 20))
        found = hops(noise, np.eye(20)[:, :10], seed=seed)
        rates.append(found.rates)
        alarms += any(verdict != "like noise" for verdict in found.verdicts)
        if seed == 0:
            assert found.random_interval[0] < 0.5 < found.random_interval[1]
            assert found.random_rate == pytest.approx(0.5, abs=0.1)
    # There are 200 x 10 sequences of 59 pairs. The changes of fair signs are independent.
    assert np.mean(rates) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(200 * 10 * 59))
    assert alarms <= stats.binom.ppf(0.999, 200, 0.05)


@pytest.mark.slow
def test_many_windows_are_judged_together():
    """Eight windows of noise give a verdict in at most 5 % of runs. Separate tests of the windows would give 25 %."""
    alarms = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).standard_normal((8, 60, 3))
        told = verdicts([hops(window, np.eye(3)[:, :1], seed=seed) for window in noise])
        assert [len(each) for each in told] == [1] * 8
        alarms += any(verdict != "like noise" for each in told for verdict in each)
    assert alarms <= stats.binom.ppf(0.999, 200, 0.05)


def test_a_position_on_the_floor_itself_is_on_no_side():
    """Of twelve steps, the two that end or begin on the floor are no pair. The other ten all cross."""
    positions = np.array([1.0, -1.0] * 3 + [0.0] + [1.0, -1.0] * 3)
    found = hops(np.diff(positions)[:, None], np.eye(1))
    assert found.crossing_rates[0] == 1
    # Clopper and Pearson's lower end of ten out of ten: the chance c with c^10 = 0.025.
    assert found.crossing_intervals[0] == pytest.approx([0.025**0.1, 1], rel=1e-12)


def judged(hopping: list[float], drifting: list[float], usable: list[int] | None = None) -> list[str]:
    """The verdicts on directions with these one-sided p-values."""
    k = len(hopping)
    rates, intervals = np.full(k, 0.5), np.full((k, 2), 0.5)
    return Hops(
        np.zeros((60, k)), np.array(usable or [60] * k), rates, intervals, rates, intervals, 0.5, (0.4, 0.6),
        np.array(hopping), np.array(drifting),
    ).verdicts  # fmt: skip


def test_each_direction_that_is_told_leaves_more_to_the_next():
    """Holm (1979): four two-sided p-values are compared with 5 % divided by 4, 3, 2 and 1, until one fails."""
    rare = [0.011, 0.006, 0.02, 0.024]  # two-sided 0.022, 0.012, 0.04, 0.048; Bonferroni's 0.0125 allows the second
    assert judged(rare, [1.0] * 4) == ["like noise", "hops", "like noise", "like noise"], "0.022 > 0.05 / 3"
    assert judged([0.008, *rare[1:]], [1.0] * 4) == ["hops", "hops", "like noise", "like noise"], "0.04 > 0.05 / 2"
    assert judged([0.008, 0.006, 0.012, 0.024], [1.0] * 4) == ["hops"] * 4
    assert judged([1.0] * 4, [0.024, 0.012, 0.006, 0.008]) == ["drifts"] * 4, "in any order"
    assert judged([0.008, 1.0, 1.0, 0.024], [1.0, 0.006, 0.012, 1.0]) == ["hops", "drifts", "drifts", "hops"]
    # At the boundary itself: 2 p = 0.05 for one direction, in numbers without rounding.
    assert judged([0.025], [1.0]) == ["hops"]
    assert judged([np.nextafter(0.025, 1)], [1.0]) == ["like noise"]


def test_a_direction_of_too_few_components_is_undecided_and_counts_among_all():
    assert judged([0.006, 0.008], [1.0, 1.0], [60, 5]) == ["hops", "undecided"]
    assert judged([0.02, 1.0], [1.0, 1.0], [60, 5]) == ["like noise", "undecided"], "0.04 > 0.05 / 2"


@pytest.mark.parametrize("noise", [normal, heavy_tailed, skewed, falling])
@pytest.mark.parametrize("steps", [20, 60])
def test_iterates_at_rest_do_not_hop(noise, steps):
    """Descent at 0.8 and 0.99 of half of the threshold has at most as many alarms in 40 runs as 5 % explains."""
    for share in (0.8, 0.99):
        assert told(Descent(noise=noise), steps, share, 40)[1] <= stats.binom.ppf(0.999, 40, 0.05)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_momentum_moves_half_of_the_threshold(momentum):
    """Heavy ball is at rest at eta lambda = 0.9 (1 + b), though this exceeds 1, and hops at 1.5 (1 + b)."""
    walk = Descent(momentum=momentum)
    assert told(walk, 100, 0.9, 50)[1] <= stats.binom.ppf(0.999, 50, 0.05)
    assert told(walk, 100, 1.5, 20)[0] >= 180


@pytest.mark.parametrize(
    ("walk", "directions"),
    [(Descent(), 10), (Descent(noise=heavy_tailed), 10), (Descent(drift=5.0), 10), (one_of_ten, 1)],
)
def test_iterates_beyond_half_of_the_threshold_hop(walk, directions):
    """At least 80 % of directions at 1.5 in 100 steps (94 % are found) and all but one in a hundred at 1.9."""
    runs = 30 if directions == 1 else 10
    for share, least in ((1.5, 0.8), (1.9, 0.99)):
        total = runs * directions
        assert told(walk, 100, share, runs, directions)[0] >= stats.binom.ppf(0.001, total, least)


def test_a_rotation_and_a_unit_change_nothing():
    updates = Descent()(np.random.default_rng(5), 80, 1.6)[:, :4]
    found, scaled = hops(updates, np.eye(4)), hops(1e6 * updates @ ROTATION.T, ROTATION)
    assert found.verdicts == scaled.verdicts == ["hops"] * 4
    np.testing.assert_allclose(scaled.hop_p_values, found.hop_p_values, rtol=1e-9)
    assert (found.crossing_rates > 0.5).all()
    assert (found.crossing_intervals[:, 0] <= found.crossing_rates).all()


@pytest.mark.parametrize("n", [1, 5, 12])
def test_the_ranks_chances_are_those_of_all_signs(n):
    sums = [sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in itertools.product((0, 1), repeat=n)]
    products = np.random.default_rng(n).standard_normal(n)
    positive = np.argsort(np.argsort(np.abs(products)))[products > 0].sum() + (products > 0).sum()
    expected = np.mean(np.array(sums) <= math.ceil(positive + n / 2))
    assert _signed_rank(products) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bias", [0.0, -0.2, -0.4])
def test_beyond_a_hundred_products_ranks_are_taken_for_normal(bias):
    products = np.random.default_rng(3).standard_normal(120) + bias
    positive = math.ceil(stats.rankdata(np.abs(products))[products > 0].sum() + 60)
    exact = _signed_rank_chances(120)[: positive + 1].sum()
    assert exact > 1e-6
    assert exact <= _signed_rank(products) * (1 + 1e-2)
    assert _signed_rank(products) <= 2 * exact


def test_too_few_steps_for_any_answer():
    assert fewest_updates(1) == 9
    # With 9 / 2 or 8 / 2 given back to the sum of ranks: 10 of 512 choices of ranks sum up to at most 5, 7 of 256 to 4.
    assert 2 * 10 / 512 <= 0.05 < 2 * 7 / 256
    alternating = (-1.0) ** np.arange(20)[:, None] * np.ones((1, 1))
    assert hops(alternating[:8], np.eye(1)).verdicts == ["undecided"]
    assert hops(alternating[:9], np.eye(1)).verdicts == ["hops"]
    still = np.zeros((12, 2))
    still[:, 0] = 1
    found = hops(still, np.eye(2))
    assert found.verdicts == ["drifts", "undecided"]
    assert (found.usable[1], np.isnan(found.rates[1])) == (0, True)


@pytest.mark.parametrize(
    ("updates", "basis", "line"),
    [
        (np.ones((1, 3)), np.eye(3), "at least two finite rows"),
        (np.full((4, 3), np.nan), np.eye(3), "at least two finite rows"),
        (np.ones((4, 3)), 2 * np.eye(3), "aren't orthonormal"),
        (np.ones((4, 3)), np.eye(3)[0], "must be finite columns"),
        (np.ones((4, 3)), np.full((3, 1), np.inf), "must be finite columns"),
        (np.ones((4, 3)), np.eye(2), "no components in a basis of 2"),
    ],
)
def test_refused(updates, basis, line):
    with pytest.raises(InputError, match=line):
        hops(updates, basis)


# ---------------------------------------------------------------------- displacement


def test_shares_and_straightness_by_hand():
    values = np.array([5.0, 2.0, 0.1, -0.1, -3.0])
    rotation = ortho_group.rvs(5, random_state=2)
    updates = np.zeros((4, 5))
    updates[:, 0] = [1, -1, 1, -1]  # hops across the valley
    updates[:, 2] = 2  # goes down the river
    updates[:, 4] = [0, 0, 0, 1]
    found = displacement(updates @ rotation.T, rotation, values, [1.0, 0.0])
    np.testing.assert_allclose(found.path_shares[0], np.array([4, 16, 1, 0]) / 21, atol=1e-14)
    np.testing.assert_allclose(found.net_shares[0], np.array([0, 64, 1, 0]) / 65, atol=1e-14)
    np.testing.assert_allclose(found.straightness[0], [0, 1, 1, np.nan], atol=1e-14)
    np.testing.assert_allclose(found.random_shares[0], [0.4, 0.4, 0.2, 0])
    np.testing.assert_allclose(found.random_shares[1], [0.6, 0, 0.4, 0], err_msg="no eigenvalue is exactly zero")
    np.testing.assert_allclose(found.path_shares.sum(1), 1, rtol=1e-14)


def test_what_lies_outside_the_eigenvectors_is_unresolved():
    rng = np.random.default_rng(4)
    updates, values = rng.standard_normal((30, 8)), np.linspace(3, -1, 8)
    rotation = ortho_group.rvs(8, random_state=5)
    whole = displacement(updates, rotation, values, 0.5)
    some = displacement(updates, rotation[:, :3], values[:3], 0.5)
    assert some.path_shares[0, 0] == pytest.approx(((updates @ rotation[:, :3]) ** 2).sum() / (updates**2).sum())
    assert some.path_shares[0, 3] == pytest.approx(1 - some.path_shares[0, :3].sum())
    assert some.random_shares[0, 3] == pytest.approx(5 / 8)
    assert whole.path_shares[0, 3] == 0
    net = updates.sum(0)
    outside = net - rotation[:, :3] @ (rotation[:, :3].T @ net)
    assert some.net_shares[0, 3] == pytest.approx((outside**2).sum() / (net**2).sum())


def test_a_random_walk_has_the_shares_of_the_dimensions_and_is_not_straight():
    rng = np.random.default_rng(6)
    updates, values = rng.standard_normal((400, 40)), np.linspace(2, -1, 40)
    found = displacement(updates, np.eye(40), values, 0.5)
    np.testing.assert_allclose(found.path_shares, found.random_shares, atol=4 * math.sqrt(2 / 400 / 40))
    # The sum of t independent steps is root t times as long as a step, which is 1 / root t of the summed lengths.
    np.testing.assert_allclose(found.straightness[0, :3], 1 / math.sqrt(400), rtol=0.6)


@pytest.mark.parametrize(
    ("updates", "values", "eps", "line"),
    [
        (np.zeros((3, 2)), [1.0, 2.0], 0.1, "nothing moves"),
        (np.ones((3, 2)), [1.0], 0.1, "m finite eigenvalues"),
        (np.ones((3, 2)), [1.0, 2.0], -0.1, "at least 0"),
    ],
)
def test_displacement_refuses(updates, values, eps, line):
    with pytest.raises(InputError, match=line):
        displacement(updates, np.eye(2), np.array(values), eps)
