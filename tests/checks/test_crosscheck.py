"""The comparison with PyHessian: an equal objective, an independent count of products, and no trace left behind."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from landscape.checks.pyhessian import pyhessian_eigenvalues
from landscape.errors import InputError
from landscape.problem import Problem


def quadratic(eigenvalues, batches=1, dtype=torch.float64):
    """A problem whose Hessian has these eigenvalues and random eigenvectors, spread unevenly over batches."""
    n = len(eigenvalues)
    generator = torch.Generator().manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    # The mean over n samples of (x_i . w)^2 has the Hessian (2/n) X^T X.
    x = (torch.tensor(eigenvalues, dtype=torch.float64) * n / 2).sqrt()[:, None] * vectors.T
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(n, 1, bias=False, dtype=dtype)
    return Problem(model, nn.MSELoss(), [(x, y)], micro_batch=None if batches == 1 else -(-n // batches))


def tanh_net(dtype=torch.float32, micro_batch=None):
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(30, 4, generator=generator), torch.randn(30, 2, generator=generator)
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    return Problem(model, nn.MSELoss(), [(x, y)], dtype=dtype, micro_batch=micro_batch)


def exact(problem):
    columns = torch.eye(problem.layout.dim, dtype=problem.dtype)
    return np.linalg.eigvalsh(problem.hessian().matmat(columns).double().numpy())


@pytest.mark.parametrize("batches", [1, 2])
def test_products_on_a_multiple_of_the_identity(batches):
    """Each of PyHessian's power iterations finds the eigenvalue in its first step; its second step changes nothing."""
    check = pyhessian_eigenvalues(quadratic([2.0, 2.0], batches), 2)
    assert check.products == 2 * 2
    # PyHessian divides by |v| + 1e-6. The second start keeps a part of length r when the first vector is removed, so it
    # becomes 1e-6 / r too short. r is above 0.01 for all but one in a hundred starts.
    np.testing.assert_allclose(check.eigenvalues, [2.0, 2.0], rtol=2e-6 / 0.01)
    assert (check.residuals <= 2 * 2e-6 / 0.01).all()


@pytest.mark.parametrize("micro_batch", [None, 7])
def test_products_are_as_many_as_its_calls_of_autograd(monkeypatch, micro_batch):
    original, calls = torch.autograd.grad, []

    def counting(*args, **keywords):
        if sys._getframe(1).f_globals["__name__"].startswith("pyhessian"):
            calls.append(1)
        return original(*args, **keywords)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    problem = tanh_net(micro_batch=micro_batch)
    check = pyhessian_eigenvalues(problem, 3)
    assert check.products == len(calls) / len(problem.batches)
    assert check.products > 3


