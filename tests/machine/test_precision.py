"""Float32 results are compared with the matrix in float64; results without products in float64 say so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

import landscape
from benchmarks.accuracy.precision import FAMILIES, K, Standardising, outcome, posed, spectrum_in_float64
from landscape import MatrixOperator, Problem
from landscape.machine.widened import NoFloat64Error, Rounds, fast_float64, widened
from landscape.operator import SymmetricOperator
from landscape.record import open_record
from landscape.spectrum.rounding import (
    COMBINATIONS,
    IN_FLOAT64,
    MISJUDGED,
    Float64Products,
    distance,
    frobenius_bound,
    spectral_bound,
)
from tests.support.oracles import symmetric

ALPHA = 0.1


def standardised(offset, dtype=torch.float32):
    """A model that standardises raw inputs itself, whose forward pass in float32 loses digits to the offset."""
    torch.manual_seed(0)
    x, y = torch.randn(200, 5), torch.randint(0, 3, (200,))
    return Problem(Standardising(), nn.CrossEntropyLoss(), [((x + offset).to(dtype), y)], dtype=dtype)


@pytest.mark.parametrize("number", range(50))
def test_every_interval_holds_an_eigenvalue_of_the_hessian_in_float64(number):
    """The oracle is the dense Hessian in float64; `python -m benchmarks.accuracy.precision` has thousands."""
    family = list(FAMILIES)[number % len(FAMILIES)]
    found = outcome(posed(family, number), number)
    assert (found.wrong, found.worded) == (0, False)
    if FAMILIES[family][0]:
        assert found.converged == K


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("k", [1, 5])
def test_what_the_forward_pass_loses_is_in_the_intervals_and_out_of_the_values(offset, k):
    problem = standardised(offset)
    found, exact = landscape.top_eigenpairs(problem.hessian(), k), spectrum_in_float64(problem)
    assert found.arithmetic == IN_FLOAT64
    nearest = np.abs(found.eigenvalues[:, None] - exact).min(axis=1)
    assert (nearest <= found.intervals[:, 1] - found.eigenvalues).all()
    # Rayleigh quotients in float64 have an error of the squared residual over a gap, and gaps are some percents.
    assert (nearest <= 100 * found.residuals**2 + 1e-6).all()
    # A pair is converged if its residual in float64 meets the tolerance. At the largest offset no pair is.
    wide, v = problem.to(dtype=torch.float64).hessian(), found.eigenvectors.double()
    values = torch.as_tensor(found.eigenvalues)
    residuals = ((wide @ v - v * values).norm(dim=0) / v.norm(dim=0)).numpy()
    np.testing.assert_allclose(found.residuals, residuals, rtol=0.3, atol=3e-7)
    if offset in (0.0, 1e6):
        assert found.converged.all() == (offset == 0.0)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_all_other_estimates_hold_the_numbers_of_the_matrix_in_float64(offset):
    problem = standardised(offset)
    operator, exact = problem.hessian(), spectrum_in_float64(problem)
    spectrum = landscape.full_spectrum(operator)
    assert np.abs(spectrum.eigenvalues[::-1] - exact).max() <= spectrum.rounding < 1e-10
    certified = landscape.top_eigenpairs(operator, 3, "LA", tol_value=0.01)
    largest = np.sort(exact)[::-1][:3]
    assert (certified.intervals[:, 0] <= largest).all()
    assert (largest <= certified.intervals[:, 1]).all()
    for trace in (landscape.estimate_trace(operator), landscape.estimate_trace(operator, probes=20)):
        assert trace.trace.low <= exact.sum() <= trace.trace.high
        assert trace.frobenius.low <= np.linalg.norm(exact) <= trace.frobenius.high
    density = landscape.spectral_density(operator, probes=3, steps=20, k=3)
    assert exact[0] - density.rounding <= np.nanmin(density.nodes)
    assert np.nanmax(density.nodes) <= exact[-1] + density.rounding
    determined = landscape.effective_dimension(operator, ALPHA, probes=10)
    positive = exact[exact > 0]
    assert determined.low <= (positive / (positive + ALPHA)).sum() <= determined.high
    shifted = landscape.log_det(operator, 1.0, probes=10)
    assert shifted.low <= np.log(exact + 1.0).sum() <= shifted.high
    assert {each.arithmetic for each in (spectrum, certified, trace, density, determined, shifted)} == {IN_FLOAT64}


class Rounded(SymmetricOperator):
    """A matrix whose products have an error E v, with exact products in float64."""

    def __init__(self, matrix, error):
        super().__init__(len(matrix), torch.device("cpu"), torch.float32)
        self._matrix, self._off = matrix, (matrix + error).float()

    def full_precision(self):
        return MatrixOperator(self._matrix)

    def _product(self, vectors):
        return self._off @ vectors


ERRORS = {
    "rank one": [1.0] + [0.0] * 49,
    "opposite pair": [1.0, -1.0] + [0.0] * 48,
    "identity": [1.0] * 50,
    "decaying": 0.7 ** np.arange(50.0),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bounds_of_the_distance_hold(name):
    """No bound in 400 draws may be too small. At the stated chance of a thousandth, three fail in 0.8 % of cases."""
    values = 1e-2 * np.asarray(ERRORS[name])
    matrix, error = symmetric(np.linspace(-1, 1, 50)), symmetric(values, seed=3)
    spectral, frobenius, trace = np.abs(values).max(), np.linalg.norm(values), abs(values.sum())
    misses = np.zeros(3)
    for seed in range(400):
        found = distance(Rounded(matrix, error), seed)
        misses += [found.spectral < spectral, found.frobenius < frobenius, found.trace < trace]
    assert (misses <= 3).all()


def test_the_spectral_bound_is_the_quantile_of_chi_squared():
    """For an error E of rank one, ||E g||^2 is chi^2 with one degree of freedom, so the stated chance is exact."""
    norms = np.linalg.norm(np.random.default_rng(0).standard_normal((200_000, COMBINATIONS)), axis=1)
    misses = np.mean(norms * spectral_bound(np.array([1.0, 0.0, 0.0])) < 1)
    # Binomial, 200,000 draws at 1e-3: a standard error of 7e-5.
    assert misses == pytest.approx(MISJUDGED, abs=4 * 7.1e-5)
    assert spectral_bound(np.array([3.0])) == pytest.approx(3 / np.sqrt(chi2.ppf(1e-3, 1)))
    assert frobenius_bound(np.ones(3)) > spectral_bound(np.ones(3))


def test_an_error_along_one_vector_is_in_the_interval_of_that_vector():
    """With random signs two equal errors would cancel in half of all draws."""
    values = np.linspace(10, 1, 60)
    matrix = symmetric(values)
    vectors = np.linalg.eigh(matrix.numpy())[1][:, ::-1]
    u = (vectors[:, 0] + vectors[:, 1]) / np.sqrt(2)
    for seed in range(40):
        found = landscape.top_eigenpairs(Rounded(matrix, torch.as_tensor(0.003 * np.outer(u, u))), 5, seed=seed)
        nearest = np.abs(found.eigenvalues[:, None] - values).min(axis=1)
        assert (nearest <= found.intervals[:, 1] - found.eigenvalues).all()


class Normalised(nn.Module):
    """Root-mean-square normalisation and softmax with the casts that models for half precision have."""

    def __init__(self, casting):
        super().__init__()
        self.first, self.last, self.casting = nn.Linear(5, 6), nn.Linear(6, 3), casting

    def forward(self, x):
        x = self.first(x + 1e3)
        wide = {"float": x.float(), "to": x.to(torch.float32), "type": x.type(torch.float32)}.get(self.casting, x)
        x = (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + 1e-6)).to(x.dtype)
        weights = x.softmax(1, dtype=torch.float32) if self.casting == "softmax" else x.softmax(1)
        return self.last(x * weights.to(x.dtype))


def normalised(casting, dtype):
    torch.manual_seed(0)
    model = Normalised(casting)
    return Problem(model, nn.CrossEntropyLoss(), [(torch.randn(30, 5), torch.randint(0, 3, (30,)))], dtype=dtype)


@pytest.mark.parametrize("casting", ["float", "to", "type", "softmax"])
def test_a_model_that_casts_to_float32_has_all_digits_in_float64(casting):
    plain, cast = normalised("", torch.float64), normalised(casting, torch.float64)
    vector = torch.randn(plain.layout.dim, dtype=torch.float64)
    torch.testing.assert_close(cast.hessian() @ vector, plain.hessian() @ vector, rtol=1e-12, atol=1e-12)
    assert cast.loss() == pytest.approx(plain.loss(), rel=1e-14)
    found = landscape.top_eigenpairs(normalised(casting, torch.float32).hessian(), 4)
    exact = spectrum_in_float64(plain)
    assert found.arithmetic == IN_FLOAT64
    assert (np.abs(found.eigenvalues[:, None] - exact).min(axis=1) <= np.ptp(found.intervals, axis=1) / 2).all()


class Halved(nn.Linear):
    def forward(self, x):
        return super().forward(x).to(torch.bfloat16).to(x.dtype)


class Autocast(nn.Linear):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).to(x.dtype)


class Explicit(nn.Linear):
    def forward(self, x):
        return super().forward(x) @ torch.eye(3, dtype=torch.float32)


@pytest.mark.parametrize(
    ("model", "reason"), [(Halved, "to bfloat16"), (Autocast, "autocast"), (Explicit, "can't be evaluated in float64")]
)
def test_where_there_are_no_products_in_float64_the_words_claim_less(model, reason):
    torch.manual_seed(0)
    x, y = torch.randn(30, 5), torch.randint(0, 3, (30,))
    operator = Problem(
        nn.Sequential(nn.Linear(5, 5), nn.Tanh(), model(5, 3)), nn.CrossEntropyLoss(), [(x, y)]
    ).hessian()
    with pytest.raises(NoFloat64Error, match=reason):
        Float64Products(operator)
    pairs = landscape.top_eigenpairs(operator, 4)
    trace, spectrum = landscape.estimate_trace(operator, probes=5, deflation=3), landscape.full_spectrum(operator)
    density = landscape.spectral_density(operator, probes=2, steps=5, k=2)
    for found in (pairs, trace, spectrum, density):
        assert found.arithmetic.startswith("as computed in float32 (")
        assert reason in found.arithmetic
    for found in (trace, spectrum, density):
        assert any("all errors are those of the matrix as computed in float32" in line for line in found.summary)


FACTORY = """
import torch
from torch import nn
from landscape import Problem

