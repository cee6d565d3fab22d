"""The check of slopes: it finds losses whose gradient isn't their derivative, and accuses no other loss.

The right value is the derivative of the loss itself. It is the gradient for an ordinary model; for the others it is
known to be another function.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

import landscape
from landscape import Loss, Problem
from landscape.checks.products import check_products
from landscape.checks.slope import check_slopes, slope_notes

X = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(1))


class Straight(nn.Module):
    """Rounded weights or activations with a straight-through gradient, that of the numbers before rounding."""

    def __init__(self, rounded, activations=False):
        super().__init__()
        self.first, self.last = nn.Linear(10, 20), nn.Linear(20, 3)
        self.rounded, self.activations = rounded, activations

    def straight(self, x, wanted):
        return x + (self.rounded(x) - x).detach() if wanted else x

    def forward(self, x):
        hidden = functional.linear(x, self.straight(self.first.weight, not self.activations), self.first.bias)
        return self.last(self.straight(torch.tanh(hidden), self.activations))


class Reversing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, cotangent):
        return -cotangent


class Difference(nn.Module):
    """The difference of two networks, the second a detached target; the loss has a slope where its gradient is zero."""

    def __init__(self):
        super().__init__()
        self.online, self.target = nn.Linear(10, 3), nn.Linear(10, 3)

    def forward(self, x):
        return self.online(x) - self.target(x).detach()


def mlp(activation, *more):
    return nn.Sequential(nn.Linear(10, 30), activation, nn.Linear(30, 30), activation, nn.Linear(30, 3), *more)


def reversing():
    class Domain(nn.Sequential):
        def forward(self, x):
            return self[2](Reversing.apply(self[1](self[0](x))))

    return Domain(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


DISAGREE = {
    "weights of 8 bits": lambda: Straight(lambda w: (127 * w).round() / 127),
    "weights of 3 bits": lambda: Straight(lambda w: (3 * w).round() / 3),
    "signs as activations": lambda: Straight(torch.sign, activations=True),
    "a gradient that is reversed": reversing,
    "a network that is a target": Difference,
}


class Mixed(nn.Module):
    """A model that computes in less precision than its weights."""

    def __init__(self, dtype):
        super().__init__()
        self.body, self.dtype = mlp(nn.ReLU()), dtype

    def forward(self, x):
        with torch.autocast("cpu", self.dtype):
            return self.body(x).to(x)


class Inner(nn.Module):
    """RMSNorm as in model libraries, which computes in float32 in all precisions."""

    def __init__(self):
        super().__init__()
        self.body, self.scale = mlp(nn.ReLU()), nn.Parameter(torch.ones(3))

    def forward(self, x):
        wide = self.body(x).to(torch.float32)
        return self.scale * (wide * torch.rsqrt(wide.pow(2).mean(1, keepdim=True) + 1e-6)).to(x.dtype)


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv1d(1, 4, 3, bias=False), nn.Linear(16, 3)

    def forward(self, x):
        return self.last(torch.relu(functional.max_pool1d(self.conv(x.unsqueeze(1)), 2)).flatten(1))


def at_zero(model, most=1):
    """A model whose biases, or all weights, are zero: every unit is at its kink for zero inputs, or for all inputs."""
    for p in model.parameters():
        if p.ndim <= most:
            nn.init.zeros_(p)
    return model


def amplifying():
    layers = [layer for _ in range(20) for layer in (nn.Linear(12, 12), nn.Tanh())]
    model = nn.Sequential(nn.Linear(10, 12), *layers, nn.Linear(12, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(8)
    return model


HONEST = {
    "relu": lambda: mlp(nn.ReLU()),
    "relu, biases of zero": lambda: at_zero(mlp(nn.ReLU())),
    "relu, all weights zero": lambda: at_zero(mlp(nn.ReLU()), 2),
    "hardtanh": lambda: mlp(nn.Hardtanh(-0.5, 0.5)),
    "tanh": lambda: mlp(nn.Tanh()),
    "normalised": lambda: mlp(nn.GELU(), nn.LayerNorm(3)),
    "pooled": Pooled,
    "bfloat16 inside": lambda: Mixed(torch.bfloat16),
    "float16 inside": lambda: Mixed(torch.float16),
    "float32 inside": Inner,
    "twenty layers that amplify": amplifying,
}


def pose(make, seed, inputs=X, **more):
    torch.manual_seed(seed)
    return Problem(make(), nn.CrossEntropyLoss(), [(inputs, Y)], **more)


@pytest.mark.parametrize("name", DISAGREE)
def test_gradients_that_are_no_derivatives_are_told(name):
    for seed in range(2):
        (told,) = slope_notes(pose(DISAGREE[name], seed))
        assert "THE GRADIENT ISN'T THE DERIVATIVE OF THE LOSS" in told
        assert "\n" not in told


@pytest.mark.parametrize("name", HONEST)
def test_honest_gradients_are_not_told(name):
    sparse = X.clone()
    sparse[:, 4:], sparse[:3] = 0, 0
    for seed in range(4):
        for inputs in (X, sparse):
            assert slope_notes(pose(HONEST[name], seed, inputs)) == ()


def test_a_slope_in_closed_form():
    """The loss is w^2 / 2 at w = 2. Its gradient is given as w, which is right, and as -w, which is wrong."""

    def losses(sign):
        class Half(torch.autograd.Function):
            @staticmethod
            def forward(ctx, w):
                ctx.save_for_backward(w)
                return w.square() / 2

            @staticmethod
            def backward(ctx, cotangent):
                return sign * ctx.saved_tensors[0] * cotangent

        return lambda model, batch: Half.apply(model.weight).expand(4, 1).squeeze(1)

    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    for sign in (1, -1):
        problem = Problem.from_sample_losses(model, losses(sign), [torch.ones(4, 1).double()])
        for slope in check_slopes(problem):
            assert abs(slope.found) == pytest.approx(2, rel=5e-3), "a thousandth of the size beside the point"
            assert slope.found == pytest.approx(sign * slope.expected, rel=1e-7)
            assert (slope.excess > 1) == (sign == -1)


def test_a_loss_without_a_gradient_is_left_to_others():
    problem = Problem(nn.Linear(10, 3), lambda output, y: output.detach().square().sum(1), [(X, Y)])
    assert slope_notes(problem) == ()


def test_the_self_check_holds_the_slope_along_the_gradient_to_its_norm():
    problem = pose(DISAGREE["weights of 3 bits"], 0)
    check = check_products(problem, problem.hessian())
    assert any("ISN'T THE DERIVATIVE" in fault for fault in check.faults)
    along = next(slope for slope in check.slopes if slope.direction == "the gradient")
    assert along.expected == pytest.approx(float(torch.linalg.vector_norm(problem.gradient())), rel=0.05)
    honest = pose(HONEST["tanh"], 0)
    check = check_products(honest, honest.hessian())
    assert check.faults == ()
    assert len(check.slopes) == 2


STRAIGHT = """
import torch
from torch import nn
from landscape.problem import Problem

