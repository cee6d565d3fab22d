"""Problems: the objective doesn't depend on the batches, the user's objects stay as they are, bad input is refused."""

import copy
import math
from collections import namedtuple
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from landscape import InputError, Problem
from landscape.problem.forms import predicted
from tests.support.oracles import Attention, call

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 4, (10,), generator=torch.Generator().manual_seed(1))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).double()


def test_loss_gradient_and_terms_are_those_of_one_full_batch():
    model = network().eval()
    problem = Problem(model, nn.CrossEntropyLoss(), [(X[:7], Y[:7]), (X[7:], Y[7:])])
    loss = functional.cross_entropy(model(X), Y)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    eps = torch.finfo(torch.float64).eps
    assert abs(problem.loss() - loss.item()) < 20 * eps  # ten terms of size about one
    assert (problem.gradient() - gradient).abs().max() < 100 * eps
    losses = torch.cat([losses for losses, _ in problem.sample_losses()])
    assert (losses - functional.cross_entropy(model(X), Y, reduction="none")).abs().max() < 20 * eps


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=10), st.integers(-100, 3), st.booleans())
def test_no_partition_changes_the_objective(sizes, ignored, weighted):
    cuts = [0, *[c for c in np.cumsum(sizes) if c < 10], 10]
    batches = [(X[a:b], Y[a:b]) for a, b in pairwise(cuts)]
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0]) if weighted else None, ignore_index=ignored)
    model = network()
    whole = Problem(model, loss, [(X, Y)])
    parted = Problem(model, loss, batches)
    assert parted.loss() == pytest.approx(whole.loss(), rel=1e-14)
    assert (parted.gradient() - whole.gradient()).abs().max() < 1e-14
    assert parted.evaluate().standard_error == pytest.approx(whole.evaluate().standard_error, rel=1e-12)


def test_the_standard_error_is_the_jackknife_of_a_ratio():
    tokens = torch.randn(50, 6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    target = torch.randint(0, 4, (50, 6), generator=torch.Generator().manual_seed(3))
    target[torch.rand(50, 6, generator=torch.Generator().manual_seed(4)) < 0.4] = -100
    model = nn.Linear(4, 4, dtype=torch.float64)
    own = Problem.from_sample_losses(model, _masked_losses, [(tokens, target)])
    losses, weights = _masked_losses(model, (tokens, target))
    sums, counts = (losses * weights).sum(1).detach(), weights.sum(1)
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    jackknife = ((left_out - left_out.mean()).square().sum() * 49 / 50).sqrt()
    # Linearisation and jackknife agree to first order in 1/n.
    assert own.evaluate().standard_error == pytest.approx(float(jackknife), rel=0.05)
    assert own.evaluate().samples == 50
    assert own.evaluate().terms == int((target != -100).sum())


def _masked_losses(model, batch):
    x, target = batch
    kept = (target != -100).double()
    return functional.cross_entropy(model(x).transpose(1, 2), target.clamp(min=0), reduction="none"), kept


def test_a_masked_mean_as_a_plain_function_is_refused():
    x = torch.randn(4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0, 1, 2, -100, -100, -100], [0] * 6, [1] * 6, [2, 0, 1, 2, -100, 1]])
    with pytest.raises(InputError, match="from_sample_losses"):
        Problem(
            nn.Linear(3, 3, dtype=torch.float64),
            lambda o, t: functional.cross_entropy(o.transpose(1, 2), t),
            [(x, target)],
        )


def test_the_users_model_is_left_as_it_was():
    model = network().train()
    model[2].eval()  # a mixed state must be restored
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    problem = Problem(model, nn.CrossEntropyLoss(), [(X, Y)])
    hessian = problem.hessian()
    hessian.matvec(torch.ones(hessian.dim, dtype=torch.float64))
    problem.gradient()
    problem.at(torch.zeros(problem.layout.dim)).loss()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert all(p.requires_grad for p in model.parameters())


