"""The basis of all Lanczos methods: given start vectors, and chains in the complement of known pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from landscape import InputError, MatrixOperator
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.products import norm
from tests.support.oracles import symmetric


def test_a_start_within_the_basis_is_no_start():
    basis = KrylovBasis(MatrixOperator(np.diag(np.arange(6.0))), 6, seed=0)
    first = basis.start(torch.ones(6))
    assert first == 0
    assert basis.start(7 * torch.ones(6)) is None
    assert basis.start(torch.zeros(6)) is None
    assert basis.start(torch.arange(6.0)) == 1
    assert basis.orthogonality_defect() < 1e-15


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_a_start_that_has_no_length_is_refused(bad):
    basis = KrylovBasis(MatrixOperator(np.eye(3)), 3, seed=0)
    with pytest.raises(InputError, match="NaN or infinite, or too large"):
        basis.start(torch.tensor([1.0, bad, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_chains_beside_held_pairs_see_the_operator_compressed_to_their_complement(dtype):
    matrix = symmetric([100.0, 50.0, 2.0, 1.0, *np.random.default_rng(0).uniform(-1, 1, 300)], dtype=dtype)
    values, vectors = np.linalg.eigh(matrix.double().numpy())
    basis = KrylovBasis(MatrixOperator(matrix), 60, seed=0)
    basis.lock(values[-2:], torch.tensor(vectors[:, -2:], dtype=dtype))
    pending = basis.append_random()
    steps = []
    while len(steps) < 40:
        steps.append(basis.expand(pending))
        pending = steps[-1].pending
    alpha, beta = np.array([each.alpha for each in steps]), np.array([each.beta for each in steps])
    found = np.linalg.eigvalsh(np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1))
    # Forty products of size 100, each off by a few roundings times sqrt(n).
    allowed = 4 * math.sqrt(40 * len(values)) * torch.finfo(dtype).eps * 100
    assert abs(found[-1] - 2) < max(allowed, 1e-9)
    assert basis.orthogonality_defect() < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("n", [1, 1000, (1 << 20) + 7])
def test_norms_of_float32_are_summed_in_float64(n):
    """Norms in pieces equal the norm of the whole in float64, up to the rounding of float64."""
    vector = torch.randn(n, 3, generator=torch.Generator().manual_seed(n))[:, 0]
    assert float(norm(vector)) == pytest.approx(float(vector.double().square().sum().sqrt()), rel=1e-13)
    assert norm(vector).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize("chain", [1, 7])
def test_remainders_that_were_set_aside_are_taken_up_again(dtype, starts, chain):
    """A Q_m = Q P holds after a restart without pending vectors, and a chain that finds the residuals' vectors."""
    matrix = symmetric(np.random.default_rng(0).standard_normal(60), dtype=dtype)
    basis = KrylovBasis(MatrixOperator(matrix), 60, seed=0)
    for _ in range(starts):
        basis.append_random()
    for _ in range(12):
        basis.expand(basis.expanded)
    values, coordinates, residuals = basis.ritz()
    aside = basis.residual_block(coordinates[:, -4:])
    assert len(aside[0]) == min(starts, 4)
    assert np.linalg.norm(aside[1], axis=0) == pytest.approx(residuals[-4:], rel=1e-4)
    basis.restart(values[-4:], coordinates[:, -4:], 0)
    assert np.abs(basis.ritz()[2]).max(initial=0) == 0
    pending = basis.append_random()
    for _ in range(chain):
        pending = basis.expand(pending).pending
    basis.append_residual_block(*aside)
    allowed = 100 * torch.finfo(dtype).eps
    assert basis.orthogonality_defect() < allowed
    q = basis.rows.stacked().double()
    p = torch.as_tensor(np.vstack([basis.projection, basis.border]))
    assert float((matrix.double() @ q[:, : basis.expanded] - q @ p).abs().max()) < 20 * allowed
    assert np.abs(basis.projection - basis.projection.T).max() < 20 * allowed


def test_remainders_in_a_space_that_is_full_are_within_it():
    matrix = symmetric([3.0, 2.0, 1.0, 0.5, -1.0])
    basis = KrylovBasis(MatrixOperator(matrix), 5, seed=0)
    basis.append_random()
    basis.expand(0)
    basis.expand(1)
    values, coordinates, _ = basis.ritz()
    aside = basis.residual_block(coordinates[:, -1:])
    basis.restart(values[-1:], coordinates[:, -1:], 0)
    pending = basis.append_random()
    while pending is not None:
        pending = basis.expand(pending).pending
    basis.append_residual_block(*aside)
    assert (basis.size, basis.expanded) == (5, 5)
    np.testing.assert_allclose(basis.ritz()[0], [-1, 0.5, 1, 2, 3], atol=1e-13)
