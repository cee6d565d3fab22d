"""Models, losses and data of users: where plain double backward works, results are right, or an error says what to do.

The right value comes from second central differences of the user's scalar loss in float64, with the weights written
into the model in place. A case with its own lines states the number of lines that the user has to write.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from landscape import InputError, Problem, top_eigenpairs
from landscape.checks.products import check_products
from landscape.curvature.differences import DifferenceHessian
from landscape.problem.embeddings import without_padding

F64 = torch.float64
X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
Y = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 9, (12, 4), generator=torch.Generator().manual_seed(2))
RAGGED = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n), dtype=F64) for n in (5, 3, 4, 2)]
cross_entropy = functional.cross_entropy


@dataclass(frozen=True)
class Case:
    """A model, a function that makes its problem, and the loss as the user's training computes it."""

    model: nn.Module
    pose: Callable[[nn.Module], Problem]
    loss: Callable[[nn.Module], Tensor]


def net(inputs: int = 3, outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, outputs))


def pair(
    model: nn.Module, loss: Any, inputs: Any, target: Any, scalar: Callable[[nn.Module], Tensor], **more: Any
) -> Case:
    return Case(model, lambda model: Problem(model, loss, [(inputs, target)], **more), scalar)


def own(model: nn.Module, fn: Callable[[nn.Module, Any], Tensor], batch: Any, **more: Any) -> Case:
    return Case(
        model,
        lambda model: Problem.from_sample_losses(model, fn, [batch], **more),
        lambda model: fn(model, batch).mean(),
    )


class Compiled(nn.Module):
    """A model with a compiled part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)
        self.block = torch.compile(nn.Tanh(), backend="aot_eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.first(x)))


class Bag(nn.Module):
    """A model with the mean of the tokens' embeddings."""

    def __init__(self, table: Callable[..., nn.Module] = nn.Embedding, **settings: Any) -> None:
        super().__init__()
        self.table, self.last = table(9, 3, **settings), nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.table(tokens)
        return self.last(torch.tanh(rows.mean(1) if rows.ndim == 3 else rows))


class Functional(nn.Module):
    """A model that looks up its table by torch's function instead of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(9, 3, max_norm=0.5), nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = functional.embedding(tokens, self.table.weight, max_norm=0.5)
        return self.last(torch.tanh(rows).mean(1))


class GraphLayer(nn.Module):
    """A graph network whose graph is a sparse buffer or the second input."""

    def __init__(self, layout: torch.layout | None) -> None:
        super().__init__()
        self.last = nn.Linear(3, 3)
        if layout is not None:
            self.register_buffer("graph", ring(layout))

    def forward(self, x: Tensor, graph: Tensor | None = None) -> Tensor:
        return torch.tanh(self.last((self.graph if graph is None else graph) @ x)) @ torch.eye(3).to(x)


def ring(layout: torch.layout) -> Tensor:
    """The graph of twelve nodes in a ring; each node takes half of its neighbour's features."""
    whole = torch.eye(12, dtype=F64) + 0.5 * torch.eye(12, dtype=F64).roll(1, 1)
    return whole.to_sparse_csr() if layout is torch.sparse_csr else whole.to_sparse()


class MeanAndVariance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = net(3, 1), net(3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), functional.softplus(self.variance(x))


class Thrice(nn.Module):
    """A model that applies one network to two or three inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(self.net, inputs))


class Times(nn.Module):
    """A model that gives log-probabilities with the time as first dimension, for CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).log_softmax(2).transpose(0, 1)


