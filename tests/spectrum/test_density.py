"""The spectral density against laws of random matrices, single probes, and exact spectra, one of a trained model."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import landscape
from landscape import InputError, SymmetricOperator
from landscape.spectrum.bandwidth import choose_width
from landscape.spectrum.density import spectral_density
from landscape.spectrum.eigenpairs import top_eigenpairs
from landscape.spectrum.probes import probe
from tests.support.oracles import dense, symmetric

DTYPES = [torch.float64, torch.float32]
OUTLIERS = [30.0, -20.0, 10.0]
BULK = np.random.default_rng(0).uniform(-1, 1, 117)
SPECTRUM = np.concatenate([OUTLIERS, BULK])
MATRIX = symmetric(SPECTRUM)


class Diagonal(SymmetricOperator):
    """The operator diag(d), also of large dimension."""

    def __init__(self, entries):
        self.entries = torch.as_tensor(entries, dtype=torch.float64)
        super().__init__(len(self.entries), torch.device("cpu"), torch.float64)

    def _product(self, vectors):
        return self.entries[:, None] * vectors


def sampling_distance(eigenvalues, probes):
    """The expected Wasserstein-1 distance of p probes from a spectrum, without any quadrature error.

    The squares of a uniform unit vector's coordinates follow a Dirichlet law, so the share of r of n of them has the
    variance 2 r (n - r) / (n^2 (n + 2)), and E|z| of a normal z is sqrt(2 / pi) times its standard deviation.
    """
    x, n = np.sort(eigenvalues), len(eigenvalues)
    share = np.arange(1, n) / n
    return math.sqrt(2 / math.pi) * np.sqrt(2 * share * (1 - share) / ((n + 2) * probes)) @ np.diff(x)


# ---------------------------------------------------------------------- laws of random matrices


def semicircle(x):
    """Wigner's law on [-2, 2]: the distribution function."""
    x = np.clip(x, -2, 2)
    return 0.5 + x * np.sqrt(4 - x**2) / (4 * np.pi) + np.arcsin(x / 2) / np.pi


