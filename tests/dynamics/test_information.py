"""Mutual information of successive spectra: against brute force, its bounds, and its null distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, ortho_group

from landscape import InputError
from landscape.dynamics import joint_information, rank_paired_information

RNG = np.random.default_rng(0)


def shares_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares |lambda| / sum, and the order of leading eigenvalues."""
    order = np.argsort(-np.abs(values))
    return np.abs(values[order]) / np.abs(values).sum(), order


def entropy(law: np.ndarray) -> float:
    law = law[law > 0]
    return -float((law * np.log(law)).sum())


def mutual(table: np.ndarray) -> float:
    outer = np.outer(table.sum(1), table.sum(0))
    some = table > 0
    return float((table[some] * np.log(table[some] / outer[some])).sum())


def test_the_joint_law_by_brute_force_and_coarse_is_no_more_than_whole():
    n = 12
    p, _ = shares_of(RNG.standard_normal(n))
    angle = 0.3 * RNG.standard_normal((n, n))
    turned = np.linalg.qr(np.eye(n) + angle)[0] ** 2  # <v_i, v'_j>^2 of a basis that has turned by some
    values = []
    for k in (1, 3, 6, 12):
        found = joint_information(p, turned[:k, :k], (p @ turned)[:k])
        edges = [*range(k), n]
        coarse = np.add.reduceat(np.add.reduceat(p[:, None] * turned, [*range(k), k][: len(edges) - (k == n)], 0),
                                 [*range(k), k][: len(edges) - (k == n)], 1)  # fmt: skip
        assert found.value == pytest.approx(mutual(coarse), rel=1e-10)
        assert 0 <= found.value <= found.most + 1e-12
        values.append(found.value)
    assert values == sorted(values), "a finer partition tells no less"
    assert values[-1] == pytest.approx(mutual(p[:, None] * turned), rel=1e-12)


def test_equal_bases_tell_all_and_random_ones_nothing_beyond_the_null():
    n, k = 60, 8
    p, _ = shares_of(RNG.standard_normal(n) ** 3)
    same = joint_information(p, np.eye(k), p[:k])
    assert same.value == pytest.approx(entropy(np.append(p[:k], p[k:].sum())), rel=1e-12)
    assert same.value == pytest.approx(same.most)
    assert same.value > same.null_interval[1]
    inside = 0
    for seed in range(40):
        turned = ortho_group.rvs(n, random_state=seed) ** 2
        found = joint_information(p, turned[:k, :k], (p @ turned)[:k], seed=seed)
        inside += found.null_interval[0] <= found.value <= found.null_interval[1]
    assert inside >= 33  # of 40 at 95 % each: fewer have a chance of 0.3 %


def test_sorted_spectra_share_much_of_their_information_whatever_they_are():
    """Two independent spectra have much mutual information, but no more than their null distribution."""
    inside = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        before, after = (np.sort(rng.exponential(1, 500)) for _ in range(2))
        found = rank_paired_information(before, after, 1e-3, seed=seed)
        inside += found.null_interval[0] <= found.value <= found.null_interval[1]
        assert found.value > 0.7 * found.most
    assert inside >= 33  # of 40 at 95 % each: fewer have a chance of 0.3 %


@pytest.mark.parametrize("n", [50, 300])
def test_independent_spectra_are_above_the_null_as_rarely_as_it_says(n):
    above = 0
    for seed in range(150):
        before, after = np.random.default_rng(seed).standard_normal((2, n))
        found = rank_paired_information(before, after, 1e-3, draws=100, seed=seed)
        above += found.value > found.null_interval[1]
    assert above <= binom.ppf(0.999, 150, 0.025 + 1 / 100)  # with 100 draws the quantile is uncertain by one rank


def test_the_null_of_rank_pairs_is_that_of_all_deals():
    """Of six deals of two low and two high eigenvalues, four give each spectrum one of each: log 2. Others give 0."""
    found = rank_paired_information(-np.ones(2), np.ones(2), 1.0, bins=2, draws=2000)
    assert found.value == 0
    # A draw is log 2 times a coin of 2/3, whose variance is 2/9; four standard errors of the mean of 2000.
    assert found.null == pytest.approx(2 / 3 * np.log(2), abs=4 * np.log(2) * np.sqrt(2 / 9 / 2000))
    assert found.null_interval == pytest.approx((0, np.log(2)))


def test_equal_spectra_have_the_entropy_of_their_bins():
    values = RNG.standard_normal(200)
    found = rank_paired_information(values, values, 0.01, bins=16)
    counts, _ = np.histogram(np.arcsinh(values / 0.01), bins=16)
    assert found.value == pytest.approx(entropy(counts / 200), rel=1e-10)
    assert found.value == pytest.approx(found.most)
    assert found.edges[0] == pytest.approx(values.min())
    assert found.edges[-1] == pytest.approx(values.max())
    assert rank_paired_information(np.ones(5), np.ones(5), 1.0).value == 0


def test_the_unit_of_the_eigenvalues_changes_nothing():
    before, after = RNG.standard_normal((2, 100))
    ours, theirs = (rank_paired_information(c * before, c * after, c * 0.1, bins=8) for c in (1.0, 2.0**20))
    assert ours.value == pytest.approx(theirs.value, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: rank_paired_information(np.ones(3), np.ones(4), 1.0), "one has 3 eigenvalues, the other 4"),
        (lambda: rank_paired_information(np.ones(3), np.ones(3), 0.0), "positive floor"),
        (lambda: rank_paired_information(np.array([np.nan]), np.ones(1), 1.0), "finite"),
        (lambda: joint_information(np.ones(3), np.eye(2), np.ones(2)), "add up to 1"),
        (lambda: joint_information(np.ones(3) / 3, np.eye(2), np.ones(3)), "a joint law has shares"),
        (lambda: joint_information(np.ones(3) / 3, np.ones((2, 2)), np.ones(2) / 3), "no two orthonormal bases"),
    ],
)
def test_refused(call, line):
    with pytest.raises(InputError, match=line):
        call()
