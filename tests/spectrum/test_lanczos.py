"""The Lanczos decomposition: its defining identity, no ghosts, invariant subspaces, random-matrix edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape import InputError, MatrixOperator, lanczos
from landscape.spectrum.basis_store import BasisStore
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.search import MISSED_AT_MOST, missed_probability
from tests.support.oracles import symmetric


def tridiagonal(found) -> np.ndarray:
    return np.diag(found.alpha) + np.diag(found.beta[:-1], 1) + np.diag(found.beta[:-1], -1)


@settings(max_examples=40, deadline=None)
@given(
    # Smaller matrices are refused, because their squares underflow.
    st.lists(st.floats(-100, 100).map(lambda x: x if abs(x) > 1e-100 else 0.0), min_size=1, max_size=12),
    st.integers(1, 15),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 100),
)
def test_the_defining_identity_holds_for_any_spectrum(eigenvalues, steps, dtype, seed):
    matrix = symmetric(eigenvalues, seed, dtype)
    found = lanczos(matrix, steps, seed)
    q, t, m = found.basis.double(), torch.tensor(tridiagonal(found)), len(found.alpha)
    eps = torch.finfo(dtype).eps
    # Each of m products of dimension n is off by a few sqrt(n) eps ||A||, and so is its orthogonalisation.
    allowed = 20 * eps * max(1.0, len(eigenvalues) * max(map(abs, eigenvalues)))
    remainder = matrix.double() @ q - q @ t
    assert _largest(remainder[:, :-1]) <= allowed
    assert abs(float(remainder[:, -1].norm()) - found.beta[-1]) <= allowed
    assert _largest(q.T @ q - torch.eye(m)) <= 20 * eps
    assert found.orthogonality <= 20 * eps
    assert m <= min(steps, len(eigenvalues))


def _largest(matrix: torch.Tensor) -> float:
    return float(matrix.abs().max()) if matrix.numel() else 0.0


@pytest.mark.parametrize("steps", [100, 300])
def test_float32_outliers_have_no_ghosts(steps):
    bulk = np.random.default_rng(3).normal(0, 0.5, 1497)
    found = lanczos(symmetric([100.0, 50.0, 20.0, *bulk], dtype=torch.float32), steps)
    values = np.linalg.eigvalsh(tridiagonal(found))
    for outlier in (100, 50, 20):
        # One copy, within what products of dimension 1500 in float32 can tell: sqrt(n) eps ||A||.
        close = values[np.abs(values - outlier) < 0.5]
        assert len(close) == 1
        assert abs(close[0] - outlier) < 1500**0.5 * torch.finfo(torch.float32).eps * 100
    assert (values < 2.5).sum() == steps - 3
    assert found.orthogonality < 1e-5


def test_more_steps_than_dimensions_give_the_exact_spectrum_and_nothing_else():
    eigenvalues = np.array([-3.0, -1.0, 0.5, 2.0, 7.0])
    found = lanczos(symmetric(eigenvalues), 50)
    assert len(found.alpha) == 5
    assert np.abs(np.linalg.eigvalsh(tridiagonal(found)) - eigenvalues).max() < 1e-13


@pytest.mark.parametrize(
    ("eigenvalues", "expected"),
    [([4.0] + [0.0] * 30, 2), ([0.0] * 10, 1), ([1.0] * 10, 1), ([2.0, 2.0, -1.0, -1.0, 5.0], 3), ([3.0], 1)],
)
def test_an_invariant_subspace_ends_the_recurrence(eigenvalues, expected):
    """The recurrence ends, or its remainder is no more than the rounding of products of n terms."""
    found = lanczos(symmetric(eigenvalues), 20)
    rounding = len(eigenvalues) * np.finfo(float).eps * np.abs(eigenvalues).max()
    assert (found.beta[: expected - 1] > rounding).all()
    assert found.beta[expected - 1] <= rounding
    assert (found.beta[-1] == 0) == (len(found.alpha) == len(eigenvalues) or not any(eigenvalues))
    shown = np.linalg.eigvalsh(tridiagonal(found))
    assert np.abs(shown[:, None] - eigenvalues).min(axis=1).max() <= rounding


def test_what_hides_below_rounding_is_not_called_absent():
    """The start's part along the eigenvalue -3 is so much smaller than that along 1e6 that float32 rounds it away."""
    matrix = torch.diag(torch.tensor([1e6, *[0.0] * 998, -3.0]))
    found = [lanczos(matrix, 20, seed) for seed in range(60)]
    unseen = [each for each in found if np.linalg.eigvalsh(tridiagonal(each))[0] > -1]
    assert unseen
    assert all(each.beta[-1] > 0 for each in unseen)
    assert all(missed_probability(-each.alpha, each.beta, 2.0, 1000) > MISSED_AT_MOST for each in unseen)