def test_modes_are_put_back_when_the_model_raises():
    class Raises(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.fail = False

        def forward(self, x):
            if self.fail:
                raise RuntimeError("by design")
            return x * self.weight

    model = Raises().train()
    problem = Problem(model, nn.MSELoss(), [(torch.ones(2, 1), torch.ones(2, 1))])
    model.fail = True
    with pytest.raises(RuntimeError, match="by design"):
        problem.loss()
    assert model.training


def test_evaluation_mode_uses_running_statistics_and_training_mode_the_batch():
    model = network()
    evaluated = Problem(model, nn.CrossEntropyLoss(), [(X, Y)])
    trained = Problem(model, nn.CrossEntropyLoss(), [(X, Y)], training=True)
    assert evaluated.loss() == pytest.approx(functional.cross_entropy(model.eval()(X), Y).item(), rel=1e-14)
    expected = functional.cross_entropy(copy.deepcopy(model).train()(X), Y).item()
    assert [trained.loss(), trained.loss()] == pytest.approx([expected, expected], rel=1e-14)


def test_training_mode_that_makes_no_fixed_objective_is_refused():
    with pytest.raises(InputError, match="one batch"):
        Problem(network(), nn.CrossEntropyLoss(), [(X[:5], Y[:5]), (X[5:], Y[5:])], training=True)
    with pytest.raises(InputError, match="mixed"):
        Problem(network(), nn.CrossEntropyLoss(), [(X, Y)], training=True).to(micro_batch=5)
    dropping = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1)).double()
    with pytest.raises(InputError, match="random"):
        Problem(dropping, nn.CrossEntropyLoss(), [(X, Y)], training=True)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_a_shared_tensor_that_looks_like_samples_is_not_split(micro_batch):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(4, dtype=torch.float64))

        def forward(self, x, mask):
            return x @ (self.weight * mask)

    x = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = ((x, torch.tril(torch.ones(4, 4, dtype=torch.float64))), torch.zeros(4, 4, dtype=torch.float64))
    if micro_batch == 4:
        assert Problem(Masked(), nn.MSELoss(), [batch], micro_batch=4).loss() > 0
    else:
        with pytest.raises(InputError, match="split"):
            Problem(Masked(), nn.MSELoss(), [batch], micro_batch=micro_batch)


def test_losses_that_change_are_refused():
    class Noisy(nn.Linear):
        def forward(self, x):
            return functional.dropout(super().forward(x), 0.1, training=True)

    class Drifting(nn.Linear):
        def __init__(self):
            super().__init__(3, 4, dtype=torch.float64)
            self.register_buffer("scale", torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            self.scale.mul_(1.1)
            return super().forward(x) * self.scale

    for model in (Noisy(3, 4, dtype=torch.float64), Drifting()):
        with pytest.raises(InputError, match="change from one evaluation"):
            Problem(model, nn.CrossEntropyLoss(), [(X, Y)])


def test_data_are_copied():
    buffer = torch.zeros(2, 3, dtype=torch.float64)

    def refilled():
        for start in (0, 2, 4):
            buffer.copy_(X[start : start + 2])
            yield buffer, Y[start : start + 2]

    model = network()
    found = Problem(model, nn.CrossEntropyLoss(), refilled()).loss()
    assert found == pytest.approx(Problem(model, nn.CrossEntropyLoss(), [(X[:6], Y[:6])]).loss(), rel=1e-14)


def test_a_module_under_several_names_is_put_back_as_it_was():
    torch.manual_seed(5)
    layer = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    model = nn.Sequential(layer, layer, layer, nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 4)).double()
    model[5].weight = model[3].weight  # and a tie besides
    before = {name: (id(p), type(p), p.detach().clone()) for name, p in model.named_parameters(remove_duplicate=False)}
    problem = Problem(model, nn.CrossEntropyLoss(), [(X, Y)])
    own = Problem.from_sample_losses(
        model, lambda m, batch: functional.cross_entropy(m(batch[0]), batch[1], reduction="none"), [(X, Y)]
    )
    for each in (problem, own):
        assert each.layout.dim == 12 + 16 + 15 + 4
        each.at(0 * each.vector).loss()
        each.gradient()
        each.hessian().matvec(each.vector)
        each.with_state(model.state_dict()).loss()
        assert each.loss() == pytest.approx(functional.cross_entropy(model(X), Y).item(), rel=1e-14)
    after = {name: (id(p), type(p), p.detach()) for name, p in model.named_parameters(remove_duplicate=False)}
    assert before.keys() == after.keys()
    for name, (identity, kind, value) in before.items():
        assert (identity, kind) == after[name][:2]
        assert torch.equal(value, after[name][2])
    copy.deepcopy(model)
    assert Problem(model, nn.CrossEntropyLoss(), [(X, Y)]).layout == problem.layout


