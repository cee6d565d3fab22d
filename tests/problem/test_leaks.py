"""Losses that use parameters without the model's own calls: their results are right, or they are refused in one line.

The right value comes from central differences of the user's scalar loss in float64, with the weights written into the
model in place.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from landscape import InputError, Problem
from landscape.checks.slope import slope_notes
from landscape.curvature.gauss_newton import GaussNewton

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(1))
BATCH = (X, Y)
ce = functional.cross_entropy


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def l2(parameters) -> Tensor:
    return 0.1 * sum(p.pow(2).sum() for p in parameters)


@dataclass(frozen=True)
class Case:
    """A problem, and the user's scalar loss of its model."""

    model: nn.Module
    pose: Callable[[], Problem]
    loss: Callable[[], Tensor]


def pair(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], wrapped: nn.Module | None = None) -> Case:
    return Case(model, lambda: Problem(wrapped or model, loss, [BATCH]), lambda: loss(model(X), Y))


def own(model: nn.Module, fn: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]) -> Case:
    return Case(model, lambda: Problem.from_sample_losses(model, fn, [BATCH]), lambda: fn(model, BATCH).mean())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


class Listed(nn.Module):
    """A model that reads its parameters from a plain list, or calls a module in one."""

    def __init__(self, modules: bool):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3)
        self.listed = [self.linear] if modules else list(self.linear.parameters())

    def forward(self, x):
        weight = self.listed[0].weight if isinstance(self.listed[0], nn.Module) else self.listed[0]
        return self.linear(x) * torch.exp(-0.1 * weight.pow(2).sum())


class Holding(nn.Module):
    """A loss that holds the model, as a module of its own or in a list."""

    def __init__(self, model: nn.Module, as_module: bool, reduction: str | None = None):
        super().__init__()
        if as_module:
            self.held = model
        else:
            self.listed = [model]
        if reduction is not None:
            self.reduction = reduction

    def forward(self, output, target):
        model = self.held if hasattr(self, "held") else self.listed[0]
        losses = ce(output, target, reduction="none") + l2(model.parameters())
        return losses if getattr(self, "reduction", "mean") == "none" else losses.mean()


def closure_in_pair_form():
    model = network()
    return pair(model, lambda out, t: ce(out, t) + l2(model.parameters()))


def closure_in_own_form():
    model = network()
    return own(model, lambda _, b: ce(model(b[0]), b[1], reduction="none") + l2(model.parameters()))


def the_model_that_is_passed():
    return own(network(), lambda m, b: ce(m(b[0]), b[1], reduction="none") + l2(m.parameters()))


def closure_over_a_functional_call():
    model = network()
    return own(
        model, lambda _, b: ce(functional_call(model, dict(model.named_parameters()), b[0]), b[1], reduction="none")
    )


def closure_over_tied_weights():
    model = Tied().double()
    return pair(model, lambda out, t: ce(out, t) + l2(model.parameters()))


def closure_over_a_compiled_model():
    model = network()
    compiled = torch.compile(model, backend="eager")
    return pair(model, lambda out, t: ce(out, t) + l2(compiled.parameters()), compiled)


def closure_that_calls_a_compiled_model():
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    loss = lambda m, b: ce(m(b[0]), b[1], reduction="none")  # noqa: E731
    return Case(
        model,
        lambda: Problem.from_sample_losses(model, lambda _, b: loss(compiled, b), [BATCH]),
        lambda: loss(model, BATCH).mean(),
    )


def closure_over_a_wrapped_model():
    model = network()
    wrapped = nn.DataParallel(model)
    return pair(model, lambda out, t: ce(out, t) + l2(wrapped.parameters()), wrapped)


def a_list_of_modules():
    return pair(Listed(modules=True).double(), nn.CrossEntropyLoss())


def constants_that_were_cloned():
    model = network()
    anchor = [p.detach().clone() + 1 for p in model.parameters()]
    return pair(model, lambda out, t: ce(out, t) + l2(p - a for p, a in zip(model.parameters(), anchor, strict=True)))


def a_teacher():
    model = network()
    teacher = copy.deepcopy(model)
    return own(model, lambda m, b: (m(b[0]) - 2 * teacher(b[0])).square().mean(1))


def a_loss_that_holds_the_model(as_module, reduction):
    def make():
        model = network()
        return pair(model, Holding(model, as_module, reduction))

    return make


RIGHT = {
    f.__name__: f
    for f in (
        closure_in_pair_form,
        closure_in_own_form,
        the_model_that_is_passed,
        closure_over_a_functional_call,
        closure_over_tied_weights,
        closure_over_a_compiled_model,
        closure_that_calls_a_compiled_model,
        closure_over_a_wrapped_model,
        a_list_of_modules,
        constants_that_were_cloned,
        a_teacher,
    )
} | {
    f"a loss that holds the model, {as_module}, {reduction}": a_loss_that_holds_the_model(as_module, reduction)
    for as_module in (True, False)
    for reduction in (None, "mean")
}


