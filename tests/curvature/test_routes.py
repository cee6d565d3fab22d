"""The routes to a product: all give autograd's product, and each falls back to another one where it isn't possible."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import GaussNewton, Hessian, InputError, MonteCarloFisher, Problem
from landscape.curvature.products.program import Program, UntraceableError
from landscape.curvature.products.route import Route, cheapest
from landscape.curvature.products.work import Counting, Work
from landscape.problem.batches import digest, shape_of
from models.attention import AttentionModel
from models.gpt import LoopedGPT
from tests.support.oracles import CLOSED_FORMS, Attention, dense

CPU = torch.device("cpu")
TOKENS = torch.randint(0, 6, (7, 9), generator=torch.Generator().manual_seed(5))


def classes(model, seed=0, count=12, features=4):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=g, dtype=torch.float64)
    target = torch.randint(0, 3, (count,), generator=g)
    return Problem(model.double(), nn.CrossEntropyLoss(), list(zip(x.split(5), target.split(5), strict=True)))


def assert_like_autograd(problem):
    """Assert that the product uses a traced program, and that it equals autograd's product."""
    hessian = Hessian(problem, route="linearised")
    assert not hessian.route.note
    expected = dense(Hessian(problem, route="cached"))
    assert (dense(hessian) - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_programs_give_closed_forms(name):
    form = CLOSED_FORMS[name]()
    hessian = Hessian(form.problem, route="linearised")
    assert hessian.route.name == "linearised"
    assert not hessian.route.note
    scale = torch.linalg.matrix_norm(form.hessian, 2)
    assert (dense(hessian) - form.hessian).abs().max() <= 100 * torch.finfo(torch.float64).eps * scale


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        pytest.param(
            partial(AttentionModel, 6, loops=3, width=6, heads=2, head_width=3),
            [3, 3, 1],
            id="looped attention, uneven batches",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            partial(LoopedGPT, 6, width=4, heads=2, loops=2, context=8), [7], id="tied GPT", marks=pytest.mark.slow
        ),
        pytest.param(partial(Attention, 6, width=4), [7], id="fused attention"),
    ],
)
def test_programs_give_what_autograd_does(model, parts):
    torch.manual_seed(0)
    batches = [(part[:, :-1], part[:, 1:]) for part in TOKENS.split(parts)]
    problem = Problem(model().double(), nn.CrossEntropyLoss(ignore_index=2), batches)
    assert_like_autograd(problem)


def test_a_compiled_program_gives_what_autograd_does_kept_or_made_anew():
    torch.manual_seed(0)
    problem = classes(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)))
    expected = dense(Hessian(problem, route="cached"))
    problem = problem.to(dtype=torch.float32)
    compiled, made_anew = Hessian(problem, compile_products="on"), Hessian(problem, 0, compile_products="on")
    assert (compiled.route.name, made_anew.route.name) == ("compiled", "recompiled")
    assert not compiled.route.note
    assert not made_anew.route.note
    for hessian in (compiled, made_anew):
        # The entries are sums of some hundred roundings.
        assert (dense(hessian).double() - expected).abs().max() <= 1e3 * 6e-8 * expected.abs().max()


def test_convolutions_and_normalisation_in_evaluation_mode():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    ).double()
    model(torch.randn(8, 2, 6, 6).double())  # moves the running statistics
    images = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    problem = Problem(model, nn.CrossEntropyLoss(), [(images, torch.tensor([0, 2, 1, 1]))])
    assert_like_autograd(problem)


def test_products_of_a_program_do_not_change_it():
    torch.manual_seed(2)
    problem = classes(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)))
    hessian = Hessian(problem, route="linearised")
    first, other = (torch.randn(hessian.dim, dtype=torch.float64) for _ in range(2))
    expected = hessian.matvec(first)
    hessian.matvec(other)
    assert torch.equal(hessian.matvec(first), expected)
    assert torch.equal(hessian.matmat(torch.stack([other, first], 1))[:, 1], expected)


