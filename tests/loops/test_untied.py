"""Separate weights for each pass of a loop, against models that were written with separate weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import (
    CheckpointFunction,
    _checkpoint_without_reentrant_generator,
    checkpoint,
    noop_context_fn,
)

import landscape
from landscape import InputError, Problem, untied
from landscape.loops.repeats import hooked
from models.attention import AttentionModel
from models.gpt import LoopedGPT
from tests.conftest import ROOT
from tests.support.oracles import Network, call, dense, exact_hessian, scalar_chain

USES = 3


class Passes(nn.Module):
    """A model of layers one after the other, then a head; one layer given several times is a loop."""

    def __init__(self, layers, step=lambda layer, x: layer(x)):
        super().__init__()
        self.layers, self.step = nn.ModuleList(layers), step
        self.head = nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        for layer in self.layers:
            x = self.step(layer, x)
        return self.head(x.mean(1))


def twins(make, step):
    """A model that uses one layer three times, and one with three layers of equal weights."""
    torch.manual_seed(0)
    tied = Passes([make()] * USES, step)
    separate = copy.deepcopy(tied)
    separate.layers = nn.ModuleList(copy.deepcopy(tied.layers[0]) for _ in range(USES))
    return tied, separate


def posed(model, parts=(4, 2)):
    """The problem of classifying six sequences of five places and width 4."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(6, 5, 4, generator=g).double(), torch.randint(0, 3, (6,), generator=g)
    return Problem(model, nn.CrossEntropyLoss(), list(zip(x.split(parts), y.split(parts), strict=True)))


def looped(layer, step=lambda layer, x: layer(x)):
    """The problem of one layer used three times."""
    return posed(Passes([layer] * USES, step))


def random_block(dim, columns=3):
    return torch.randn(dim, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def same(first, second):
    """Assert that tensors are equal up to some hundred roundings of their largest entry."""
    return bool((first - second).abs().max() <= 1e-12 * second.abs().max())


THIRD_PARTY = {
    "linear": (lambda: nn.Linear(4, 4), lambda layer, x: torch.tanh(layer(x))),
    "sequential": (lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4)), lambda f, x: f(x)),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), lambda layer, x: layer(x)),
    "keywords": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), lambda f, x: x + f(x, key=x, value=x)[0]),
    "cell": (lambda: nn.GRUCell(4, 4), lambda layer, x: layer(x[:, 0], x[:, 1])[:, None].expand_as(x) + x),
    "recurrent": (lambda: nn.LSTM(4, 4, batch_first=True), lambda layer, x: layer(x)[0]),
    "parametrized": (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), lambda f, x: torch.tanh(f(x))),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(5, 5, 3, padding=1), nn.BatchNorm1d(5)), lambda f, x: f(x).tanh()),
}  # fmt: skip


@pytest.mark.parametrize("name", THIRD_PARTY)
def test_modules_of_others_in_a_loop(name):
    """Modules with buffers, tuples and parametrizations in a loop are compared with three deep copies of the module.

    The comparison is by products with random vectors, in which a wrong entry shows with probability 1.
    """
    tied, separate = twins(*THIRD_PARTY[name])
    found, loop = untied(posed(tied))
    expected = posed(separate).restricted(["layers"])
    assert (loop.modules, loop.uses, loop.notes) == (("layers.0",), USES, ())
    assert found.layout.dim == USES * loop.dim == expected.layout.dim
    assert found.loss() == pytest.approx(expected.loss(), rel=1e-14)
    assert torch.equal(found.vector, expected.vector)
    assert same(found.gradient(), expected.gradient())
    vectors = random_block(found.layout.dim)
    products = expected.hessian().matmat(vectors)
    assert products.abs().max() > 1e-3
    assert same(found.hessian().matmat(vectors), products)


