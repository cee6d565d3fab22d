"""Products in bfloat16: they are cheaper and inexact, and their error is always reported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape import InputError, MatrixOperator, Problem, top_eigenpairs
from landscape.curvature.differences import DifferenceHessian
from landscape.curvature.hessian import Hessian
from landscape.curvature.preconditioned import Preconditioned
from landscape.curvature.reduced import ReducedHessian
from landscape.operator import SymmetricOperator
from landscape.record import open_record
from landscape.spectrum.ends import select
from landscape.spectrum.refine import refined
from landscape.spectrum.rounding import Float64Products
from tests.conftest import ROOT
from tests.support.oracles import symmetric

SHIPPED = ROOT / "data" / "single.pt"


def network(batches=1, seed=0, steps=0):
    """A network of 122 parameters, trained for some steps on uneven batches of data."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    sizes = [40 + 7 * index for index in range(batches)]
    data = [(torch.randn(size, 6) + 1, torch.randint(0, 2, (size,))) for size in sizes]
    optimizer, loss = torch.optim.Adam(model.parameters(), 1e-2), nn.CrossEntropyLoss()
    for _ in range(steps):
        optimizer.zero_grad()
        sum(loss(model(x), y) for x, y in data).backward()
        optimizer.step()
    return Problem(model, loss, data)


def truth(problem):
    """The eigenvalues of the exact Hessian in float64, by magnitude descending."""
    wide = problem.to(dtype=torch.float64)
    matrix = wide.hessian().matmat(torch.eye(wide.layout.dim, dtype=torch.float64)).numpy()
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    return values[np.argsort(-np.abs(values))]


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("batches", [1, 3])
def test_products_are_off_by_what_is_stated(batches, memory):
    problem = network(batches)
    operator, exact = ReducedHessian(problem, memory), Hessian(problem)
    assert operator.route.name == ("cached" if memory is None else "rebuilt")
    assert f"in bfloat16, off by about {operator.error:.1e} of a product" in str(operator.route)
    vectors = torch.randn(problem.layout.dim, 20)
    off = (operator @ vectors - exact @ vectors).norm(dim=0) / (exact @ vectors).norm(dim=0)
    # Between a quarter of a unit of bfloat16 and ten units. The error of one direction stands for similar directions.
    assert 2**-9 < operator.error < 10 * 2**-7
    assert off.median() == pytest.approx(operator.error, rel=1)


def test_full_precision_is_that_of_the_hessian_through_whatever_wraps_it():
    problem = network(2)
    reduced, exact = ReducedHessian(problem), Hessian(problem.to(dtype=torch.float64))
    diagonal = torch.rand(problem.layout.dim) + 0.5
    vector = torch.randn(problem.layout.dim, dtype=torch.float64)
    for one, other in [
        (reduced, exact),
        (2 * reduced.shifted(3.0), 2 * exact.shifted(3.0)),
        (Preconditioned(reduced, diagonal), Preconditioned(exact, diagonal)),
    ]:
        torch.testing.assert_close(one.full_precision() @ vector, other @ vector)
        assert not torch.allclose((one @ vector.float()).double(), other @ vector)
        assert (one.eps, other.eps) == (2**-7, 2**-52)
    before = reduced.products
    Float64Products(reduced)(torch.randn(problem.layout.dim, 3))
    assert reduced.products == before + 3, "products in full precision are counted like others"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps", [0, 100])
def test_intervals_of_eigenvalues_contain_exact_ones(steps, seed):
    """The trained network has an outlier, and the error of products is largest along its eigenvector."""
    problem = network(seed=seed, steps=steps)
    reduced, exact = ReducedHessian(problem), truth(problem)
    for k in (1, 4):
        for start in range(3):
            found = top_eigenpairs(reduced, k, seed=start)
            assert found.converged.all()
            distances = abs(found.eigenvalues[:, None] - exact).min(axis=1)
            radius = found.intervals[:, 1] - found.eigenvalues
            assert (distances <= radius).all()
            assert (radius < 0.2 * abs(exact[0])).all(), "intervals that say something"
            # Residuals contain the error of products, because exact products with the k vectors measure the error.
            assert (found.residuals > 1e-4 * abs(exact[:k])).all()
            assert found.products_verification > k + 1


