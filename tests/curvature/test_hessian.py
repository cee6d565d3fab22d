"""Hessian products against closed forms and against exact Hessians of objectives written out by hand."""

from functools import partial

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape import Hessian, InputError, Problem, top_eigenpairs
from models.attention import AttentionModel
from models.gpt import LoopedGPT
from tests.support.oracles import CLOSED_FORMS, Attention, call, dense, exact_hessian, scalar_chain

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name):
    form = CLOSED_FORMS[name]()
    scale = torch.linalg.matrix_norm(form.hessian, 2)
    assert (dense(form.problem.hessian()) - form.hessian).abs().max() <= 100 * EPS * scale


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize(
    ("dtype", "tol", "accuracy"), [(torch.float64, 1e-8, 1e-10), (torch.float32, 1e-4, 1e-5)], ids=["double", "single"]
)
def test_eigenvalues_of_closed_forms(name, dtype, tol, accuracy):
    form = CLOSED_FORMS[name]()
    k = min(5, len(form.hessian))
    exact = torch.linalg.eigvalsh(form.hessian).flip(0)[:k].numpy()
    pairs = top_eigenpairs(form.problem.to(dtype=dtype).hessian(), k, "LA", tol=tol)
    assert pairs.complete
    assert np.abs(pairs.eigenvalues - exact).max() <= accuracy * exact[0]


@pytest.mark.parametrize("factors", range(2, 9))
def test_a_tied_chain_is_exactly_as_many_times_sharper_as_it_has_loops(factors):
    tied = top_eigenpairs(scalar_chain(factors, tied=True).problem.hessian(), 1, tol=1e-8).eigenvalues[0]
    untied = top_eigenpairs(scalar_chain(factors, tied=False).problem.hessian(), 1, tol=1e-8).eigenvalues[0]
    assert tied / untied == pytest.approx(factors, rel=1e-10)


TOKENS = torch.randint(0, 6, (5, 9), generator=torch.Generator().manual_seed(5))
BATCH = (TOKENS[:, :-1], TOKENS[:, 1:])


def _token_loss(model, parameters):
    return functional.cross_entropy(call(model, parameters, BATCH[0]), BATCH[1])


@pytest.mark.parametrize(
    "model",
    [
        partial(AttentionModel, 6, loops=1),
        partial(AttentionModel, 6, loops=3),
        partial(AttentionModel, 6, loops=3, attention="linear"),
        partial(AttentionModel, 6, loops=2, layer_norm=True, mlp=8),
    ],
    ids=["single", "looped", "linear", "normalised"],
)
def test_single_and_looped_attention_against_the_exact_hessian(model):
    torch.manual_seed(0)
    problem = Problem(model(width=6, heads=2, head_width=3).double(), nn.CrossEntropyLoss(), [BATCH])
    exact = exact_hessian(problem, _token_loss)
    assert (dense(problem.hessian()) - exact).abs().max() < 1e-9
    if not any(isinstance(module, nn.LayerNorm) for module in problem.model.modules()):
        unflatten = problem.layout.unflatten
        by_vmap = torch.func.hessian(lambda vector: _token_loss(problem.model, unflatten(vector)))(problem.vector)
        assert (exact - by_vmap).abs().max() < 1e-9
    pairs = top_eigenpairs(problem.hessian(), 5, tol=1e-8)
    values = torch.linalg.eigvalsh((exact + exact.T) / 2)
    expected = values[values.abs().argsort(descending=True)][:5].numpy()
    assert np.abs(pairs.eigenvalues - expected).max() < 1e-9


def test_fused_attention_and_a_tied_gpt_against_the_exact_hessian():
    for model in (Attention(6, width=4), LoopedGPT(6, width=4, heads=2, loops=2, context=8)):
        problem = Problem(model.double(), nn.CrossEntropyLoss(), [BATCH])
        with sdpa_kernel(SDPBackend.MATH):
            exact = exact_hessian(problem, _token_loss)
        assert (dense(problem.hessian()) - exact).abs().max() < 1e-9


@pytest.mark.parametrize("parts", [[10], [8, 2], [5, 5], [1] * 10], ids=str)
@pytest.mark.parametrize("kept", [None, 0], ids=["cached", "rebuilt"])
@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(torch.tensor([1.0, 2, 0.5, 3]), ignore_index=1)]
)
def test_no_partition_of_the_data_changes_a_product(parts, kept, loss):
    g = torch.Generator().manual_seed(6)
    x = torch.randn(10, 3, generator=g, dtype=torch.float64)
    y = torch.randint(0, 4, (10, 7), generator=g)  # tokens, of which class 1 is masked or weighted
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 28), nn.Unflatten(1, (4, 7))).double()
    batches = list(zip(x.split(parts), y.split(parts), strict=True))
    problem = Problem(model, loss, batches)
    hessian = Hessian(problem, memory=kept)
    assert hessian.route.name == ("rebuilt" if kept == 0 else "cached")
    weight = None if loss.weight is None else loss.weight.double()
    exact = exact_hessian(
        problem,
        lambda m, p: functional.cross_entropy(call(m, p, x), y, weight=weight, ignore_index=loss.ignore_index),
    )
    assert (dense(hessian) - exact).abs().max() < 1e-12