def test_against_an_exact_hessian_written_by_hand():
    """The exact Hessian is that of x -> tanh(W_3 tanh(W_2 tanh(W_1 x))), written without any module."""
    torch.manual_seed(3)
    linear = nn.Linear(4, 4, bias=False)
    problem = looped(linear, lambda layer, x: torch.tanh(layer(x)))
    found, _ = untied(problem)
    inputs, classes = (torch.cat([batch[i] for batch in problem.batches]) for i in range(2))
    head = problem.model.head

    def objective(_, copies):
        x = inputs
        for weight in copies.values():
            x = torch.tanh(x @ weight.T)
        return functional.cross_entropy(x.mean(1) @ head.weight.detach().T + head.bias.detach(), classes)

    assert same(dense(found.hessian()), exact_hessian(found, objective))


SMALL = {"width": 2, "heads": 1}
OURS = {
    "attention": lambda: AttentionModel(5, loops=3, head_width=2, **SMALL),
    "linear attention": lambda: AttentionModel(5, loops=2, head_width=2, attention="linear", **SMALL),
    "normalised": lambda: AttentionModel(5, loops=2, head_width=2, layer_norm=True, mlp=2, **SMALL),
    "gpt": lambda: LoopedGPT(5, loops=2, context=8, **SMALL),
}


def network_of(model):
    """A model on random tokens; its initial weights are doubled, because otherwise all curvature is small."""
    tokens = torch.randint(0, 5, (5, 7), generator=torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    network = Network(model().double(), tokens[:, :-1], tokens[:, 1:])
    with torch.no_grad():
        for parameter in network.model.parameters():
            parameter.mul_(2)
    return network


@pytest.mark.parametrize("name", [*list(OURS)[:-1], pytest.param("gpt", marks=pytest.mark.slow)])
def test_the_blocks_add_up_to_the_tied_hessian(name):
    """As full matrices, sum_ij H_ij = H_tied, with H_tied by forward over reverse."""
    network = network_of(OURS[name])
    problem = network.problem(nn.CrossEntropyLoss(), [3, 2])
    found, loop = untied(problem)
    tied = problem.restricted(loop.parameters)
    with problem.evaluating():  # by the math kernel
        expected = exact_hessian(
            tied, lambda m, p: functional.cross_entropy(call(m, p, network.inputs), network.classes)
        )
    whole = dense(found.hessian())
    blocks = whole.unflatten(1, (loop.uses, loop.dim)).unflatten(0, (loop.uses, loop.dim))
    assert expected.abs().max() > 1e-2
    assert (blocks.sum((0, 2)) - expected).abs().max() < 1e-9
    assert (blocks[0, :, 1] - blocks[0, :, 0]).abs().max() > 1e-3  # otherwise the sum would say little
    spread = loop.spread(torch.eye(loop.dim).double())
    assert (loop.gather(whole @ spread) - expected).abs().max() < 1e-9


def test_the_shipped_model():
    """The blocks of the trained Looped-Attn add up to its tied Hessian, tested by products."""
    problem = landscape.load_problem(ROOT / "data" / "looped.pt", project=ROOT, dtype="float64")
    found, loop = untied(problem)
    assert (loop.modules, loop.uses, loop.dim) == (("layer",), 3, 1032)
    vectors = random_block(loop.dim, 2)
    tied = problem.restricted(loop.parameters).hessian().matmat(vectors)
    assert (loop.gather(found.hessian().matmat(loop.spread(vectors))) - tied).abs().max() < 1e-9


@pytest.mark.parametrize("factors", range(2, 9))
def test_a_chain_that_is_tied_by_a_module(factors):
    """The untied Hessian at the balanced minimum is s^(2 - 2/T) 1 1^T."""
    expected = scalar_chain(factors, tied=False)
    found, loop = untied(module_chain(factors))
    assert (loop.uses, loop.dim) == (factors, 1)
    assert (dense(found.hessian()) - expected.hessian).abs().max() < 1e-14 * factors * expected.hessian.max()


class Factor(nn.Module):
    """The map x -> w x."""

    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))

    def forward(self, x):
        return x * self.weight