class Off(SymmetricOperator):
    """A diagonal matrix whose products have an error along its first eigenvector; those in float64 are exact."""

    def __init__(self, off):
        super().__init__(300, torch.device("cpu"), torch.float32)
        self.entries, self.off = torch.linspace(1, 0, 300) ** 4, off
        self.eps = 2**-7

    def full_precision(self):
        return MatrixOperator(self.entries.double().diag())

    def _product(self, vectors):
        products = self.entries[:, None] * vectors
        products[0] += self.off * vectors[0]
        return products


def test_an_error_along_one_eigenvector_is_never_overlooked():
    for seed in range(20):
        operator = Off(0.02)
        found = top_eigenpairs(operator, 3, seed=seed)
        # The error doesn't change the eigenvectors, so exact products with these give the exact eigenvalues.
        assert found.eigenvalues[0] == pytest.approx(1, abs=1e-5)
        assert (
            abs(found.eigenvalues - operator.entries[:3].numpy()) <= found.intervals[:, 1] - found.eigenvalues
        ).all()
        assert found.rounding >= 0.02
        assert found.products == operator.products


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("off", [0.0, 1e-2])
def test_pairs_of_rough_vectors_are_off_by_the_square_of_these(which, off):
    spectrum = np.array([-9.0, 7.0, 5.0, -3.0, *np.linspace(-1, 1, 36)])
    matrix = symmetric(spectrum)
    values, vectors = np.linalg.eigh(matrix.numpy())
    order = select(values, 4, which)
    rough = vectors[:, order] + off * np.random.default_rng(0).standard_normal((40, 4)) / 40**0.5
    basis = torch.as_tensor(np.linalg.qr(rough)[0])
    found = refined(Float64Products(MatrixOperator(matrix)), basis, matrix @ basis, which)
    exact = values[order]
    radius = found.intervals[:, 1] - found.values
    assert (abs(found.values - exact) <= radius).all()
    residuals = (matrix @ found.vectors - found.vectors * torch.as_tensor(found.values)).norm(dim=0)
    np.testing.assert_allclose(residuals, found.residuals, atol=1e-13)
    # sin^2 of the angle to a vector is off^2, and so much of the spectrum's width is the most that it moves a quotient.
    assert (abs(found.values - exact) <= 4 * off**2 * 16 + 1e-12).all()


def test_of_a_transformer_too():
    problem = landscape.load_problem(SHIPPED, params="layer").sampled(64)
    found = top_eigenpairs(ReducedHessian(problem), 3)
    exact = top_eigenpairs(problem.hessian(), 3, tol=1e-5)
    assert found.complete
    off = abs(found.eigenvalues - exact.eigenvalues)
    assert (off <= found.intervals[:, 1] - found.eigenvalues).all()
    assert (off < 1e-3 * exact.eigenvalues).all(), "better than products, which are off by a percent"


def test_density_says_how_far_the_precision_may_have_moved_it():
    problem = network()
    found = landscape.spectral_density(ReducedHessian(problem), probes=4, steps=20, k=3)
    said = [line for line in found.summary if line.startswith("rounding may have moved each node")]
    assert len(said) == 1
    exact = np.sort(truth(problem)[3:])
    # Every chain's nodes lie between the smallest and the largest eigenvalue, up to that.
    assert exact[0] - found.rounding <= np.nanmin(found.nodes)
    assert np.nanmax(found.nodes) <= exact[-1] + found.rounding


class Skewed(SymmetricOperator):
    """The sum of a symmetric and an antisymmetric matrix, as an operator that claims few digits."""

    def __init__(self, size, eps):
        super().__init__(60, torch.device("cpu"), torch.float32)
        draws = torch.randn(60, 60, generator=torch.Generator().manual_seed(0))
        self._matrix = symmetric(np.linspace(-1, 1, 60)).float() + size * (draws - draws.T) / 15
        self.eps = eps

    def _product(self, vectors):
        return self._matrix @ vectors


def test_few_digits_excuse_percents_and_no_more():
    with pytest.raises(InputError, match="isn't symmetric"):
        top_eigenpairs(Skewed(0.05, 2**-23), 5)
    assert top_eigenpairs(Skewed(0.05, 2**-7), 5).rounding > 0.05
    with pytest.raises(InputError, match="isn't symmetric"):
        top_eigenpairs(Skewed(0.5, 2**-7), 5)


