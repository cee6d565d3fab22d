"""Random probes: their moments and their dependence on seeds; blocks of products, and the rounding in products."""

import numpy as np
import pytest
import torch

from landscape import InputError, MatrixOperator
from landscape.operator import SymmetricOperator
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.probes import probe, probe_block
from landscape.spectrum.products import block_size, finite_products, measured_rounding
from landscape.spectrum.rounding import Columns
from tests.support.oracles import symmetric

KINDS = ["rademacher", "gaussian"]


class Flawed(SymmetricOperator):
    """An operator whose products have known errors E v added."""

    def __init__(self, matrix: torch.Tensor, errors: torch.Tensor) -> None:
        super().__init__(len(matrix), matrix.device, matrix.dtype)
        self.matrix, self.errors = matrix, errors

    def _product(self, vectors: torch.Tensor) -> torch.Tensor:
        # The errors at v/3 are others than those at v, as rounding is.
        scaled = (vectors.abs() > 0) & (vectors.abs() < 0.5)
        return self.matrix @ vectors + torch.where(scaled.any(0), -1.0, 1.0) * (self.errors @ vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_have_mean_0_and_variance_1_and_no_correlation(kind):
    probes = np.stack([probe(2000, 0, i, kind).numpy() for i in range(50)])
    # Means of 1e5 independent numbers of variance 1 are within 5 standard errors, here of 1/sqrt(1e5); so are means of
    # products of entries of neighbouring probes, and of neighbouring entries. A square has variance 2 at most.
    allowed = 5 / probes.size**0.5
    assert abs(probes.mean()) < allowed
    assert abs((probes**2).mean() - 1) < allowed * 2**0.5
    assert abs((probes[1:] * probes[:-1]).mean()) < allowed
    assert abs((probes[:, 1:] * probes[:, :-1]).mean()) < allowed
    assert (kind == "rademacher") == (set(np.unique(probes)) == {-1.0, 1.0})


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_depends_on_its_seed_and_number_alone(kind):
    operator = MatrixOperator(np.eye(37))
    block = probe_block(operator, 3, range(20), kind)
    again = torch.cat([probe_block(operator, 3, [i], kind) for i in range(20)], dim=1)
    assert torch.equal(block, again)
    assert torch.equal(block[:, 7], probe(37, 3, 7, kind))
    assert not torch.equal(probe(37, 3, 7, kind), probe(37, 3, 8, kind))
    assert not torch.equal(probe(37, 3, 7, kind), probe(37, 4, 7, kind))
    assert not torch.equal(probe(37, 3, 4, kind), probe(37, 4, 3, kind))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    probe(37, 3, 7, kind)
    assert torch.equal(before, torch.random.get_rng_state())


def test_single_precision_has_the_same_probes_rounded():
    single = MatrixOperator(np.eye(9, dtype=np.float32))
    assert torch.equal(probe_block(single, 1, [0], "gaussian")[:, 0], probe(9, 1, 0, "gaussian").float())


@pytest.mark.parametrize("kind", KINDS)
def test_probes_have_nothing_to_do_with_the_start_of_a_krylov_sequence_of_one_seed(kind):
    n, seeds = 100, 200
    operator = MatrixOperator(np.eye(n))
    products = []
    for seed in range(seeds):
        basis = KrylovBasis(operator, 1, seed)
        basis.append_random()
        products.append(float(basis.rows[0] @ probe(n, seed, 0, kind)))
    # Of a unit vector with an independent probe: mean 0, variance 1; five standard errors.
    assert abs(np.mean(products)) < 5 / seeds**0.5
    assert abs(np.var(products) - 1) < 5 * (2 / seeds) ** 0.5


@pytest.mark.parametrize(
    ("seed", "index", "kind", "message"),
    [
        (-1, 0, "rademacher", "seed must lie between"),
        (2**63, 0, "rademacher", "seed must lie between"),
        (0, -1, "rademacher", "numbered from 0"),
        (0, 0, "uniform", "rademacher or gaussian"),
    ],
)
def test_bad_arguments_are_refused(seed, index, kind, message):
    with pytest.raises(InputError, match=message):
        probe(5, seed, index, kind)


def test_the_largest_seed_has_a_probe():
    assert len(probe(5, 2**63 - 1, 2**40)) == 5


@pytest.mark.parametrize("n", [1, 5, 64, 65, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_are_those_of_the_matrix(n, dtype):
    matrix = symmetric(np.random.default_rng(n).standard_normal(n), dtype=dtype)
    operator = MatrixOperator(matrix)
    blocks = Columns(operator)
    found = dict(blocks)
    assert list(found) == list(range(0, n, 64))
    assert torch.equal(torch.cat(list(found.values()), dim=1), matrix)
    assert operator.products == n + 1
    # The columns are exact; the product that they are compared with has at most n eps || |A| |v| || in it.
    norm = float(torch.linalg.matrix_norm(matrix.abs().double(), 2)) * n**0.5
    assert 0 < blocks.rounding <= (n + 4) * torch.finfo(dtype).eps * norm


def test_rounding_is_the_frobenius_norm_of_the_errors():
    n = 200
    matrix = symmetric(np.random.default_rng(0).standard_normal(n))
    errors = 1e-10 * torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blocks = Columns(Flawed(matrix, errors))
    list(blocks)
    # The difference is between E v and -E v: twice the norm, whose square has a relative spread of some sqrt(2 / n).
    assert blocks.rounding == pytest.approx(2 * float(errors.norm()), rel=5 * (2 / n) ** 0.5)


def test_rounding_of_a_product_is_never_nothing_but_of_zero():
    operator = MatrixOperator(np.diag([1.0, 2.0, 4.0]))
    vector = torch.ones(3, dtype=torch.float64)
    assert measured_rounding(operator, vector, operator.matvec(vector)) >= 2.0**-52 * 21**0.5
    assert measured_rounding(operator, 0 * vector, 0 * vector) == 0


def test_blocks_fit_into_64_megabytes():
    assert block_size(MatrixOperator(np.eye(10))) == 64
    assert block_size(MatrixOperator(np.eye(10)), 16) == 16

    class Large(SymmetricOperator):
        def _product(self, vectors):
            raise NotImplementedError

    for dim, columns in [(1_000_000, 8), (10**9, 1)]:
        assert block_size(Large(dim, torch.device("cpu"), torch.float32)) == columns


@pytest.mark.parametrize("entry", [np.nan, np.inf])
def test_products_that_are_not_finite_are_refused(entry):
    operator = Flawed(torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64))
    operator.matrix[1, 1] = entry
    with pytest.raises(InputError, match="NaN or infinite"):
        finite_products(operator, torch.eye(3, dtype=torch.float64))
