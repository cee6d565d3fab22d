"""The full spectrum: exact values, right counts of null directions, and a scratch file that is always removed."""

import resource
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import InputError, MatrixOperator, Problem
from landscape.operator import SymmetricOperator
from landscape.spectrum.full import full_spectrum, refuse_large
from landscape.spectrum.limits import MAX_DIM
from tests.support.oracles import CLOSED_FORMS, call, dense, exact_hessian, perceptron, symmetric

EPS = 2.0**-52
RNG = np.random.default_rng(0)
SPECTRA = {
    "one dimension": [-2.0],
    "two dimensions": [1.0, -1.0],
    "multiple": [3.0] * 20 + [-1.0] * 15 + [0.5],
    "clustered": [1 + 1e-12 * i for i in range(30)] + [1e-3 * (1 + 1e-9 * i) for i in range(30)],
    "indefinite": RNG.normal(0, 1, 80),
    "singular": [5.0, 2.0, -1.0, *[0.0] * 60],
    "zero": [0.0] * 7,
    "graded": 10.0 ** -np.arange(0.0, 20.0),
}


class Asymmetric(SymmetricOperator):
    """Products with a matrix that need not be symmetric."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__(len(matrix), matrix.device, matrix.dtype)
        self.matrix = matrix

    def _product(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.matrix @ vectors


class ForgetfulProduct(torch.autograd.Function):
    """The product a * b. Its derivative b by a is right, but counts as a constant when it is differentiated again."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return grad * b.detach(), grad * a


@pytest.mark.parametrize("name", SPECTRA)
def test_eigenvalues_are_those_of_numpy(name):
    matrix = symmetric(SPECTRA[name])
    operator = MatrixOperator(matrix)
    found = full_spectrum(operator)
    n, norm = len(matrix), float(np.abs(SPECTRA[name]).max())
    # Each of the two solvers is off by n eps ||A|| at most (LAPACK Users' Guide, section 4.7), and so is the matrix
    # made of the eigenvalues: for an entry n products of numbers of size ||A|| are summed, whose errors partly cancel.
    assert np.abs(found.eigenvalues - np.linalg.eigvalsh(matrix)[::-1]).max() <= 2 * n * EPS * norm
    assert np.abs(found.eigenvalues - np.sort(SPECTRA[name])[::-1]).max() <= 3 * n * EPS * norm
    assert found.asymmetry == 0
    assert found.rounding <= 10 * n * EPS * norm
    assert found.products == operator.products == n + 1
    assert found.trace == pytest.approx(float(matrix.trace()), abs=n * n * EPS * norm)
    assert found.frobenius == pytest.approx(float(matrix.norm()), abs=n * n * EPS * norm)


@pytest.mark.parametrize("name", SPECTRA)
def test_eigenvectors_are_orthonormal_and_belong_to_their_eigenvalues(name):
    matrix = symmetric(SPECTRA[name])
    found, plain = full_spectrum(matrix, eigenvectors=True), full_spectrum(matrix)
    n, norm, vectors = len(matrix), float(np.abs(SPECTRA[name]).max()), found.eigenvectors
    assert plain.eigenvectors is None
    # LAPACK Users' Guide (1999), section 4.7: residuals of n eps ||A|| and orthogonality to n eps.
    assert np.abs(vectors.T @ vectors - np.eye(n)).max() <= 4 * n * EPS
    assert np.linalg.norm(matrix.numpy() @ vectors - vectors * found.eigenvalues, axis=0).max() <= 4 * n * EPS * norm
    assert np.abs(found.eigenvalues - plain.eigenvalues).max() <= 2 * n * EPS * norm


@pytest.mark.parametrize(("name", "null"), [("singular", 60), ("multiple", 0), ("zero", 7), ("one dimension", 0)])
def test_signs_are_counted(name, null):
    values = np.array(SPECTRA[name])
    found = full_spectrum(symmetric(values))
    assert (found.positive, found.negative) == ((values > 0).sum(), (values < 0).sum())
    assert found.null == null
    assert found.zero_columns == (7 if name == "zero" else 0)
    assert found.symmetry_null == null - found.zero_columns