def test_the_standard_error_of_five_plain_samples():
    losses = torch.tensor([1.0, 2.0, 4.0, 4.0, 9.0], dtype=torch.float64)
    problem = Problem.from_sample_losses(nn.Linear(1, 1).double(), lambda model, batch: batch, [losses])
    estimate = problem.evaluate()
    # The mean is 4, the squared deviations sum to 38, the variance is 38 / 4, and that of the mean is 38 / 20.
    assert (estimate.loss, estimate.samples, estimate.terms) == (4.0, 5, 5)
    assert estimate.standard_error == pytest.approx((38 / 20) ** 0.5, rel=1e-15)


def test_weights_that_depend_on_the_parameters_are_found_out():
    problem = Problem.from_sample_losses(
        nn.Linear(3, 1).double(), lambda m, batch: (m(batch)[:, 0] ** 2, m(batch)[:, 0].abs()), [X]
    )
    with pytest.raises(InputError, match="depend"):
        problem.at(3 * problem.vector).loss()


def test_at_and_with_state_give_the_problem_elsewhere():
    model, other = network(0), network(1)
    other[1].running_mean += 0.3
    problem = Problem(model, nn.CrossEntropyLoss(), [(X, Y)])
    elsewhere = Problem(other, nn.CrossEntropyLoss(), [(X, Y)])
    assert problem.with_state(other.state_dict()).loss() == elsewhere.loss()
    assert problem.at(elsewhere.vector).loss() != elsewhere.loss()  # its buffers are still the first model's
    assert problem.loss() == Problem(model, nn.CrossEntropyLoss(), [(X, Y)]).loss()
    with pytest.raises(InputError, match="shape"):
        problem.at(torch.zeros(3))
    with pytest.raises(InputError, match="NaN"):
        problem.at(torch.full((problem.layout.dim,), torch.nan))


def test_the_flat_vector_is_in_the_order_of_named_parameters_and_ties_count_once():
    model = nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 2), nn.Linear(2, 3), nn.Linear(3, 6, bias=False))
    model[3].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    tokens, target = torch.randint(0, 6, (4,)), torch.randint(0, 6, (4,))
    problem = Problem(model, nn.CrossEntropyLoss(), [(tokens, target)])
    assert problem.layout.names == ("0.weight", "1.weight", "2.weight", "2.bias")
    assert problem.layout.dim == 18 + 6 + 6 + 3
    assert torch.equal(problem.vector[18:24].view(2, 3), model[1].weight)
    doubled = problem.at(2 * problem.vector)
    parameters = {name: 2 * p if p.requires_grad else p for name, p in model.named_parameters()}
    expected = functional.cross_entropy(call(model, parameters, tokens), target)
    assert doubled.loss() == pytest.approx(expected.item(), rel=1e-6)


def test_inputs_may_be_tensors_tuples_named_tuples_and_mappings():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def forward(self, a, b):
            return self.weight * (a + b)

    a, b, target = torch.ones(3, 1), 2 * torch.ones(3, 1), torch.zeros(3, 1)
    pair = namedtuple("Pair", "a b")
    for inputs in [(a, b), [a, b], pair(a, b), {"a": a, "b": b}]:
        assert Problem(Sum(), nn.MSELoss(), [(inputs, target)]).loss() == 36.0


def test_micro_batches_change_nothing_but_the_pieces():
    mask = torch.eye(3, dtype=torch.float64)  # no sample dimension: shared by all pieces

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4, dtype=torch.float64)

        def forward(self, x, mask):
            return self.linear(x @ mask)

    batches = [((X, mask), Y)]
    model = Masked()
    whole, parted = (Problem(model, nn.CrossEntropyLoss(), batches, micro_batch=size) for size in (None, 4))
    assert [len(target) for _, target in parted.batches] == [4, 4, 2]
    assert parted.loss() == pytest.approx(whole.loss(), rel=1e-15)
    assert parted.data_sha256 == whole.data_sha256


def test_a_shuffling_loader_is_frozen_and_that_is_said():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    problem = Problem(network(), nn.CrossEntropyLoss(), loader)
    assert problem.loss() == problem.loss()
    assert any("read once" in note for note in problem.notes)
    plain = Problem(network(), nn.CrossEntropyLoss(), DataLoader(TensorDataset(X, Y), batch_size=4))
    assert not plain.notes