def test_steps_must_be_positive():
    with pytest.raises(InputError, match="at least one"):
        lanczos(np.eye(3), 0)


def test_one_seed_gives_one_decomposition():
    matrix = symmetric(np.arange(30.0))
    first, again, other = lanczos(matrix, 5, seed=1), lanczos(matrix, 5, seed=1), lanczos(matrix, 5, seed=2)
    assert torch.equal(first.basis, again.basis)
    assert not torch.equal(first.basis, other.basis)


@pytest.mark.parametrize("n", [1000, 1500])
def test_random_matrix_edges(n):
    rng = np.random.default_rng(n)
    gaussian = rng.standard_normal((n, n))
    semicircle = (gaussian + gaussian.T) / np.sqrt(2 * n)  # edges at -2 and 2
    gamma = 0.5
    samples = rng.standard_normal((n, int(n / gamma)))
    wishart = samples @ samples.T / samples.shape[1]  # edges at (1 +- sqrt(gamma))^2
    # Fluctuations at the edge are of order n^(-2/3) (Tracy and Widom 1994).
    for matrix, low, high in [(semicircle, -2, 2), (wishart, (1 - gamma**0.5) ** 2, (1 + gamma**0.5) ** 2)]:
        values = np.linalg.eigvalsh(tridiagonal(lanczos(matrix, 250)))
        assert abs(values[-1] - high) < 4 * n ** (-2 / 3)
        assert abs(values[0] - low) < 4 * n ** (-2 / 3)


def test_orthogonalise_splits_a_vector():
    """A remainder of the length of rounding is still a direction outside the space."""
    rows = torch.linalg.qr(torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0].T
    inside = rows.T @ torch.arange(1.0, 5.0, dtype=torch.float64)
    kept = BasisStore(4, 20, torch.float64, torch.device("cpu"))
    for row in rows:
        kept.append(row)
    coefficients, direction, length = kept.orthogonalise(inside)
    assert np.abs(coefficients - [1, 2, 3, 4]).max() < 1e-14
    assert length < 1e-14
    assert direction is None or (rows @ direction).abs().max() < 1e-15
    coefficients, direction, length = kept.orthogonalise(torch.zeros(20, dtype=torch.float64))
    assert (np.abs(coefficients).max(), direction, length) == (0, None, 0)


def test_a_restart_keeps_the_relation_between_basis_and_projection():
    matrix = symmetric(np.random.default_rng(1).standard_normal(40))
    basis = KrylovBasis(MatrixOperator(matrix), 20, seed=0)
    pending = basis.append_random()
    for _ in range(8):
        pending = basis.expand(pending).pending
    basis.expand(basis.append_random())  # a second chain, so that two vectors are pending
    values, coordinates, _ = basis.ritz()
    basis.restart(values[-5:], coordinates[:, -5:], 3)
    for _ in range(4):
        basis.expand(basis.strongest(np.eye(basis.expanded)))
    q = basis.rows.stacked()
    assert basis.size - basis.expanded == 2
    left = matrix @ q[:, : basis.expanded]
    right = q @ torch.tensor(np.vstack([basis.projection, basis.border]))
    assert _largest(left - right) < 1e-13
    assert basis.orthogonality_defect() < 1e-14


def test_injection_fills_the_space_and_then_stops():
    basis = KrylovBasis(MatrixOperator(np.eye(3)), 3, seed=0)
    assert [basis.append_random() for _ in range(4)] == [0, 1, 2, None]
    assert basis.orthogonality_defect() < 1e-15
