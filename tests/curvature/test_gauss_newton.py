"""Gauss-Newton products against explicit J^T H_out J, and against the Hessian of linear models."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import psutil
import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import Hessian, InputError, Problem, top_eigenpairs
from landscape.curvature.fisher import EmpiricalFisher, ExactFisher, MonteCarloFisher
from landscape.curvature.gauss_newton import GaussNewton
from tests.problem.test_losses import LOSSES, _as_double, _tensors
from tests.support.oracles import (
    CLOSED_FORMS,
    NETWORKS,
    Network,
    call,
    dense,
    exact_hessian,
    exact_jacobian,
    network,
    perceptron,
    second_derivative,
)

EPS = torch.finfo(torch.float64).eps
KINDS = [GaussNewton, ExactFisher, MonteCarloFisher, EmpiricalFisher]


def explicit(network: Network, loss) -> torch.Tensor:
    """The matrix J^T H_out J, of a loss as a function of all outputs together."""
    jacobian = network.jacobian.flatten(0, -2)
    return jacobian.T @ second_derivative(loss, network.output) @ jacobian


@pytest.mark.parametrize("name", NETWORKS)
def test_against_explicit_matrices(name):
    net = network(name)
    target = net.classes.clone()
    target[0] = 1  # so that some are masked
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.1][: net.output.shape[1]]).double()
    problem = net.problem(nn.CrossEntropyLoss(weight, ignore_index=1), [3, 2], target)
    cached, rebuilt = GaussNewton(problem), GaussNewton(problem, memory=0)
    assert (cached.route.name, rebuilt.route.name) == ("cached", "rebuilt")
    expected = explicit(net, lambda output: functional.cross_entropy(output, target, weight, ignore_index=1))
    assert (dense(cached) - expected).norm() < 1e-9 * expected.norm()
    vector = torch.ones(problem.layout.dim).double()
    assert torch.equal(rebuilt.matvec(vector), cached.matvec(vector))


@pytest.mark.parametrize("name", ["looped", "convolutional"])
def test_it_differs_from_the_hessian_where_the_model_is_not_linear(name):
    problem = network(name).problem(nn.CrossEntropyLoss())
    ggn, hessian = dense(GaussNewton(problem)), dense(problem.hessian())
    assert (ggn - hessian).norm() > 0.1 * hessian.norm()
    # Positive semidefinite up to rounding: the loss is convex in the outputs.
    assert torch.linalg.eigvalsh(ggn)[0] > -len(ggn) * EPS * ggn.norm()
    assert torch.linalg.eigvalsh(hessian)[0] < -1e-3


@pytest.mark.parametrize("name", ["linear regression", "logistic regression", "softmax regression"])
def test_it_is_the_hessian_of_a_linear_model(name):
    form = CLOSED_FORMS[name]()
    scale = torch.linalg.matrix_norm(form.hessian, 2)
    assert (dense(GaussNewton(form.problem)) - form.hessian).abs().max() <= 100 * EPS * scale


@pytest.mark.parametrize("name", ["untied chain", "tied chain"])
def test_it_is_the_hessian_where_the_residual_is_zero(name):
    """For half the squared residual, H = J^T J + residual * (second derivative of the model)."""
    form = CLOSED_FORMS[name]()
    assert (dense(GaussNewton(form.problem)) - form.hessian).abs().max() <= 100 * EPS * form.hessian.max()
    away = form.problem.at(1.3 * form.problem.vector)
    chain = exact_jacobian(away, lambda m, p: call(m, p, torch.ones(1).double()))
    assert (dense(GaussNewton(away)) - chain.T @ chain).abs().max() <= 100 * EPS * (chain.T @ chain).max()
    assert (dense(away.hessian()) - chain.T @ chain).abs().max() > 0.1


@pytest.mark.parametrize("outputs", [1, 4])
def test_the_factor_of_2_of_mean_squared_errors(outputs):
    """MSELoss averages the squares of K outputs without 1/2: G = (2/K) J^T J / N."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(7, 3, generator=g).double(), torch.randn(7, outputs, generator=g).double()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, outputs)).double()
    problem = Problem(model, nn.MSELoss(), [(x[:4], y[:4]), (x[4:], y[4:])])
    jacobian = exact_jacobian(problem, lambda m, p: call(m, p, x)).flatten(0, 1)
    assert (dense(GaussNewton(problem)) - 2 / outputs * jacobian.T @ jacobian / 7).abs().max() < 1e-12


