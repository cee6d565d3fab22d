"""Certified eigenvalues: the bounds against exact spectra, and the rate of wrong intervals from random chains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from landscape import InputError, MatrixOperator, SymmetricOperator, lanczos, top_eigenpairs
from landscape.spectrum.certificate import certified_intervals, edges_for_the_rest
from landscape.spectrum.certified import CertifiedSolve
from landscape.spectrum.ends import order_by_which, select
from landscape.spectrum.iteration import Goal
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.search import MISSED_AT_MOST, missed_probability, unseen_edge
from landscape.spectrum.solve import Solve
from tests.spectrum.test_eigenpairs import SPECTRA, _Noisy
from tests.support.oracles import symmetric

DTYPES = [torch.float64, torch.float32]
ENDS = ["LM", "LA", "SA", "BE"]
BULK = np.random.default_rng(0).uniform(-1, 1, 300)


def oracle_error(exact: np.ndarray) -> float:
    """A bound of the backward error of the dense solver, and of a matrix that was made from a spectrum."""
    return 4 * len(exact) * np.finfo(float).eps * max(np.abs(exact).max(), 1e-300)


def contained(pairs, exact: np.ndarray) -> np.ndarray:
    """(k,) whether each interval contains the eigenvalue of its place; with its mirror image for LM."""
    expected = exact[select(exact, len(pairs.eigenvalues), pairs.which)]
    low, high = pairs.intervals.T
    error = oracle_error(exact)
    inside = (low - error <= expected) & (expected <= high + error)
    if pairs.which == "LM":
        inside |= (low - error <= -expected) & (-expected <= high + error)
    return inside


def check(pairs, matrix: torch.Tensor) -> None:
    exact = np.linalg.eigvalsh(matrix.double().numpy())
    assert pairs.complete
    assert contained(pairs, exact).all()
    errors = np.abs(pairs.intervals - pairs.eigenvalues[:, None]).max(axis=1)
    assert (errors <= np.maximum(pairs.tol_value * np.abs(pairs.eigenvalues), 4 * pairs.rounding)).all()
    assert (pairs.intervals[:, 0] <= pairs.eigenvalues).all()
    assert (pairs.eigenvalues <= pairs.intervals[:, 1]).all()
    vectors = pairs.eigenvectors.double()
    residuals = torch.linalg.vector_norm(
        matrix.double() @ vectors - torch.tensor(pairs.eigenvalues) * vectors, dim=0
    ).numpy()
    assert np.abs(residuals - pairs.residuals).max() <= 2 * pairs.rounding  # both are the true residuals


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("name", SPECTRA)
def test_hard_spectra(name, which):
    matrix = symmetric(SPECTRA[name], dtype=DTYPES[len(name) % 2])
    check(top_eigenpairs(matrix, 3, which, tol_value=0.01), matrix)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 1.5, 3.0]), min_size=1, max_size=9),
    st.data(),
    st.sampled_from(DTYPES),
    st.sampled_from(ENDS),
)
def test_small_operators_of_any_multiplicity_are_certified_whole(eigenvalues, data, dtype, which):
    k = data.draw(st.integers(1, len(eigenvalues)))
    matrix = symmetric(eigenvalues, dtype=dtype)
    check(top_eigenpairs(matrix, k, which, tol_value=0.01), matrix)


def test_each_copy_of_a_triple_eigenvalue_has_an_interval_of_its_own():
    pairs = top_eigenpairs(symmetric([5.0, 5.0, 5.0, *BULK]), 4, tol_value=1e-3)
    assert np.abs(pairs.eigenvalues[:3] - 5).max() < 5e-3
    assert pairs.intervals[3, 1] < 1.01


def test_eigenvalues_cost_less_than_residuals():
    matrix = symmetric([5.0, 4.0, 3.0, 2.0, 1.5, *BULK])
    assert top_eigenpairs(matrix, 5, tol_value=0.01).products < top_eigenpairs(matrix, 5, tol=1e-3).products


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(ENDS), st.integers(2, 12), st.integers(1, 8))
def test_the_bound_holds_for_any_subspace_and_any_edge_that_is_one(seed, which, n, held):
    """With eta the largest eigenvalue of the complement, the bound holds with certainty."""
    rng = np.random.default_rng(seed)
    held = min(held, n)
    k = int(rng.integers(1, held + 1))
    matrix = symmetric(rng.choice([-2.0, -1.0, 0.0, 1.0, 3.0, float(rng.normal())], n), seed).numpy()
    frame, _ = np.linalg.qr(rng.standard_normal((n, n)))
    inside, outside = frame[:, :held], frame[:, held:]
    values, coordinates = np.linalg.eigh(inside.T @ matrix @ inside)
    wanted = select(values, k, which)
    order = np.concatenate([wanted, np.setdiff1d(np.arange(held), wanted)])
    # All Ritz pairs are locked, so unwanted pairs lie further in, as the bound needs.
    border = outside.T @ matrix @ inside @ coordinates[:, order]
    spectrum = np.linalg.eigvalsh(outside.T @ matrix @ outside)
    edges = (float(spectrum[-1]), float(spectrum[0])) if held < n else (-math.inf, math.inf)
    exact = np.linalg.eigvalsh(matrix)
    intervals = certified_intervals(values[order], border, edges, n, k, which)
    error = 100 * oracle_error(exact)
    for i, (low, high) in enumerate(intervals):
        value = values[wanted[i]]
        from_above = value >= 0 if which == "LM" else which == "LA" or (which == "BE" and i < (k + 1) // 2)
        place = held - 1 - wanted[i] if from_above else wanted[i]
        assert low - error <= (exact[::-1] if from_above else exact)[place] <= high + error
        if which == "LM":
            assert (
                min(abs(low), abs(high)) - error <= np.sort(np.abs(exact))[::-1][i] <= max(abs(low), abs(high)) + error
            )


def test_the_bound_is_attained_where_the_complement_is_a_multiple_of_the_identity():
    matrix = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 1.0]])
    intervals = certified_intervals(np.array([2.0]), np.array([[0.3]]), (1.0, 1.0), 3, 1, "LA")
    assert intervals[0, 1] == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-15)


@pytest.mark.parametrize("seed", range(20))
def test_the_unseen_edge_is_where_the_chance_is_the_one_asked_for(seed):
    found = lanczos(symmetric(BULK, seed), 3 + seed, seed)
    edge = unseen_edge(found.alpha, found.beta, 300, 1e-3)
    assert missed_probability(found.alpha, found.beta, edge, 300) <= 1e-3
    largest = np.linalg.eigvalsh(np.diag(found.alpha) + np.diag(found.beta[:-1], 1) + np.diag(found.beta[:-1], -1))[-1]
    below = edge - 1e-5 * (edge - found.alpha.min())
    assert below <= largest or missed_probability(found.alpha, found.beta, below, 300) > 1e-3


def test_steps_so_small_that_the_polynomials_overflow_leave_no_chance():
    assert missed_probability(np.zeros(40), np.full(40, 1e-10), 1.0, 100) == 0.0
    assert unseen_edge(np.zeros(40), np.full(40, 1e-10), 100, 1e-3) < 1e-9


def test_a_closed_chain_has_seen_everything():
    assert unseen_edge(np.array([1.0, 2.0]), np.array([0.5, 0.0]), 10, 1e-3) == pytest.approx(1.5 + math.sqrt(0.5))


def test_what_was_not_reached_has_an_interval_that_says_so():
    matrix = symmetric(np.linspace(0, 1, 800))
    exact = np.linalg.eigvalsh(matrix.numpy())
    for allowed in (1, 5, 10, 30, 50):
        for which in ENDS:
            pairs = top_eigenpairs(matrix, 5, which, tol_value=1e-4, max_products=allowed)
            assert pairs.products <= max(allowed, 5) + 1
            assert not pairs.complete
            assert contained(pairs, exact).all()
    assert np.isinf(top_eigenpairs(matrix, 5, tol_value=1e-4, max_products=10).intervals).any()
    assert top_eigenpairs(matrix, 5, tol_value=1e-4, max_products=10).miss_probability == 1


def test_a_small_basis_restarts_and_still_certifies():
    eigenvalues = np.concatenate([np.linspace(0, 1, 800), [1.2, 1.4, 1.6]])
    matrix = symmetric(eigenvalues)
    check(top_eigenpairs(matrix, 3, "LA", tol_value=1e-3, basis_size=24), matrix)
    undecided = top_eigenpairs(matrix, 3, "LA", tol_value=1e-3, basis_size=10)  # too few vectors for a long search
    assert not undecided.complete
    assert contained(undecided, np.linalg.eigvalsh(matrix.numpy())).all()


def test_products_are_all_counted_and_split():
    operator = MatrixOperator(symmetric(SPECTRA["indefinite"]))
    told = []
    pairs = top_eigenpairs(operator, 3, tol_value=0.01, progress=told.append)
    assert pairs.products == operator.products
    assert 0 < pairs.products_verification < pairs.products
    assert {each.phase for each in told} == {"iterating", "searching"}
    assert all(each.residuals.shape == (3,) and 0 <= each.fraction <= 1 for each in told)


def test_a_seed_decides_everything_and_scaling_nothing():
    matrix = symmetric(SPECTRA["indefinite"])
    first, again, other = (top_eigenpairs(matrix, 3, seed=seed, tol_value=0.01) for seed in (1, 1, 2))
    assert np.array_equal(first.intervals, again.intervals)
    assert not np.array_equal(first.intervals, other.intervals)
    scaled = top_eigenpairs(matrix * 1024, 3, seed=1, tol_value=0.01)
    assert scaled.products == first.products
    assert np.abs(scaled.intervals / 1024 - first.intervals).max() < 1e-5  # the edge is found to 1e-6 of the spectrum


def test_the_rounding_of_products_is_measured_and_widens_the_intervals():
    eigenvalues = [10.0, 5.0, 1e-3, *np.linspace(-1e-4, 1e-4, 200)]
    matrix = symmetric(eigenvalues)
    pairs = top_eigenpairs(_Noisy(matrix, 1e-6), 3, tol_value=1e-5, max_products=300)
    # Each column of A Q - Q P has an error of at most 1e-6 ||A|| = 1e-5. The mean of the squares is measured.
    assert 1e-7 < pairs.rounding < math.sqrt(300) * 1e-5
    assert contained(pairs, np.linalg.eigvalsh(matrix.numpy())).all()


def test_an_operator_that_is_not_symmetric_is_refused():
    class Skewed(SymmetricOperator):
        def _product(self, vectors):
            return torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.5, 1.0]]).double() @ vectors

    with pytest.raises(InputError, match="isn't symmetric") as caught:
        top_eigenpairs(Skewed(3, torch.device("cpu"), torch.float64), 2, tol_value=0.01)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tol_value", [0, -1, 1, float("nan"), float("inf")])
def test_a_goal_out_of_range_is_refused(tol_value):
    with pytest.raises(InputError, match="tol_value must lie between 0 and 1"):
        top_eigenpairs(np.eye(3), 1, tol_value=tol_value)


def adversarial(rng: np.random.Generator) -> np.ndarray:
    """Spectra that hide eigenvalues: copies of the wanted ones and values just beyond a dense continuum."""
    n = int(rng.integers(20, 100))
    bulk = rng.choice([0, 1, 2])
    inner = [rng.uniform(-1, 1, n), np.cos(np.pi * rng.random(n)), np.tile(np.linspace(-1, 1, 5), n // 5 + 1)[:n]][bulk]
    outer = rng.choice([1.0, 1.001, 1.01, 1.1, 1.5, 3.0, -1.01, -1.5], rng.integers(1, 8))
    return np.concatenate([inner, outer])


def missed_intervals(seeds: range) -> int:
    """Number of solves with an interval that doesn't contain its eigenvalue."""
    miss_probability = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        eigenvalues = adversarial(rng)
        matrix = torch.diag(torch.tensor(eigenvalues, dtype=DTYPES[seed % 2]))
        k, which = int(rng.integers(1, 6)), str(rng.choice(ENDS))
        accuracy = float(rng.choice([0.1, 0.01, 1e-3]))
        limit = int(rng.integers(k, 200))
        pairs = top_eigenpairs(matrix, k, which, seed=seed, tol_value=accuracy, max_products=limit)
        miss_probability += not contained(pairs, np.sort(matrix.diagonal().double().numpy())).all()
    return miss_probability