@torch.no_grad()
def true_trace(case: Case, h: float = 1e-4) -> float:
    """The trace of the Hessian by second differences, with each weight written in place."""
    entries = [each for p in case.model.parameters() for each in p.data.view(-1).unbind()]
    base, total = float(case.loss()), 0.0
    for entry in entries:
        entry.add_(h)
        up = float(case.loss())
        entry.sub_(2 * h)
        total += (up - 2 * base + float(case.loss())) / h**2
        entry.add_(h)
    return total


@pytest.mark.parametrize("name", RIGHT)
def test_what_the_loss_reads_of_the_model_counts(name):
    case = RIGHT[name]()
    problem = case.pose()
    operator = problem.hessian()
    products = float(operator.matmat(torch.eye(operator.dim, dtype=torch.float64)).trace())
    # A second difference is off by h^2/12 of the fourth derivatives (1e-9) and by 4 roundings of the loss over h^2
    # (1e-7) in each of at most 31 entries.
    assert products == pytest.approx(true_trace(case), rel=1e-4)
    assert problem.loss() == pytest.approx(float(case.loss().detach()), rel=1e-12)
    # Away from the model's own weights, the loss is compared with the user's loss with the weights written in place.
    there = problem.vector + 0.3
    with torch.no_grad():
        for p in case.model.parameters():
            p.add_(0.3)
    assert problem.at(there).loss() == pytest.approx(float(case.loss().detach()), rel=1e-12)


def kept_in_a_list(read, form):
    """A loss with a penalty on a list that holds ``read`` of every parameter."""

    def make():
        model = network()
        kept = [read(p) for p in model.parameters()]
        if form == "pair":
            return pair(model, lambda out, t: ce(out, t) + l2(kept))
        return own(model, lambda m, b: ce(m(b[0]), b[1], reduction="none") + l2(kept))

    return make


def read_when_called(read):
    """A loss that keeps the parameters, and calls ``read`` of each at every evaluation."""

    def make():
        model = network()
        kept = list(model.parameters())
        return pair(model, lambda out, t: ce(out, t) + 0.1 * sum(read(p) for p in kept))

    return make


@torch.no_grad()
def without_a_graph(p):
    return p.pow(2).sum()


def kept_of_tied_weights():
    model = Tied().double()
    kept = [model.last.weight]
    return pair(model, lambda out, t: ce(out, t) + l2(kept))


def kept_and_frozen():
    model = network()
    model[0].bias.requires_grad_(False)
    kept = [model[0].bias]
    return pair(model, lambda out, t: ce(out, t) + l2(kept))


def kept_in_a_state():
    model = network()
    state = model.state_dict()
    return own(model, lambda m, b: ce(m(b[0]), b[1], reduction="none") + l2(state.values()))


def kept_in_the_penalty():
    model = network()
    kept = list(model.parameters())
    return Case(model, lambda: Problem(model, nn.CrossEntropyLoss(), [BATCH], penalty=lambda _: l2(kept)), None)


def kept_beside_a_mask_of_nan():
    """A NaN that counts as zero would hide the parameter."""
    model = network()
    kept = list(model.parameters())
    return pair(model, lambda out, t: ce(out, t) + l2(torch.nan_to_num(p) for p in kept))


LEAKS = {
    "a list, pair form": kept_in_a_list(lambda p: p, "pair"),
    "a list, own form": kept_in_a_list(lambda p: p, "own"),
    ".data kept, pair form": kept_in_a_list(lambda p: p.data, "pair"),
    ".data kept, own form": kept_in_a_list(lambda p: p.data, "own"),
    "a view kept": kept_in_a_list(lambda p: p.detach()[..., :1], "pair"),
    "an array shared with torch": kept_in_a_list(lambda p: torch.from_numpy(p.detach().numpy()), "pair"),
    ".data when called": read_when_called(lambda p: p.data.pow(2).sum()),
    "detach when called": read_when_called(lambda p: p.detach().pow(2).sum()),
    "no_grad when called": read_when_called(without_a_graph),
    "NumPy when called": read_when_called(lambda p: float((p.data.numpy() ** 2).sum())),
    "Python numbers when called": read_when_called(lambda p: sum(p.data.flatten().tolist())),
    "a plain list in the module": lambda: pair(Listed(modules=False).double(), nn.CrossEntropyLoss()),
    "tied": kept_of_tied_weights,
    "frozen": kept_and_frozen,
    "a state": kept_in_a_state,
    "the penalty": kept_in_the_penalty,
    "NaN taken for zero": kept_beside_a_mask_of_nan,
}


