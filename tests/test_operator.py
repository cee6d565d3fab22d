"""The operator's contract: shapes, counting, sums, dense matrices, SciPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh
from torch import nn

from landscape import InputError, MatrixOperator, Problem, SymmetricOperator, top_eigenpairs
from landscape.operator import as_operator
from tests.support.oracles import dense, perceptron, symmetric


def test_products_are_counted_by_columns_and_equal_the_matrix():
    matrix = symmetric([3.0, 1.0, -2.0])
    operator = MatrixOperator(matrix)
    block = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(operator.matmat(block), matrix @ block)
    assert torch.allclose(operator.matvec(block[:, 0]), matrix @ block[:, 0], rtol=0, atol=1e-15)
    assert operator.products == 5


def test_scipy_sees_the_same_operator_and_its_products_are_counted():
    operator = MatrixOperator(symmetric(np.arange(1.0, 31.0)))
    values = eigsh(operator.to_scipy(), k=2, which="LA", tol=0, v0=np.ones(30), return_eigenvectors=False)
    # ARPACK at tol 0 stops at machine precision: 30 eps of the largest eigenvalue, with room for its own rounding.
    assert np.abs(np.sort(values) - [29, 30]).max() < 30 * 30 * np.finfo(float).eps
    assert operator.products > 2
    assert operator.to_scipy().dtype == np.float64
    assert MatrixOperator(symmetric([1.0], dtype=torch.float32)).to_scipy().dtype == np.float32


def test_numpy_and_integer_matrices_become_operators():
    operator = as_operator(np.array([[2, 1], [1, 2]]))
    assert operator.dtype == torch.float64
    assert torch.equal(
        operator.matvec(torch.tensor([1.0, 0.0], dtype=torch.float64)), torch.tensor([2.0, 1.0]).double()
    )
    assert as_operator(operator) is operator


@pytest.mark.parametrize(
    ("matrix", "word"),
    [
        (np.ones((2, 3)), "square"),
        (np.array([[0.0, 1.0], [0.0, 0.0]]), "symmetric"),
        (np.array([[np.nan]]), "NaN"),
        (np.zeros((0, 0)), "dimension"),
        ("a matrix", "SymmetricOperator"),
    ],
)
def test_what_is_no_symmetric_matrix_is_refused_in_one_line(matrix, word):
    with pytest.raises(InputError, match=word) as caught:
        as_operator(matrix)
    assert "\n" not in str(caught.value)


def test_vectors_of_the_wrong_shape_or_type_are_refused():
    operator = MatrixOperator(np.eye(3))
    for bad, word in [
        (torch.ones(2, dtype=torch.float64), "shape"),
        (torch.ones(3), "float32"),
        (torch.ones(3, 1, dtype=torch.float64), "matmat"),
    ]:
        with pytest.raises(InputError, match=word):
            operator.matvec(bad)
    with pytest.raises(InputError, match="shape"):
        operator.matmat(torch.ones(3, dtype=torch.float64))
    assert operator.products == 0


# ------------------------------------------------------------------ sums, multiples, shifts

N = 4
# Small integers and quarters, with which float64 computes exactly.
LEAVES = [torch.tensor(rows).double() for rows in (
    [[2, 1, 0, -3], [1, 0, 4, 1], [0, 4, -1, 2], [-3, 1, 2, 5]],
    [[0, 1, 1, 0], [1, 3, 0, -2], [1, 0, 2, 2], [0, -2, 2, 0]],
)]  # fmt: skip
FACTORS = st.integers(-8, 8).map(lambda n: n / 4)


@st.composite
def expressions(draw) -> tuple[SymmetricOperator, torch.Tensor]:
    """An expression of operators, and its value by matrices."""
    operator, matrix = draw(st.sampled_from([(MatrixOperator(leaf), leaf) for leaf in LEAVES]))
    for kind in draw(st.lists(st.sampled_from(["plus", "minus", "left", "right", "negative", "shifted"]), max_size=4)):
        factor, other = draw(FACTORS), draw(st.sampled_from(LEAVES))
        operator, matrix = {
            "plus": lambda a, m, c, o: (a + MatrixOperator(o), m + o),
            "minus": lambda a, m, c, o: (MatrixOperator(o) - a, o - m),
            "left": lambda a, m, c, _: (c * a, c * m),
            "right": lambda a, m, c, _: (a * c, c * m),
            "negative": lambda a, m, *_: (-a, -m),
            "shifted": lambda a, m, c, _: (a.shifted(c), m + c * torch.eye(N)),
        }[kind](operator, matrix, factor, other)
    return operator, matrix


@settings(deadline=None)
@given(expressions())
def test_an_expression_of_operators_is_that_of_their_matrices(expression):
    operator, matrix = expression
    assert torch.equal(dense(operator), matrix)
    assert operator.products == N


@settings(deadline=None)
@given(FACTORS, FACTORS)
def test_the_laws_of_a_vector_space(c, d):
    a, b = MatrixOperator(LEAVES[0]), MatrixOperator(LEAVES[1])
    for left, right in [
        (a + b, b + a),
        (c * (a + b), c * a + c * b),
        ((c + d) * a, c * a + d * a),
        ((c * d) * a, c * (d * a)),
        (a - b, a + (-1) * b),
        (a - a, 0 * a),
        (a.shifted(c).shifted(d), a.shifted(c + d)),
        ((a + b).shifted(c), a.shifted(c) + b),
    ]:
        assert torch.equal(dense(left), dense(right))


def test_products_of_a_sum_are_counted_in_it_and_in_its_terms():
    a, b = MatrixOperator(LEAVES[0]), MatrixOperator(LEAVES[1])
    total = (a + 2 * b).shifted(1.0)
    total.matmat(torch.ones(N, 3).double())
    assert (total.products, a.products, b.products) == (3, 3, 3)
    (a + a).matvec(torch.ones(N).double())
    assert a.products == 5, "it occurs twice, and is applied twice"


def test_numbers_of_every_kind_scale_an_operator():
    a = MatrixOperator(LEAVES[0])
    for two in (2, np.float32(2), np.int64(2), torch.tensor(2.0), torch.tensor([2])):
        assert torch.equal(dense(two * a), 2 * LEAVES[0])
        assert torch.equal(dense(a * two), 2 * LEAVES[0])
    single = MatrixOperator(LEAVES[0].float()).shifted(np.float64(0.1))
    assert dense(single).dtype == torch.float32


def test_the_eigenpairs_of_a_sum_of_two_problems():
    """Weight decay adds its coefficient to every eigenvalue; two data sets add their Hessians."""
    net = perceptron()
    parts = [Problem(net.model, nn.CrossEntropyLoss(), [(net.inputs[i], net.classes[i])]) for i in ([0, 1], [2, 3, 4])]
    whole = net.problem(nn.CrossEntropyLoss()).hessian()
    weighted = 0.4 * parts[0].hessian() + 0.6 * parts[1].hessian()
    assert (dense(weighted) - dense(whole)).norm() < 1e-13 * dense(whole).norm()
    shifted = top_eigenpairs(weighted.shifted(0.25), 3, "LA", tol=1e-8).eigenvalues
    expected = torch.linalg.eigvalsh(dense(whole)).flip(0)[:3].numpy() + 0.25
    assert abs(shifted - expected).max() < 1e-9


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda a: a + 1, "shifted"),
        (lambda a: a + LEAVES[1], "as_operator"),
        (lambda a: a - None, "NoneType"),
        (lambda a: a + MatrixOperator(np.eye(3)), "dimension 4 .* dimension 3"),
        (lambda a: a - MatrixOperator(torch.eye(N)), r"torch\.float64 .* torch\.float32"),
        (lambda a: a * a, "finite number"),
        (lambda a: np.inf * a, "inf"),
        (lambda a: a.shifted(float("nan")), "nan"),
        (lambda a: a * "2 m", "finite number"),
        (lambda a: 1j * a, "finite number"),
        (lambda a: a * torch.ones(2), "finite number"),
        (lambda a: np.ones(2) * a, "finite number"),
    ],
)
def test_what_has_no_sum_or_multiple_is_refused_in_one_line(make, word):
    with pytest.raises(InputError, match=word) as caught:
        make(MatrixOperator(LEAVES[0]))
    assert "\n" not in str(caught.value)


def test_what_is_no_tensor_is_refused():
    with pytest.raises(InputError, match="takes torch tensors, not ndarray"):
        MatrixOperator(torch.eye(3)) @ np.ones(3)
