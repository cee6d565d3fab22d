"""Log det and effective dimension against all eigenvalues of matrices in float64, and over many seeds."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom

import landscape
from landscape import InputError, MatrixOperator, SymmetricOperator
from landscape.curvature.gauss_newton import GaussNewton
from landscape.spectrum.functions import DeterminedShare, ShiftedLogarithm, effective_dimension, log_det
from landscape.spectrum.lower_end import lower_end
from landscape.spectrum.quadrature import gauss, radau
from landscape.spectrum.summation import deflation_error
from tests.conftest import ROOT
from tests.support.oracles import dense, symmetric

RNG = np.random.default_rng(0)
DTYPES = [torch.float64, torch.float32]
BOTH = [log_det, effective_dimension]

# Eigenvalues, and an alpha for which A + alpha I is positive definite.
SPECTRA = {
    "positive definite": (np.exp(RNG.uniform(-2, 3, 160)), 0.1),
    "singular, semi-definite": (np.concatenate([np.zeros(100), np.exp(RNG.uniform(-2, 3, 60))]), 0.1),
    "indefinite": (np.concatenate([RNG.normal(0, 1, 157), [50, 30, -5]]), 6.0),
    "low rank": (np.concatenate([np.zeros(140), RNG.uniform(1, 10, 20)]), 0.5),
    "clustered": (np.concatenate([1 + 1e-6 * RNG.uniform(size=80), 5 + 1e-6 * RNG.uniform(size=80)]), 0.5),
    "outliers": (np.concatenate([RNG.uniform(0, 2, 157), [1000, 300, 100]]), 1.0),
    "huge": (1e12 * np.exp(RNG.uniform(-2, 3, 160)), 1e11),
    "tiny": (1e-12 * np.exp(RNG.uniform(-2, 3, 160)), 1e-13),
    "negative": (-np.exp(RNG.uniform(-2, 1, 160)), 4.0),
    "multiple of the identity": (np.full(160, 3.0), 1.0),
    "zero": (np.zeros(160), 1.0),
}


def exact(function, eigenvalues, alpha):
    """The sums over all eigenvalues, written in the plainest way."""
    if function is log_det:
        return math.fsum(np.log(eigenvalues + alpha))
    return math.fsum(value / (value + alpha) for value in eigenvalues if value > 0)


def as_stored(matrix):
    """The eigenvalues of a matrix as it is stored, in float64."""
    return np.linalg.eigvalsh(matrix.double().numpy())


# ---------------------------------------------------------------------- the number


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("function", BOTH)
def test_the_exact_sum_is_within_its_rounding(name, dtype, function):
    values, alpha = SPECTRA[name]
    matrix = symmetric(values, dtype=dtype)
    found, truth = function(matrix, alpha), exact(function, as_stored(matrix), alpha)
    assert found.method == "exact", "160 products are fewer than ten probes take"
    assert found.converged
    assert found.standard_error == 0
    assert found.low <= truth <= found.high
    if function is log_det:
        sign, logarithm = np.linalg.slogdet(matrix.double().numpy() + alpha * np.eye(160))
        assert sign == 1
        assert found.low <= logarithm <= found.high
    # The rounding of 160 eigenvalues, each moved by about 160 eps ||A|| at most: not more than it need be. A slope of f
    # is at most one over the least lambda + alpha, for the effective dimension over alpha.
    least = values.min() + alpha if function is log_det else alpha
    assert found.half_width <= 160 * 2 * 160 * torch.finfo(dtype).eps * max(np.abs(values).max(), alpha) / least + 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("function", BOTH)
def test_probes_agree_with_the_exact_sum(name, dtype, function):
    """Chains of 14 steps, so that 160 products are more than ten probes take, but the quadrature isn't exact.

    The mean of ten samples is within five standard errors, beyond which chi^2 of 40 degrees of freedom, as skewed as
    that of four eigenvalues, lies with a chance of 1e-5, and the errors that they share.
    """
    values, alpha = SPECTRA[name]
    matrix = symmetric(values, dtype=dtype)
    found, truth = function(matrix, alpha, probes=10, steps=14), exact(function, as_stored(matrix), alpha)
    assert found.method == "probes"
    assert found.converged
    assert len(found.samples) == found.probes == 10
    assert found.value == pytest.approx(found.samples.mean())
    assert abs(found.value - truth) <= 5 * found.standard_error + found.shared_error
    radius = 1.9599639845 * found.standard_error + found.shared_error
    assert (found.low, found.high) == pytest.approx((found.value - radius, found.value + radius))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", BOTH)
def test_one_dimension(function, dtype):
    found = function(torch.tensor([[3.0]], dtype=dtype), 1.0)
    assert found.low <= exact(function, np.array([3.0]), 1.0) <= found.high
    assert found.half_width < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("function", BOTH)
def test_without_spread_it_is_said(function):
    """After deflation of the outlier one distinct eigenvalue is left, so all probes give one value."""
    found = function(symmetric([7.0] + [2.0] * 159), 1.0, probes=10, steps=14, k=1)
    truth = exact(function, np.array([7.0] + [2.0] * 159), 1.0)
    assert found.agree
    assert "agree up to rounding" in found.remarks[0]
    assert abs(found.value - truth) <= found.half_width + 160 * 7 * np.finfo(np.float64).eps  # the matrix as stored
    assert not function(symmetric(np.linspace(1, 2, 160)), 1.0, probes=10, steps=14).agree


@pytest.mark.parametrize("function", BOTH)
def test_a_diagonal_matrix_is_no_special_case(function):
    """Rademacher probes would all give its trace of f exactly; Gaussian ones have the spread of any other matrix."""
    values = np.exp(RNG.uniform(-1, 2, 160))
    found = function(np.diag(values), 1.0, probes=20, steps=7)
    rotated = function(symmetric(values), 1.0, probes=20, steps=7)
    assert not found.agree
    # F distribution of 19 and 19 degrees of freedom: a ratio of variances beyond 10 has a chance of 1e-5.
    assert 1 / 10 < (found.samples.var() / rotated.samples.var()) < 10


# ---------------------------------------------------------------------- the interval


COVERED = {
    "outliers": (np.concatenate([[50.0, 20.0], np.random.default_rng(1).uniform(0, 2, 98)]), 1.0, 2),
    "low rank, few left": (np.concatenate([np.zeros(94), np.random.default_rng(2).uniform(5, 6, 6)]), 0.5, 2),
    "indefinite": (np.concatenate([[30.0, -5.0], np.random.default_rng(3).uniform(-1, 4, 98)]), 8.0, 2),
    "no deflation": (np.concatenate([[50.0], np.random.default_rng(4).uniform(0.5, 2, 99)]), 1.0, 0),
}


def covering(function, name, seeds, probes=8, steps=12):
    """Numbers of runs in which the interval without shared errors, and the whole interval, hold the exact sum."""
    values, alpha, k = COVERED[name]
    matrix, truth = symmetric(values), exact(function, values, alpha)
    plain = whole = 0
    for seed in range(seeds):
        found = function(matrix, alpha, probes=probes, steps=steps, k=k, seed=seed)
        assert found.method == "probes"
        whole += found.low <= truth <= found.high
        plain += abs(found.value - truth) <= found.half_width - found.shared_error
    return plain, whole


@pytest.mark.parametrize(("function", "name"), [(log_det, "no deflation"), (effective_dimension, "low rank, few left")])
def test_coverage(function, name):
    """The number of 60 intervals of 95 % that hold is as expected, with a chance of 0.1 % to fail on either side."""
    _, whole = covering(function, name, 60)
    low, high = binom.ppf([0.001, 0.999], 60, 0.95)
    assert low <= whole <= high


@pytest.mark.slow
@pytest.mark.parametrize("name", COVERED)
@pytest.mark.parametrize("function", BOTH)
def test_coverage_over_many_seeds(function, name):
    """92 to 98 % of 1,000 intervals hold, which allows 4 binomial standard deviations of 0.7 % on either side."""
    plain, whole = covering(function, name, 1000)
    assert whole >= 920
    assert plain <= 980


def holding(function, seeds, dim, **settings):
    """Of so many intervals by probes that stop at a goal: how many hold the exact sum, and how many probes were made.

    Half of the dimensions are flat, the others fall by a power, and a few are outliers; a diagonal of them has all that
    a dense matrix has, as probes are the same in any basis.
    """
    values = np.concatenate([np.full(dim // 2, 0.02), 5 / np.arange(1, dim - dim // 2 + 1) ** 0.5, [40.0, 25.0]])
    truth, held, probes = exact(function, values, 0.1), 0, []
    for seed in range(seeds):
        found = function(Diagonal(values), 0.1, seed=seed, **settings)
        assert found.method == "probes"
        held += found.low <= truth <= found.high
        probes.append(found.probes)
    return held, probes


@pytest.mark.parametrize(
    ("function", "dim", "steps", "tol"), [(log_det, 1500, 10, 0.015), (effective_dimension, 3000, 15, 0.009)]
)
def test_coverage_where_probes_are_added_until_a_goal_is_reached(function, dim, steps, tol):
    """Each look is a chance to stop at a narrow sample by chance, and 95 % coverage must hold all the same."""
    held, probes = holding(function, 20, dim, tol=tol, steps=steps, k=0)
    assert held >= binom.ppf(0.001, 20, 0.95)
    assert np.median(probes) > 10, "the first look was not the last"


@pytest.mark.slow
@pytest.mark.parametrize("function", BOTH)
def test_coverage_of_what_is_asked_for_by_default(function):
    """The matrix has more dimensions than are summed exactly. Errors that probes share only widen the interval."""
    held, _ = holding(function, 60, 1500)
    assert held >= binom.ppf(0.001, 60, 0.95)


def test_the_standard_error_is_that_of_the_samples():
    """The deviation of 100 samples has an error of 1 / sqrt(200), 7 %, and the deviation from the nodes has none."""
    values = np.random.default_rng(9).uniform(0, 2, 1000)
    found = effective_dimension(Diagonal(values), 0.5, probes=100, steps=8, k=0)
    shares = values / (values + 0.5)
    exactly = np.sqrt(2 * 1000 / 1002 * ((shares**2).sum() - shares.sum() ** 2 / 1000))
    assert found.samples.std(ddof=1) == pytest.approx(exactly, rel=4 * 0.07)
    assert found.standard_error * np.sqrt(100) == pytest.approx(exactly, rel=0.02)


@pytest.mark.parametrize("function", BOTH)
def test_deflation_narrows_the_interval(function):
    values, alpha, _ = COVERED["outliers"]
    plain, deflated = (function(symmetric(values), alpha, probes=8, steps=12, k=k) for k in (0, 2))
    assert deflated.standard_error < plain.standard_error


def test_samples_are_the_same_whatever_their_number():
    values, alpha, k = COVERED["outliers"]
    few, many = (log_det(symmetric(values), alpha, probes=p, steps=12, k=k) for p in (3, 8))
    np.testing.assert_array_equal(few.samples, many.samples[:3])


# ---------------------------------------------------------------------- the errors that probes share


def chain_of(matrix, x, steps):
    """The tridiagonal matrix of a start vector, by the plain recurrence with full reorthogonalisation in NumPy."""
    basis, alpha, beta = [x / np.linalg.norm(x)], [], []
    for _ in range(steps):
        product = matrix @ basis[-1]
        alpha.append(basis[-1] @ product)
        for _ in range(2):
            product -= np.array(basis).T @ (np.array(basis) @ product)
        beta.append(np.linalg.norm(product))
        basis.append(product / beta[-1])
    return np.array(alpha), np.array(beta)


@pytest.mark.parametrize("seed", range(5))
def test_the_logarithms_quadrature_error_is_a_bound(seed):
    """Gauss rules bound the sum from above and Gauss-Radau rules from below, for any number of steps."""
    rng = np.random.default_rng(seed)
    values, x = np.exp(rng.uniform(-4, 3, 60)), rng.standard_normal(60)
    truth = (x**2 / (x @ x)) @ np.log(values + 0.01)
    function = ShiftedLogarithm(0.01, 0.5 * values.min())
    for steps in range(2, 20):
        alpha, beta = chain_of(np.diag(values), x, steps)
        upper, lower = (
            (weights @ function(nodes)) for nodes, weights in (gauss(alpha, beta), radau(alpha, beta, function.low))
        )
        value, error = function.quadrature(alpha, beta)
        assert lower < truth < upper
        assert (value - error, value + error) == pytest.approx((lower, upper), rel=1e-12)


def test_the_shares_quadrature_error_is_seldom_too_small():
    """The estimate is no bound. At most 2 % of 300 errors on kinked spectra exceed it, and no mean of five of 60."""
    small, both = 0, []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        values, x = np.random.default_rng(seed // 5).normal(0, 1, 60), rng.standard_normal(60)
        function = DeterminedShare(0.1)
        truth = (x**2 / (x @ x)) @ function(values)
        alpha, beta = chain_of(np.diag(values), x, 16)
        rules = np.array([function.quadrature(alpha[:steps], beta[:steps]) for steps in range(4, 16)])
        small += (np.abs(rules[:, 0] - truth) > rules[:, 1]).sum()
        both.append(np.stack([rules[:, 0] - truth, rules[:, 1]]))
    assert small <= 6
    off, error = np.array(both).reshape(5, 5, 2, -1).mean(1).swapaxes(0, 1)
    assert (np.abs(off) <= error).all()


@pytest.mark.parametrize("size", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("name", ["outliers", "indefinite", "singular, semi-definite"])
@pytest.mark.parametrize("function", BOTH)
def test_the_deflation_error_bounds_what_residuals_do(function, name, size):
    """Rayleigh and Ritz in a subspace off by an angle of about ``size``, the rest compressed to its complement."""
    values, alpha = SPECTRA[name]
    order = np.argsort(-np.abs(values))
    noise = np.random.default_rng(5).standard_normal((160, 3)) * size / np.sqrt(160)
    basis = np.linalg.qr(np.eye(160)[:, order[:3]] + noise, mode="complete")[0]
    together = basis.T @ (values[:, None] * basis)
    outliers, rotation = np.linalg.eigh(together[:3, :3])
    residuals = np.linalg.norm(together[3:, :3] @ rotation, axis=0)
    rest = np.linalg.eigvalsh(together[3:, 3:])
    f = ShiftedLogarithm(alpha, values.min()) if function is log_det else DeterminedShare(alpha)
    off = abs(f(outliers).sum() + f(rest).sum() - exact(function, values, alpha))
    bound = deflation_error(f, outliers, residuals)
    assert off <= bound + 160 * 1e-15 * np.abs(values).max() / alpha
    half = deflation_error(f, outliers, residuals / 10)
    assert half <= bound / 9.99, "at least of first order"


# ---------------------------------------------------------------------- positive definite, or refused


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_lower_end_lies_between_its_bounds(name, dtype):
    values, alpha = SPECTRA[name]
    matrix = MatrixOperator(symmetric(values, dtype=dtype))
    lowest = as_stored(matrix.matrix)[0]
    end = lower_end(matrix, alpha, 0, 1000, lambda _: None)
    dense = 160 * np.finfo(np.float64).eps * np.abs(values).max()  # the oracle's own error
    assert end.low - dense <= lowest <= end.high + dense
    assert end.low + alpha > 0
    assert matrix.products == end.steps + 2


def test_the_lower_end_is_seldom_wrong():
    """A start often lacks the lowest eigenvector in 100 small random problems; at most 0.1 % should be wrong."""
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        values = np.concatenate([[rng.uniform(-0.3, 0)], rng.uniform(0, 1, rng.integers(2, 60))])
        end = lower_end(MatrixOperator(np.diag(values)), 0.2, seed, 1000, lambda _: None)
        wrong += not end.low <= values[0] <= end.high
    assert wrong <= binom.ppf(0.9999, 100, 1e-3)


@pytest.mark.parametrize("settings", [{}, {"probes": 4, "steps": 12}])
def test_log_det_of_what_isnt_positive_definite_is_refused(settings):
    matrix = symmetric(SPECTRA["indefinite"][0])
    with pytest.raises(InputError, match=r"is not defined for alpha = 4: the lowest.*--matrix ggn") as refused:
        log_det(matrix, 4.0, **settings)
    offered = float(str(refused.value).split("alpha = ")[2].split()[0])
    assert 5 <= offered <= 5.6, "the lowest eigenvalue, -5, to a tenth"
    assert log_det(matrix, offered, **settings).converged


@pytest.mark.parametrize("settings", [{}, {"probes": 4, "steps": 12}])
def test_log_det_on_the_verge_is_undecided(settings):
    values = np.concatenate([[0.0], np.linspace(1, 2, 159)])
    with pytest.raises(InputError, match=r"undecided for alpha = 0"):
        log_det(symmetric(values), 0.0, **settings)


class _Diagonal(SymmetricOperator):
    def __init__(self, values):
        super().__init__(len(values), values.device, values.dtype)
        self.values = values

    def _product(self, vectors):
        return self.values[:, None] * vectors


@pytest.mark.parametrize(("dtype", "outlier"), [(torch.float32, 1e6), (torch.float32, 1e7), (torch.float64, 1e15)])
def test_an_outlier_does_not_hide_that_a_matrix_is_indefinite(dtype, outlier):
    """-3 is below the rounding of the first products. A chain that stopped there would miss it in 9 % of seeds."""
    values = torch.tensor([outlier, *[0.0] * 4998, -3.0], dtype=dtype)
    for seed in range(50):
        with pytest.raises(InputError, match="log det"):
            log_det(_Diagonal(values), 2.0, seed=seed, probes=2)


def test_log_det_is_undecided_where_products_are_too_few():
    values = np.exp(np.random.default_rng(6).uniform(-12, 0, 400))
    with pytest.raises(InputError, match=r"perhaps far lower; more products, float64 or a larger alpha may do"):
        log_det(symmetric(values), 1e-7, steps=4, k=0, max_products=60)


@pytest.mark.parametrize("settings", [{}, {"probes": 4, "steps": 12}])
def test_alpha_may_be_zero_for_a_positive_definite_matrix(settings):
    values = np.linspace(1, 2, 160)
    found = log_det(symmetric(values), 0.0, **settings)
    assert abs(found.value - np.log(values).sum()) <= 5 * found.standard_error + found.shared_error


def test_where_no_room_is_for_the_full_spectrum_probes_go_on(monkeypatch):
    matrix = symmetric(np.linspace(1, 2, 160))
    assert log_det(matrix, 0.0).method == "exact"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=160**2 * 8 - 1))
    assert log_det(matrix, 0.0).method == "probes"
    assert effective_dimension(matrix, 1.0, tol=1e-3, steps=12, max_products=2000).method == "probes"


# ---------------------------------------------------------------------- scale


@pytest.mark.parametrize("factor", [1024.0, 2.0**-40, 3.0])
@pytest.mark.parametrize("settings", [{}, {"probes": 5, "steps": 12}])
def test_the_unit_of_the_matrix_changes_nothing(factor, settings):
    """For a power of two c, log det(c A + c alpha I) = log det(A + alpha I) + n log c without other rounding."""
    values, alpha = SPECTRA["indefinite"]
    matrix = symmetric(values)
    one, other = (log_det(c * matrix, c * alpha, **settings) for c in (1.0, factor))
    assert other.value == pytest.approx(one.value + 160 * np.log(factor), rel=1e-13 if factor != 3 else 1e-9)
    assert other.standard_error == pytest.approx(one.standard_error, rel=1e-9)
    one, other = (effective_dimension(c * matrix, c * alpha, **settings) for c in (1.0, factor))
    assert other.value == pytest.approx(one.value, rel=1e-15 if factor != 3 else 1e-9)
    assert other.products == one.products


# ---------------------------------------------------------------------- when it ends


class Diagonal(SymmetricOperator):
    """A diagonal operator of many dimensions, with cheap products."""

    def __init__(self, values):
        super().__init__(len(values), torch.device("cpu"), torch.float64)
        self._values = torch.as_tensor(values).unsqueeze(1)

    def _product(self, vectors):
        return self._values * vectors


LARGE = np.random.default_rng(7).uniform(0, 2, 3000)


@pytest.mark.parametrize(("function", "tol"), [(log_det, 0.004), (effective_dimension, 0.004)])
def test_probes_are_added_until_the_goal_is_reached(function, tol):
    operator = Diagonal(LARGE)
    found = function(operator, 0.5, tol=tol, steps=15, k=0)
    assert found.method == "probes"
    assert found.converged
    assert found.probes > 10
    assert found.half_width <= found.goal == pytest.approx(tol * (3000 if function is log_det else found.value))
    assert found.products == operator.products
    truth = exact(function, LARGE, 0.5)
    assert abs(found.value - truth) <= 5 * found.standard_error + found.shared_error


@pytest.mark.parametrize("function", BOTH)
def test_a_goal_that_takes_more_products_than_the_spectrum_is_reached_exactly(function):
    found = function(symmetric(LARGE[:200]), 0.5, tol=1e-6, steps=15, k=0)
    assert found.method == "exact"
    assert found.converged
    assert found.products > 201 + 150, "what was made before is counted"


@pytest.mark.parametrize("function", BOTH)
def test_too_few_products_are_said(function):
    found = function(Diagonal(LARGE), 0.5, tol=1e-4, steps=15, k=0, max_products=300)
    assert not found.converged
    assert found.products <= 300
    assert found.probes >= 10
    assert "allow more products" in found.remarks[0]


def test_too_few_steps_are_said():
    values = np.exp(np.random.default_rng(8).uniform(-7, 3, 1500))
    found = log_det(Diagonal(values), 1e-2, steps=5, k=0, max_products=400)
    assert not found.converged
    assert "make more steps" in found.remarks[0]


def test_progress_comes_to_the_end():
    seen = []
    log_det(symmetric(LARGE[:200]), 0.5, probes=10, steps=15, k=2, progress=seen.append)
    fractions = [at.fraction for at in seen]
    assert {at.phase for at in seen} >= {"bounding", "iterating", "sampling"}
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert fractions[-1] == 1


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha must be"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"alpha": float("inf")}, "alpha must be"),
        ({"tol": 0.0}, "must lie between 0 and 1"),
        ({"probes": 1}, "probes must be at least 2"),
        ({"probes": 5, "tol": 0.1}, "takes the place of a goal"),
        ({"steps": 1}, "steps must be at least 2"),
        ({"k": -1}, "k must not be negative"),
        ({"seed": -1}, "seed must lie"),
        ({"max_products": 100}, "the first probes take 161 products"),
    ],
)
def test_bad_arguments_are_refused(function, settings, message):
    with pytest.raises(InputError, match=message):
        function(symmetric(LARGE[:160]), **{"alpha": 1.0} | settings)


def test_an_effective_dimension_needs_an_alpha_above_zero():
    with pytest.raises(InputError, match="finite positive number, not 0"):
        effective_dimension(symmetric([1.0, 2.0]), 0.0)


@pytest.mark.parametrize("function", BOTH)
def test_products_that_arent_finite_are_refused(function):
    values = LARGE.copy()
    values[7] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        function(Diagonal(values), 0.5, probes=2, steps=3, k=0)


# ---------------------------------------------------------------------- a trained transformer

MADE = {log_det: GaussNewton, effective_dimension: lambda problem: problem.hessian()}


@pytest.fixture(scope="module")
def trained():
    """The eigenvalues in float64 of each function's matrix, at the shipped looped transformer."""
    problem = landscape.load_problem(ROOT / "data/looped.pt", dtype="float64")
    return {function: as_stored(dense(made(problem))) for function, made in MADE.items()}


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1e-3, 1e-1])
@pytest.mark.parametrize("function", BOTH)
def test_a_trained_looped_transformer(function, alpha, trained):
    """Gauss-Newton's log det and the Hessian's effective dimension, in float32 against float64's dense matrices."""
    operator = MADE[function](landscape.load_problem(ROOT / "data/looped.pt", dtype="float32"))
    found, truth = function(operator, alpha, probes=10, steps=60), exact(function, trained[function], alpha)
    assert found.method == "probes"
    assert abs(found.value - truth) <= 5 * found.standard_error + found.shared_error
    assert found.standard_error <= 0.05 * abs(truth)


def test_a_spectrum_that_contradicts_its_lower_end_is_refused_and_no_nan():
    """Eigenvalues are 18 orders of magnitude apart, so the search for the lowest one saw only rounding."""
    with pytest.raises(InputError, match="undecided for alpha = 2: the products show an eigenvalue"):
        ShiftedLogarithm(2.0, -1.9)(np.array([1e15, -3.0]))