def test_a_matrix_of_several_tiles_and_blocks():
    # 1,100 rows are two tiles in place and 18 blocks of columns. A diagonal plus a rank of one in closed form:
    # d I + u u^T with ||u||^2 = s has d, n - 1 times, and d + s.
    u = torch.from_numpy(RNG.normal(0, 1, 1100))
    matrix = 2 * torch.eye(1100, dtype=torch.float64) + torch.outer(u, u)
    found = full_spectrum(matrix)
    top = 2 + float(u @ u)
    assert abs(found.eigenvalues[0] - top) <= 1100 * EPS * top
    assert np.abs(found.eigenvalues[1:] - 2).max() <= 1100 * EPS * top
    # The reported asymmetry of a matrix is exact: an antisymmetric part K adds ||K||_F.
    k = torch.triu(torch.from_numpy(RNG.normal(0, 1e-9, (1100, 1100))), 1)
    skewed = full_spectrum(Asymmetric(matrix + k - k.T))
    assert skewed.asymmetry == pytest.approx(float((k - k.T).norm()), rel=1e-6)
    assert np.abs(skewed.eigenvalues - found.eigenvalues).max() <= 2 * 1100 * EPS * top
    assert skewed.rounding >= skewed.asymmetry


@pytest.mark.parametrize("name", ["multiple", "indefinite", "singular"])
def test_single_precision_is_within_its_rounding(name):
    values = np.sort(SPECTRA[name])[::-1]
    matrix = symmetric(values, dtype=torch.float32)
    found = full_spectrum(matrix)
    eps, norm = torch.finfo(torch.float32).eps, np.abs(values).max()
    # Converted entries are off by eps / 2 each, so ||E|| <= ||E||_F <= eps / 2 ||A||_F.
    assert np.abs(found.eigenvalues - values).max() <= eps / 2 * np.linalg.norm(values) + 3 * len(values) * EPS * norm
    # The numbers that were given are exact in float64, and so are their products.
    exact = np.linalg.eigvalsh(matrix.double())[::-1]
    assert np.abs(found.eigenvalues - exact).max() <= found.rounding < 100 * EPS * np.linalg.norm(values)


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_forms(name, dtype):
    form = CLOSED_FORMS[name]()
    found = full_spectrum(form.problem.to(dtype=dtype).hessian())
    exact = torch.linalg.eigvalsh(form.hessian).flip(0).numpy()
    # As for the Hessian itself: products and the point are off by some units of rounding.
    assert np.abs(found.eigenvalues - exact).max() <= 100 * torch.finfo(dtype).eps * exact[0]
    if name == "softmax regression":
        # One shift of all classes' logits for each of 5 inputs: along W + 1 a^T nothing changes, whatever the data.
        assert (found.null, found.zero_columns, found.symmetry_null) == (5, 0, 5)
        assert (found.positive, found.negative) == (15, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_networks_hessian(dtype):
    network = perceptron()
    problem = network.problem(nn.CrossEntropyLoss(), parts=[1, 4]).to(dtype=dtype)
    at_weights = problem.to(dtype=torch.float64)
    exact = exact_hessian(
        at_weights, lambda model, p: functional.cross_entropy(call(model, p, _inputs(at_weights)), network.classes)
    )
    found = full_spectrum(problem.hessian())
    expected = np.linalg.eigvalsh((exact + exact.T).numpy() / 2)[::-1]
    norm = np.abs(expected).max()
    assert found.rounding < 100 * torch.finfo(dtype).eps * norm * len(exact) ** 0.5
    assert np.abs(found.eigenvalues - expected).max() <= found.rounding
    assert found.negative == (expected < -found.rounding).sum() > 0
    # A shift of the four logits of the output layer: its bias, and its weights from each of five hidden units.
    assert found.symmetry_null >= 6
    assert found.symmetry_null == (np.abs(expected) <= found.rounding).sum()
    assert found.zero_columns == 0


def _inputs(problem: Problem) -> torch.Tensor:
    return torch.cat([batch[0] for batch in problem.batches])


def test_a_dead_unit_is_counted_by_its_columns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = -1
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(40, 3, generator=g).double(), torch.randn(40, 1, generator=g).double()
    found = full_spectrum(Problem(model, nn.MSELoss(), [(x, y)]).hessian())
    # Three weights and a bias into the dead unit, one weight out of it.
    assert found.zero_columns == 5
    assert found.null >= 5
    assert found.symmetry_null == found.null - 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_embedding_of_a_token_that_does_not_occur(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3), nn.Tanh(), nn.Linear(3, 4)).to(dtype)
    tokens = torch.tensor([0, 1, 2, 4, 5, 1, 0])
    classes = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    found = full_spectrum(Problem(model, nn.CrossEntropyLoss(), [(tokens, classes)]).hessian())
    assert found.zero_columns == 3
    # A shift of all logits: by the bias and by the weights from each of three features.
    assert found.symmetry_null >= 4
    assert found.positive + found.negative + found.null == 18 + 12 + 4