def test_own_losses_with_weights_against_the_exact_hessian():
    g = torch.Generator().manual_seed(7)
    x = torch.randn(9, 4, generator=g, dtype=torch.float64)
    weights = torch.rand(9, generator=g, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 1)).double()

    def residuals(model, batch):  # a physics-informed kind of loss, with a derivative by the input inside
        points, w = batch
        points = points.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
        return (slope.sum(1) - 1) ** 2, w

    def objective(model, parameters):
        jacobian = torch.func.vmap(torch.func.jacrev(lambda point: call(model, parameters, point)))(x)
        return (weights * (jacobian.sum((1, 2)) - 1) ** 2).sum() / weights.sum()

    batches = list(zip(x.split([4, 5]), weights.split([4, 5]), strict=True))
    problem = Problem.from_sample_losses(model, residuals, batches)
    assert (dense(problem.hessian()) - exact_hessian(problem, objective)).abs().max() < 1e-12


def test_a_layer_zoo_against_the_exact_hessian():
    g = torch.Generator().manual_seed(8)
    images = torch.randn(4, 2, 6, 6, generator=g, dtype=torch.float64)
    target = torch.randint(0, 3, (4,), generator=g)
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.GroupNorm(1, 3), nn.AvgPool2d(2), nn.Flatten(), nn.SiLU(),
        nn.LayerNorm(12), nn.Linear(12, 3),
    ).double()  # fmt: skip
    problem = Problem(model, nn.CrossEntropyLoss(), [(images, target)])
    exact = exact_hessian(problem, lambda m, p: functional.cross_entropy(call(m.eval(), p, images), target))
    assert (dense(problem.hessian()) - exact).abs().max() < 1e-12


@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="a defect of that version")
def test_why_products_are_not_made_by_vmap():
    """Torch's own vmapped Hessian is wrong for LayerNorm; products, `jvp(grad)` and central differences agree."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), [(x, torch.zeros(3, 1, dtype=torch.float64))])
    ours, h = dense(problem.hessian()), 1e-5
    columns = torch.eye(problem.layout.dim, dtype=torch.float64)
    ends = [(problem.at(problem.vector + h * e), problem.at(problem.vector - h * e)) for e in columns]
    differences = torch.stack([(above.gradient() - below.gradient()) / (2 * h) for above, below in ends])
    assert (ours - differences).abs().max() < 1e-8
    assert (ours - exact_hessian(problem, lambda m, p: call(m, p, x).square().mean())).abs().max() < 1e-12
    unflatten = problem.layout.unflatten
    vmapped = torch.func.hessian(lambda vector: call(model, unflatten(vector), x).square().mean())(problem.vector)
    assert (vmapped - vmapped.T).abs().max() > 0.1


def test_recurrent_layers_against_finite_differences():
    torch.manual_seed(2)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = nn.LSTM(2, 3, batch_first=True)

        def forward(self, x):
            return self.recurrent(x)[0]

    x = torch.randn(4, 5, 2, dtype=torch.float64)
    problem = Problem(Recurrent().double(), nn.MSELoss(), [(x, torch.zeros(4, 5, 3, dtype=torch.float64))])
    v = torch.randn(problem.layout.dim, dtype=torch.float64)
    v /= v.norm()
    h = 1e-5  # central differences: h^2 and eps / h are both below 1e-9
    difference = (problem.at(problem.vector + h * v).gradient() - problem.at(problem.vector - h * v).gradient()) / (
        2 * h
    )
    assert (problem.hessian().matvec(v) - difference).abs().max() < 1e-8


def test_a_loss_without_curvature_and_parameters_without_effect():
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    linear = Problem(model, lambda output, target: (output - target).squeeze(1), [(x, torch.zeros(5, 1).double())])
    assert not dense(linear.hessian()).any()

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.idle = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, x):
            return x * self.used

    problem = Problem(Idle(), nn.MSELoss(), [(torch.ones(3, 2).double(), torch.zeros(3, 2).double())])
    assert torch.equal(dense(problem.hessian()), torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]).double()))


def test_products_that_are_not_finite_are_reported():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, x):
            return x * self.weight.abs().pow(1.5)  # a gradient of 0 and a curvature without bound at 0

    problem = Problem(Root(), nn.L1Loss(), [(torch.ones(3, 2).double(), -torch.ones(3, 2).double())])
    with pytest.raises(InputError, match="twice differentiable"):
        top_eigenpairs(problem.hessian(), 1)


def test_the_route_is_decided_by_what_the_graphs_hold():
    torch.manual_seed(3)
    x = torch.randn(64, 32)
    problem = Problem(nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1)), nn.MSELoss(), [(x, x[:, :1])])
    needed = Hessian(problem).route.graph_bytes
    # At least the hidden layer's activations, and no more than a few dozen of them.
    assert 64 * 64 * 4 <= needed <= 50 * 64 * 64 * 4
    assert Hessian(problem, memory=needed).route.name == "cached"
    assert Hessian(problem, memory=needed - 1).route.name == "rebuilt"
    assert Hessian(problem, memory=needed - 1, route="cached").route.name == "cached"
    assert "kB" in str(Hessian(problem).route)
    halves, single = problem.to(micro_batch=32), problem.to(micro_batch=1)
    assert Hessian(halves).route.graph_bytes == pytest.approx(needed + problem.vector.nbytes, rel=0.1)
    # Every micro-batch keeps a gradient of its own.
    assert Hessian(single).route.graph_bytes >= 64 * problem.vector.nbytes


def test_hessians_leave_no_graphs_behind():
    torch.manual_seed(4)
    x = torch.randn(2000, 64)
    problem = Problem(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)), nn.MSELoss(), [(x, x[:, :1])])
    graph = Hessian(problem).route.graph_bytes
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(30):
        Hessian(problem)
    assert process.memory_info().rss - before < 10 * graph  # thirty graphs would stay


def test_global_switches_are_put_back():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled
    problem = scalar_chain(3, tied=True).problem
    problem.hessian().matvec(torch.ones(1, dtype=torch.float64))
    after = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled
    assert after == before
