"""Cross-entropy by blocks: it gives torch's numbers and derivatives in less memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from landscape import EmpiricalFisher, Hessian, Problem
from landscape.problem import cross_entropy
from tests.support.oracles import dense

IGNORED = -100


def drawn(shape, seed=0, scale=3.0):
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(shape, generator=g, dtype=torch.float64)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=g)
    target[torch.rand(target.shape, generator=g) < 0.2] = IGNORED
    return logits, target


@pytest.fixture(autouse=True)
def blocks_of_two_rows(monkeypatch):
    monkeypatch.setattr(cross_entropy, "_BLOCK_BYTES", {"cpu": 2 * 5 * 8})


@pytest.mark.parametrize("shape", [(1, 5), (7, 5), (3, 5, 4), (2, 5, 2, 3)], ids=str)
def test_losses_and_both_derivatives_are_those_of_torch(shape):
    logits, target = drawn(shape)
    logits.requires_grad_()
    ours = cross_entropy.cross_entropy(logits, target, IGNORED)
    theirs = functional.cross_entropy(logits, target, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    # Weights that depend on the losses, so that derivatives by the cotangent count too.
    first, second = (torch.autograd.grad((x.sin() * x).sum(), logits, create_graph=True)[0] for x in (ours, theirs))
    torch.testing.assert_close(first, second, rtol=1e-13, atol=1e-14)
    along = torch.randn_like(logits)
    first, second = (torch.autograd.grad(x, logits, along)[0] for x in (first, second))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)


@given(st.integers(0, 10**6), st.floats(0.01, 300))
@settings(max_examples=50, deadline=None)
def test_confident_predictions_are_as_exact_as_those_of_torch(seed, scale):
    """In float32 the losses agree with float64 up to a rounding of the largest difference of logits."""
    logits, target = drawn((6, 5), seed, scale)
    single = logits.float()
    exact = functional.cross_entropy(single.double(), target, reduction="none", ignore_index=IGNORED)
    ours = cross_entropy.cross_entropy(single, target, IGNORED)
    error = (ours.double() - exact).abs()
    spread = (single.amax(1) - single.amin(1)).double()
    eps = torch.finfo(torch.float32).eps
    # exact = log sum - (z - most). Each term is rounded once or twice, and the sum once for each class.
    assert (error <= eps * (2 * exact + 0.5 * spread + 5)).all()
    assert (error[exact < 1e-3] <= 5 * eps).all()


def test_logits_of_minus_infinity_are_no_matter():
    logits, target = drawn((6, 5))
    logits[:, 4] = -torch.inf
    target[target == 4] = 0
    logits.requires_grad_()
    for function in (cross_entropy.cross_entropy, lambda z, t, i: functional.cross_entropy(z, t, reduction="none")):
        (first,) = torch.autograd.grad(function(logits, target, IGNORED).sum(), logits, create_graph=True)
        (second,) = torch.autograd.grad(first, logits, torch.ones_like(logits))
        assert first.isfinite().all()
        assert second.isfinite().all()


def vocabulary(samples, classes=1024):
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 2, generator=g, dtype=torch.float64)
    target = torch.randint(classes, (samples,), generator=g)
    return Problem(nn.Linear(2, classes, bias=False).double(), nn.CrossEntropyLoss(), [(inputs, target)])


def test_a_large_vocabulary_takes_less_memory_and_gives_the_same(monkeypatch):
    monkeypatch.setattr(cross_entropy, "_BLOCK_BYTES", {"cpu": 1 << 20})
    posed = vocabulary(5000)  # 41 MB of logits
    size = 5000 * 1024 * 8
    vector = torch.randn(posed.layout.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours = Hessian(posed, route="cached")
    product, gradient = ours.matvec(vector), posed.gradient()
    monkeypatch.setattr(cross_entropy, "CLASSES", 1 << 40)
    theirs = Hessian(posed, route="cached")
    torch.testing.assert_close(product, theirs.matvec(vector), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(gradient, posed.gradient(), rtol=1e-10, atol=1e-14)
    assert ours.route.graph_bytes < 1.1 * size
    assert theirs.route.graph_bytes > 1.9 * size


@pytest.mark.parametrize("kind", [Hessian, EmpiricalFisher])
def test_every_kind_and_route_is_that_of_torch(monkeypatch, kind):
    posed = vocabulary(12, 5)
    expected = dense(kind(posed))
    monkeypatch.setattr(cross_entropy, "CLASSES", 2)
    for route in ("cached", "rebuilt", *(["linearised"] if kind is Hessian else [])):
        operator = kind(posed, route=route)
        assert operator.route.name == route
        torch.testing.assert_close(dense(operator), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    "loss",
    [
        nn.NLLLoss(),
        nn.CrossEntropyLoss(weight=torch.ones(2000)),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.MSELoss(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_other_losses_are_left_to_torch(loss):
    logits, target = torch.zeros(50, 2000), torch.zeros(50, dtype=torch.long)
    assert cross_entropy.large(nn.CrossEntropyLoss(), logits, target)
    assert not cross_entropy.large(loss, logits, target)
    assert not cross_entropy.large(nn.CrossEntropyLoss(), logits, torch.zeros(50, 2000))
    assert not cross_entropy.large(nn.CrossEntropyLoss(), logits.view(-1, 100), target)


def test_targets_may_be_bytes_and_transforms_are_left_to_torch():
    logits, target = torch.randn(3, 2000), torch.tensor([0, 7, 255], dtype=torch.uint8)
    expected = functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(cross_entropy.cross_entropy(logits, target, IGNORED), expected)
    posed = vocabulary(3)
    (batch,) = posed.batches

    def loss(vector):
        return posed.share(vector, batch)

    with posed.evaluating():
        _, along = torch.func.jvp(torch.func.grad(loss), (posed.vector,), (posed.vector,))
    torch.testing.assert_close(Hessian(posed, route="rebuilt").matvec(posed.vector), along)
