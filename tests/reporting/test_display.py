"""Results as lines of text, in a terminal and in a notebook."""

import numpy as np
import pytest
import torch

import landscape
from landscape import InputError
from tests.support.oracles import symmetric

MATRIX = symmetric(np.linspace(-1, 3, 60))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: landscape.estimate_trace(MATRIX, probes=12), ["trace 5", "95 % interval", "12 probes and 30"]),
        (lambda: landscape.full_spectrum(MATRIX), ["all 60 eigenvalues from 3.0", "45 positive, 15 negative"]),
        (lambda: landscape.spectral_density(MATRIX, 2, 10, 1), ["2 probes", "1 outlier exact", "below zero from 0."]),
        (lambda: landscape.spectral_density(torch.zeros(50, 50)), ["10 outliers exact", "bulk from 0 to 0"]),
        (lambda: landscape.effective_dimension(MATRIX, 0.5), ["95 % interval", "exact, from 61 products"]),
        (lambda: landscape.top_eigenpairs(MATRIX, 2), ["3.0000", "converged"]),
    ],
)
def test_a_notebook_shows_what_print_does(made, words):
    result = made()
    text = result._repr_mimebundle_()["text/plain"]
    assert [word for word in words if word not in text] == []
    assert "array(" not in text


def test_nothing_is_said_to_be_below_zero_where_nothing_is():
    for matrix in (torch.zeros(50, 50), symmetric([0.0] * 40 + list(np.linspace(1, 2, 20)))):
        assert "below zero" not in str(landscape.spectral_density(matrix))


@pytest.mark.parametrize(
    "call",
    [
        lambda: landscape.top_eigenpairs(MATRIX, k=2.0),
        lambda: landscape.top_eigenpairs(MATRIX, k=True),
        lambda: landscape.estimate_trace(MATRIX, probes=2.5),
        lambda: landscape.spectral_density(MATRIX, steps=3.0),
        lambda: landscape.log_det(MATRIX, 2.0, steps="5"),
    ],
)
def test_a_count_is_a_whole_number(call):
    with pytest.raises(InputError, match="must be a whole number"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        landscape.estimate_trace,
        landscape.spectral_density,
        landscape.full_spectrum,
        lambda matrix: landscape.top_eigenpairs(matrix, 2),
        lambda matrix: landscape.effective_dimension(matrix, 1e-100),
    ],
)
def test_what_is_too_small_to_be_squared_is_refused(call):
    with pytest.raises(InputError, match="scale the loss up"):
        call(1e-170 * MATRIX)
    call(torch.diag(torch.tensor([1.0] * 30 + [1e-170] * 30, dtype=torch.float64)))  # beside what isn't
