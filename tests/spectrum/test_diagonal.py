"""The diagonal against dense matrices in float64: unbiased, with right standard errors, and exact where it is cheap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape import InputError, MatrixOperator, Problem, estimate_diagonal
from landscape import matrix as matrix_of


def symmetric(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """A symmetric matrix with these eigenvalues, in a random basis."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    made: np.ndarray = basis * values @ basis.T
    return (made + made.T) / 2


SPECTRA = {
    "outliers": np.r_[100.0, -60.0, 30.0, np.linspace(-1, 1, 197)],
    "decaying": 1 / np.arange(1, 201),
    "indefinite": np.linspace(-1, 1, 200),
    "low rank": np.r_[3.0, 2.0, np.zeros(198)],
    "multiple": np.repeat([5.0, 1.0, -1.0], [3, 100, 97]),
    "zero": np.zeros(200),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_every_entry_lies_within_its_errors(spectrum, dtype):
    """About 95 % of the entries' 95 % intervals hold. Entries share probes, so 93 % over 20 seeds are enough."""
    dense = symmetric(SPECTRA[spectrum])
    given, held = torch.tensor(dense, dtype=dtype), []
    for seed in range(20):
        found = estimate_diagonal(given, probes=20, seed=seed, deflation=10)
        low, high = found.interval()
        exact = given.double().diagonal().numpy()
        held.append(((low <= exact) & (exact <= high)).mean())
    assert np.mean(held) >= 0.93


def test_the_estimate_is_unbiased_with_any_basis():
    """The mean over seeds is right by its standard error. A bias of the deflated part would not shrink with seeds."""
    dense = symmetric(SPECTRA["outliers"])
    errors = np.array(
        [estimate_diagonal(dense, probes=4, seed=seed, deflation=7).values - dense.diagonal() for seed in range(300)]
    )
    assert (np.abs(errors.mean(0)) <= 4.5 * errors.std(0, ddof=1) / np.sqrt(300)).all()


def test_standard_errors_are_those_of_the_spread():
    dense = symmetric(SPECTRA["outliers"])
    made = [estimate_diagonal(dense, probes=30, seed=seed) for seed in range(200)]
    spread = np.array([each.values for each in made]).std(0, ddof=1)
    claimed = np.sqrt(np.mean([each.standard_errors**2 for each in made], axis=0))
    assert np.mean(claimed / spread) == pytest.approx(1.0, abs=0.03)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 10))
def test_small_matrices_are_exact(dim, seed):
    dense = symmetric(np.random.default_rng(seed).standard_normal(dim), seed)
    found = estimate_diagonal(dense, seed=seed)
    assert found.method == "exact"
    assert found.standard_errors.max() == 0
    assert np.abs(found.values - dense.diagonal()).max() <= found.rounding
    assert found.products <= dim + 1


def test_the_goal_is_reached_or_said_not_to_be():
    dense = symmetric(SPECTRA["outliers"])
    reached = estimate_diagonal(dense, tol=0.05)
    assert reached.converged
    assert reached.relative_error <= 0.05
    hindered = estimate_diagonal(symmetric(np.linspace(-1, 1, 2000)), tol=1e-3, max_products=60)
    assert not hindered.converged
    assert hindered.products <= 60 + 7  # those that measure the rounding
    assert "wasn't reached" in str(hindered)
    turned = estimate_diagonal(dense, tol=1e-4)
    assert turned.method == "exact"


def test_probes_are_those_of_their_seed_and_number():
    dense = symmetric(SPECTRA["decaying"])
    one, other = (estimate_diagonal(dense, probes=12, seed=3) for _ in range(2))
    assert (one.values == other.values).all()


@pytest.mark.parametrize("kind", ["hessian", "ggn", "fisher", "fisher-empirical"])
def test_of_a_model_against_the_dense_matrix(kind):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.Tanh(), torch.nn.Linear(10, 4))
    batch = torch.randn(12, 6), torch.randint(4, (12,))
    problem = Problem(model, torch.nn.CrossEntropyLoss(), [batch])
    found = estimate_diagonal(matrix_of(problem, kind), probes=40, seed=1)
    wide = matrix_of(problem.to(dtype=torch.float64), kind)
    exact = wide.matmat(torch.eye(wide.dim, dtype=torch.float64)).diagonal().numpy()
    low, high = found.interval()
    assert ((low <= exact) & (exact <= high)).mean() >= 0.9
    allowed = 4 * np.linalg.norm(found.standard_errors) + wide.dim * found.rounding
    assert found.values.sum() == pytest.approx(exact.sum(), abs=allowed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 0.0}, "must lie between 0 and 1"),
        ({"probes": 1}, "at least 2"),
        ({"probes": 5, "tol": 0.1}, "leave out probes"),
        ({"deflation": -1}, "must not be negative"),
        ({"max_products": 3}, "at least 40 products"),
        ({"seed": -1}, "seed must lie"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        estimate_diagonal(MatrixOperator(torch.eye(200)), **arguments)