class Table(nn.Module):
    """A model whose parameters are its outputs: J is a permutation, and G is H_out itself."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output.clone())

    def forward(self, places):
        return self.output[places]


@pytest.mark.parametrize(("loss", "kind"), LOSSES)
def test_every_loss_of_torch(loss, kind):
    output, target = _tensors(kind)
    places = torch.arange(8)
    problem = Problem(Table(output), loss, [(places[:5], target[:5]), (places[5:], target[5:])])
    reduced = _as_double(loss)
    try:
        expected = torch.autograd.functional.hessian(lambda values: reduced(values, target), output)
    except RuntimeError:  # torch has no second derivative of it
        with pytest.raises(InputError, match="differentiated twice"):
            dense(GaussNewton(problem))
        return
    found, expected = dense(GaussNewton(problem)), expected.reshape(output.numel(), -1)
    # Both are torch's second derivatives, divided by the weights before or after: they differ by a few roundings.
    assert (found - expected).abs().max() < 100 * EPS * expected.abs().max().clamp(min=EPS)


def test_recurrent_layers():
    """The Jacobian by rows in reverse mode: the fused LSTM has no forward mode."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = nn.LSTM(2, 3, batch_first=True)

        def forward(self, x):
            return self.recurrent(x)[0].transpose(1, 2)  # (sample, class, position)

    g = torch.Generator().manual_seed(2)
    torch.manual_seed(2)
    x, y = torch.randn(4, 5, 2, generator=g).double(), torch.randint(0, 3, (4, 5), generator=g)
    net = Network(Recurrent().double(), x, y)
    output = net.model(x)
    parameters = list(net.model.parameters())
    rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in output.flatten()]
    jacobian = torch.stack([torch.cat([piece.flatten() for piece in row]) for row in rows])
    curvature = second_derivative(lambda values: functional.cross_entropy(values, y), output.detach())
    for route in ("cached", "rebuilt"):
        ggn = GaussNewton(net.problem(nn.CrossEntropyLoss(), [3, 1]), route=route)
        assert (dense(ggn) - jacobian.T @ curvature @ jacobian).abs().max() < 1e-12


def test_a_piecewise_linear_loss_has_no_gauss_newton_matrix_to_speak_of():
    problem = network("perceptron").problem(nn.L1Loss(), target=torch.zeros(5, 4).double())
    assert not dense(GaussNewton(problem)).any()
    assert dense(problem.hessian()).any()


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind):
    problem = network("looped").problem(nn.CrossEntropyLoss(), [2, 3])
    double, single = kind(problem), kind(problem.to(dtype=torch.float32))
    vector = torch.randn(problem.layout.dim, generator=torch.Generator().manual_seed(0)).double()
    expected = double.matvec(vector)
    error = (single.matvec(vector.float()).double() - expected).norm() / expected.norm()
    # The rounding of some dozen successive operations, with room for sums of up to a few hundred terms.
    assert 0 < error < 300 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [None, 0], ids=["cached", "rebuilt"])
@pytest.mark.parametrize("parts", [[3, 2], [1] * 5], ids=str)
def test_no_partition_of_the_data_changes_a_product(kind, memory, parts):
    net = network("single")
    loss = nn.CrossEntropyLoss(torch.arange(1.0, 6.0), ignore_index=2)
    vector = torch.randn(net.jacobian.shape[-1], generator=torch.Generator().manual_seed(0)).double()
    whole, parted = (kind(net.problem(loss, sizes), memory=memory).matvec(vector) for sizes in ([5], parts))
    assert (whole - parted).norm() < 1e-13 * whole.norm()  # another order of summation