def test_one_shot_iterators_are_read_once():
    problem = Problem(network(), nn.CrossEntropyLoss(), ((X[i : i + 5], Y[i : i + 5]) for i in (0, 5)))
    assert problem.loss() == problem.loss()


def test_data_too_large_for_memory_are_refused_without_reading_on(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2 * X.nbytes))
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield X, Y

    with pytest.raises(InputError, match="subset"):
        Problem(network(), nn.CrossEntropyLoss(), endless())
    assert len(taken) <= 2


def test_attention_runs_on_the_math_kernel_and_that_is_said():
    torch.manual_seed(0)
    tokens = torch.randint(0, 5, (3, 6))
    problem = Problem(Attention(), nn.CrossEntropyLoss(), [(tokens[:, :-1], tokens[:, 1:])])
    assert any("math kernel" in note for note in problem.notes)
    problem.hessian().matvec(torch.ones(problem.layout.dim))  # would raise on the fused kernel
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(3, 5, 8)
    problem = Problem(encoder, nn.MSELoss(), [(x, x)])
    assert any("math kernel" in note for note in problem.notes)
    assert problem.hessian().matvec(torch.ones(problem.layout.dim)).isfinite().all()


def test_float64_and_float32_of_one_model():
    model = network().float()
    single = Problem(model, nn.CrossEntropyLoss(), [(X, Y)])
    double = Problem(model, nn.CrossEntropyLoss(), [(X, Y)], dtype=torch.float64)
    assert single.vector.dtype == torch.float32
    assert double.gradient().dtype == torch.float64
    # Ten terms and three layers make at most a hundred roundings.
    assert single.loss() == pytest.approx(double.loss(), rel=100 * torch.finfo(torch.float32).eps)
    assert single.to(dtype=torch.float64).loss() == pytest.approx(double.loss(), rel=1e-6)
    assert single.dtype == torch.float32
    assert Problem(model.half(), nn.CrossEntropyLoss(), [(X, Y)]).dtype == torch.float32
    with pytest.raises(InputError, match="float16"):
        Problem(model, nn.CrossEntropyLoss(), [(X, Y)], dtype=torch.float16)


