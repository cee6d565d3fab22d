"""Trace and Frobenius norm: unbiased estimates, and intervals that cover the truth or say that they may not."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from benchmarks.accuracy.coverage import MOST_PRODUCTS, coverage_of, first, looped_attention, study, synthetic
from landscape import InputError, MatrixOperator
from landscape.spectrum.eigenpairs import top_eigenpairs
from landscape.spectrum.estimate import FEWEST_PROBES, Estimate, interval
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.probes import probe_block
from landscape.spectrum.trace import DEFLATION, check_arguments, estimate_trace
from tests.support.oracles import CLOSED_FORMS, dense, perceptron, symmetric

RNG = np.random.default_rng(0)
SPECTRA = {
    "indefinite": RNG.normal(0.3, 1, 120),
    "one outlier": [1000.0, *RNG.uniform(0, 1, 119)],
    "clusters": [5.0] * 40 + [1.0] * 40 + [-1.0] * 40,
    "singular": [3.0, 2.0, 1.0, *[0.0] * 117],
    "decay": 1 / np.arange(1.0, 121.0),
}
SEEDS = 100


@pytest.mark.parametrize("deflation", [0, 3, 30])
@pytest.mark.parametrize("name", SPECTRA)
def test_both_estimates_are_unbiased(name, deflation):
    matrix = symmetric(SPECTRA[name])
    trace, square = float(matrix.trace()), float(matrix.square().sum())
    found = [estimate_trace(matrix, probes=10, seed=seed, deflation=deflation) for seed in range(60)]
    for truth, each in [(trace, [f.samples for f in found]), (square, [f.squares for f in found])]:
        # Means of different seeds are independent: their mean is within 5 of its standard errors, t of 59 degrees.
        means = np.mean(each, axis=1)
        assert abs(means.mean() - truth) <= 5 * means.std(ddof=1) / len(means) ** 0.5 + 1e-12 * abs(truth)


def assert_samples_are_quadratic_forms(found, basis, matrix):
    """Compare the samples of seed 5 with the dense matrix, deflated by a basis and the Krylov vectors beside it."""
    pending = basis.append_random()
    while basis.expanded < found.deflation:
        pending = basis.expand(pending).pending
    q = basis.rows.stacked(found.deflation)
    outside = torch.eye(len(matrix)) - q @ q.T
    rest, probes = outside @ matrix @ outside, probe_block(basis.operator, 5, range(found.probes))
    samples = (q.T @ matrix @ q).trace() + (probes * (rest @ probes)).sum(0)
    squares = matrix.square().sum() - rest.square().sum() + (rest @ probes).square().sum(0)
    np.testing.assert_allclose(found.samples, samples, rtol=1e-12)
    np.testing.assert_allclose(found.squares, squares, rtol=1e-12)


def test_samples_are_the_quadratic_forms_of_the_deflated_matrix():
    matrix = symmetric(SPECTRA["indefinite"])
    operator = MatrixOperator(matrix)
    found = estimate_trace(operator, probes=12, seed=5, deflation=7)
    assert_samples_are_quadratic_forms(found, KrylovBasis(operator, 8, 5), matrix)
    # 7 of the deflation, 12 probes, 1 for the rounding, 2 to see that the matrix is symmetric.
    assert (found.deflation, found.probes, found.products) == (7, 12, 22)
    assert found.trace.value == pytest.approx(found.samples.mean())
    assert found.frobenius.value == pytest.approx(found.squares.mean() ** 0.5)


@pytest.mark.parametrize("tol", [1e-2, 1e-8])
@pytest.mark.parametrize("deflation", [4, 9])
def test_known_eigenpairs_are_exact_directions_however_badly_they_converged(deflation, tol):
    matrix = symmetric(SPECTRA["indefinite"])
    operator = MatrixOperator(matrix)
    known = top_eigenpairs(operator, 6, tol=tol)
    held = min(6, deflation)
    before = operator.products
    found = estimate_trace(operator, probes=12, seed=5, deflation=deflation, known=known)
    # One holds the pairs to the operator, one measures the rounding.
    assert found.products == operator.products - before == 2 + 1 + (deflation - held) + 12 + 1
    assert found.deflation == deflation
    basis = KrylovBasis(operator, deflation + 1, 5)
    basis.lock(known.eigenvalues[:held], known.eigenvectors[:, :held])
    assert_samples_are_quadratic_forms(found, basis, matrix)


def test_intervals_with_known_eigenpairs_hold():
    matrix = symmetric(SPECTRA["one outlier"])
    truth, known = float(matrix.trace()), top_eigenpairs(matrix, 5)
    found = [estimate_trace(matrix, probes=10, seed=seed, deflation=10, known=known).trace for seed in range(SEEDS)]
    held = coverage_of(found, truth).held
    assert binom.ppf(1e-4, SEEDS, 0.92) <= held <= binom.ppf(1 - 1e-4, SEEDS, 0.98)


def test_what_rounding_did_to_known_eigenvalues_is_in_the_interval():
    matrix = symmetric([1e4] * 5 + [0.0] * 115).to(torch.float32)
    known = top_eigenpairs(matrix, 5)
    found = estimate_trace(matrix, probes=10, deflation=5, known=known)
    assert found.rounding >= 5**0.5 * known.rounding
    assert abs(found.trace.value - 5e4) <= found.trace.half_width
    assert found.frobenius.high - found.frobenius.value >= 5**0.5 * known.rounding


def test_where_rounding_alone_is_wider_than_the_goal_probes_end():
    found = estimate_trace(symmetric(SPECTRA["indefinite"]).to(torch.float32), tol=1e-9)
    assert found.rounding_limited
    assert (found.converged, found.probes) == (False, FEWEST_PROBES)
    assert "rounding alone is as wide" in found.remarks[0]


def test_interval_is_students():
    found = interval(np.array([1.0, 2.0, 3.0]), 0.5)
    # The 97.5 % point of t with 2 degrees of freedom is 4.3027, the standard error 1/sqrt(3).
    assert found.value == 2.0
    assert found.standard_error == pytest.approx(3**-0.5)
    assert found.high == pytest.approx(2 + 4.302652730 * 3**-0.5 + 0.5)
    assert found.low == pytest.approx(4 - found.high)
    assert found.half_width == pytest.approx(found.high - 2)


def test_the_first_probes_are_those_of_a_shorter_run():
    matrix = symmetric(SPECTRA["decay"])
    long, short = (estimate_trace(matrix, probes=probes, seed=4) for probes in (50, 20))
    np.testing.assert_allclose(long.samples[:20], short.samples, rtol=1e-13)
    for one, other in zip(first(long, 20), (short.trace, short.frobenius), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-13)
        assert one.standard_error == pytest.approx(other.standard_error, rel=1e-9)
        assert one.high == pytest.approx(other.high, rel=1e-9)


def test_one_seed_gives_one_estimate_and_another_seed_another():
    matrix = symmetric(SPECTRA["decay"])
    one, again, other = (estimate_trace(matrix, seed=seed) for seed in (1, 1, 2))
    assert one.trace == again.trace
    assert one.trace != other.trace


@pytest.mark.parametrize("deflation", [0, 30])
def test_differences_between_two_points_of_one_seed_spread_less_than_either(deflation):
    change = 1e-3 * symmetric(RNG.normal(0, 1, 120), seed=1)
    before = symmetric(SPECTRA["indefinite"])
    here, there = (
        estimate_trace(matrix, probes=40, deflation=deflation, seed=2) for matrix in (before, before + change)
    )
    differences = there.samples - here.samples
    assert differences.std() < 0.02 * here.samples.std()
    # 40 samples, t of 39 degrees: 5 standard errors.
    assert abs(differences.mean() - float(change.trace())) <= 5 * differences.std(ddof=1) / 40**0.5


@pytest.mark.parametrize("name", ["indefinite", "one outlier", "decay as 1/k"])
def test_intervals_hold_and_standard_errors_are_the_spread(name):
    (case,) = [case for case in synthetic(120) if case.name == name]
    found = study(case, SEEDS, (10, 30))
    # Coverage of 92 to 98 %, seen in 100 seeds: outside in one of 10,000 trials at either end.
    low, high = binom.ppf(1e-4, SEEDS, 0.92), binom.ppf(1 - 1e-4, SEEDS, 0.98)
    for coverages in found.deflated.values():
        for coverage in coverages.values():
            assert low <= coverage.held <= high
            # The root of an unbiased variance from 10 is 3 % short on average. A standard deviation from 100 values is
            # off by 1 / sqrt(2 * 100) = 7 %, of which four are allowed.
            assert abs(coverage.ratio - 1) <= 0.03 + 4 / (2 * SEEDS) ** 0.5
    # At least 90 % when the error decides where to stop.
    for coverage in found.stopped.values():
        assert coverage.held >= binom.ppf(1e-4, SEEDS, 0.90)
    assert found.claimed == SEEDS
    assert found.fewest >= FEWEST_PROBES


def test_a_trace_of_zero_is_never_claimed():
    (case,) = [case for case in synthetic(200) if case.trace_is_zero]
    found = study(case, 50, (10,))
    assert found.claimed == 0
    assert found.fewest == MOST_PRODUCTS - DEFLATION - 3
    # The interval holds all the same: 95 %, seen in 50 seeds.
    assert found.stopped["trace"].held >= binom.ppf(1e-4, 50, 0.95)


def test_plain_probes_undercover_an_outlier_and_the_study_sees_it():
    matrix = symmetric([1000.0, *RNG.uniform(0, 1, 79)])
    truth = float(matrix.trace())
    plain = [estimate_trace(matrix, probes=10, seed=seed, deflation=0).trace for seed in range(1000)]
    # The samples follow chi^2 of one degree of freedom, whose skewness a t-interval of ten doesn't cover: less than
    # 92 %, seen in 1,000 seeds.
    assert coverage_of(plain, truth).held < binom.ppf(1e-4, 1000, 0.92)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(6))
def test_coverage_over_a_thousand_seeds(index):
    case = ([looped_attention(64)] if index == 5 else synthetic(300))[index % 5]
    found = study(case, 1000)
    for coverages in found.deflated.values():
        for coverage in coverages.values():
            assert 0.92 <= coverage.held / 1000 <= 0.98
            assert abs(coverage.ratio - 1) <= 0.1
    assert found.stopped["trace"].held >= 900
    assert found.claimed == (0 if case.trace_is_zero else 1000)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_small_operators_are_done_exactly(name):
    form = CLOSED_FORMS[name]()
    operator = form.problem.hessian()
    found = estimate_trace(operator)
    assert (found.method, found.probes, found.deflation, len(found.samples)) == ("exact", 0, 0, 0)
    assert found.products == operator.products == operator.dim + 1
    computed = dense(operator)
    for estimate, truth, exact in [
        (found.trace, computed.trace(), form.hessian.trace()),
        (found.frobenius, computed.norm(), form.hessian.norm()),
    ]:
        assert estimate.low <= float(truth) <= estimate.high
        # The closed forms are at points of exact arithmetic, whose rounding the Hessian amplifies a few times.
        assert estimate.value == pytest.approx(float(exact), rel=100 * 2.0**-52)
        assert estimate.standard_error == 0
        assert estimate.half_width <= 1e-12 * float(truth)
    assert found.converged
    assert found.remarks == ()


def test_exact_where_it_costs_less_than_probes():
    matrix = symmetric(SPECTRA["indefinite"])
    assert estimate_trace(matrix, probes=90).method == "exact"  # 30 + 90 products are no less than 120
    assert estimate_trace(matrix, probes=89).method == "probes"
    tight = estimate_trace(matrix, tol=1e-4)
    assert tight.method == "exact"
    assert tight.products == 2 + 30 + 10 + 1 + 120 + 1  # the switch to the exact trace is made after ten probes
    assert tight.trace.low <= float(matrix.trace()) <= tight.trace.high
    assert tight.converged


def test_one_dimension():
    found = estimate_trace(np.array([[-3.0]]))
    assert (found.trace.value, found.frobenius.value, found.method) == (-3.0, 3.0, "exact")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probes_that_agree_say_so(dtype):
    matrix = torch.diag(torch.arange(1.0, 201.0, dtype=dtype))
    found = estimate_trace(matrix, deflation=0)
    assert found.agree
    assert found.converged
    assert (found.probes, found.trace.value) == (FEWEST_PROBES, pytest.approx(20100, abs=found.rounding))
    assert found.trace.low <= 20100 <= found.trace.high
    assert "agree up to rounding" in found.remarks[0]
    assert "diagonal" in found.remarks[0]


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_every_copy_of_a_multiple_outlier_is_deflated(copies):
    """One Krylov sequence finds one copy and ends. The other copies would reduce the coverage to some 87 %."""
    matrix = symmetric([1.0] * copies + [0.0] * (300 - copies))
    found = estimate_trace(matrix, probes=10)
    assert found.agree
    assert found.trace.low <= copies <= found.trace.high
    assert found.frobenius.low <= copies**0.5 <= found.frobenius.high


def test_a_low_rank_that_deflation_takes_whole_leaves_nothing_to_probe():
    matrix = symmetric(SPECTRA["singular"])
    found = estimate_trace(matrix)
    assert found.deflation == 30
    assert found.agree
    assert found.trace.low <= 6 <= found.trace.high
    assert found.frobenius.low <= 14**0.5 <= found.frobenius.high
    assert found.trace.half_width < 1e-12


def test_a_diagonal_with_trace_zero_is_no_claim():
    matrix = torch.diag(torch.tensor([3.0, -3.0, 1.0, -1.0] * 25, dtype=torch.float64))
    found = estimate_trace(matrix, deflation=0)
    assert found.agree
    assert not found.converged
    assert found.trace.low <= 0 <= found.trace.high
    assert len(found.remarks) == 2
    assert "float64" in found.remarks[1]


def test_an_exact_trace_of_zero_is_no_claim_either():
    found = estimate_trace(symmetric([*range(1, 11), *range(-10, 0)]))
    assert found.method == "exact"
    assert not found.converged
    assert found.trace.low <= 0 <= found.trace.high
    assert "rounding" in found.remarks[0]


def test_zero_has_trace_zero():
    found = estimate_trace(torch.zeros(100, 100))
    assert (found.trace, found.frobenius) == (Estimate(0, 0, 0, 0),) * 2
    assert found.converged


def test_products_are_limited_and_the_shortfall_said():
    matrix = symmetric(RNG.normal(0, 1, 300))
    operator = MatrixOperator(matrix)
    found = estimate_trace(operator, tol=0.001, max_products=150)
    assert found.products == operator.products == 150
    assert found.probes == 150 - 30 - 3
    assert not found.converged
    (remark,) = found.remarks
    assert "after 150 products" in remark
    assert "allow more products" in remark


def test_where_a_run_stops_follows_from_its_samples():
    matrix = symmetric(RNG.normal(0.3, 1, 400))
    found = estimate_trace(matrix, tol=0.1, seed=3)
    assert found.converged
    assert found.trace.half_width <= 0.1 * abs(found.trace.value)
    assert found.probes > 2 * FEWEST_PROBES
    # At the looks before this one the goal wasn't reached.
    looks, wanted = [], FEWEST_PROBES
    while wanted < found.probes:
        seen = interval(found.samples[:wanted], found.rounding)
        assert seen.half_width > 0.1 * abs(seen.value)
        looks.append(wanted)
        ratio = (seen.half_width - found.rounding) / (0.1 * abs(seen.value) - found.rounding)
        wanted = min(2 * wanted, int(np.ceil(wanted * ratio**2)))
    assert wanted == found.probes
    assert all(later <= 2 * earlier for earlier, later in pairwise([*looks, wanted]))


@pytest.mark.parametrize("scale", [1e-30, 1e20])
def test_scale_changes_nothing(scale):
    matrix = symmetric(SPECTRA["indefinite"])
    one, scaled = estimate_trace(matrix), estimate_trace(scale * matrix)
    assert scaled.probes == one.probes
    assert scaled.trace.value == pytest.approx(scale * one.trace.value, rel=1e-10)
    assert scaled.frobenius.high == pytest.approx(scale * one.frobenius.high, rel=1e-10)


def test_single_precision_is_within_its_rounding():
    matrix = symmetric(SPECTRA["one outlier"])
    double, single = (estimate_trace(matrix.to(dtype), probes=20) for dtype in (torch.float64, torch.float32))
    # Converting the matrix moves any sample by |v^T E v| <= n ||E|| <= n eps ||A||; the Krylov sequences part, so the
    # samples may, but not their exact parts by more than the spread of either.
    truth = float(matrix.trace())
    assert 1e3 * double.rounding < single.rounding < 1e-3 * truth
    assert single.arithmetic == double.arithmetic == "in float64"
    assert single.trace.low <= truth <= single.trace.high
    assert single.frobenius.low <= float(matrix.norm()) <= single.frobenius.high
    exact = estimate_trace(matrix.float(), probes=90)
    assert exact.method == "exact"
    assert abs(exact.trace.value - float(matrix.float().double().trace())) <= exact.rounding < 1e-9 * truth


@pytest.mark.parametrize(("probes", "method"), [(2, "probes"), (44, "exact")])
def test_rounding_bounds_what_single_precision_does_to_a_hessians_trace(probes, method):
    single = perceptron().problem(nn.CrossEntropyLoss()).to(dtype=torch.float32)
    # The weights and data were converted: the Hessian of those, in double precision, is the truth.
    exact = dense(single.to(dtype=torch.float64).hessian())
    found = estimate_trace(single.hessian(), probes=probes, deflation=0)
    assert found.method == method
    assert 0 < found.rounding < 1e-3 * float(exact.norm())
    double = estimate_trace(exact, probes=probes, deflation=0)
    assert abs(found.trace.value - double.trace.value) <= found.rounding
    assert abs(found.frobenius.value - double.frobenius.value) <= 1e-5 * double.frobenius.value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 0.0}, "must lie between 0 and 1"),
        ({"tol": 1.0}, "must lie between 0 and 1"),
        ({"tol": float("nan")}, "must lie between 0 and 1"),
        ({"probes": 1}, "at least 2"),
        ({"seed": -1}, "seed must lie"),
        ({"deflation": -1}, "must not be negative"),
        ({"probes": 10, "tol": 0.1}, "leave out"),
        ({"probes": 10, "max_products": 100}, "leave out"),
        ({"max_products": 40}, "at least 47"),
        ({"max_products": 10, "deflation": 0}, "at least 17"),
    ],
)
def test_bad_arguments_are_refused_before_any_product(arguments, message):
    operator = MatrixOperator(np.eye(50))
    with pytest.raises(InputError, match=message):
        estimate_trace(operator, **arguments)
    assert operator.products == 0
    defaults = {"tol": None, "probes": None, "seed": 0}
    with pytest.raises(InputError, match=message):
        check_arguments(50, **(defaults | arguments))


def test_the_least_number_of_products_suffices():
    matrix = symmetric(RNG.normal(0, 1, 50))
    for each in (matrix, matrix.float()):
        assert estimate_trace(each, max_products=47).products == 47
    assert estimate_trace(matrix[:20, :20], max_products=21).products == 21


def test_products_that_are_not_finite_are_refused():
    operator = MatrixOperator(np.eye(100))
    operator.matrix[60, 60] = np.nan
    for deflation in (0, 30):
        with pytest.raises(InputError, match="NaN or infinite"):
            estimate_trace(operator, deflation=deflation)


def test_progress_counts_products_and_ends_at_all():
    told = []
    found = estimate_trace(symmetric(RNG.normal(0.3, 1, 400)), tol=0.1, progress=told.append)
    assert {each.phase for each in told} == {"deflating", "probing"}
    products = [each.products for each in told]
    assert products == sorted(products)
    assert all(0 < each.fraction <= 1 for each in told)
    assert (told[-1].products, told[-1].fraction) == (found.products, 1.0)
    told.clear()
    estimate_trace(np.eye(5), progress=told.append)
    assert {each.phase for each in told} == {"multiplying"}


def test_a_case_of_the_study_is_what_it_says():
    for case in synthetic(150):
        assert case.trace == pytest.approx(float(np.linalg.eigvalsh(case.matrix).sum()), abs=1e-9)
        assert case.frobenius == pytest.approx(float(np.linalg.norm(np.linalg.eigvalsh(case.matrix))))
