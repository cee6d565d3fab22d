"""Matrices whose chains end early and continue in rounding, with products as other processors would compute them.

The matrices are multiples of the identity, or have few distinct eigenvalues, low rank, clusters or blocks of zeros, at
any size and scale. The remainders of their products are a few last bits, which differ between processors. So here every
entry of a product has an additional error of up to two units, which depends only on the vector. The right values are
those of the dense matrix in float64.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from landscape import (
    InputError,
    SymmetricOperator,
    effective_dimension,
    estimate_trace,
    full_spectrum,
    lanczos,
    log_det,
    spectral_density,
    top_eigenpairs,
)
from landscape.spectrum.basis_store import BasisStore
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.lower_end import lower_end
from tests.support.oracles import symmetric

EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}
# The allowed defect of orthonormality, in eps: a sum of 300 products, and a few passes over 300 vectors.
ORTHONORMAL = 50


class Processor(SymmetricOperator):
    """A matrix whose products are off by up to so many units in the last place of every entry.

    Args:
        matrix: (n, n).
        units: 0 for the products of the processor at hand.
        linear: whether they are those of a neighbouring matrix, which isn't symmetric; else rounding has no rule.
    """

    def __init__(self, matrix: Tensor, units: float, linear: bool, seed: int = 0) -> None:
        super().__init__(len(matrix), matrix.device, matrix.dtype)
        self.matrix, self.units, self.linear = matrix, units, linear
        if linear:
            self.matrix = matrix.double() * self._off(matrix.shape, seed)

    @property
    def eigenvalues(self) -> np.ndarray:
        """Ascending."""
        matrix = self.matrix.double().numpy()
        return np.linalg.eigvalsh((matrix + matrix.T) / 2)

    def _off(self, shape: tuple[int, ...], seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        uniform = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
        return 1 + self.units * EPS[self.dtype] * uniform

    def _product(self, vectors: Tensor) -> Tensor:
        if self.linear:
            return (self.matrix @ vectors.double()).to(self.dtype)
        products = self.matrix @ vectors
        if self.units:
            digests = [hashlib.sha256(each.contiguous().numpy().tobytes()).digest()[:7] for each in vectors.T]
            off = [self._off((self.dim,), int.from_bytes(digest, "big")) for digest in digests]
            products = (products.double() * torch.stack(off, 1)).to(self.dtype)
        return products


@dataclass(frozen=True)
class Case:
    """An operator, its eigenvalues ascending, their largest magnitude, and what of it is known to no solver."""

    operator: Processor
    eigenvalues: np.ndarray
    size: float
    unknown: float
    seed: int

    @property
    def eps(self) -> float:
        return EPS[self.operator.dtype]

    def holds(self, values: np.ndarray, error: float) -> bool:
        """Whether no value lies outside the numerical range by more than an error."""
        values = values[np.isfinite(values)]
        low, high = self.eigenvalues[[0, -1]] + np.array([-1, 1]) * (error + self.unknown)
        return bool(((low <= values) & (values <= high)).all())


def spectrum(n: int, rng: np.random.Generator) -> np.ndarray:
    """The eigenvalues of a random spectrum of one kind."""
    kinds = [
        np.zeros(n),
        np.full(n, rng.choice([3.0, 1.0, -1 / 3])),
        rng.choice([1.0, -2.0], n),
        rng.choice([0.0, 1.0, 3.0], n),
        np.r_[rng.uniform(-5, 5, min(n, 3)), np.zeros(n - min(n, 3))],
        rng.choice([1.0, 2.0], n) + rng.uniform(0, rng.choice([1e-6, 1e-13]), n),
        np.r_[[100.0, -50.0][: min(n, 2)], np.ones(n - min(n, 2))],
        rng.uniform(-1, 1, n),
    ]
    return kinds[rng.integers(len(kinds))]


def case(seed: int, most: int) -> Case:
    """A problem with at most so many dimensions."""
    rng = np.random.default_rng(seed)
    n = int(min(most, math.exp(rng.uniform(0, math.log(most + 1)))))
    dtype = [torch.float32, torch.float64][rng.integers(2)]
    exponent = rng.choice([0, rng.integers(-30, 31), rng.integers(-37, 30) * (1 if dtype == torch.float32 else 3)])
    values = 10.0**exponent * spectrum(n, rng)
    matrix = torch.diag(torch.tensor(values)) if rng.random() < 0.3 else symmetric(values, seed)
    if rng.random() < 0.3:
        matrix[n // 2 :] = matrix[:, n // 2 :] = 0
    units = float(rng.choice([0, 0.5, 2]))
    operator = Processor(matrix.to(dtype), units, linear=bool(rng.integers(2)), seed=seed)
    found = operator.eigenvalues
    # A dense solver's error; what is added to products, of which a solver measures a mean square; the least number.
    least = math.sqrt(n) * torch.finfo(dtype).tiny * EPS[dtype]
    unknown = (n * EPS[torch.float64] + units * EPS[dtype]) * float(np.linalg.norm(found)) + least
    return Case(operator, found, float(np.abs(found).max()), unknown, seed)


@pytest.fixture
def defects(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The defects in eps of each new vector of any chain: from orthogonality to those before, and from length 1."""
    found: list[float] = []
    append = BasisStore.append

    def watched(self: BasisStore, vector: Tensor) -> int:
        before, exact = self.stacked().double(), vector.double()
        along = (before.T @ exact).abs().max().item() if self.size else 0.0
        found.append(max(along, abs(float(exact @ exact) - 1)) / EPS[vector.dtype])
        return append(self, vector)

    monkeypatch.setattr(BasisStore, "append", watched)
    return found