def marchenko_pastur(x, ratio):
    """The law of X X^T / d for X (n, d) of ratio n / d: the distribution function, its density integrated."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # lambda = middle - radius cos(angle) takes the roots at the edges out of the integrand.
    angle = np.linspace(0, np.pi, 20_001)
    at = (low + high) / 2 - (high - low) / 2 * np.cos(angle)
    integrand = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * ratio * at)
    integral = np.concatenate([[0], np.cumsum((integrand[1:] + integrand[:-1]) / 2 * np.diff(angle))])
    return np.where(np.asarray(x) >= 0, max(0.0, 1 - 1 / ratio), 0.0) + np.interp(x, at, integral)


def gaussian(rows, columns):
    return torch.from_numpy(np.random.default_rng(1).standard_normal((rows, columns)))


def orthogonal_ensemble():
    x = gaussian(1000, 1000)
    return (x + x.T) / math.sqrt(2000)


def wishart(dim, samples):
    x = gaussian(dim, samples)
    return x @ x.T / samples


LAWS = {
    "semicircle": (orthogonal_ensemble, semicircle),
    "Marchenko-Pastur, more samples than dimensions": (lambda: wishart(800, 1600), lambda x: marchenko_pastur(x, 0.5)),
    "Marchenko-Pastur, half of it null": (lambda: wishart(800, 400), lambda x: marchenko_pastur(x, 2.0)),
}


@pytest.mark.parametrize("law", LAWS)
def test_random_matrices_have_the_density_of_their_law(law):
    make, distribution = LAWS[law]
    matrix = make()
    found = spectral_density(matrix, probes=10, steps=50, k=0)
    grid = np.linspace(-3, 7, 20_001)
    difference = np.abs(found.cdf(grid)[0] - distribution(grid))
    # The quantiles of the law stand for the spectrum, which is off by O(1/n) only. Each probe's step function is off
    # by w_j / 2 at most on either side of the law where that is smooth: sum_j w_j gap_j / 4, half the width.
    quantiles = np.interp((np.arange(len(matrix)) + 0.5) / len(matrix), distribution(grid), grid)
    assert difference.sum() * (grid[1] - grid[0]) <= 2 * sampling_distance(quantiles, 10) + found.width / 2


def test_a_null_space_is_a_node_of_its_share():
    found = spectral_density(wishart(800, 400), probes=10, steps=50, k=0)
    shares = np.where(np.abs(found.nodes) < 1e-6, found.weights, 0).sum(1)  # the gap to the rest is 0.17
    error = math.sqrt(2 * 0.5 * 0.5 / (802 * 10))
    assert abs(shares.mean() - 0.5) < 4 * error


# ---------------------------------------------------------------------- small and degenerate operators


DEGENERATE = {
    "one": [2.0],
    "five": [1.0, -2.0, 3.0, 0.5, 7.0],
    "multiple": [3.0] * 7 + [1.0] * 20 + [-2.0] * 3,
    "zero": [0.0] * 20,
    "identity": [1.0] * 20,
    "low rank": [4.0, -1.0] + [0.0] * 60,
    "huge": list(1e12 * BULK[:30]),
    "tiny": list(1e-12 * BULK[:30]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("k", [0, 1, 10])
def test_more_steps_than_dimensions_give_the_exact_spectrum_and_nothing_invented(name, dtype, k):
    eigenvalues = np.sort(DEGENERATE[name])
    matrix = symmetric(eigenvalues, dtype=dtype)
    found = spectral_density(matrix, probes=3, steps=100, k=k)
    exact = np.linalg.eigvalsh(matrix.double().numpy())
    # Lidskii's bound for the outliers, whose residuals are a tolerance, and the dense solver's own error.
    margin = 2 * found.residuals.sum() + found.rounding + len(exact) * np.finfo(float).eps * np.abs(exact).max()
    present = found.nodes[np.isfinite(found.nodes)]
    for value in (*found.outliers, *present):
        assert np.abs(exact - value).min() <= margin
    assert found.undeflated == 0
    assert len(found.outliers) == min(k, len(exact))
    if len(found.outliers) < len(exact):
        assert np.abs(found.weights.sum(1) - 1).max() < 1e-12
        # Every eigenvalue is there: those of the bulk in every probe, since a probe has a part in all of them.
        rest = np.delete(exact, [int(np.abs(exact - value).argmin()) for value in found.outliers[:1]])
        for row in found.nodes if k <= 1 else ():
            assert max(np.nanmin(np.abs(row - value)) for value in rest) <= margin
    else:
        assert np.isnan(found.nodes).all()
        assert (found.weights == 0).all()


@pytest.mark.parametrize("name", ["multiple", "low rank", "five"])
def test_an_exhausted_chain_is_the_spectral_measure_of_its_probe(name):
    matrix = symmetric(DEGENERATE[name])
    values, vectors = np.linalg.eigh(matrix.numpy())
    found = spectral_density(matrix, probes=4, steps=100, k=0)
    grid = np.unique(np.round(values, 6)) + 0.1
    for index in range(4):
        start = probe(len(values), 0, index, "gaussian").numpy()
        measure = (vectors.T @ start) ** 2 / (start @ start)
        nodes, weights = found.nodes[index], found.weights[index]
        for x in grid:
            assert weights[nodes <= x].sum() == pytest.approx(measure[values <= x].sum(), abs=1e-10)


def test_a_null_bulk_is_a_point_mass_and_says_so():
    found = spectral_density(symmetric([5.0, -3.0] + [0.0] * 98, dtype=torch.float32), k=2)
    assert np.array_equal(found.cdf(np.array([-4.0, -1.0, 1.0, 6.0]))[0], [0, 0.01, 0.99, 1])
    assert found.width == 0
    assert found.bulk.distance(np.zeros(98)) <= found.rounding
    with pytest.raises(InputError, match="point mass"):
        found.smoothed(np.array([0.0]))
    assert found.smoothed(np.array([0.0]), 1e-2)[0] == pytest.approx(0.98 / (1e-2 * math.sqrt(2 * np.pi)), rel=1e-6)


class Cancelling(SymmetricOperator):
    """diag(d) in float32, as the difference of (d + 10^4) v and 10^4 v: with a rounding of 10^4 eps."""

    def __init__(self, entries):
        self.entries = torch.tensor(entries)
        super().__init__(len(entries), torch.device("cpu"), torch.float32)

    def _product(self, vectors):
        return (self.entries[:, None] + 1e4) * vectors - 1e4 * vectors


@pytest.mark.parametrize("k", [0, 2])
def test_what_rounding_makes_of_a_null_space_is_no_structure(k):
    outliers = [50.0, -30.0]
    found = spectral_density(Cancelling([*outliers, *[0.0] * 98]), k=k, steps=30)
    assert 1e-4 < found.rounding < 1e-1
    nodes = found.nodes[np.isfinite(found.nodes)]
    # The residual of an outlier has a rounding too.
    for value, allowed in (
        *zip(found.outliers, found.residuals, strict=True),
        *((node, found.rounding) for node in nodes),
    ):
        assert min(abs(value - exact) for exact in (*outliers, 0.0)) <= allowed
    assert (found.residuals < 1e-1).all()
    assert (found.width == 0) == (k == 2)


def test_with_all_eigenvalues_deflated_there_is_no_bulk():
    found = spectral_density(symmetric([1.0, 2.0, 3.0]), k=10)
    assert found.bulk_mass == 0
    assert np.allclose(found.cdf(np.array([0.0, 1.5, 2.5, 4.0]))[0], [0, 1 / 3, 2 / 3, 1], rtol=0, atol=1e-15)
    assert np.array_equal(*found.cdf_bounds(np.array([0.0, 1.5])))
    assert found.distance(np.array([1.0, 2.0, 3.0])) < 1e-14
    with pytest.raises(InputError, match="no bulk"):
        _ = found.bulk


# ---------------------------------------------------------------------- deflation


def test_outliers_are_exact_and_the_bulk_has_no_trace_of_them():
    found = spectral_density(MATRIX, probes=10, steps=40, k=3)
    assert np.abs(found.outliers - OUTLIERS).max() < 1e-6  # the residuals, 1e-4 of them at most, squared over gaps
    assert np.nanmax(np.abs(found.nodes)) < 1 + 1e-6
    assert found.bulk_mass == 117 / 120
    assert found.orthogonality < 1e-13
    low, high = found.cdf(np.array([-19.0, 9.0]))[0]
    assert low == pytest.approx(1 / 120, abs=1e-15)
    assert high == pytest.approx(118 / 120, abs=1e-15)
    # As for the laws above: twice what the probes promise, and half the width for the steps.
    assert found.distance(SPECTRUM) <= 117 / 120 * (2 * sampling_distance(BULK, 10) + found.width / 2)
    plain = spectral_density(MATRIX, probes=10, steps=40, k=0)
    assert found.distance(SPECTRUM) < plain.distance(SPECTRUM) / 2
    assert found.expected_distance < plain.expected_distance / 2


@pytest.mark.parametrize("tol", [0.3, 0.05])
def test_badly_converged_outliers_move_all_eigenvalues_by_less_than_twice_their_residuals(tol):
    """Lidskii's bound holds for the sum over all n eigenvalues, including those of the chain, which here spans all."""
    eigenvalues = np.concatenate([[3.0, -2.5, 2.0], BULK[:57]])
    found = spectral_density(symmetric(eigenvalues), probes=1, steps=100, k=3, tol=tol)
    together = np.sort(np.concatenate([found.outliers, found.nodes[np.isfinite(found.nodes)]]))
    assert len(together) == 60
    moved = np.abs(together - np.sort(eigenvalues)).sum()
    assert 1e-9 < moved <= 2 * found.residuals.sum()


