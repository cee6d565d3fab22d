"""The operator's contract: shapes, counting, dense matrices, SciPy."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

from landscape import InputError, MatrixOperator
from landscape.operator import as_operator
from tests.oracles import symmetric


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