def test_a_program_holds_at_other_points_and_for_other_buffers():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    problem = classes(model)
    Hessian(problem, route="linearised")
    assert len(problem.programs) == 2  # batches of 5 and of 2
    state = {name: tensor + 0.3 for name, tensor in problem.tensors().items() if tensor.is_floating_point()}
    there = problem.with_state(state)
    assert_like_autograd(there)
    assert there.programs is problem.programs
    assert len(there.programs) == 2  # nothing was traced anew


@pytest.mark.parametrize(
    "other",
    [
        lambda problem: problem.to(dtype=torch.float32),
        lambda problem: problem.restricted("0.*"),
        lambda problem: problem.sampled(7),
        lambda problem: problem.to(micro_batch=2),
        lambda problem: problem.with_model(nn.Linear(4, 3).double(), dict(nn.Linear(4, 3).double().named_parameters())),
    ],
    ids=["precision", "parameters", "data", "batches", "model"],
)
def test_another_problem_has_programs_of_its_own(other):
    problem = classes(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    Hessian(problem, route="linearised")
    there = other(problem)
    expected = dense(Hessian(there, route="cached"))
    found = Hessian(there, route="linearised")
    assert not found.route.note
    assert (dense(found) - expected).abs().max() <= 1e-5 * expected.abs().max()


class Masked(nn.Module):
    """A model that a program can't follow: shapes or branches depend on values."""

    def __init__(self, kind):
        super().__init__()
        self.inner, self.kind = nn.Linear(4, 3), kind

    def forward(self, x):
        out = self.inner(x).tanh()
        if self.kind == "mask":
            return out + out[out > 0].square().sum()
        if self.kind == "branch" and out.sum() > 100:
            return out
        return out.sin() + float(out.detach().abs().max()) if self.kind == "number" else out.sin()


@pytest.mark.parametrize("model", [Masked("mask"), Masked("branch"), Masked("number")], ids=repr)
def test_what_has_no_program_is_differentiated_by_autograd_and_says_why(model):
    problem = classes(model)
    hessian = Hessian(problem, route="linearised")
    assert hessian.route.name == "cached"
    assert "no program of the product" in str(hessian.route)
    assert torch.equal(dense(hessian), dense(Hessian(problem, route="cached")))
    rebuilt = Hessian(problem, 0, compile_products="on")
    assert rebuilt.route.name == "rebuilt"
    assert rebuilt.route.note


class OwnGradient(torch.autograd.Function):
    """A function with its own derivative, in reverse mode only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0].exp()


class Own(nn.Linear):
    def forward(self, x):
        return OwnGradient.apply(super().forward(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.inner(x.unsqueeze(1))[0][:, 0]


@pytest.mark.parametrize("model", [Own, Recurrent])
def test_what_is_differentiable_in_reverse_alone_has_a_program(model):
    torch.manual_seed(0)
    problem = classes(model(4, 3) if model is Own else model())
    hessian = Hessian(problem, route="linearised")
    assert not hessian.route.note
    assert torch.allclose(dense(hessian), dense(Hessian(problem, route="cached")), rtol=0, atol=1e-14)


class Reading(nn.Module):
    """A model that reads numbers from tensors in ways that no trace sees."""

    def __init__(self, kind):
        super().__init__()
        self.inner, self.kind, self.power = nn.Linear(4, 3), kind, 1.0

    def forward(self, x):
        out = self.inner(x).tanh()
        scale = {
            "list": lambda: max(max(row) for row in out.detach().tolist()),
            "array": lambda: float(out.detach().numpy().max()),
            "data": lambda: sum(sum(row) for row in x.tolist()),
            "state": lambda: self.power,
        }[self.kind]()
        return out.sin() * scale


@pytest.mark.parametrize("kind", ["list", "array", "data"])
def test_numbers_that_differ_from_batch_to_batch_are_found_out(kind):
    torch.manual_seed(0)
    problem = classes(Reading(kind))
    hessian = Hessian(problem, route="linearised")
    assert hessian.route.name == "cached"
    assert "differs from autograd's" in hessian.route.note
    assert torch.equal(dense(hessian), dense(Hessian(problem, route="cached")))


def test_numbers_that_differ_from_point_to_point_are_found_out():
    torch.manual_seed(0)
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    problem = Problem(Reading("list").double(), nn.CrossEntropyLoss(), [(x, y)])
    assert not Hessian(problem, route="linearised").route.note  # with one batch, as here, they are right
    there = problem.at(2 * problem.vector)
    for _ in range(2):
        assert_like_autograd(there)


def test_a_model_that_was_changed_has_another_program():
    torch.manual_seed(0)
    model = Reading("state")
    problem = classes(model)
    Hessian(problem, route="linearised")
    model.power = 3.0
    assert_like_autograd(problem)


def test_buffers_of_other_strides_have_another_program():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)
            self.register_buffer("mix", torch.randn(3, 3))

        def forward(self, x):
            return (self.inner(x) @ self.mix.reshape(-1).view(3, 3)).tanh()

    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 3, generator=g, dtype=torch.float64), torch.randint(0, 3, (5,), generator=g)
    problem = Problem(Model().double(), nn.CrossEntropyLoss(), [(x, y)])
    Hessian(problem, route="linearised")
    there = problem.with_state(problem.tensors() | {"mix": problem.tensors()["mix"].T})
    assert_like_autograd(there)


def test_indices_that_the_model_holds_are_no_riddle():
    class Model(nn.Linear):
        chosen = torch.tensor([2, 0, 1])

        def forward(self, x):
            return super().forward(x).tanh()[:, self.chosen]

    assert not Hessian(classes(Model(4, 3)), route="linearised").route.note


def test_arrays_in_a_batch_are_told_apart_by_all_their_numbers():
    first, second = np.zeros(2000), np.zeros(2000)
    second[1000] = 1
    assert shape_of((first,)) != shape_of((second,))
    assert digest([(first,)]) != digest([(second,)])


def test_routes_that_there_are_not_are_refused():
    problem = classes(nn.Linear(4, 3))
    with pytest.raises(
        InputError, match="no route 'fast'; the routes are cached, linearised, compiled, rebuilt, recompiled"
    ):
        Hessian(problem, route="fast")
    with pytest.raises(InputError, match="no route 'linearised'; the routes are cached, rebuilt"):
        MonteCarloFisher(problem, route="linearised")
    assert "never compiled" in GaussNewton(problem.to(compile_products="on")).route.note


def test_a_failure_is_not_repeated_at_every_point(monkeypatch):
    problem = classes(Masked("branch"))
    note = Hessian(problem, route="linearised").route.note
    monkeypatch.setattr(Program, "trace", lambda *_: pytest.fail("was traced again"))
    assert Hessian(problem.at(2 * problem.vector), route="linearised").route.note == note


def test_programs_of_a_wrapped_model_are_its_own():
    problem = classes(nn.Linear(4, 3))
    Hessian(problem, route="linearised")
    other = problem.with_model(problem.model, problem.tensors())
    assert problem.programs
    assert not other.programs


def test_a_program_that_gives_something_else_is_not_used(monkeypatch):
    trace = Program.trace
    monkeypatch.setattr(
        Program, "trace", lambda product, *rest: trace(lambda *inputs: product(*inputs) * (1 + 1e-9), *rest)
    )
    hessian = Hessian(classes(nn.Linear(4, 3)), route="linearised")
    assert hessian.route.name == "cached"
    # Relative to the sum of the norms of two batches' products, which is larger than the norm of their sum.
    assert re.search(r"differs from autograd's by \d\.\de-10 of the product", hessian.route.note)


def test_a_compiler_that_fails_is_told_of(monkeypatch):
    import torch._inductor

    def compile(*_):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch._inductor, "compile", compile)
    route = Hessian(classes(nn.Linear(4, 3)), compile_products="on").route
    assert route.name == "cached"
    assert "No working C++ compiler found" in str(route)


def test_a_program_that_keeps_too_much_is_not_used():
    problem = classes(nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 3)))
    held = Hessian(problem, route="linearised").route.graph_bytes
    assert held > Hessian(problem, route="cached").route.graph_bytes - len(problem.batches) * problem.vector.nbytes
    hessian = Hessian(problem, held - 1, "linearised")
    assert hessian.route.name == ("cached" if Hessian(problem).route.graph_bytes < held else "rebuilt")
    assert "would keep" in hessian.route.note
    assert Hessian(problem, held, "linearised").route.name == "linearised"


def test_a_loss_that_cannot_be_differentiated_twice_is_refused_on_every_route():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            return slope

    class Model(nn.Linear):
        def forward(self, x):
            return Once.apply(super().forward(x).sin())

    for route in ("cached", "linearised"):
        with pytest.raises(InputError, match="differentiated twice"):
            Hessian(classes(Model(4, 3)), route=route)


# ---------------------------------------------------------------------- the choice

GPT = Work(flops=2_468_000_000, bytes=255_000_000, operations=242)  # counted: the looped GPT on 64 sequences
LARGE = Work(flops=100 * GPT.flops, bytes=100 * GPT.bytes, operations=242)
CONVOLUTIONS = Work(LARGE.flops, LARGE.flops, LARGE.bytes, 192)


@pytest.mark.parametrize(
    ("work", "kept", "products", "compile_products", "expected"),
    [
        (GPT, True, 60, "auto", "cached"),
        (GPT, True, 10_000, "off", "linearised"),
        (GPT, True, 10_000, "auto", "compiled"),
        (GPT, True, 60, "on", "compiled"),
        (GPT, False, 60, "auto", "rebuilt"),
        (GPT, False, 10_000, "auto", "recompiled"),
        (GPT, False, 10_000, "off", "rebuilt"),
        (GPT, False, 1, "on", "recompiled"),
        (LARGE, True, 60, "auto", "compiled"),
        (LARGE, True, 60, "off", "linearised"),
        (LARGE, True, 1, "auto", "cached"),
        (CONVOLUTIONS, True, 10_000, "auto", "linearised"),
        (CONVOLUTIONS, False, 10_000, "auto", "rebuilt"),
    ],
)
def test_the_cheapest_route_within_the_memory_is_taken(work, kept, products, compile_products, expected):
    autograd = Route("cached" if kept else "rebuilt", 1, 1 if kept else 0)
    assert cheapest(work, autograd, products, compile_products, CPU) == replace(autograd, name=expected)


def test_little_work_is_done_by_autograd_without_counting_it(monkeypatch):
    problem = classes(nn.Linear(4, 3))
    monkeypatch.setattr(Counting, "__enter__", lambda _: pytest.fail("was counted"))
    assert Hessian(problem).route.name == "cached"
    assert Hessian(problem, 0, compile_products="off").route.name == "rebuilt"


def test_work_is_counted_as_it_is():
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    with Counting() as counting:
        (a @ b).T.exp()
    # The transposition is a view, the exponential reads and writes 15 numbers of 4 bytes.
    assert counting.work == Work(flops=2 * 5 * 7 * 3, convolutions=0, bytes=2 * 15 * 4, operations=2)
    with Counting() as counting:
        functional.conv2d(torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3))
    assert counting.work.flops == counting.work.convolutions == 2 * 2 * 6 * 6 * 4 * 3 * 9
    batches = [(torch.randn(3, 4),), (torch.randn(3, 4),), (torch.randn(1, 4),)]
    assert Work(30, 3, 6, 9).of_all(batches) == Work(70, 7, 14, 9)


def test_batches_of_one_shape_are_told_from_others():
    x, y = torch.randn(3, 4), torch.zeros(3, dtype=torch.long)
    same = [({"input": x}, y), ({"input": x + 1}, y + 1)]
    others = [({"input": x[:2]}, y), ({"input": x}, y.int()), ({"other": x}, y), ({"input": x, "n": 2}, y), [x, y],
              ({"input": x.T.contiguous().T}, y)]  # fmt: skip
    assert len({shape_of(batch) for batch in same}) == 1
    assert len({shape_of(batch) for batch in [same[0], *others]}) == 1 + len(others)


def test_an_untraceable_product_names_the_operation():
    def function(point, vector):
        return point[point > 0].sum() * vector

    with pytest.raises(UntraceableError, match=r"aten\.index"):
        Program.trace(function, torch.tensor([1.0, -1.0]), ())
