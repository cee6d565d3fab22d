"""Gauss and Gauss-Radau rules of a chain against the chain's measure; chains beside deflated eigenvectors."""

import numpy as np
import pytest
import torch

from landscape import InputError, MatrixOperator, SymmetricOperator
from landscape.spectrum.deflation import Deflation
from landscape.spectrum.probes import probe
from landscape.spectrum.quadrature import Chain, gauss, radau, run_chain
from tests.support.oracles import symmetric

N, M = 60, 6
EIGENVALUES = np.random.default_rng(0).uniform(-1, 2, N)
MATRIX = symmetric(EIGENVALUES)
NOTHING = Deflation(np.zeros(0), np.zeros(0), torch.zeros((N, 0), dtype=torch.float64), 0.0)
# A chain of m steps and its rule are backward stable: a few units of rounding for each of m products.
TOLERANCE = 100 * M * np.finfo(float).eps


def unit(vector):
    return vector / torch.linalg.vector_norm(vector)


def moment(matrix, vector, degree):
    """x^T A^degree x."""
    power = vector
    for _ in range(degree):
        power = matrix @ power
    return float(vector @ power)


@pytest.fixture(scope="module")
def chain():
    return run_chain(MatrixOperator(MATRIX), NOTHING, M, 0, 0)


def test_a_gauss_rule_of_m_nodes_has_the_first_2m_moments_and_no_more(chain):
    nodes, weights = gauss(chain.alpha, chain.beta)
    start = unit(probe(N, 0, 0, "gaussian"))
    errors = [abs(weights @ nodes**j - moment(MATRIX, start, j)) for j in range(2 * M + 1)]
    assert max(errors[:-1]) < TOLERANCE * 2 ** (2 * M)  # |lambda|^j is at most 2^(2 m)
    assert errors[-1] > 1e-6
    assert (np.diff(nodes) > 0).all()
    assert (weights >= 0).all()


def test_a_radau_rule_has_its_node_and_one_moment_more(chain):
    left = float(EIGENVALUES.min()) - 0.1
    nodes, weights = radau(chain.alpha, chain.beta, left)
    start = unit(probe(N, 0, 0, "gaussian"))
    assert len(nodes) == M + 1
    assert abs(nodes[0] - left) < TOLERANCE
    for j in range(2 * M + 1):
        assert abs(weights @ nodes**j - moment(MATRIX, start, j)) < TOLERANCE * 2 ** (2 * M)


def test_gauss_and_radau_enclose_the_logarithm():
    definite = symmetric(EIGENVALUES + 1.1)
    done = run_chain(MatrixOperator(definite), NOTHING, M, 0, 0)
    start = unit(probe(N, 0, 0, "gaussian")).numpy()
    values, vectors = np.linalg.eigh(definite.numpy())
    exact = np.log(values) @ (vectors.T @ start) ** 2
    above, below = gauss(done.alpha, done.beta), radau(done.alpha, done.beta, float(values[0]) - 1e-3)
    assert below[1] @ np.log(below[0]) < exact < above[1] @ np.log(above[0])


def test_a_radau_rule_of_an_exhausted_space_is_the_gauss_rule():
    done = run_chain(MatrixOperator(symmetric([1.0, 1.0, 3.0, 3.0])), _nothing(4), 10, 0, 0)
    assert len(done.alpha) == 2
    assert 0 < done.beta[-1] <= 4 * np.finfo(float).eps * 3
    (nodes, weights), (exact, their) = radau(done.alpha, done.beta, -5.0), gauss(done.alpha, done.beta)
    assert np.abs(nodes[1:] - exact).max() < TOLERANCE
    assert np.abs(weights[1:] - their).max() < TOLERANCE
    assert weights[0] < TOLERANCE
    whole = run_chain(MatrixOperator(symmetric([1.0, 2.0, 3.0])), _nothing(3), 10, 0, 0)
    assert whole.beta[-1] == 0
    for ours, other in zip(radau(whole.alpha, whole.beta, -5.0), gauss(whole.alpha, whole.beta), strict=True):
        assert np.array_equal(ours, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_deflated_chain_is_that_of_the_operator_compressed_to_the_complement(dtype):
    """The outliers are 1e6 times the bulk: without the deflation in every step they would come back within a few."""
    eigenvalues = np.concatenate([[1e6, -1e6], EIGENVALUES[2:]])
    values, vectors = np.linalg.eigh(symmetric(eigenvalues).numpy())
    held, rest = [0, N - 1], slice(1, N - 1)
    start = vectors[:, rest].T @ probe(N, 0, 3, "gaussian").numpy()  # in the coordinates of the complement
    weights = (start / np.linalg.norm(start)) ** 2
    operator = MatrixOperator(symmetric(eigenvalues).to(dtype))
    deflation = Deflation(values[held], np.zeros(len(held)), torch.tensor(vectors[:, held], dtype=dtype), 0.0)
    done = run_chain(operator, deflation, 200, 0, 3)
    nodes, found = gauss(done.alpha, done.beta)
    rounding = 100 * torch.finfo(dtype).eps
    assert np.abs(nodes).max() <= 2 + 1e6 * rounding
    assert done.orthogonality < rounding
    if dtype == torch.float64:
        assert np.abs(nodes - values[rest]).max() < 1e6 * rounding
        assert np.abs(found - weights).max() < 1e-6  # an eigenvector turns by the perturbation over the gap, > 1e-4


def test_a_probe_of_one_number_is_the_same_chain_whatever_came_before():
    operator = MatrixOperator(MATRIX)
    alone = run_chain(operator, NOTHING, M, 5, 2)
    run_chain(operator, NOTHING, M, 5, 1)
    again = run_chain(operator, NOTHING, M, 5, 2)
    assert np.array_equal(alone.alpha, again.alpha)
    assert not np.array_equal(alone.alpha, run_chain(operator, NOTHING, M, 5, 1).alpha)
    assert not np.array_equal(alone.alpha, run_chain(operator, NOTHING, M, 6, 2).alpha)


def test_where_all_is_deflated_a_chain_is_empty():
    everything = Deflation(np.ones(3), np.zeros(3), torch.eye(3, dtype=torch.float64), 0.0)
    done = run_chain(MatrixOperator(torch.eye(3, dtype=torch.float64)), everything, 5, 0, 0)
    assert isinstance(done, Chain)
    assert len(done.alpha) == len(done.beta) == 0


def test_a_product_that_is_not_finite_is_refused():
    class Broken(SymmetricOperator):
        def _product(self, vectors):
            return vectors * torch.nan

    with pytest.raises(InputError, match="NaN or infinite"):
        run_chain(Broken(4, torch.device("cpu"), torch.float64), _nothing(4), 3, 0, 0)


def _nothing(dim):
    return Deflation(np.zeros(0), np.zeros(0), torch.zeros((dim, 0), dtype=torch.float64), 0.0)