def test_outliers_that_do_not_converge_are_sampled_and_counted():
    """An outlier lies above a continuous spectrum. At 1e-10 its edge needs more products than the search may make."""
    eigenvalues = np.append(np.cos(np.pi * (np.arange(800) + 0.5) / 1600), 3.0)
    found = spectral_density(Diagonal(eigenvalues), probes=2, steps=20, k=2, tol=1e-10)
    assert found.undeflated == 1
    assert np.abs(found.outliers - [3.0]).max() < 1e-12
    assert found.bulk_mass == 800 / 801
    assert found.cdf(np.array([1.01]))[0] == pytest.approx(800 / 801, abs=1e-12)


# ---------------------------------------------------------------------- errors


def test_known_outliers_are_searched_for_no_more_and_leave_what_a_search_leaves():
    operator = landscape.MatrixOperator(MATRIX)
    searched = spectral_density(operator, probes=3, steps=20, k=3, tol=1e-9)
    known = top_eigenpairs(operator, 5, tol=1e-9)
    before = operator.products
    found = spectral_density(operator, probes=3, steps=20, k=3, known=known)
    # One holds the pairs to the operator, three measure the rounding.
    assert found.products == operator.products - before == 2 + 1 + 3 * 20 + 3
    assert found.products_outliers == 1
    np.testing.assert_array_equal(found.outliers, known.eigenvalues[:3])
    np.testing.assert_allclose(found.nodes, searched.nodes, atol=1e-7)  # 2 * 3 residuals of 1e-9 * 30
    assert found.undeflated == 0