# ------------------------------------------------------------------ outputs of many forms

Pair = namedtuple("Pair", ["value", "first"])


class Answer(OrderedDict):
    """A mapping with attributes, as model libraries return."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        setattr(self, key, value)


class Hidden:
    def __init__(self, value):
        self.value = value


@dataclass(frozen=True)
class Answered:
    value: torch.Tensor
    hidden: Hidden


class Many(nn.Module):
    """A network that wraps its output."""

    def __init__(self, wrap):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.body(x))


def _pose(wrap, loss):
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(6, 3, generator=g).double(), torch.randn(6, 2, generator=g).double()
    torch.manual_seed(3)
    return Problem(Many(wrap), loss, [(x[:4], y[:4]), (x[4:], y[4:])])


def _square(value, target):
    return ((value - target) ** 4).sum(1)


def test_outputs_that_are_nested():
    plain = dense(GaussNewton(_pose(lambda z: z, _square)))
    constant = torch.ones(2)
    for wrap, loss in [
        (lambda z: Answer(logits=z, cache=Hidden(z)), lambda output, y: _square(output.logits, y)),
        (lambda z: {"rest": [constant, "text"], "z": (z,)}, lambda output, y: _square(output["z"][0], y)),
        (lambda z: [Answered(z, Hidden(z)), constant], lambda output, y: _square(output[0].value, y)),
        (lambda z: (z, z), lambda output, y: _square((output[0] + output[1]) / 2, y)),
    ]:
        assert torch.equal(dense(GaussNewton(_pose(wrap, loss))), plain)


def test_outputs_that_are_views_of_each_other_are_variables_of_their_own():
    """With outputs (z, z_1) the loss z_2^2 z_1^2 has a second derivative in (z, z_1), not in z alone."""
    problem = _pose(lambda z: Pair(z, z[:, 0]), lambda output, _: output.value[:, 1] ** 2 * output.first**2)
    x = torch.cat([batch[0] for batch in problem.batches])
    jacobian = exact_jacobian(problem, lambda m, p: call(m, p, x).value)  # (sample, output, parameter)
    expected = torch.zeros(problem.layout.dim, problem.layout.dim).double()
    for (_, b), (along_a, along_b) in zip(problem.model.body(x).detach(), jacobian, strict=True):
        a = problem.model.body(x)[:, 0].detach()[(jacobian[:, 0] == along_a).all(1)][0]
        mixed = torch.outer(along_a, along_b)
        expected += 2 * a**2 * torch.outer(along_b, along_b) + 2 * b**2 * torch.outer(along_a, along_a)
        expected += 4 * a * b * (mixed + mixed.T)
    assert (dense(GaussNewton(problem)) - expected / 6).abs().max() < 1e-12


def test_outputs_that_hide_their_tensors_are_refused():
    hidden = _pose(Hidden, lambda output, y: _square(output.value, y))
    half = _pose(lambda z: (z, Hidden(z)), lambda output, y: _square(output[0] + output[1].value, y))
    for problem in (hidden, half):
        with pytest.raises(InputError, match="tuples, lists, mappings and dataclasses") as caught:
            GaussNewton(problem)
        assert "\n" not in str(caught.value)


def test_what_it_is_not_defined_for_is_refused():
    own = Problem.from_sample_losses(perceptron().model, lambda m, b: m(b).sum(1), [torch.ones(2, 3)])
    for refuse in (GaussNewton, GaussNewton.check):
        with pytest.raises(InputError, match="from_sample_losses") as caught:
            refuse(own)
        assert "\n" not in str(caught.value)


def test_parameters_without_effect_and_restricted_problems():
    net = perceptron()
    ggn = dense(GaussNewton(net.problem(nn.CrossEntropyLoss())))
    part = net.problem(nn.CrossEntropyLoss()).restricted(["2.*"])
    assert (dense(GaussNewton(part)) - ggn[20:, 20:]).abs().max() < 1e-15
    idle = Network(nn.ModuleDict({"used": net.model, "idle": nn.Linear(2, 2).double()}), net.inputs, net.classes)
    idle.model.forward = net.model.forward
    assert torch.equal(dense(GaussNewton(idle.problem(nn.CrossEntropyLoss())))[-6:], torch.zeros(6, 50).double())


# ------------------------------------------------------------------ what it costs


@pytest.mark.parametrize("kind", [Hessian, *KINDS])
def test_a_cached_product_evaluates_nothing_anew(kind):
    net = perceptron()
    problem = net.problem(nn.CrossEntropyLoss(), [2, 3])
    calls = []
    net.model.register_forward_hook(lambda *_: calls.append(1))
    vector = torch.ones(problem.layout.dim).double()
    for route, evaluations in (("cached", 0), ("rebuilt", 2)):
        operator = kind(problem, route=route)
        calls.clear()
        operator.matvec(vector)
        assert len(calls) == evaluations


@pytest.mark.parametrize("kind", KINDS)
def test_no_graphs_are_left_behind(kind):
    torch.manual_seed(4)
    x = torch.randn(2000, 64)
    problem = Problem(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)), nn.MSELoss(), [(x, x[:, :1])])
    graph = kind(problem).route.graph_bytes
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(30):
        kind(problem)
    assert process.memory_info().rss - before < 10 * graph  # thirty graphs would stay


@pytest.mark.parametrize("kind", [GaussNewton, ExactFisher])
def test_memory_grows_with_the_outputs_and_not_with_the_jacobian(kind):
    samples, classes = 50, 2000
    model = nn.Linear(3, classes, bias=False)
    problem = Problem(model, nn.CrossEntropyLoss(), [(torch.ones(samples, 3), torch.zeros(samples).long())])
    outputs = samples * classes * 4
    counted = kind(problem).route.graph_bytes
    # At least probabilities and cotangents; the Jacobian would take 6,000 times the outputs.
    assert 2 * outputs <= counted <= 20 * outputs
    assert kind(problem, memory=counted - 1).route.name == "rebuilt"


def test_its_eigenpairs():
    problem = network("looped").problem(nn.CrossEntropyLoss())
    exact = torch.linalg.eigvalsh(dense(GaussNewton(problem))).flip(0)[:3].numpy()
    assert abs(top_eigenpairs(GaussNewton(problem), 3, tol=1e-8).eigenvalues - exact).max() < 1e-9


class Once(torch.autograd.Function):
    """The square, with a derivative that can't be differentiated."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        (z,) = ctx.saved_tensors
        return 2 * z * slope


@pytest.mark.parametrize("kind", [Hessian, *KINDS])
def test_what_has_one_derivative_only_is_refused(kind):
    """Autograd would take such a derivative for a constant, so the products would be silently wrong."""
    in_model = _pose(Once.apply, nn.MSELoss())
    at_the_end = _pose(lambda z: z, lambda output, _: Once.apply(output).sum(1))
    for problem in [in_model, at_the_end] if kind in (Hessian, GaussNewton) else [in_model]:
        with pytest.raises(InputError, match="once_differentiable") as caught:
            kind(problem)
        assert "\n" not in str(caught.value)


def test_the_oracle_is_the_hessian_for_a_linear_model():
    """The explicit J^T H_out J of these tests against the explicit Hessian of these tests."""
    data = network("perceptron")
    net = Network(nn.Linear(3, 4).double(), data.inputs, data.classes)
    hessian = exact_hessian(
        net.problem(nn.CrossEntropyLoss()),
        lambda m, p: functional.cross_entropy(call(m, p, net.inputs), net.classes),
    )
    found = explicit(net, lambda output: functional.cross_entropy(output, net.classes))
    assert (found - hessian).abs().max() < 1e-14