class _Broken(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.output = output

    def forward(self, x):
        return self.output(x * self.weight)


NAN = torch.full((10, 3), torch.nan, dtype=torch.float64)


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, lambda model: nn.DataParallel(compiled(model))])
def test_of_a_wrapped_or_compiled_model_the_plain_one_is_taken(wrap):
    model = network()
    plain, wrapped = (Problem(each, nn.CrossEntropyLoss(), [(X, Y)]) for each in (model, wrap(model)))
    own = Problem.from_sample_losses(
        wrap(model), lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1], reduction="none"), [(X, Y)]
    )
    v = torch.ones_like(plain.vector)
    assert wrapped.model is model
    assert torch.equal(wrapped.hessian().matvec(v), plain.hessian().matvec(v))
    torch.testing.assert_close(own.hessian().matvec(v), plain.hessian().matvec(v))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Problem("model", nn.MSELoss(), []), "Module"),
        (lambda: Problem(nn.Tanh(), nn.MSELoss(), [(X, X)]), "trainable"),
        (lambda: Problem(torch.jit.script(nn.Linear(3, 3)), nn.MSELoss(), [(X, X)]), "the model that was scripted"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(), []), "empty"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(), X), "Tensor"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(), 3), "int"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(), [X]), "pair"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(), [(X, Y, Y)]), "pair"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(), [(X[:0], Y[:0])]), "no samples"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(), [(NAN, Y)]), "batch 0 of the data"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(ignore_index=2), [(X, torch.full((10,), 2))]), "masked"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(), [(X, Y)], micro_batch=0), "at least 1"),
        (lambda: Problem(network(), nn.CrossEntropyLoss(), [(X, Y)], device="banana"), "banana"),
        (lambda: Problem.from_sample_losses(network(), "fn", [(X, Y)]), "fn"),
        (lambda: Problem(_Broken(torch.detach), nn.MSELoss(), [(X, X)]).gradient(), "no gradient"),
        (lambda: Problem(_Broken(torch.detach), nn.MSELoss(), [(X, X)]).hessian(), "no gradient"),
        (lambda: Problem.from_sample_losses(network(), lambda m, b: m(b[0]).mean(), [(X, Y)]), "one loss for each"),
        (lambda: Problem.from_sample_losses(network(), lambda m, b: m(b[0])[:4], [(X, Y)]), "one loss for each"),
        (lambda: Problem.from_sample_losses(network(), lambda m, b: (m(b[0]), torch.ones(10)), [(X, Y)]), "weights"),
        (lambda: Problem.from_sample_losses(network(), lambda m, b: [1.0], [(X, Y)]), "list"),
        (lambda: Problem.from_sample_losses(network(), lambda m, b: (m(b[0]), -(m(b[0]) ** 2)), [(X, Y)]), "negative"),
        (lambda: Problem(_Broken(torch.log), nn.MSELoss(), [(-X.abs(), X)]).loss(), "10 of 10 terms of batch 0"),
    ],
)
def test_bad_problems_are_refused_in_one_line(make, word):
    with pytest.raises(InputError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_named():
    model = network()
    with torch.no_grad():
        model[3].weight[1, 2] = torch.inf
    with pytest.raises(InputError, match=r"3\.weight has 1 of 20"):
        Problem(model, nn.CrossEntropyLoss(), [(X, Y)])


# ---------------------------------------------------------------------- some of the parameters


def entries(problem: Problem, names: list[str]) -> list[int]:
    """The entries of the flat vector that belong to parameters with these names."""
    starts = np.cumsum([0, *problem.layout.sizes])
    place = {name: range(a, b) for name, (a, b) in zip(problem.layout.names, pairwise(starts), strict=True)}
    return [i for name in names for i in place[name]]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*.weight"], ["0.weight", "1.weight", "3.weight"]),
        (["3"], ["3.weight", "3.bias"]),
        (["3.bias", "0"], ["0.weight", "0.bias", "3.bias"]),
        (["*"], ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]),
    ],
)
def test_a_restricted_problem_has_the_block_of_the_hessian(patterns, names):
    problem = Problem(network(), nn.CrossEntropyLoss(), [(X, Y)])
    part = problem.restricted(patterns)
    chosen = entries(problem, names)
    assert part.layout.names == tuple(names)
    assert torch.equal(part.vector, problem.vector[chosen])
    assert part.loss() == problem.loss()
    assert torch.equal(part.gradient(), problem.gradient()[chosen])
    whole = problem.hessian().matmat(torch.eye(problem.layout.dim, dtype=torch.float64))
    block = part.hessian().matmat(torch.eye(len(chosen), dtype=torch.float64))
    assert (block - whole[chosen][:, chosen]).abs().max() < 1e-14


def test_a_restricted_problem_takes_the_other_weights_from_a_checkpoint_too():
    problem = Problem(network(), nn.CrossEntropyLoss(), [(X, Y)])
    other = network(1).state_dict()
    there = problem.restricted(["3"]).with_state(other)
    assert there.loss() == problem.with_state(other).loss()
    assert there.loss() != problem.loss()


def test_a_tied_parameter_goes_by_each_of_its_names():
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embedding"].weight
    problem = Problem.from_sample_losses(
        model.double(), lambda m, batch: m["head"](m["embedding"](batch)).square().sum(1), [Y]
    )
    assert problem.restricted(["head"]).layout.names == ("embedding.weight",)
    with pytest.raises(InputError, match=r"no trainable parameter matches 'tail\.\*'; there are embedding\.weight"):
        problem.restricted(["head.*", "tail.*"])


# ---------------------------------------------------------------------- what every sample adds