def module_chain(factors, s=1.7):
    """The tied problem of `scalar_chain`, by one module called ``factors`` times."""
    model = nn.Sequential(*[Factor(s ** (1 / factors))] * factors)
    batch = (torch.ones(1, dtype=torch.float64), torch.tensor([s], dtype=torch.float64))
    return Problem(model, lambda output, target: 0.5 * (output - target) ** 2, [batch])


# ---------------------------------------------------------------------------- which module is looped


class Rounds(nn.Module):
    """A loop over two layers, with a normalisation after each."""

    def __init__(self, rounds=2, head=None):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.norm = nn.LayerNorm(4)
        self.drop = nn.Dropout(0.5)  # repeated, with nothing to train
        self.head = nn.Linear(4, 3)
        self.rounds = rounds
        self.double()

    def forward(self, x):
        for _ in range(self.rounds):
            for layer in self.layers:
                x = self.drop(self.norm(torch.tanh(layer(x))))
        return self.head(x.mean(1))


def test_layers_that_are_repeated_together_are_one_loop():
    problem = posed(Rounds())
    _, both = untied(problem, "layers")
    assert (both.modules, both.uses, both.dim) == (("layers.0", "layers.1"), 2, 40)
    _, one = untied(problem, "layers.1")
    assert (one.modules, one.uses, one.dim) == (("layers.1",), 2, 20)
    _, norm = untied(problem, "norm")
    assert (norm.modules, norm.uses, norm.dim) == (("norm",), 4, 8)


def test_a_child_of_the_looped_module_by_name():
    tied, separate = twins(*THIRD_PARTY["sequential"])
    found, loop = untied(posed(tied), "layers.0.2")
    expected = posed(separate).restricted([f"layers.{use}.2" for use in range(USES)])
    assert (loop.modules, loop.parameters) == (("layers.0.2",), ("layers.0.2.weight", "layers.0.2.bias"))
    assert same(dense(found.hessian()), dense(expected.hessian()))


def test_only_the_parameters_that_the_problem_varies():
    _, loop = untied(looped(nn.Linear(4, 4)).restricted(["*.weight"]))
    assert loop.parameters == ("layers.0.weight",)
    frozen = nn.Linear(4, 4)
    frozen.bias.requires_grad_(False)
    assert untied(looped(frozen))[1].parameters == ("layers.0.weight",)


def test_weights_tied_within_the_loop_stay_tied_in_each_pass():
    """Two layers in a loop share a weight. There are T copies of the weight, each in both layers."""
    model = Rounds()
    model.layers[1].weight = model.layers[0].weight
    found, loop = untied(posed(model), "layers")
    assert (loop.parameters, loop.dim) == (("layers.0.weight", "layers.0.bias", "layers.1.bias"), 24)
    tied = dense(posed(model).restricted(loop.parameters).hessian())
    assert (loop.gather(dense(found.hessian()) @ loop.spread(torch.eye(24).double())) - tied).abs().max() < 1e-12


def test_weights_that_are_used_elsewhere_too_stay_tied():
    layer = nn.Linear(4, 4)
    model = Passes([layer] * USES)
    model.step = lambda f, x: torch.tanh(f(x)) + x @ layer.weight  # behind the module's back
    found, loop = untied(posed(model))
    assert loop.parameters == ("layers.0.bias",)
    assert loop.notes == (
        "layers.0.weight: also used outside the loop, so still tied and left out of the loop's curvature",
    )
    bias = dense(posed(model).restricted(["layers.0.bias"]).hessian())
    assert (loop.gather(dense(found.hessian()) @ loop.spread(torch.eye(4).double())) - bias).abs().max() < 1e-12


def test_a_loss_that_calls_the_model_twice():
    """Each call of the model is a forward pass, and pass t of the loop has the t-th weights in both calls."""
    tied, separate = twins(*THIRD_PARTY["linear"])
    batch = posed(tied).batches[0]

    def fn(model, batch):
        x, y = batch
        assert model.head.out_features == 3  # attributes are those of the user's model
        return functional.cross_entropy(model(x) + model(-x), y, reduction="none")

    found, loop = untied(Problem.from_sample_losses(tied, fn, [batch]))
    expected = Problem.from_sample_losses(separate, fn, [batch]).restricted(["layers"])
    assert loop.uses == USES
    assert same(dense(found.hessian()), dense(expected.hessian()))