def test_known_pairs_that_did_not_converge_are_sampled_and_counted():
    operator = landscape.MatrixOperator(MATRIX)
    known = top_eigenpairs(operator, 6, max_products=7)
    assert not known.converged.all()
    found = spectral_density(operator, probes=2, steps=10, k=6, known=known)
    assert found.undeflated == 6 - known.converged.sum()


@pytest.mark.parametrize(
    ("matrix", "k", "which", "asked", "message"),
    [
        (symmetric(SPECTRUM, seed=5), 3, "LM", 3, "aren't of this operator"),
        (MATRIX, 3, "LA", 3, r"largest magnitude \(LM\), and these are of LA"),
        (MATRIX, 2, "LM", 3, "3 outliers of an operator of dimension 120 aren't among 2 pairs"),
        (MATRIX[:60, :60], 3, "LM", 3, "3 pairs of dimension 60"),
    ],
)
def test_known_pairs_of_something_else_are_refused(matrix, k, which, asked, message):
    known = top_eigenpairs(matrix, k, which)
    with pytest.raises(InputError, match=message):
        spectral_density(MATRIX, probes=2, steps=5, k=asked, known=known)


def test_standard_errors_are_those_of_the_probes():
    """Probes' shares are Dirichlet. Ten eigenvalues of multiplicity six keep chains short and quadrature exact."""
    n, p, seeds = 60, 10, 60
    matrix = torch.diag(torch.arange(10, dtype=torch.float64).repeat_interleave(6))
    matrix[0, 0] = 100
    grid = np.array([0.5, 2.5, 4.5, 7.5])
    shares = (6 * (np.floor(grid) + 1) - 1) / 59
    scores, variances = [], []
    for seed in range(seeds):
        estimate, error = spectral_density(matrix, p, 20, k=1, seed=seed).cdf(grid)
        spread = np.sqrt(2 * shares * (1 - shares) / (61 * p)) * 59 / n
        scores.append((estimate - shares * 59 / n) / spread)
        variances.append((error / spread) ** 2)
    # Means over seeds of chi^2 with 1 and 9 degrees of freedom, of relative variance 2 and 2/9, within 4 sigma.
    assert np.abs(np.mean(np.square(scores), axis=0) - 1).max() < 4 * math.sqrt(2 / seeds)
    assert np.abs(np.mean(variances, axis=0) - 1).max() < 4 * math.sqrt(2 / 9 / seeds)
    assert np.abs(np.mean(scores, axis=0)).max() < 4 / math.sqrt(seeds)


def test_the_expected_distance_is_that_of_the_probes():
    """Over seeds, predicted, measured and theoretical distances agree where the quadrature is exact."""
    eigenvalues = np.repeat(np.arange(10.0), 6)
    matrix = torch.diag(torch.from_numpy(eigenvalues))
    found = [spectral_density(matrix, 10, 20, k=0, seed=seed) for seed in range(40)]
    theory = sampling_distance(eigenvalues, 10)
    # E s is 0.973 sigma for ten normal samples; the distance varies by some 0.4 of itself from seed to seed.
    assert np.mean([one.expected_distance for one in found]) == pytest.approx(0.973 * theory, rel=0.1)
    assert np.mean([one.distance(eigenvalues) for one in found]) == pytest.approx(theory, rel=4 * 0.4 / math.sqrt(40))
    assert all(one.quadrature_distance >= 0 for one in found)


