"""Self-checks: products against each other, and Hessian products against differences of the gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

import landscape
from landscape import InputError, MatrixOperator, Problem, top_eigenpairs
from landscape.checks.closed_forms import closed_forms, compare
from landscape.checks.products import check_products
from landscape.curvature.differences import DifferenceHessian
from landscape.loading.source import device_named
from landscape.machine.memory import OVERHEAD
from landscape.operator import SymmetricOperator
from tests.support.oracles import linear_regression, symmetric


class Softplus(torch.autograd.Function):
    """log(1 + e^x), whose backward pass is declared not differentiable."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return nn.functional.softplus(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return cotangent * torch.sigmoid(x)


class Detached(Softplus):
    """log(1 + e^x), whose backward pass is a constant to autograd, so its second derivative is silently zero."""

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return cotangent * torch.sigmoid(x).detach()


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 8), nn.Linear(8, 3), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def posed(function, dtype=torch.float64):
    torch.manual_seed(0)
    x, target = torch.randn(20, 4), torch.arange(20) % 3
    return Problem(Net(function), nn.CrossEntropyLoss(), [(x[:13], target[:13]), (x[13:], target[13:])], dtype=dtype)


class Faulty(SymmetricOperator):
    """A matrix whose products are wrong in some way."""

    def __init__(self, matrix, fault):
        super().__init__(len(matrix), matrix.device, matrix.dtype)
        self.matrix, self.fault, self.calls = matrix, fault, 0

    def _product(self, vectors):
        self.calls += 1
        product = self.matrix @ vectors
        if self.fault == "repeatability":
            return product * (1 + 1e-6 * self.calls)
        if self.fault == "linearity":
            return product + 1e-3 * vectors.square()
        if self.fault == "symmetry":
            return product + 1e-3 * vectors.roll(1, 0)
        return product


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_a_problem_pass(dtype):
    problem = posed(nn.functional.softplus, dtype)
    found = check_products(problem, problem.hessian())
    assert found.faults == ()
    assert found.differences is not None
    assert found.differences < (1e-4 if dtype == torch.float32 else 1e-7)


@pytest.mark.parametrize("fault", ["repeatability", "linearity", "symmetry"])
def test_what_is_no_symmetric_matrix_is_told(fault):
    problem = linear_regression().problem
    matrix = symmetric(np.linspace(-1, 3, problem.layout.dim))
    assert check_products(problem, Faulty(matrix, "none"), hessian=False).faults == ()
    faults = check_products(problem, Faulty(matrix, fault), hessian=False).faults
    assert any(line.startswith(f"{fault} is off by") for line in faults), faults


def test_a_backward_pass_that_is_no_derivative_is_told():
    problem = posed(Detached.apply)
    (fault,) = check_products(problem, problem.hessian()).faults
    assert "products differ from differences of the gradient" in fault


def test_another_matrix_is_told_from_the_hessian():
    problem, hessian = (form := linear_regression()).problem, form.hessian
    assert check_products(problem, MatrixOperator(hessian)).faults == ()
    assert len(check_products(problem, MatrixOperator(1.001 * hessian)).faults) == 1


def test_no_curvature_is_no_fault():
    problem = Problem(nn.Linear(3, 1), lambda output, target: output[:, 0], [(torch.randn(4, 3), torch.zeros(4))])
    found = check_products(problem, problem.hessian())
    assert (found.faults, found.differences, found.reason) == ((), None, "all products are zero")


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-2), (torch.float64, 1e-7)])
def test_differences_are_the_hessian_within_what_they_state(dtype, error):
    exact, once = posed(nn.functional.softplus, torch.float64).hessian(), posed(Softplus.apply, dtype)
    operator = DifferenceHessian(once)
    assert operator.error < error
    for vector in torch.randn(5, operator.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1)):
        expected = exact.matvec(vector)
        off = torch.linalg.vector_norm(operator.matvec(vector.to(dtype)).double() - expected)
        assert off <= 5 * operator.error * torch.linalg.vector_norm(expected)
    pairs = top_eigenpairs(operator, k=2)
    values = np.linalg.eigvalsh(exact.matmat(torch.eye(exact.dim, dtype=torch.float64)).numpy())
    largest = values[np.argsort(-abs(values))][:2]
    assert (
        abs(pairs.eigenvalues - largest) <= pairs.residuals + pairs.rounding + 5 * operator.error * largest[0]
    ).all()
    assert not operator.matvec(torch.zeros(operator.dim, dtype=dtype)).any()