class Halved(nn.Linear):
    def forward(self, x):
        return super().forward(x).to(torch.bfloat16).to(x.dtype)

def posed(checkpoint):
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    return Problem(Halved(5, 3), nn.CrossEntropyLoss(), [(x, torch.arange(30) % 3)])
"""


def test_the_words_are_on_the_screen_and_in_the_record(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory.py").write_text(FACTORY)
    torch.save(nn.Linear(5, 3).state_dict(), "model.pt")
    asked = ["--hessian", "-k", "2", "--trace", "--density", "--spectrum", "-o", "r.h5"]
    done = command("model.pt", "--problem", "factory.py:posed", *asked)
    assert done.status in (0, 3)
    said = done.out.replace("\n", " ")
    assert "±: the matrix as computed in float32 (" in said
    assert said.count("all errors are those of the matrix as computed in float32") >= 2
    with open_record("r.h5") as record:
        for name in ("eigenpairs", "trace", "density", "spectrum"):
            assert str(record[name].arithmetic.values[0]).startswith("as computed in float32 (")
    again = command("model.pt", "--problem", "factory.py:posed", *asked)
    assert "as computed in float32" in again.out, "a finished record shows what its run showed"


def test_rounding_that_hinders_names_float64(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory.py").write_text(
        "from tests.machine.test_precision import standardised\n\n"
        "def posed(checkpoint):\n    return standardised(1e6)\n"
    )
    torch.save(standardised(1e6).model.state_dict(), "model.pt")
    done = command("model.pt", "--problem", "factory.py:posed", "--hessian", "-k", "4", "-o", "r.h5")
    assert done.status == 3
    assert "the residuals are at the level of rounding: use --dtype float64" in done.out
    exact = command(
        "model.pt", "--problem", "factory.py:posed", "--hessian", "-k", "4", "--dtype", "float64", "-o", "w.h5"
    )
    assert exact.status == 0
    with open_record("r.h5") as record:
        told = json.loads(str(record["eigenpairs"].provenance.values[0]))
        assert told["dtype"] == "float32"
        assert not record["eigenpairs"].converged.values.all()


def test_evaluation_in_float64_leaves_everything_as_it_was():
    with pytest.raises(RuntimeError, match="in the middle"), widened():  # noqa: PT012
        assert torch.ones(1, dtype=torch.float64).float().dtype == torch.float64
        assert torch.ones(1, dtype=torch.float32).float().dtype == torch.float32
        raise RuntimeError("in the middle")
    assert torch.ones(1, dtype=torch.float64).float().dtype == torch.float32


def test_what_has_no_gradient_may_be_rounded():
    """Constants in float32, such as rotary angles, are equal numbers in every evaluation."""
    with Rounds() as rounds:
        _ = torch.ones(2, dtype=torch.float64).to(torch.float16)
    assert rounds.what is None


@pytest.mark.parametrize(("capability", "fast"), [((9, 0), True), ((8, 0), True), ((8, 9), False), ((12, 0), False)])
def test_float64_is_taken_for_fast_where_it_is(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_float64(torch.device("cuda", 0)) is fast
    assert fast_float64(torch.device("cpu"))
    assert not fast_float64(torch.device("mps"))


@pytest.mark.parametrize("mixing", [True, False])
def test_products_in_float64_by_pieces_are_those_of_the_whole(mixing, monkeypatch):
    """Samples that mix stay in one batch; others are taken a quarter at a time where a graph is large."""
    monkeypatch.setattr("landscape.curvature.products.batched._SMALL", 0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    x, y = torch.randn(19, 3), torch.randint(0, 3, (19,))
    problem = Problem(model, nn.CrossEntropyLoss(), [(x, y)], training=mixing)
    assert problem.mixing is mixing
    wide = problem.hessian().full_precision()
    v = torch.randn(problem.layout.dim, 2, dtype=torch.float64)
    expected = problem.to(dtype=torch.float64).hessian().matmat(v)
    assert torch.allclose(wide.matmat(v), expected, rtol=1e-12, atol=1e-14)
    assert len(wide._problem.batches) == (1 if mixing else 4)