@pytest.mark.parametrize("steps", [3, 10, 30])
def test_the_bounds_of_the_quadrature_hold_for_the_measures_of_the_probes(steps):
    values, vectors = np.linalg.eigh(MATRIX.numpy())
    found = spectral_density(MATRIX, probes=3, steps=steps, k=0)
    starts = np.stack([probe(120, 0, index, "gaussian").numpy() for index in range(3)])
    measures = (starts @ vectors) ** 2 / (starts**2).sum(1, keepdims=True)
    nodes = found.nodes.flatten()
    grid = np.concatenate([np.linspace(-31, 31, 1000), np.linspace(-1.1, 1.1, 1000), nodes - 1e-9, nodes + 1e-9])
    exact = np.array([measures[:, values <= x].sum(1).mean() for x in grid])
    low, high = found.cdf_bounds(grid)
    assert (low <= exact + 1e-12).all()
    assert (exact <= high + 1e-12).all()
    assert (low <= found.cdf(grid)[0] + 1e-12).all()
    assert (found.cdf(grid)[0] <= high + 1e-12).all()


def test_the_share_below_a_point_lies_between_its_bounds():
    """40 % of eigenvalues lie below zero, all close to it. In 20 seeds the 95 % bounds miss no more than allowed."""
    rng = np.random.default_rng(0)
    below, above = -(10.0 ** rng.uniform(-6, -1, 40)), 10.0 ** rng.uniform(-6, 0, 60)
    matrix = symmetric([*below, *above])
    missed = 0
    for seed in range(20):
        (least,), (most,) = spectral_density(matrix, probes=5, steps=12, k=3, seed=seed).cdf_interval(np.zeros(1))
        missed += not least <= 0.4 <= most
    assert missed <= scipy.stats.binom.ppf(0.999, 20, 0.05)
    (least,), (most,) = spectral_density(matrix, probes=1, steps=12, k=3).cdf_interval(np.zeros(1))
    assert (least, most) == (0.0, pytest.approx(0.97)), "one probe tells nothing of what probes scatter by"


def test_bounds_at_one_point_know_nothing_of_other_points():
    found = spectral_density(MATRIX, probes=2, steps=10, k=0)
    grid = np.linspace(-31, 31, 40)
    alone = np.array([found.cdf_bounds(grid[place : place + 1]) for place in range(40)])[:, :, 0].T
    assert np.array_equal(np.array(found.cdf_bounds(grid)), alone)


def test_the_bounds_of_an_exhausted_quadrature_meet():
    found = spectral_density(symmetric(DEGENERATE["multiple"]), probes=3, steps=50, k=1)
    grid = np.linspace(-2.97, 4.03, 50)
    low, high = found.cdf_bounds(grid)
    distance = np.abs(grid[:, None] - [*found.outliers, *found.nodes[np.isfinite(found.nodes)]]).min()
    allowed = 10 * 4 * np.finfo(float).eps * 3 / distance  # what may hide in a remainder, by the distance of a node
    assert distance > 0.01
    assert (high - low <= allowed).all()
    assert np.allclose((low + high) / 2, found.cdf(grid)[0], rtol=0, atol=allowed)


def test_a_single_probe_has_no_standard_error():
    found = spectral_density(MATRIX, probes=1, steps=10, k=0)
    assert np.isnan(found.cdf(np.array([0.0]))[1]).all()
    assert np.isnan(found.smoothed(np.array([0.0]))[1]).all()
    assert math.isnan(found.expected_distance)


# ---------------------------------------------------------------------- what doesn't change


@pytest.mark.parametrize("factor", [1000.0, -1024.0, 2.0**-30])
def test_a_scaled_loss_scales_the_picture_and_nothing_else(factor):
    found = spectral_density(MATRIX, probes=4, steps=20, k=3)
    scaled = spectral_density(factor * MATRIX, probes=4, steps=20, k=3)
    forward = slice(None) if factor > 0 else slice(None, None, -1)
    # A power of two changes no rounding, except in the eigensolver of the tridiagonals, which scales by other numbers.
    assert np.allclose(scaled.nodes / factor, found.nodes[:, forward], rtol=1e-10, atol=1e-10)
    assert np.allclose(scaled.weights, found.weights[:, forward], rtol=0, atol=1e-9)
    assert np.allclose(scaled.outliers / factor, found.outliers, rtol=1e-12)
    assert scaled.width == pytest.approx(abs(factor) * found.width, rel=1e-9)
    assert scaled.rounding == pytest.approx(abs(factor) * found.rounding, rel=1)  # a measurement of rounding
    assert scaled.products == found.products
    grid = np.linspace(-2, 2, 41)
    for ours, theirs in zip(scaled.smoothed(factor * grid), found.smoothed(grid), strict=True):
        assert np.allclose(abs(factor) * ours, theirs, rtol=1e-7, atol=1e-9)