def most_missed(solves: int) -> int:
    """The number of misses that is exceeded with a chance of 1e-6, if each solve misses with the allowed chance."""
    return int(binom.ppf(1 - 1e-6, solves, MISSED_AT_MOST))


def test_intervals_contain_the_eigenvalues_of_adversarial_spectra():
    assert missed_intervals(range(60)) <= most_missed(60)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 3000, 1000))
def test_intervals_contain_the_eigenvalues_of_a_thousand_adversarial_spectra(first):
    assert missed_intervals(range(first, first + 1000)) <= most_missed(1000)


class TestStart:
    """Warm starts: results are right for every start."""

    MATRIX = symmetric([5.0, -4.0, 3.0, 2.0, *BULK])
    EXACT = np.linalg.eigh(MATRIX.numpy())

    @pytest.mark.parametrize("tol_value", [None, 0.01])
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("columns", [[-1], [0], [-1, 0, -2], [5, 6, 7], []])
    def test_exact_eigenvectors_wanted_or_not(self, columns, dtype, tol_value):
        """From an invariant subspace the Krylov sequence ends at once, and random vectors find the missing pairs."""
        matrix = self.MATRIX.to(dtype)
        start = torch.tensor(self.EXACT[1][:, columns], dtype=dtype)
        pairs = top_eigenpairs(matrix, 3, tol_value=tol_value, start=start)
        assert pairs.complete
        assert np.abs(pairs.eigenvalues - [5, -4, 3]).max() < 0.03
        if tol_value is not None:
            check(pairs, matrix)

    @pytest.mark.parametrize("tol_value", [None, 0.01])
    def test_vectors_orthogonal_to_the_wanted_ones_or_without_a_sum(self, tol_value):
        bulk = torch.tensor(self.EXACT[1][:, 1:-3].sum(axis=1, keepdims=True))
        for start in (bulk, torch.zeros(304, 2, dtype=torch.float64), torch.cat([bulk, -bulk], dim=1)):
            pairs = top_eigenpairs(self.MATRIX, 3, tol_value=tol_value, start=start)
            assert pairs.complete
            assert np.abs(pairs.eigenvalues - [5, -4, 3]).max() < 0.03

    def test_good_vectors_save_products(self):
        rng = np.random.default_rng(1)
        near = self.EXACT[1][:, [-1, 0, -2]] + 1e-2 * rng.standard_normal((304, 3)) / math.sqrt(304)
        cold = top_eigenpairs(self.MATRIX, 3)
        warm = top_eigenpairs(self.MATRIX, 3, start=torch.tensor(near))
        assert warm.products < cold.products

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_vectors_that_are_not_finite_are_refused(self, bad):
        start = torch.zeros(304, 2, dtype=torch.float64)
        start[3, 1] = bad
        with pytest.raises(InputError, match="NaN or infinite") as caught:
            top_eigenpairs(self.MATRIX, 3, start=start)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("shape", [(304,), (303, 2), (2, 304), (304, 2, 1)])
    def test_vectors_of_another_shape_are_refused(self, shape):
        with pytest.raises(InputError, match=r"start must have the shape \(304, l\)"):
            top_eigenpairs(self.MATRIX, 3, start=torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(25))
