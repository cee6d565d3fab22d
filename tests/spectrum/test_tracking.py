"""Tracked eigenvalues against dense eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import InputError
from landscape.operator import MatrixOperator
from landscape.spectrum.eigenpairs import top_eigenpairs
from landscape.spectrum.tracking import EigenvalueTracker


def rotating(n, turns, speed, seed=0, values=None):
    """Matrices whose eigenvectors rotate by ``speed`` in random planes from turn to turn."""
    generator = np.random.default_rng(seed)
    values = np.linspace(1, 0, n) ** 4 * 10 if values is None else values
    vectors = np.linalg.qr(generator.standard_normal((n, n)))[0]
    turn = generator.standard_normal((n, n))
    small = np.linalg.qr(np.eye(n) + speed * (turn - turn.T) / np.sqrt(n))[0]
    for step in range(turns):
        yield (vectors * (values * (1 + 0.01 * step))) @ vectors.T
        vectors = small @ vectors


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_interval_holds_the_largest_eigenvalue(dtype):
    tracker, products = EigenvalueTracker(certify_every=25), []
    for matrix in rotating(80, 60, 0.02):
        operator = MatrixOperator(torch.tensor((matrix + matrix.T) / 2, dtype=dtype))
        exact = np.linalg.eigvalsh(operator.matrix.double().numpy())[::-1]
        found = tracker.update(operator)
        low, high = found.intervals[0]
        assert low <= exact[0] <= high
        assert high - low <= 2 * 0.02 * exact[0]
        assert found.converged
        assert found.products == operator.products
        products.append(found.products)
        for value, residual in zip(found.eigenvalues, found.residuals, strict=True):
            assert np.abs(exact - value).min() <= residual + 1e-5 * exact[0]
    assert found.held == (2, 2)
    cold = top_eigenpairs(operator, 3, "LA", tol_value=0.02).products
    assert np.median(products) <= cold / 2


def test_an_eigenvalue_that_rises_is_found():
    n, late = 60, []
    for seed in range(5):
        tracker, values = (
            EigenvalueTracker(k=2, certify_every=1000, seed=seed),
            np.r_[np.full(1, 5.0), np.linspace(3, 0, n - 1)],
        )
        for turn in range(40):
            values[-1] = 0.25 * turn  # beyond 5 after turn 20
            found = tracker.update(MatrixOperator(torch.diag(torch.tensor(values))))
            if turn > 20:
                late += [turn - 20] if found.intervals[0][1] < values.max() else []
    assert max(late, default=0) <= 3


@pytest.mark.parametrize(
    "diagonal", [[2.0], [0.0, 0.0, 0.0], [-3.0, -1.0, -2.0, -5.0], [4.0, 4.0, 4.0, 1.0, 0.0], [1.0, 2.0]]
)
def test_small_singular_negative_and_multiple(diagonal):
    k = min(2, len(diagonal))
    tracker = EigenvalueTracker(k=k)
    for factor in (1.0, 1.1, 1.2, 5.0):
        found = tracker.update(MatrixOperator(factor * torch.diag(torch.tensor(diagonal, dtype=torch.float64))))
        expected = factor * np.sort(diagonal)[::-1][:k]
        np.testing.assert_allclose(found.eigenvalues, expected, atol=0.02 * np.abs(expected).max() + 1e-12)
        assert found.intervals[0][0] <= expected[0] + 1e-12 * (1 + abs(expected[0]))
        assert found.converged


def test_an_abrupt_change_is_solved_anew():
    tracker = EigenvalueTracker()
    for seed in range(4):
        (matrix,) = rotating(50, 1, 0.0, seed)
        found = tracker.update(MatrixOperator(torch.tensor((matrix + matrix.T) / 2)))
        assert found.intervals[0][0] <= 10 <= found.intervals[0][1] + 1e-9


def test_a_state_gives_the_same_bits():
    matrices = [MatrixOperator(torch.tensor((each + each.T) / 2)) for each in rotating(40, 20, 0.05)]
    whole, first = EigenvalueTracker(certify_every=6), EigenvalueTracker(certify_every=6)
    expected = [whole.update(each) for each in matrices]
    for each in matrices[:9]:
        first.update(each)
    second = EigenvalueTracker(certify_every=6)
    second.load_state_dict(first.state_dict())
    for each, wanted in zip(matrices[9:], expected[9:], strict=True):
        found = second.update(each)
        assert torch.equal(found.eigenvectors, wanted.eigenvectors)
        assert (found.eigenvalues == wanted.eigenvalues).all()
        assert found.held == wanted.held
        assert found.products == wanted.products


def test_bad_input_is_one_line():
    with pytest.raises(InputError, match="tol must lie"):
        EigenvalueTracker(tol=0)
    with pytest.raises(InputError, match="at least 1, not 0"):
        EigenvalueTracker(certify_every=0)
    tracker = EigenvalueTracker(k=1)
    tracker.update(MatrixOperator(torch.eye(3)))
    with pytest.raises(InputError, match="had dimension 3, and this one has 4"):
        tracker.update(MatrixOperator(torch.eye(4)))