def test_a_probe_is_the_same_whatever_their_number():
    few, many = (spectral_density(MATRIX, probes=p, steps=20, k=3, seed=7) for p in (3, 5))
    for name in ("nodes", "weights", "alpha", "beta"):
        assert np.array_equal(getattr(few, name), getattr(many, name)[:3])


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_a_density_cut_short_is_the_one_measured_with_fewer_steps(steps):
    cut = spectral_density(MATRIX, probes=3, steps=20, k=3).truncated(steps)
    short = spectral_density(MATRIX, probes=3, steps=max(2, steps), k=3)
    for name in ("nodes", "weights", "alpha", "beta"):
        if steps > 1:
            assert np.array_equal(getattr(cut, name), getattr(short, name))
    assert cut.steps == steps
    assert cut.products == short.products - 3 * (steps == 1)


def test_float32_gives_the_density_of_float64_within_its_rounding():
    single = spectral_density(MATRIX.float(), probes=4, steps=30, k=3)
    double = spectral_density(MATRIX, probes=4, steps=30, k=3)
    # The measures of the probes differ by the rounding of the operator; so does every mean over them of x.
    assert single.distance(double.nodes[0]) == pytest.approx(double.distance(double.nodes[0]), abs=10 * single.rounding)
    assert np.abs(single.outliers - double.outliers).max() < single.rounding
    assert abs(single.width / double.width - 1) < 1e-2


# ---------------------------------------------------------------------- pictures


def test_the_smoothed_density_is_that_of_all_its_parts():
    found = spectral_density(MATRIX, probes=4, steps=30, k=3)
    grid = np.linspace(-40, 40, 40_001)
    density, error = found.smoothed(grid, 0.5)
    step = grid[1] - grid[0]
    assert density.sum() * step == pytest.approx(1, abs=1e-9)
    assert (error[np.abs(grid) < 1] > 0).all()
    slow = np.zeros_like(grid)
    for value in found.outliers:
        slow += scipy.stats.norm.pdf(grid, value, 0.5) / 120
    for row, weights in zip(found.nodes, found.weights, strict=True):
        for node, weight in zip(row, weights, strict=True):
            slow += scipy.stats.norm.pdf(grid, node, 0.5) * weight * 117 / 120 / 4
    assert np.abs(slow - density).max() < 1e-12


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 40.0]), min_size=1, max_size=8), st.integers(0, 4))
def test_the_distance_is_wassersteins(eigenvalues, k):
    found = spectral_density(symmetric([1.0, -3.0, 2.0, 0.0, 30.0]), probes=2, steps=3, k=k)
    positions = np.concatenate([found.outliers, found.nodes[np.isfinite(found.nodes)]])
    bulk = found.weights[np.isfinite(found.nodes)] * found.bulk_mass / 2
    masses = np.concatenate([np.full(k, 1 / 5), bulk])
    assert masses.sum() == pytest.approx(1)
    theirs = scipy.stats.wasserstein_distance(positions, eigenvalues, masses)
    assert found.distance(np.array(eigenvalues)) == pytest.approx(theirs, abs=1e-12)


def test_equal_nodes_are_smoothed_to_a_constant():
    """The ripple is 2 exp(-2 pi^2 / 4) = 1.4 % by Poisson's formula."""
    nodes = np.linspace(0, 1, 201)[None]
    width = choose_width(nodes, np.full((1, 201), 1 / 201), 1e-15)
    assert width == pytest.approx(0.0025)
    at = np.linspace(0.4, 0.6, 999)
    curve = scipy.stats.norm.pdf(at[:, None], nodes[0], width).mean(1)
    ripple = (curve.max() - curve.min()) / (curve.max() + curve.min())
    assert ripple == pytest.approx(2 * math.exp(-(np.pi**2) / 2), rel=1e-3)