def test_a_tie_with_a_value_further_in_is_counted_from_its_own_end(seed):
    """Of five zeros four were found. The fifth smallest eigenvalue is the fifth zero, and not the 3 found instead."""
    matrix = torch.diag(torch.tensor([3.0, 3.0, *[0.0] * 5], dtype=torch.float64))
    for which, sign in (("SA", 1), ("LA", -1)):
        check(top_eigenpairs(sign * matrix, 5, which, seed=seed, tol_value=1e-3), sign * matrix)
    low, high = certified_intervals(np.array([1.0, 1, 1, 1000, 1000]), np.zeros((0, 5)), (np.inf, 1.0), 6, 4, "SA")[3]
    assert (low, high) == (1, 1000)


@pytest.mark.parametrize("seed", range(10))
def test_a_small_basis_has_room_for_what_a_search_meets(seed):
    values = 1 - np.logspace(0, -6, 60)
    values[-4:] = values[-1]
    pairs = top_eigenpairs(torch.diag(torch.as_tensor(values)), 2, "LA", seed=seed, tol_value=1e-3, basis_size=24)
    assert (pairs.intervals[:, 0] <= values[-1] + 1e-12).all()
    assert (pairs.intervals[:, 1] >= values[-1] - 1e-12).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_nothing_lies_beyond_the_edges_where_the_rest_is_within_its_own(seed, held, rest):
    rng = np.random.default_rng(seed)
    values, border = rng.uniform(-1, 1, held), rng.standard_normal((rest, held)) * rng.choice([1e-3, 0.1, 1.0])
    outer = 1 + rng.uniform(0.01, 2), -1 - rng.uniform(0.01, 2)
    above, below = edges_for_the_rest(values, border, outer)
    for edge, place, eta in ((outer[0], -1, above), (outer[1], 0, below)):
        bounding = np.block([[np.diag(values), border.T], [border, eta * np.eye(rest)]])
        assert np.linalg.eigvalsh(bounding)[place] == pytest.approx(edge, abs=1e-9 * np.abs(bounding).max())
    if above > below:
        middle = symmetric(rng.uniform(below, above, rest), seed).numpy()
        spectrum = np.linalg.eigvalsh(np.block([[np.diag(values), border.T], [border, middle]]))
        assert outer[1] - 1e-9 <= spectrum[0] <= spectrum[-1] <= outer[0] + 1e-9