def test_asymmetry_is_reported_and_joins_the_rounding():
    matrix = symmetric(SPECTRA["indefinite"])
    k = torch.triu(torch.from_numpy(RNG.normal(0, 1e-10, (80, 80))), 1)
    found = full_spectrum(Asymmetric(matrix + 2 * k))
    # A = (S + k + k^T) + (k - k^T); the second part is reported.
    assert found.asymmetry == pytest.approx(float((k - k.T).norm()))
    assert found.rounding >= found.asymmetry
    symmetric_part = np.linalg.eigvalsh(matrix + k + k.T)[::-1]
    assert np.abs(found.eigenvalues - symmetric_part).max() <= 2 * 80 * EPS * 4
    # Weyl: whichever triangle is believed, no eigenvalue is further off than was said.
    for believed in (matrix, matrix + 2 * (k + k.T)):
        assert np.abs(found.eigenvalues - np.linalg.eigvalsh(believed)[::-1]).max() <= found.rounding


def test_a_wrong_second_derivative_is_refused():
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return ForgetfulProduct.apply(self.left(x), self.right(x))

    torch.manual_seed(0)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    problem = Problem(Wrong(), nn.MSELoss(), [(x, x[:, :1])])
    matrix = dense(problem.hessian())
    with pytest.raises(InputError, match="isn't symmetric") as refusal:
        full_spectrum(problem.hessian())
    assert "\n" not in str(refusal.value)
    assert float((matrix - matrix.T).norm()) / 2 > 0.01 * float(matrix.norm())


def test_more_than_ten_thousand_are_refused_in_one_line_before_any_product():
    class Large(SymmetricOperator):
        def _product(self, vectors):
            raise AssertionError("a product was made")

    operator = Large(MAX_DIM + 1, torch.device("cpu"), torch.float32)
    with pytest.raises(InputError, match=r"10,001; .*spectral density.*--density") as refusal:
        full_spectrum(operator)
    assert "\n" not in str(refusal.value)
    refuse_large(MAX_DIM)
    with pytest.raises(InputError, match="10,001"):
        refuse_large(MAX_DIM + 1)


def test_a_folder_without_room_is_refused_before_any_product(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100 * 100 * 8 - 1))
    operator = MatrixOperator(np.eye(100))
    with pytest.raises(InputError, match=r"0 MB.*are free; name another scratch folder") as refusal:
        full_spectrum(operator, scratch=tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert operator.products == 0
    full_spectrum(np.eye(99), scratch=tmp_path)  # for which there is enough space


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="doesn't exist"):
        full_spectrum(np.eye(3), scratch=tmp_path / "none")


def test_a_write_that_fails_is_refused_and_the_file_removed(tmp_path):
    # A limit on the size of files stands for a full disk: the system refuses the same call.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match="can't be written") as refusal:
            full_spectrum(symmetric(RNG.normal(0, 1, 200)), scratch=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"to {tmp_path} (" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_columns_are_streamed_and_the_file_removed(tmp_path):
    sizes = []

    def look(progress):
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        sizes.append((progress.phase, sum(path.stat().st_size for path in files)))

    full_spectrum(symmetric(RNG.normal(0, 1, 150)), scratch=tmp_path, progress=look)
    column = 150 * 8
    assert sizes == [
        ("multiplying", 64 * column),
        ("multiplying", 128 * column),
        ("multiplying", 150 * column),
        ("eigenvalues", 0),
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["nan", "interrupt", "asymmetric"])
def test_the_file_is_removed_after_an_exception(tmp_path, fault):
    operator = Asymmetric(symmetric(RNG.normal(0, 1, 100)).contiguous())

    def stop(progress):
        assert len(list(tmp_path.iterdir())) == 1
        if fault == "interrupt":
            raise KeyboardInterrupt
        if fault == "nan":
            operator.matrix[0, 99] = np.nan
        if fault == "asymmetric":
            operator.matrix[0, 99] = 1e3

    with pytest.raises(KeyboardInterrupt if fault == "interrupt" else InputError):
        full_spectrum(operator, scratch=tmp_path, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_with_the_eigenvalues():
    told = []
    found = full_spectrum(symmetric(RNG.normal(0, 1, 150)), progress=told.append)
    assert [(each.phase, each.products) for each in told] == [
        ("multiplying", 64),
        ("multiplying", 128),
        ("multiplying", 150),
        ("eigenvalues", 151),
    ]
    assert [each.fraction for each in told] == [64 / 150, 128 / 150, 1, 1]
    assert found.products == 151


def test_a_loss_that_is_not_finite_is_refused():
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight[:] = torch.tensor([0.0, 1.0])
    # |w|^1.5 has an infinite second derivative at zero.
    problem = Problem.from_sample_losses(
        model, lambda m, batch: m.weight.abs().pow(1.5).sum().expand(len(batch)), [torch.zeros(2, 2).double()]
    )
    with pytest.raises(InputError, match="NaN or infinite"):
        full_spectrum(problem.hessian())