def test_sums_by_sample_are_those_of_its_terms():
    """The sums are right for tokens with class weights and a mask, in uneven batches."""
    torch.manual_seed(0)
    tokens, target = torch.randint(0, 5, (10, 4)), torch.randint(0, 3, (10, 4))
    target[0] = -100
    target[3, 1:] = -100
    weight = torch.tensor([1.0, 2.0, 3.0])

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, tokens):
            return self.table(tokens).transpose(1, 2)

    model = Classifier()
    batches = [(tokens[:3], target[:3]), (tokens[3:], target[3:])]
    problem = Problem(model, nn.CrossEntropyLoss(weight), batches, dtype=torch.float64)
    sums = problem.by_sample()
    output = model(tokens).double()
    losses = nn.functional.cross_entropy(output, target, weight.double(), reduction="none").detach()
    weights = torch.where(target == -100, 0.0, weight.double()[target.clamp(min=0)])
    right = weights * (output.argmax(1) == target)
    assert torch.allclose(sums.losses, losses.sum(1), rtol=1e-12)
    assert torch.allclose(sums.weights, weights.sum(1), rtol=1e-12)
    assert torch.allclose(sums.correct, right.sum(1), rtol=1e-12)
    assert sums.accuracy == pytest.approx(float(right.sum() / weights.sum()), rel=1e-12)
    assert sums.estimate() == problem.evaluate()


@pytest.mark.parametrize(
    ("loss", "output", "target", "expected"),
    [
        (nn.BCEWithLogitsLoss(), [[1.0, -1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], 0.75),
        (nn.NLLLoss(), [[-0.1, -3.0], [-2.0, -0.1]], [0, 0], 0.5),
        (nn.CrossEntropyLoss(), [[2.0, 1.0], [0.0, 1.0]], [[0.9, 0.1], [0.8, 0.2]], 0.5),
        (nn.MSELoss(), [[1.0], [2.0]], [[1.0], [2.0]], math.nan),
    ],
)
def test_accuracy_where_there_are_classes(loss, output, target, expected):
    problem = Problem(Shifted(len(output[0])), loss, [(torch.tensor(output), torch.tensor(target))])
    assert problem.by_sample().accuracy == pytest.approx(expected, nan_ok=True)


class Shifted(nn.Module):
    """A model whose output at the measured point is the input itself."""

    def __init__(self, size):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, x):
        return x + self.shift


def test_a_loss_that_is_not_finite_is_refused_when_evaluated_but_not_by_sample():
    problem = Problem(Shifted(1), nn.MSELoss(), [(torch.zeros(3, 1), torch.zeros(3, 1))])
    far = problem.at(torch.tensor([1e30]))
    assert math.isinf(far.by_sample().mean)
    with pytest.raises(InputError, match="NaN or infinite for 3 of 3 terms of batch 0"):
        far.evaluate()


def test_masked_samples_are_none():
    x, y = torch.randn(40, 3), torch.randint(0, 2, (40,))
    kept = y.clone()
    kept[::2] = -100
    masked = Problem(nn.Linear(3, 2), nn.CrossEntropyLoss(), [(x, kept)])
    without = Problem(masked.model, nn.CrossEntropyLoss(), [(x[1::2], y[1::2])])
    assert masked.evaluate().samples == 20
    assert masked.evaluate().standard_error == pytest.approx(without.evaluate().standard_error, rel=1e-5)


def test_samples_that_mix_are_found_in_the_batch_that_is_split():
    fn = lambda model, batch: (model(batch) - model(batch).mean()).square()[:, 0]  # noqa: E731
    x = torch.randn(11, 2)
    problem = Problem.from_sample_losses(nn.Linear(2, 1), fn, [x[:3], x[3:]])
    for made in (lambda: problem.to(micro_batch=4), problem.halves):
        with pytest.raises(InputError, match="samples are mixed"):
            made()


def test_models_without_curvature_are_refused():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, dtype=torch.complex64))

    for model, said in ((nn.ReLU(), "ReLU has no trainable parameters"), (Complex(), "parameter w is torch.complex64")):
        with pytest.raises(InputError, match=said):
            Problem(model, nn.MSELoss(), [(torch.ones(2, 2), torch.ones(2, 2))])


def test_no_parameter_left_to_vary_is_refused():
    problem = Problem(nn.Linear(2, 1), nn.MSELoss(), [(torch.ones(2, 2), torch.ones(2, 1))])
    with pytest.raises(InputError, match="no parameter is left to vary"):
        problem.restricted([])


def test_what_a_loss_is_of():
    assert predicted({"hidden": 1, "logits": 2}) == 2
    assert predicted({"only": 1}) == 1
    assert predicted(SimpleNamespace(logits=3)) == 3
    assert predicted((4, 5)) == 4
    for unclear in ({"one": 1, "other": 2}, [1]):
        with pytest.raises(InputError, match="choose the output that the loss takes"):
            predicted(unclear)