def test_vectors_have_the_memory_that_differences_leave():
    problem = posed(Softplus.apply, torch.float64).limited(10**9)
    assert DifferenceHessian(problem).memory == 10**9 - OVERHEAD - 6 * problem.layout.dim * 8


def test_kinks_and_flatness_are_refused():
    torch.manual_seed(0)
    flat = Problem(nn.Linear(3, 1), lambda output, target: output[:, 0], [(torch.randn(4, 3), torch.zeros(4))])
    with pytest.raises(InputError, match="don't agree with each other"):
        DifferenceHessian(flat)


def test_kinks_make_no_accusation():
    """For a network of rectifiers on many samples, differences are refused or right."""
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        problem = Problem(model, nn.MSELoss(), [(torch.randn(3000, 10), torch.randn(3000, 1))])
        found = check_products(problem, problem.hessian())
        assert found.faults == ()
        assert (found.differences is None) == bool(found.reason)


MODEL = """
import torch
from tests.checks.test_selfcheck import Detached, Softplus, posed
def once(checkpoint): return posed(Softplus.apply)
def wrong(checkpoint): return posed(Detached.apply)
"""


def test_on_the_command_line(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    landscape.save_checkpoint("net.pt", posed(Softplus.apply).model.state_dict())
    refused = command("net.pt", "--problem", "model.py:once", "--hessian")
    assert refused.status == 2
    assert "--matrix differences" in refused.err
    asked = ("--eigenpairs", "-k", 1, "--matrix", "differences", "--self-check", "-o", "once.h5")
    done = command("net.pt", "--problem", "model.py:once", *asked)
    assert done.status == 0, done.err
    assert "products by central differences of the gradient (off by about" in done.out
    assert "self-check of products (Hessian by differences of the gradient)" in done.out
    wrong = command("net.pt", "--problem", "model.py:wrong", "--self-check", "-o", "wrong.h5")
    assert wrong.status == 3
    assert "isn't the derivative of its forward pass" in wrong.out
    again = command("net.pt", "--problem", "model.py:wrong", "--self-check", "-o", "wrong.h5")
    assert again.status == 3
    assert "isn't the derivative of its forward pass" in again.out


# ---------------------------------------------------------------------- closed forms


def test_closed_forms_are_hessians():
    """The closed forms agree with products in float64 to the last digits."""
    for form in closed_forms():
        found = form.problem.hessian().matmat(torch.eye(form.problem.layout.dim, dtype=torch.float64)).numpy()
        np.testing.assert_allclose(found, form.hessian, atol=1e-13)
        assert np.linalg.norm(form.hessian) > 0.1


def test_the_machine_is_held_to_closed_forms(command, monkeypatch):
    ran = command("--self-check")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.count(" yes ") == 24
    assert "all results agree with their closed forms" in ran.out
    wrong = [replace(form, hessian=1.01 * form.hessian) for form in closed_forms()[:1]]
    monkeypatch.setattr("landscape.checks.closed_forms.closed_forms", lambda: wrong)
    ran = command("--self-check", "--device", "cpu")
    assert ran.status == 3
    assert "6 of 6 results are WRONG on this machine" in ran.out


def test_an_eigenvalue_of_the_wrong_sign_is_told(monkeypatch):
    """The magnitudes alone would agree."""
    deep = closed_forms()[2]
    monkeypatch.setattr("landscape.checks.closed_forms.closed_forms", lambda: [replace(deep, hessian=-deep.hessian)])
    assert [each.right for each in compare() if "eigenvalues" in each.quantity] == [False, False]


@pytest.mark.parametrize("option", ["--hessian", "--json", "--overwrite"])
def test_without_a_checkpoint_nothing_else_is_done(option, command):
    ran = command("--self-check", option)
    assert (ran.status, ran.out) == (2, "")
    assert f"--self-check without a checkpoint checks this machine: name a checkpoint, or leave out {option}" in ran.err


def test_differences_beyond_a_finite_loss_are_no_agreement():
    """Only the widest of the steps leave the domain of the root."""

    class Domain(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1e-4, 0.5], dtype=torch.float64))

        def forward(self, x):
            return torch.sqrt(self.weight).sum() * x

    problem = Problem(Domain(), lambda output, target: output[:, 0], [(torch.ones(2, 1), torch.zeros(2))])
    assert DifferenceHessian(problem).step < 16


def test_the_self_check_of_a_machine_wants_a_device():
    with pytest.raises(InputError, match="device must be"):
        device_named("tpu")