def test_vectors_have_the_memory_that_an_exact_product_leaves():
    problem = network()
    reduced, exact = (kind(problem.to(memory=1 << 30)) for kind in (ReducedHessian, Hessian))
    assert isinstance(reduced, ReducedHessian)
    assert reduced.memory < exact.memory
    assert reduced.route.graph_bytes < exact.route.graph_bytes


@pytest.mark.parametrize("kind", [ReducedHessian, DifferenceHessian])
def test_that_nothing_is_compiled_is_said_where_it_was_asked_for(kind):
    told = {asked: str(kind(network().to(compile_products=asked)).route) for asked in ("auto", "on")}
    assert "products of this matrix are never compiled" in told["on"]
    assert "compiled" not in told["auto"]


def test_float64_is_refused():
    with pytest.raises(InputError, match="of problems in float32"):
        ReducedHessian(network().to(dtype=torch.float64))


def test_on_the_command_line(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    asked = (SHIPPED, "--project", ROOT, "--params", "head", "--matrix", "bfloat16", "-o", "low.h5")
    refused = command(*asked, "--eigenpairs", "--dtype", "float64")
    assert (refused.status, list(tmp_path.iterdir())) == (2, [])
    assert "leave out --dtype float64" in refused.err
    done = command(*asked, "--eigenpairs", "-k", 3, "--self-check")
    assert (done.status, done.err) == (0, "")
    assert "Hessian in bfloat16: 3 eigenvalues of largest magnitude" in done.out
    assert "(in bfloat16, off by about" in done.out
    assert "from differences of the gradient" in done.out
    with open_record("low.h5") as record:
        assert set(record.groups) == {"/", "/loss", "/self_check_bfloat16", "/eigenpairs_bfloat16"}


@pytest.mark.parametrize(
    "asked", [("--trace",), ("--eigenpairs", "--tol-value", "0.1"), ("--spectrum",), ("--log-det", 1), ("--per-layer",)]
)
def test_what_needs_more_digits_is_refused(tmp_path, monkeypatch, command, asked):
    monkeypatch.chdir(tmp_path)
    refused = command(SHIPPED, "--project", ROOT, "--matrix", "bfloat16", "--density", *asked, "-o", "low.h5")
    assert (refused.status, list(tmp_path.iterdir())) == (2, [])
    assert "is for eigenpairs to a residual" in refused.err


@pytest.mark.parametrize(
    "estimate",
    [
        landscape.estimate_trace,
        landscape.full_spectrum,
        lambda operator: landscape.log_det(operator, 10.0),
        lambda operator: landscape.effective_dimension(operator, 1.0),
        lambda operator: top_eigenpairs(operator, 2, tol_value=0.1),
        lambda operator: landscape.estimate_trace(2 * operator),
    ],
)
def test_estimators_whose_errors_do_not_cover_it_refuse_it_in_python_too(estimate):
    with pytest.raises(InputError, match="products in less precision are for eigenpairs to a residual"):
        estimate(ReducedHessian(network()))


class Buffered(nn.Module):
    """A model that automatic mixed precision can't run: it assigns into a float32 buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        rows = torch.zeros(len(x), 4).index_put((torch.arange(len(x)),), self.first(x))
        return self.last(rows)


def test_a_model_that_mixed_precision_cannot_run_is_refused_in_a_line():
    torch.manual_seed(0)
    problem = Problem(Buffered(), nn.MSELoss(), [(torch.randn(9, 6), torch.randn(9, 2))])
    assert problem.hessian().dim == 38
    with pytest.raises(InputError, match="can't be evaluated in bfloat16") as refusal:
        ReducedHessian(problem)
    assert "\n" not in str(refusal.value)


def test_products_in_full_precision_are_of_the_point_where_the_operator_was_made():
    problem = network()
    reduced, vector = ReducedHessian(problem), torch.randn(problem.layout.dim, dtype=torch.float64)
    before = reduced.full_precision() @ vector
    problem.vector.mul_(1.5)
    torch.testing.assert_close(reduced.full_precision() @ vector, before)


def test_a_dense_matrix_is_exact_as_it_is():
    operator = MatrixOperator(symmetric(np.arange(5.0)))
    assert operator.full_precision() is operator