class Rounded(nn.Linear):
    def forward(self, x):
        weight = self.weight + ((4 * self.weight).round() / 4 - self.weight).detach()
        return nn.functional.linear(x, weight, self.bias)

def straight(checkpoint):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 2, generator=generator), torch.randn(20, 1, generator=generator)
    return Problem(nn.Sequential(Rounded(2, 3), nn.Tanh(), nn.Linear(3, 1)), nn.MSELoss(), [(x, y)])
"""


def test_every_command_tells_it_without_being_asked(tiny, command):
    (tiny.folder / "straight.py").write_text(STRAIGHT)
    ran = command("a.pt", "--problem", "straight.py:straight", "--trace", "--probes", 4)
    assert "note: THE GRADIENT ISN'T THE DERIVATIVE OF THE LOSS" in ran.out
    with landscape.open_record("a.landscape.h5") as record:
        for group in ("loss", "trace"):
            (told,) = record[group].dataset.provenance.values
            assert any("ISN'T THE DERIVATIVE" in note for note in json.loads(str(told))["notes"])
    honest = command("b.pt", "--trace", "--probes", 4)
    assert "DERIVATIVE" not in honest.out
    checked = command("c.pt", "--problem", "straight.py:straight", "--self-check")
    assert checked.status == 3
    assert "NOT CONVERGED: THE GRADIENT ISN'T THE DERIVATIVE" in checked.out
    assert "self-check of the gradient: along the gradient the slope of the loss is" in checked.out


def test_measurements_from_python_tell_it_too(tiny):
    (tiny.folder / "straight.py").write_text(STRAIGHT)
    source = landscape.Source("straight.py:straight")
    result = landscape.probe("a.pt", [Loss()], source=source)
    assert any("ISN'T THE DERIVATIVE" in note for note in result.rows[0].notes)