def test_the_width_is_equivariant_and_knows_points():
    nodes = np.array([[-1.0, 0.0, 0.1, np.nan], [-2.0, 0.0, 1.0, 3.0]])
    weights = np.array([[0.2, 0.5, 0.3, 0.0], [0.25, 0.25, 0.25, 0.25]])
    width = choose_width(nodes, weights, 0.0)
    assert width == pytest.approx((0.2 * 1 + 0.5 * 0.55 + 0.3 * 0.1 + (2 + 1.5 + 1.5 + 2) / 4) / 4)
    assert choose_width(1024 * nodes, weights, 0.0) == 1024 * width
    assert choose_width(-nodes[:, ::-1], weights[:, ::-1], 0.0) == pytest.approx(width)
    assert choose_width(nodes + 7, weights, 0.0) == pytest.approx(width)
    assert choose_width(nodes, weights, 3.0) == 0
    assert choose_width(nodes[:, :1], np.ones((2, 1)), 0.0) == 0
    assert choose_width(np.full((2, 3), np.nan), np.zeros((2, 3)), 0.0) == 0


# ---------------------------------------------------------------------- what is refused


REFUSED = [
    ({"probes": 0}, "probes must be at least 1"),
    ({"steps": 1}, "steps must be at least 2"),
    ({"k": -1}, "k must not be negative"),
    ({"seed": -1}, "seed must lie between"),
    ({"seed": 2**63}, "seed must lie between"),
    ({"tol": 0.0}, "tol must lie between"),
    ({"tol": math.nan}, "tol must lie between"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_arguments_out_of_range_are_refused_in_a_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        spectral_density(MATRIX, **arguments)
    assert "\n" not in str(caught.value)


def test_questions_without_an_answer_are_refused():
    found = spectral_density(MATRIX, probes=2, steps=5, k=0)
    for steps in (0, 6):
        with pytest.raises(InputError, match="cut to between 1 and"):
            found.truncated(steps)
    for width in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="positive and finite"):
            found.smoothed(np.array([0.0]), width)
    for spectrum in ([], [1.0, math.nan]):
        with pytest.raises(InputError, match="at least one eigenvalue, and all finite"):
            found.distance(np.array(spectrum))


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("after", [0, 8])
def test_a_product_that_is_not_finite_is_refused(k, after):
    class Breaking(SymmetricOperator):
        def _product(self, vectors):
            return vectors * torch.arange(1.0, 21.0)[:, None] * (torch.nan if self.products >= after else 1.0)

    with pytest.raises(InputError, match="NaN or infinite"):
        spectral_density(Breaking(20, torch.device("cpu"), torch.float32), probes=2, steps=10, k=k)


def test_all_products_are_counted_and_told():
    told = []
    operator = Diagonal(SPECTRUM)
    found = spectral_density(operator, probes=3, steps=10, k=3, progress=told.append)
    assert found.products == operator.products
    assert found.products == found.products_outliers + 3 * 10 + 5  # three for the rounding, two for the symmetry
    fractions = [at.fraction for at in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert {"iterating", "sampling"} <= {at.phase for at in told}


# ---------------------------------------------------------------------- a trained model


@pytest.mark.slow
def test_the_density_of_a_trained_transformer_is_that_of_its_exact_spectrum():
    """The bulk is within twice the expected distance of ten probes, and a tenth of the distance to a mass at zero."""
    operator = landscape.load_problem("data/looped.pt").hessian()
    exact = np.linalg.eigvalsh(dense(operator).double().numpy())
    bulk = exact[np.argsort(-np.abs(exact))[10:]]
    found = spectral_density(operator)
    assert found.undeflated == 0
    assert np.abs(found.outliers - exact[np.argsort(-np.abs(exact))[:10]]).max() < 1e-5
    distance = found.bulk.distance(bulk)
    assert distance <= 2 * found.bulk.expected_distance
    assert distance <= 2 * sampling_distance(bulk, 10)
    assert distance < 0.1 * np.abs(bulk).mean()