@pytest.mark.parametrize("micro_batch", [None, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_eigenvalue_is_within_its_residual_of_an_exact_one(dtype, micro_batch):
    problem = tanh_net(dtype, micro_batch)
    spectrum = exact(problem)
    check = pyhessian_eigenvalues(problem, 4)
    nearest = abs(check.eigenvalues[:, None] - spectrum).min(1)
    # The residual of a unit vector bounds the distance to the spectrum; both are rounded at the scale of ||H||.
    rounding = 100 * torch.finfo(dtype).eps * abs(spectrum).max()
    assert (nearest <= check.residuals + rounding).all()
    assert check.eigenvalues.dtype == np.float64
    assert check.seconds > 0


@pytest.mark.parametrize("batches", [1, 3])
def test_a_tight_tolerance_in_double_precision_finds_the_exact_eigenvalues(batches):
    """In float32 the residual of the largest eigenvalue alone would be of order 16 * 1e-7."""
    values = [16.0, 8.0, 4.0, 2.0, 1.0, 0.5]
    check = pyhessian_eigenvalues(quadratic(values, batches), 3, tol=1e-14, max_iterations=500)
    # PyHessian's vectors are 1e-6 / |H v| too short. This scales a Rayleigh quotient by (1 - 1e-6)^2 at |H v| = 1, and
    # less at larger |H v|. Deflation with such a vector leaves 2e-6 of the larger eigenvalue.
    np.testing.assert_allclose(check.eigenvalues, values[:3], rtol=1e-5)
    assert (check.residuals <= 1e-5 * 16).all()


def test_the_same_seed_gives_the_same_numbers():
    first, second, other = (pyhessian_eigenvalues(tanh_net(), 3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.eigenvalues, second.eigenvalues)
    assert first.products == second.products
    assert (first.eigenvalues != other.eigenvalues).any()


def test_nothing_is_left_behind():
    problem = tanh_net(torch.float64)
    problem.model.train()
    before = {name: tensor.clone() for name, tensor in problem.model.state_dict().items()}
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    modules = {name: value for name, value in vars(sys.modules["pyhessian.hessian"]).items() if callable(value)}
    product = modules["hessian"].dataloader_hv_product
    pyhessian_eigenvalues(problem, 2)
    assert torch.equal(torch.rand(3), expected), "the global generator is where it was"
    assert torch.get_default_dtype() == torch.float32
    assert all(module.training for module in problem.model.modules())
    for name, parameter in problem.model.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
    assert problem.vector.grad is None
    after = vars(sys.modules["pyhessian.hessian"])
    assert all(after[name] is value for name, value in modules.items())
    assert modules["hessian"].dataloader_hv_product is product


def test_its_warning_does_not_reach_the_user():
    torch.set_warn_always(True)  # otherwise torch warns only once in a process
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pyhessian_eigenvalues(tanh_net(), 1)
    finally:
        torch.set_warn_always(False)
    assert [str(warning.message) for warning in caught] == []


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, cotangent):
        raise RuntimeError("no second derivative")


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, cotangent):
        return Failing.apply(ctx.saved_tensors[0]) * cotangent


def test_what_it_cannot_do_is_said_in_one_line():
    loss = lambda output, target: Square.apply(output - target).sum(1)  # noqa: E731
    problem = Problem(nn.Linear(3, 1), loss, [(torch.ones(4, 3), torch.ones(4, 1))])
    with pytest.raises(InputError, match=r"^PyHessian fails on this problem .*; leave the cross-check out$") as caught:
        pyhessian_eigenvalues(problem, 1)
    assert "\n" not in str(caught.value)
    assert torch.get_default_dtype() == torch.float32


def test_the_peer_gets_the_model_and_the_loss_as_they_are(monkeypatch):
    """If the loss bypasses the parameters that are put in, the two results disagree, and PyHessian's is right."""
    monkeypatch.setattr("landscape.problem.problem.refuse_leaks", lambda *_: ())
    model = nn.Linear(4, 1, bias=False).double()
    kept = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, n, generator=generator, dtype=torch.float64) for n in (4, 1))
    loss = lambda out, target: (out - target).square().mean() + 3 * kept[0].square().sum()  # noqa: E731
    problem = Problem(model, loss, [(x[:5], y[:5]), (x[5:], y[5:])]).at(torch.ones(4, dtype=torch.float64))
    true = np.linalg.eigvalsh((2 / 9 * x.T @ x + 6 * torch.eye(4)).numpy())[::-1]
    check = pyhessian_eigenvalues(problem, 2, tol=1e-14, max_iterations=500)
    np.testing.assert_allclose(check.eigenvalues, true[:2], rtol=1e-5)
    assert (check.residuals > 5).all(), "by the products of this package they are no eigenpairs"


def test_penalties_reach_the_peer():
    plain, penalised = (
        tanh_net(torch.float64, 7),
        tanh_net(torch.float64, 7).with_penalty(lambda named: sum(p.square().sum() for p in named.values())),
    )
    ours = exact(plain) + 2
    check = pyhessian_eigenvalues(penalised, 2, tol=1e-12, max_iterations=1000)
    assert (abs(check.eigenvalues[:, None] - ours).min(1) <= check.residuals + 1e-10).all()
    assert (check.residuals < 1e-3).all()


def test_of_some_parameters_the_peer_knows_these_alone():
    problem = tanh_net(torch.float64).restricted("2")
    problem.model[0].weight.grad = torch.ones(5, 4)
    check = pyhessian_eigenvalues(problem, 2, tol=1e-12, max_iterations=1000)
    assert (abs(check.eigenvalues[:, None] - exact(problem)).min(1) <= check.residuals + 1e-10).all()
    assert torch.equal(problem.model[0].weight.grad, torch.ones(5, 4)), "a gradient of the user's own is put back"


def test_as_plain_values():
    plain = pyhessian_eigenvalues(tanh_net(), 2).plain()
    assert plain.keys() == {"eigenvalues", "residuals", "products", "seconds"}
    assert [type(value) for value in plain.values()] == [list, list, int, float]


def test_results_are_shown_even_where_the_peer_fails(tiny, command, monkeypatch):
    def failing(*_, **__):
        raise InputError("PyHessian has no answer")

    tiny.save("a.pt", 0)
    monkeypatch.setattr("landscape.checks.pyhessian.pyhessian_eigenvalues", failing)
    ran = command("a.pt", "--crosscheck", "pyhessian", "-k", 2)
    assert ran.status == 2
    assert "2 eigenvalues of largest magnitude" in ran.out
    assert ran.err == "landscape-probe: PyHessian has no answer\n"