# ---------------------------------------------------------------------------- refusals


class Uneven(nn.Module):
    """A model with as many passes as the batch has samples."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        for _ in range(len(x)):
            x = torch.tanh(self.layer(x))
        return self.head(x.mean(1))


class Cached(Passes):
    def forward(self, x):
        with parametrize.cached():
            return super().forward(x)


def compiled():
    model = Passes([nn.Linear(4, 4)] * USES)
    problem = posed(model)
    model.layers[0].compile(backend="eager")
    return problem


def all_tied():
    layer = nn.Linear(4, 4, bias=False)
    return looped(layer, lambda f, x: torch.tanh(f(x)) @ layer.weight)


def reads_all_parameters():
    model = Passes([nn.Linear(4, 4)] * USES)

    def fn(model, batch):
        decay = sum(p.square().sum() for p in model.parameters())
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none") + decay

    return Problem.from_sample_losses(model, fn, [posed(model).batches[0]])


def only_parts():
    model = Passes([nn.Linear(4, 4)] * USES)
    batch = posed(model).batches[0]
    return Problem.from_sample_losses(model, lambda m, b: m.head(b[0].mean(1)).square().sum(1), [batch])


def shared_weights():
    """A model of two modules that share one weight, each called once."""
    model = Passes([nn.Linear(4, 4), nn.Linear(4, 4)])
    model.layers[1].weight = model.layers[0].weight
    return posed(model)


def again(f, x):
    """Non-reentrant activation checkpointing, as a user's own library may implement it."""
    steps = _checkpoint_without_reentrant_generator(f, True, noop_context_fn, "default", False, True, x)
    next(steps)
    output = f(x)
    next(steps, None)
    return output