def test_edges_stay_where_nothing_is_held_or_an_end_is_not_wanted():
    assert edges_for_the_rest(np.zeros(0), np.zeros((1, 0)), (2.0, -3.0)) == (2.0, -3.0)
    assert edges_for_the_rest(np.zeros(1), np.ones((1, 1)), (2.0, -math.inf)) == (1.5, -math.inf)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=9, unique_by=abs), st.data(), st.sampled_from(ENDS))
def test_more_than_the_wanted_values_are_those_next_to_them(values, data, which):
    values = np.array(values, dtype=float)
    k = data.draw(st.integers(1, len(values)))
    order = order_by_which(values, k, which)
    assert list(order[:k]) == list(select(values, k, which))
    for count in range(k, len(values) + 1):
        assert set(order[:count]) == set(select(values, count, which))


def test_pairs_that_are_held_shorten_a_search(monkeypatch):
    matrix = symmetric([*np.linspace(5, 2, 30), *BULK])
    some = top_eigenpairs(matrix, 5, seed=1)
    monkeypatch.setattr(Solve, "_alone", True)
    none = top_eigenpairs(matrix, 5, seed=1)
    assert some.complete
    assert none.complete
    assert some.products_verification < none.products_verification


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_a_copy_beside_pairs_that_are_held_is_found_or_known_to_be_none_of_the_wanted(k, seed):
    """The last wanted eigenvalue has copies, which a chain finds at a moved edge."""
    pairs = top_eigenpairs(symmetric([5.0, *[4.0] * 3, *np.linspace(3.9, 2, 20), *BULK], seed), k, seed=seed)
    assert pairs.complete
    assert (np.abs(pairs.eigenvalues - [5.0, 4.0, 4.0][:k]) <= pairs.residuals + pairs.rounding).all()


def test_two_ends_share_a_chance():
    def solve(which):
        operator = MatrixOperator(torch.eye(300))
        basis = KrylovBasis(operator, 20, 0)
        return CertifiedSolve(operator, Goal(2, which, 0.01, 100), basis, lambda _: None, 0)

    found = lanczos(symmetric(BULK), 12, 0)
    above, below = (solve(which).edges(found.alpha, found.beta, 300, 5e-4) for which in ("LA", "SA"))
    for which in ("LM", "BE"):
        assert solve(which).edges(found.alpha, found.beta, 300, 1e-3) == (above[0], below[1])