def check_all(each: Case) -> None:
    """Check every claim of every solver."""
    check_eigenpairs(each)
    check_lanczos(each)
    check_estimates(each)
    check_functions(each)


def check_eigenpairs(each: Case) -> None:
    found = full_spectrum(each.operator)
    assert (np.abs(found.eigenvalues[::-1] - each.eigenvalues) <= found.rounding + each.unknown).all()
    k = min(3, each.operator.dim)
    for which, tol_value in [("LM", None), ("BE", None), ("SA", 0.01)]:
        pairs = top_eigenpairs(each.operator, k, which, seed=each.seed, tol_value=tol_value)
        assert pairs.orthogonality <= ORTHONORMAL * each.eps
        assert each.holds(pairs.eigenvalues, pairs.rounding)
        for low, high in pairs.intervals + each.unknown * np.array([-1, 1]):
            assert ((low <= each.eigenvalues) & (each.eigenvalues <= high)).any()


def check_lanczos(each: Case) -> None:
    found = lanczos(each.operator, 40, each.seed)
    beta = found.beta[:-1]
    values = np.linalg.eigvalsh(np.diag(found.alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    assert found.orthogonality <= ORTHONORMAL * each.eps
    # A product of n terms and its orthogonalisation are off by some sqrt(n) eps ||A||, each of m columns.
    assert each.holds(values, 4 * math.sqrt(len(values) * each.operator.dim) * each.eps * each.size)


def check_estimates(each: Case) -> None:
    density = spectral_density(each.operator, probes=2, steps=20, k=min(3, each.operator.dim), seed=each.seed)
    assert density.orthogonality <= ORTHONORMAL * each.eps
    assert each.holds(density.nodes, density.rounding + 2 * float(density.residuals.sum()))
    for value, residual in zip(density.outliers, density.residuals, strict=True):
        assert np.abs(each.eigenvalues - value).min() <= residual + each.unknown
    found = estimate_trace(each.operator, probes=16, seed=each.seed, deflation=5)
    truths = float(each.eigenvalues.sum()), float(np.linalg.norm(each.eigenvalues))
    for estimate, truth in zip((found.trace, found.frobenius), truths, strict=True):
        # Ten standard errors: signs of few eigenvalues have tails.
        allowed = estimate.half_width + 10 * estimate.standard_error + math.sqrt(each.operator.dim) * each.unknown
        assert abs(estimate.value - truth) <= allowed


def check_functions(each: Case) -> None:
    lowest = float(each.eigenvalues[0])
    alpha = 1.5 * abs(lowest) + 0.1 * each.size or 1.0
    end = lower_end(each.operator, alpha, each.seed, 60, lambda _: None)
    assert end.low - each.unknown <= lowest <= end.high + each.unknown
    positive = each.eigenvalues[each.eigenvalues > 0]
    truths = {
        log_det: math.fsum(np.log(each.eigenvalues + alpha)),
        effective_dimension: math.fsum(positive / (positive + alpha)),
    }
    for function, truth in truths.items():
        k = min(2, each.operator.dim - 1)
        found = function(each.operator, alpha, probes=4, steps=6, k=k, seed=each.seed)
        steepest = math.sqrt(each.operator.dim) / (alpha + min(lowest, 0.0))
        allowed = found.half_width + 8 * found.standard_error + steepest * each.unknown
        assert abs(found.value - truth) <= allowed


@pytest.mark.parametrize("seed", range(40))
def test_chains_in_rounding_are_orthonormal_and_claim_nothing_wrong(seed, defects):
    check_all(case(seed, most=40))
    assert max(defects) <= ORTHONORMAL


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 2000))
def test_larger_chains_in_rounding_are_orthonormal_and_claim_nothing_wrong(seed, defects):
    check_all(case(seed, most=300))
    assert max(defects) <= ORTHONORMAL


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("units", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_multiple_of_the_identity_shows_nothing_else(dtype, units, seed, defects):
    """The remainder of a product is just above the level of rounding, step after step."""
    operator = Processor(symmetric(np.full(160, 3.0), dtype=dtype), units, linear=False)
    error = 160 * (1 + units) * EPS[dtype]
    found = lanczos(operator, 60, seed)
    values = np.linalg.eigvalsh(np.diag(found.alpha) + np.diag(found.beta[:-1], 1) + np.diag(found.beta[:-1], -1))
    assert np.abs(values - 3).max() <= error
    end = lower_end(operator, 1.0, seed, 60, lambda _: None)
    assert abs(end.high - 3) <= error
    value = log_det(operator, 1.0, probes=4, steps=14, seed=seed).value
    assert value == pytest.approx(160 * math.log(4), rel=error)
    assert max(defects) <= ORTHONORMAL


# ---------------------------------------------------------------------- the mechanism


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("follow_noise", [1e-2, 1e2, 1e6])
def test_what_is_left_is_orthogonal_to_a_basis_that_is_less_so(dtype, follow_noise):
    """The basis has D = Q^T Q - I of 4,000 eps, and the vector a part of so many eps outside: D must not be squared."""
    eps, n = EPS[dtype], 50
    q = torch.linalg.qr(torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0].T
    poor = 4000 * eps
    rows = BasisStore(4, n, dtype, torch.device("cpu"))
    for row in (q[0], q[1] + poor * q[0], q[2] + poor * q[1]):
        rows.append((row / row.norm()).to(dtype))
    vector = (3 * rows[2].double() + follow_noise * eps * q[3]).to(dtype)
    coefficients, direction, length = rows.orthogonalise(vector)
    basis = rows.stacked().double()
    assert direction is not None
    # A hundredth of what the basis lacks, and the rounding of sums of 50.
    assert (basis.T @ direction.double()).abs().max() <= poor / 100 + 10 * eps
    assert abs(float(direction.double().norm()) - 1) <= 4 * eps
    made = basis @ torch.as_tensor(coefficients) + length * direction.double()
    assert (made - vector.double()).abs().max() <= 4 * eps * 3
    if follow_noise > 10:  # above the rounding of the vector
        assert float(direction.double() @ q[3]) > 0.9


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("follow_noise", [True, False])
def test_a_basis_in_rounding_keeps_its_relation_to_the_projection(dtype, follow_noise, defects):
    """A Q_m = Q P up to the rounding of products, for 3 I and two outliers, whose chain goes on in rounding."""
    matrix = symmetric([100.0, -50.0, *np.full(98, 3.0)], dtype=dtype)
    operator = Processor(matrix, 2, linear=False)
    basis = KrylovBasis(operator, 60, seed=0)
    while basis.size < 59:
        pending = basis.append_random()
        while pending is not None and basis.size < 59:
            pending = basis.expand(pending, follow_noise=follow_noise).pending
    q, p = basis.rows.stacked().double(), torch.as_tensor(np.vstack([basis.projection, basis.border]))
    off = torch.linalg.vector_norm(matrix.double() @ q[:, : basis.expanded] - q @ p, dim=0)
    assert float(off.max()) <= 4 * math.sqrt(100) * EPS[dtype] * 100
    assert basis.orthogonality_defect() <= ORTHONORMAL * EPS[dtype]
    assert max(defects) <= ORTHONORMAL


@pytest.mark.parametrize("scale", [1e-30, 1e-36, 1e-38, 1e-41])
def test_numbers_below_the_smallest_normal_one_leave_a_basis_orthonormal(scale, defects):
    """The test is in float32, whose subnormal numbers have larger relative rounding errors."""
    values = scale * np.r_[3.0, np.full(10, 1.0), np.linspace(0, 1, 10)]
    matrix = symmetric(values, dtype=torch.float64).to(torch.float32)
    for seed in range(5):
        found = lanczos(matrix, 15, seed)
        assert found.orthogonality <= ORTHONORMAL * EPS[torch.float32]
        ritz = np.linalg.eigvalsh(np.diag(found.alpha) + np.diag(found.beta[:-1], 1) + np.diag(found.beta[:-1], -1))
        error = 21 * (EPS[torch.float32] * 3 * scale + 2.0**-149)
        assert -error <= ritz[0]
        assert ritz[-1] <= 3 * scale + error
    assert max(defects) <= ORTHONORMAL


@pytest.mark.parametrize("scale", [1e-140, 1e-100, 1e100])
def test_samples_whose_squares_have_no_number_spread_all_the_same(scale):
    """The samples are those of the squared norm, whose variance goes with the fourth power of the scale."""
    matrix = symmetric(np.random.default_rng(0).uniform(-1, 1, 60))
    one, other = (estimate_trace(factor * matrix, probes=16, deflation=5).frobenius for factor in (1.0, scale))
    assert other.standard_error / scale == pytest.approx(one.standard_error, rel=1e-6)
    assert one.standard_error > 0


def test_eigenpairs_that_are_known_twice_are_refused():
    """A pair that counts twice would give a wrong trace in a narrow interval."""
    matrix = symmetric([50.0, 20.0, 10.0, *np.random.default_rng(0).uniform(-1, 1, 97)])
    pairs = top_eigenpairs(matrix, 3)
    first = np.array([0, 1, 1])
    twice = replace(
        pairs,
        eigenvalues=pairs.eigenvalues[first],
        residuals=pairs.residuals[first],
        eigenvectors=pairs.eigenvectors[:, first],
    )
    with pytest.raises(InputError, match=r"aren't orthonormal: max \|V\^T V - I\| is 1, beyond rounding"):
        estimate_trace(matrix, known=twice)
    with pytest.raises(InputError, match="give each eigenpair once"):
        spectral_density(matrix, k=3, known=twice)