@pytest.mark.parametrize("name", LEAKS)
def test_what_is_read_past_the_models_places_is_refused(name):
    case = LEAKS[name]()
    before = copy.deepcopy(case.model.state_dict())
    with pytest.raises(InputError, match=r"through another reference .* nn\.ParameterList, clone\(\)") as caught:
        case.pose()
    assert "\n" not in str(caught.value)
    after = case.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the model's own weights are as they were"
    assert all(p.requires_grad or name == "frozen" for p in case.model.parameters())


def test_memory_of_the_model_is_never_written_to():
    """Parameters may lie in a read-only file, or be shared with other processes."""
    model, written = network(), []
    memory = {p.data_ptr() for p in model.parameters()}

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            mutable = [each for each, a in zip(args, func._schema.arguments, strict=False) if a.is_write]
            written.extend(each.data_ptr() for each in mutable if isinstance(each, Tensor))
            return func(*args, **(kwargs or {}))

    with Mode():
        Problem(model, nn.CrossEntropyLoss(), [BATCH])
    assert memory.isdisjoint(written)
    assert {p.data_ptr() for p in model.parameters()} == memory


def test_a_buffer_that_is_read_by_another_name_is_told():
    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("scale", torch.ones(3))
            self.alias = [self.scale]

        def forward(self, x):
            return self.linear(x) * self.alias[0]

    problem = Problem(Aliased(), nn.CrossEntropyLoss(), [(X.float(), Y)])
    assert "buffers read through another reference, so that no checkpoint changes them: scale" in problem.notes
    plain = Problem(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.CrossEntropyLoss(), [(X.float(), Y)])
    assert plain.notes == ()


def test_what_is_detached_inside_the_model_is_told_as_a_gradient_that_is_no_derivative():
    model = network()
    loss = lambda out, t: ce(out, t) + l2(p.detach() for p in model.parameters())  # noqa: E731
    (told,) = slope_notes(Problem(model, loss, [BATCH]))
    assert "ISN'T THE DERIVATIVE" in told
    assert slope_notes(closure_in_pair_form().pose()) == ()


def test_a_loss_that_reads_the_parameters_has_no_gauss_newton():
    with pytest.raises(InputError, match=r"a term over the parameters themselves as Problem\(penalty=\.\.\.\)"):
        GaussNewton(closure_in_pair_form().pose())


def test_a_model_that_computes_something_else_without_a_graph_is_refused():
    class Faster(nn.Linear):
        def forward(self, x):
            return super().forward(x) if torch.is_grad_enabled() else super().forward(x.half().to(x))

    with pytest.raises(InputError, match="the losses with a graph differ from those without by up to"):
        Problem(Faster(3, 3), nn.CrossEntropyLoss(), [(X.float(), Y)])
    model = network()
    loss = lambda out, t: ce(out, t) + l2(p for p in model.parameters() if p.requires_grad)  # noqa: E731
    with pytest.raises(InputError, match=r"requires_grad.*Problem\(penalty"):
        Problem(model, loss, [BATCH])


def test_kernels_that_round_otherwise_without_a_graph_are_not_refused():
    """A network of 20 layers of large gain amplifies rounding, so that its losses differ in the third digit."""

    class Otherwise(nn.Linear):
        def forward(self, x):
            exact = super().forward(x)
            return exact if torch.is_grad_enabled() else exact * (1 + 1e-7)

    torch.manual_seed(0)
    layers = [layer for _ in range(20) for layer in (Otherwise(16, 16), nn.Tanh())]
    model = nn.Sequential(nn.Linear(3, 16), *layers, nn.Linear(16, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(8)
    problem = Problem(model, nn.CrossEntropyLoss(), [(X.float(), Y)])
    with problem.evaluating():
        graphed, _ = problem.terms(problem.vector.clone().requires_grad_(), problem.batches[0])
        with torch.no_grad():
            plain, _ = problem.terms(problem.vector, problem.batches[0])
    assert (graphed - plain).abs().max() > 1e-3


def test_the_fast_path_of_transformer_layers_is_off():
    """The fast path leaves padded positions zero, so a mean over positions would change without a graph."""
    torch.manual_seed(0)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.encoder, self.last = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

        def forward(self, x, padded):
            return self.last(self.encoder(x, src_key_padding_mask=padded).mean(1))

    model, x, padded = Encoder().eval(), torch.randn(6, 5, 8), torch.zeros(6, 5, dtype=torch.bool)
    padded[:3, 3:] = True
    problem = Problem(model, nn.CrossEntropyLoss(), [((x, padded), Y[:6])])
    with_a_graph = float(ce(model(x, padded), Y[:6]).detach())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nested tensors
        without = float(ce(model(x, padded), Y[:6]))
    assert abs(without - with_a_graph) > 1e-3, "torch takes its fast path here"
    assert problem.loss() == pytest.approx(with_a_graph, rel=1e-6)
    assert torch.backends.mha.get_fastpath_enabled()