class WithEmpty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.empty = net(), nn.Parameter(torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.last = nn.GRU(3, 3), nn.Linear(3, 3)

    def forward(self, sequences: PackedSequence) -> Tensor:
        return self.last(self.cells(sequences)[1][0])


@dataclass
class Item:
    inputs: Tensor
    labels: Tensor
    name: str = "a batch"


Named = namedtuple("Named", "inputs labels")


class Nodes:
    """An object with the methods of torch_geometric's batches."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def clone(self) -> Nodes:
        return Nodes(self.x.clone(), self.y.clone())

    def apply(self, function: Callable[[Tensor], Tensor]) -> Nodes:
        self.x, self.y = function(self.x), function(self.y)
        return self


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    return (torch.func.vmap(torch.func.jacrev(model))(x).sum((1, 2)) - 1) ** 2


def laplacian(model: nn.Module, x: Tensor) -> Tensor:
    second = torch.func.vmap(torch.func.hessian(lambda at: model(at).sum()))(x)
    return (second.diagonal(dim1=1, dim2=2).sum(1) + 1) ** 2


def gradient_penalty(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    gradients = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()), create_graph=True)
    return cross_entropy(model(x), y, reduction="none") + 0.05 * sum((each**2).sum() for each in gradients)


def one_step(model: nn.Module, batch: Any) -> Tensor:
    """The loss after one step of gradient descent, as in meta-learning."""
    x, y = batch
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(cross_entropy(model(x[:6]), y[:6]), list(named.values()), create_graph=True)
    moved = {name: each - 0.3 * g for (name, each), g in zip(named.items(), gradients, strict=True)}
    return cross_entropy(torch.func.functional_call(model, moved, (x,)), y, reduction="none")


def by_input(model: nn.Module, x: Tensor) -> Tensor:
    x = x if x.requires_grad else x.clone().requires_grad_()  # for the differences, which need no more than a value
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (slope**2).sum(1)


def only_by_input(model: nn.Module, x: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (slope**2).sum(1)


def ragged_losses(model: nn.Module, batch: Any) -> Tensor:
    samples, target = batch
    return torch.stack([(model(each).mean() - t) ** 2 for each, t in zip(samples, target, strict=True)])


def labelled(read: Callable[[Any], tuple[Any, Tensor]]) -> Callable[[nn.Module, Any], Tensor]:
    def losses(model: nn.Module, batch: Any) -> Tensor:
        inputs, labels = read(batch)
        return cross_entropy(model(inputs), labels, reduction="none")

    return losses


def classes(model: nn.Module, inputs: Any) -> Case:
    return pair(model, nn.CrossEntropyLoss(), inputs, Y, lambda m: cross_entropy(call(m, inputs), Y))


def call(model: nn.Module, inputs: Any) -> Any:
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


TRIPLE = tuple(torch.randn(12, 3, generator=torch.Generator().manual_seed(n), dtype=F64) for n in (3, 4, 5))
SIGNS = torch.where(Y > 0, 1.0, -1.0).to(F64)
SEQUENCES = torch.randn(6, 7, 3, generator=torch.Generator().manual_seed(6), dtype=F64)
WORDS = torch.randint(1, 5, (6, 3), generator=torch.Generator().manual_seed(7))
LENGTHS = torch.full((6,), 7), torch.tensor([3, 2, 3, 1, 2, 3])
PACKED = pack_sequence(RAGGED, enforce_sorted=False)


class Scaled(nn.Module):
    """A loss with a trainable temperature: the cross-entropy of logits that are scaled by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(self.scale * output, target, reduction="none")


class Tempered(nn.Module):
    """A model that holds the loss as a module, which its forward doesn't use."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.criterion = net(), Scaled()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


def with_its_loss() -> Case:
    model = Tempered()
    return pair(model, model.criterion, X, Y, lambda m: m.criterion(m(X), Y).mean())


CASES: dict[str, Callable[[], Case]] = {
    "torch.func in the loss": lambda: own(net(), jacobian, X),
    "torch.func.hessian in the loss": lambda: own(net(), laplacian, X),
    "a penalty on the gradient's norm": lambda: own(net(), gradient_penalty, (X, Y)),
    "meta-learning, one step inside": lambda: own(net(), one_step, (X, Y)),
    "a loss that makes its inputs leaves": lambda: own(net(), by_input, X),
    "a part that is compiled": lambda: classes(Compiled(), X),
    "Embedding(sparse=True)": lambda: classes(Bag(sparse=True), TOKENS),
    "Embedding(max_norm=0.5)": lambda: classes(Bag(max_norm=0.5), TOKENS),
    "Embedding(max_norm=1, norm_type=1)": lambda: classes(Bag(max_norm=1.0, norm_type=1.0), TOKENS),
    "Embedding(scale_grad_by_freq=True)": lambda: classes(Bag(scale_grad_by_freq=True), TOKENS),
    "functional.embedding(max_norm=0.5)": lambda: classes(Functional(), TOKENS),
    "Embedding(padding_idx=0)": lambda: classes(Bag(padding_idx=0), TOKENS),
    "a sparse buffer (COO)": lambda: classes(GraphLayer(torch.sparse_coo), X),
    "a sparse buffer (CSR)": lambda: classes(GraphLayer(torch.sparse_csr), X),
    "a sparse input (COO)": lambda: classes(GraphLayer(None), (X, ring(torch.sparse_coo))),
    "GaussianNLLLoss": lambda: pair(
        MeanAndVariance(), nn.GaussianNLLLoss(), X, X[:, :1],
        lambda m: functional.gaussian_nll_loss(m(X)[0], X[:, :1], m(X)[1]),
    ),
    "TripletMarginLoss": lambda: pair(
        Thrice(), nn.TripletMarginLoss(margin=3.0), TRIPLE, torch.zeros(12),
        lambda m: functional.triplet_margin_loss(*m(*TRIPLE), margin=3.0),
    ),
    "CosineEmbeddingLoss": lambda: pair(
        Thrice(), nn.CosineEmbeddingLoss(), TRIPLE[:2], SIGNS,
        lambda m: functional.cosine_embedding_loss(*m(*TRIPLE[:2]), SIGNS),
    ),
    "a temperature in the loss, made part of the model": with_its_loss,
    "an empty parameter": lambda: classes(WithEmpty(), X),
    "an output (N, 1) and a target (N,)": lambda: pair(
        net(3, 1), nn.MSELoss(), X, X[:, 0], lambda m: ((m(X) - X[:, 0]) ** 2).mean()
    ),
    "ragged samples in a list, by count": lambda: own(
        net(), ragged_losses, (RAGGED, torch.arange(4.0, dtype=F64)), count=lambda batch: len(batch[1])
    ),
    "a packed sequence": lambda: pair(
        Recurrent(), nn.CrossEntropyLoss(), PACKED, Y[:4], lambda m: cross_entropy(m(PACKED), Y[:4])
    ),
    "a batch that is a dataclass": lambda: own(net(), labelled(lambda b: (b.inputs, b.labels)), Item(X, Y)),
    "a batch that is a named tuple": lambda: own(net(), labelled(lambda b: (b.inputs, b.labels)), Named(X, Y)),
    "a batch that is an object (graphs)": lambda: own(
        net(), labelled(lambda b: (b.x, b.y)), Nodes(X, Y), count=lambda batch: len(batch.y)
    ),
}  # fmt: skip


def by_differences(model: nn.Module, loss: Callable[[nn.Module], Tensor], direction: list[Tensor]) -> float:
    """The second derivative of a loss along a direction, by fourth-order differences with weights written in place."""
    h, values = 1e-3, []
    parameters = list(model.parameters())
    start = [each.detach().clone() for each in parameters]
    for steps in (-2, -1, 0, 1, 2, None):
        with torch.no_grad():
            for parameter, at, along in zip(parameters, start, direction, strict=True):
                parameter.copy_(at if steps is None else at + steps * h * along)
        values.append(float(loss(model).detach()))
    return (-values[0] + 16 * values[1] - 30 * values[2] + 16 * values[3] - values[4]) / (12 * h * h)


# torch warns about sparse CSR tensors, about its own compiler, and about broadcast shapes.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_users_own_loss(name):
    torch.manual_seed(0)
    case = CASES[name]()
    model = case.model.double().eval()
    problem = case.pose(model)
    before = [each.detach().clone() for each in model.parameters()]
    draw = torch.randn(problem.layout.dim, generator=torch.Generator().manual_seed(9), dtype=F64)
    along = without_padding(model, problem.layout, draw)
    found, check = float(along @ problem.hessian().matvec(along)), check_products(problem, problem.hessian())
    assert not check.faults, check.faults
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    tensors = problem.layout.unflatten(along)
    expected = by_differences(model, case.loss, [tensors[name] for name, _ in model.named_parameters()])
    # Fourth-order differences have errors of h^4 of a sixth derivative and 64/12 roundings over h^2: 1e-9 to 1e-7 here.
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert problem.loss() == pytest.approx(float(case.loss(model).detach()), rel=1e-12)


def test_a_loss_without_second_derivatives_has_differences():
    torch.manual_seed(0)
    model = Times().double()
    problem = Problem(model, nn.CTCLoss(), [(SEQUENCES, (WORDS, *LENGTHS))])
    v = torch.randn(problem.layout.dim, dtype=F64)
    tensors = problem.layout.unflatten(v)
    expected = by_differences(
        model,
        lambda m: functional.ctc_loss(m(SEQUENCES), WORDS, *LENGTHS),
        [tensors[name] for name, _ in model.named_parameters()],
    )
    matrix = DifferenceHessian(problem)
    # `error` is the stated error of the matrix, relative to the product.
    product = matrix.matvec(v)
    assert abs(float(v @ product) - expected) <= 5 * matrix.error * float(v.norm() * product.norm()) + 1e-6
    with pytest.raises(InputError, match="differences"):
        problem.hessian().matvec(v)


@pytest.mark.parametrize("state", [torch.no_grad, torch.inference_mode])
def test_an_outer_state_without_gradients_changes_nothing(state):
    torch.manual_seed(0)
    model = net().double()
    expected = Problem(model, nn.CrossEntropyLoss(), [(X, Y)])
    with state():
        problem = Problem(model, nn.CrossEntropyLoss(), [(X, Y)])
        found, gradient = top_eigenpairs(problem.hessian(), 2), problem.gradient()
    assert torch.equal(gradient, expected.gradient())
    assert found.eigenvalues == pytest.approx(top_eigenpairs(expected.hessian(), 2).eigenvalues, rel=1e-12)


def test_inputs_may_be_leaves_that_the_loss_differentiates_by():
    torch.manual_seed(0)
    model, x = net().double(), X.clone().requires_grad_()
    whole = Problem.from_sample_losses(model, only_by_input, [x])
    split = Problem.from_sample_losses(model, only_by_input, [x], micro_batch=5)
    expected = Problem.from_sample_losses(model, by_input, [X])
    v = torch.randn(whole.layout.dim, dtype=F64)
    for each in (whole, split, whole.to(micro_batch=4)):
        assert torch.allclose(each.hessian().matvec(v), expected.hessian().matvec(v), rtol=1e-10)


def test_counted_samples_are_split_as_they_are_counted():
    torch.manual_seed(0)
    model, batch = net().double(), (RAGGED, torch.arange(4.0, dtype=F64))
    problem = Problem.from_sample_losses(model, ragged_losses, [batch], count=lambda b: len(b[1]))
    pieces = problem.micro_batched(3)
    assert (len(problem.by_sample().losses), len(pieces.batches)) == (4, 2)
    assert pieces.loss() == pytest.approx(problem.loss(), rel=1e-14)


def test_another_count_is_another_data_set():
    def digest(count):
        return Problem.from_sample_losses(
            net().double(), lambda m, b: m(b).reshape(len(b) // 3, -1).mean(1), [X], count=count
        ).data_sha256

    thirds = digest(lambda batch: len(batch) // 3)
    whole = Problem.from_sample_losses(net().double(), lambda m, b: m(b).mean(1), [X]).data_sha256
    assert thirds == digest(lambda batch: 4)
    assert thirds != whole


@pytest.mark.parametrize("count", [lambda batch: 4.0, lambda batch: True, lambda batch: -1, lambda batch: None])
def test_a_count_is_a_number_of_samples(count):
    with pytest.raises(InputError, match="number of its samples"):
        Problem(net(), nn.CrossEntropyLoss(), [(X.float(), Y)], count=count)


def refusal(pose: Callable[[], Problem]) -> str:
    with pytest.raises(InputError) as refused:
        pose()
    return str(refused.value)


def test_refusals_name_the_cure():
    batch = (RAGGED, torch.zeros(4))
    assert "count" in refusal(lambda: Problem.from_sample_losses(net().double(), ragged_losses, [batch]))
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 2.0]), label_smoothing=0.1)
    assert "leave these samples out" in refusal(lambda: Problem(net().double(), weighted, [(X, Y)]))
    message = refusal(lambda: Problem(net(3, 1).double(), lambda o, t: ((o - t) ** 2).mean(), [(X, X[:, 0])]))
    assert all(words in message for words in ("(12, 1)", "(12,)", "one shape"))


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_what_a_user_may_not_know_is_told():
    model = net().double()
    notes = " ".join(Problem(model, Scaled(), [(X, Y)]).notes)
    assert all(words in notes for words in ("scale", "part of the model"))
    whole = Tempered().double()
    assert "scale" not in " ".join(Problem(whole, whole.criterion, [(X, Y)]).notes)
    notes = " ".join(Problem(net(3, 1).double(), functional.mse_loss, [(X, X[:, 0])]).notes)
    assert "(12, 12)" in notes
    assert not any("12" in note for note in Problem(net(3, 1).double(), nn.MSELoss(), [(X, X[:, :1])]).notes)
