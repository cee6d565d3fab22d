"""Second derivatives that torch computes wrongly: every estimator refuses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import landscape
from landscape import InputError, Problem
from landscape.curvature.differences import DifferenceHessian
from tests.conftest import ROOT

ESTIMATORS = {
    "eigenpairs": lambda operator: landscape.top_eigenpairs(operator, 1),
    "five eigenpairs": lambda operator: landscape.top_eigenpairs(operator, 5),
    "certified eigenvalues": lambda operator: landscape.top_eigenpairs(operator, 2, tol_value=0.1),
    "trace": landscape.estimate_trace,
    "trace by two probes": lambda operator: landscape.estimate_trace(operator, probes=2, deflation=0),
    "density": lambda operator: landscape.spectral_density(operator, probes=2, steps=5, k=0),
    "spectrum": landscape.full_spectrum,
    "log det": lambda operator: landscape.log_det(operator, 100.0),
    "effective dimension": lambda operator: landscape.effective_dimension(operator, 0.1),
    "lanczos": lambda operator: landscape.lanczos(operator, 4),
}


class Rates(nn.Module):
    """A model with a hook that scales each row's gradient, but not its derivative: the products are those of H D."""

    def __init__(self, width):
        super().__init__()
        self.embedding, self.rates = nn.Embedding(7, width), torch.arange(1.0, 8).unsqueeze(1)
        self.head = nn.Linear(width, 3)

    def forward(self, tokens):
        table = self.embedding.weight * 1
        if table.requires_grad:
            table.register_hook(lambda g: g * self.rates if torch.is_grad_enabled() else g)
        return self.head(torch.tanh(nn.functional.embedding(tokens, table)).mean(1))


def normalised(width):
    return nn.Sequential(weight_norm(nn.Linear(3, width)), nn.Tanh(), nn.Linear(width, 3))


def normalised_as_it_was(width):
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(3, width)), nn.Tanh(), nn.Linear(width, 3))


def problem(model, dtype):
    inputs = torch.randint(0, 7, (40, 5)) if isinstance(model, Rates) else torch.randn(40, 3)
    return Problem(model, nn.CrossEntropyLoss(), [(inputs, torch.randint(0, 3, (40,)))], dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [4, 90])
@pytest.mark.parametrize("model", [normalised, normalised_as_it_was, Rates])
def test_no_estimator_gives_a_number_of_products_that_contradict_one_another(model, width, dtype):
    torch.manual_seed(1)
    operator = problem(model(width), dtype).hessian()
    for name, estimate in ESTIMATORS.items():
        with pytest.raises(InputError, match="isn't symmetric") as refusal:
            estimate(operator)
        assert "--matrix differences" in str(refusal.value), name


def test_products_that_are_off_are_refused_with_another_remedy():
    """Differences of the gradient use no second derivative that could be wrong, but they have fewer digits."""
    draws = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))

    class Noisy(landscape.SymmetricOperator):
        error = 1e-4

        def _product(self, vectors):
            return draws @ vectors

    with pytest.raises(InputError, match="isn't symmetric") as refused:
        landscape.estimate_trace(Noisy(40, torch.device("cpu"), torch.float32))
    assert "--dtype float64" in str(refused.value)
    assert "second derivative" not in str(refused.value)


def test_the_remedy_that_is_named_gives_the_right_trace():
    """The right trace is made of second differences of the loss along each parameter."""
    torch.manual_seed(1)
    posed = problem(normalised(4), torch.float64)
    h, right = 1e-4, 0.0
    for unit in torch.eye(posed.layout.dim, dtype=torch.float64):
        ends = posed.at(posed.vector + h * unit).loss() + posed.at(posed.vector - h * unit).loss()
        right += (ends - 2 * posed.loss()) / h**2
    found = landscape.estimate_trace(DifferenceHessian(posed))
    assert found.trace.value == pytest.approx(right, rel=1e-5)


def test_on_the_command_line_nothing_is_printed_of_such_a_matrix(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory.py").write_text(
        "import torch\nfrom torch import nn\nfrom torch.nn.utils.parametrizations import weight_norm\n"
        "from landscape import Problem\n"
        "def posed(checkpoint):\n"
        "    model = nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 3))\n"
        "    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))\n"
        "    return Problem(model, nn.CrossEntropyLoss(), [(x, torch.arange(20) % 3)])\n"
    )
    torch.save(normalised(4).state_dict(), "model.pt")
    for asked in (["--trace"], ["--hessian", "-k", "1"], ["--density"], ["--spectrum"], ["--per-layer"]):
        record = f"{asked[0].strip('-')}.h5"
        refused = command("model.pt", "--problem", "factory.py:posed", *asked, "-o", record)
        assert refused.status == 2, asked
        assert "isn't symmetric" in refused.err
        assert "trace" not in refused.out
        assert not (tmp_path / record).exists()


def test_an_operator_in_float64_that_is_off_in_its_ninth_digit_is_refused():
    rng = np.random.default_rng(0)
    draws = torch.from_numpy(rng.standard_normal((60, 60)))

    class Skewed(landscape.SymmetricOperator):
        def _product(self, vectors):
            return (draws + draws.T + 1e-6 * (draws - draws.T)) @ vectors

    operator = Skewed(60, torch.device("cpu"), torch.float64)
    for estimate in ESTIMATORS.values():
        with pytest.raises(InputError, match="isn't symmetric"):
            estimate(operator)


def test_the_shipped_checkpoint_passes():
    posed = landscape.load_problem(ROOT / "data" / "single.pt").sampled(16)
    landscape.lanczos(posed.hessian(), 3)