REFUSED = {
    "no loop": (lambda: posed(Passes([nn.Linear(4, 4)])), None, "no module with trainable .* more than once"),
    "shared weights": (shared_weights, None, "weights that different modules share"),
    "compiled": (compiled, None, r"layers\.0 is compiled"),
    "scripted": (lambda: looped(torch.jit.script(nn.Linear(4, 4))), None, r"layers\.0 is compiled"),
    "checkpointing": (
        lambda: looped(nn.Linear(4, 4), again),
        None,
        r"layers\.0 runs again in the backward pass \(activation checkpointing\?\)",
    ),
    "uneven": (lambda: posed(Uneven()), None, "layer is called 2 times in one forward pass and 4 times in the first"),
    "several counts": (lambda: posed(Rounds()), None, r"layers\.1 \(2 times\), norm \(4 times\); choose one"),
    "unknown": (lambda: looped(nn.Linear(4, 4)), "block", r"'block'; the repeated modules are layers\.0, layers\.1"),
    "misspelt": (lambda: looped(nn.Linear(4, 4)), "layer.0", r"did you mean .*layers\.0"),
    "once": (lambda: looped(nn.Linear(4, 4)), "head", "head is called once .* choose one that is repeated"),
    "the model": (lambda: looped(nn.Linear(4, 4)), "", r"the model is called once .* inside it layers\.0 is repeated"),
    "nothing to train": (lambda: posed(Rounds()), "drop", "drop is called 4 times, but has no trainable parameters"),
    "no loop in it": (lambda: posed(Passes([nn.Linear(4, 4)])), "layers", r"layers is called never \(other methods"),
    "all tied": (all_tied, None, "all trainable parameters .* also used outside its calls"),
    "all parameters": (reads_all_parameters, None, r"read model\.parameters\(\)"),
    "only parts": (only_parts, None, "the loss never calls the model itself"),
    "cached": (lambda: posed(Cached([nn.Linear(4, 4)] * USES)), None, r"parametrize\.cached\(\)"),
    "detached": (lambda: looped(nn.Linear(4, 4), lambda f, x: f(x).detach()), None, "the model detaches them"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_one_line(name):
    make, module, message = REFUSED[name]
    problem = make()
    before = snapshot(problem.model)
    with pytest.raises(InputError, match=message) as refusal:
        untied(problem, module)
    assert "\n" not in str(refusal.value)
    assert snapshot(problem.model) == before


@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_under_torchs_own_checkpointing_are_plain_ones(reentrant):
    def made(step):
        torch.manual_seed(0)
        return looped(nn.Linear(4, 4), step)

    plain = made(lambda f, x: f(x))
    made_again = made(lambda f, x: checkpoint(f, x, use_reentrant=reentrant))
    v = torch.randn(untied(plain)[0].layout.dim, dtype=torch.float64)
    assert torch.equal(untied(made_again)[0].hessian().matvec(v), untied(plain)[0].hessian().matvec(v))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_reentrant_checkpointing_is_refused():
    problem = looped(nn.Sequential(nn.Linear(4, 4)), lambda f, x: CheckpointFunction.apply(f, True, x))
    with pytest.raises(InputError, match="reentrant activation checkpointing"):
        untied(problem)


# ---------------------------------------------------------------------------- the user's model is left as it was


def snapshot(model):
    """The state of a model: the identity, bits and flags of every tensor, every mode and every hook."""
    tensors = [(name, id(t), t.requires_grad, t.grad, t.numpy(force=True).tobytes()) for name, t in _tensors_of(model)]
    hooks = [
        {key: len(value) for key, value in vars(module).items() if key.endswith(("hooks", "called", "kwargs"))}
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    return tensors, hooks, [module.training for module in model.modules()]


def _tensors_of(model):
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


class Fragile(Passes):
    """A module that fails in its second pass, once a flag is set."""

    failure = None

    def forward(self, x):
        self.step = self.count
        self.passes = 0
        return super().forward(x)

    def count(self, layer, x):
        self.passes += 1
        x = torch.tanh(layer(x))
        if self.passes == 2 and self.failure:
            raise self.failure
        return x


class Layer(nn.Module):
    """A layer that fails inside its own call."""

    failure = None

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        if self.failure:
            raise self.failure
        return torch.tanh(self.linear(x))


@pytest.mark.parametrize("failure", [RuntimeError("out"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("inside", [False, True])
def test_the_model_is_left_bit_for_bit(inside, failure):
    layer = Layer()
    model = Fragile([layer] * USES)
    model.train()
    problem = posed(model)
    before = snapshot(model)
    found, _ = untied(problem)
    found.hessian().matvec(torch.ones_like(found.vector))
    assert snapshot(model) == before
    (layer if inside else model).failure = failure
    for evaluate in (found.gradient, lambda: untied(problem)):
        with pytest.raises(type(failure)):
            evaluate()
        assert snapshot(model) == before
    layer.failure = model.failure = None
    assert found.loss() == pytest.approx(problem.loss(), rel=1e-14)


def test_hooks_of_the_user_are_called_and_kept():
    layer, seen = nn.Linear(4, 4), []
    layer.register_forward_pre_hook(lambda module, _: seen.append(module.weight))
    model = Passes([layer] * USES)
    before = snapshot(model)
    found, _ = untied(posed(model))
    seen.clear()
    found.sample_losses()
    first, second = seen[:USES], seen[USES:]
    assert len(first) == len(second) == USES  # two batches
    assert len({weight.data_ptr() for weight in first}) == USES  # the hook sees each pass's own weights
    assert snapshot(model) == before


def test_hooks_are_removed_when_one_cannot_be_added():
    class Odd(nn.Linear):
        def register_forward_hook(self, *_, **__):
            raise RuntimeError("no hooks here")

    model = nn.ModuleList([nn.Linear(1, 1), Odd(1, 1)])
    before = snapshot(model)
    with pytest.raises(RuntimeError), hooked(model, lambda *_: None, lambda *_: None):
        pass
    assert snapshot(model) == before
