"""Preconditioned operators against explicit matrices, and Adam's diagonal against the steps of torch's Adam."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from landscape import InputError, MatrixOperator, top_eigenpairs
from landscape.checkpoint.stand_ins import LeftOut
from landscape.curvature.preconditioned import Preconditioned, adam_diagonal
from landscape.problem.parameters import ParameterLayout
from tests.support.oracles import dense, network, symmetric

DIAGONAL = torch.tensor([4.0, 0.25, 1.0, 9.0]).double()


# ------------------------------------------------------------------ D^(-1/2) A D^(-1/2)


def test_against_the_explicit_matrix():
    matrix = symmetric([3.0, 1.0, -2.0, 0.0])
    operator = MatrixOperator(matrix)
    rescaled = Preconditioned(operator, DIAGONAL.float())  # another type, exactly the same numbers
    half = torch.diag(DIAGONAL**-0.5)
    assert (dense(rescaled) - half @ matrix @ half).abs().max() < 1e-14
    assert torch.equal(rescaled.scale, DIAGONAL**-0.5)
    assert (rescaled.products, operator.products) == (4, 4)


def test_the_hessian_of_a_looped_model():
    problem = network("looped").problem(nn.CrossEntropyLoss())
    diagonal = torch.logspace(-3, 1, problem.layout.dim).double()
    hessian = dense(problem.hessian())
    expected = hessian / (diagonal.unsqueeze(0) * diagonal.unsqueeze(1)).sqrt()
    rescaled = Preconditioned(problem.hessian(), diagonal)
    assert (dense(rescaled) - expected).norm() < 1e-9 * expected.norm()
    # The rescaled matrix is similar to D^(-1) H, so both have equal eigenvalues. H has eigenvalues of both signs.
    pairs = top_eigenpairs(rescaled, 3, tol=1e-8)
    values = torch.linalg.eigvals(hessian / diagonal.unsqueeze(1))
    assert values.imag.abs().max() < 1e-9 * values.abs().max()
    largest = values.real[values.real.abs().argsort(descending=True)][:3].numpy()
    assert abs(pairs.eigenvalues - largest).max() < 1e-9 * abs(largest[0])
    # If u is an eigenvector, D^(-1) H maps the direction scale * u of parameters to a multiple of itself.
    direction = rescaled.scale * torch.as_tensor(pairs.eigenvectors[:, 0])
    mapped = (hessian @ direction) / diagonal
    assert (mapped - pairs.eigenvalues[0] * direction).norm() < 1e-6 * mapped.norm()


def test_single_precision():
    rescaled = Preconditioned(MatrixOperator(symmetric([2.0, 1.0, 1.0, 1.0], dtype=torch.float32)), DIAGONAL)
    assert rescaled.scale.dtype == torch.float32
    assert rescaled.matvec(torch.ones(4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("diagonal", "word"),
    [
        (torch.ones(3), r"shape \(3,\)"),
        (torch.ones(4, 1), r"shape \(4, 1\)"),
        (torch.ones(4) * 1j, "complex64"),
        (torch.tensor([1.0, 0.0, 1.0, -2.0]), "2 of 4 .* 0 at 1"),
        (torch.tensor([1.0, 1.0, torch.nan, 1.0]), "nan at 2"),
        (torch.tensor([torch.inf, 1.0, 1.0, 1.0]), "inf at 0"),
    ],
)
def test_what_is_no_positive_diagonal_is_refused_in_one_line(diagonal, word):
    with pytest.raises(InputError, match=word) as caught:
        Preconditioned(MatrixOperator(symmetric([1.0] * 4)), diagonal)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ Adam's diagonal


class Model(nn.Module):
    """Matrices, vectors, two parameters of one shape and tied weights."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.inner = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 6)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.norm(self.inner(self.embedding(tokens)).tanh()))


def model() -> Model:
    torch.manual_seed(0)
    return Model().double()


def denominators(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> dict[str, torch.Tensor]:
    """Adam's denominator in its last step, from the step itself: lr * m / (1 - beta_1^t) / (change of parameters).

    The gradients fall from step to step, so the largest second moments aren't the last ones.
    """
    g = torch.Generator().manual_seed(1)
    inputs, targets = (torch.randint(0, 6, (20,), generator=g) for _ in range(2))
    for step in range(steps):
        before = copy.deepcopy(dict(network.named_parameters()))
        optimizer.zero_grad()
        (nn.functional.cross_entropy(network(inputs), targets) / (1 + step) ** 4).backward()
        optimizer.step()
    found = {}
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        if state := optimizer.state.get(parameter):
            group = groups[id(parameter)]
            decayed = before[name] * (1 - group["lr"] * group["weight_decay"])  # as AdamW does; 0 elsewhere
            mean = state["exp_avg"] / (1 - group["betas"][0] ** steps)
            found[name] = (group["lr"] * mean / (decayed - parameter)).detach()
    return found


def flat(parts: dict[str, torch.Tensor], layout: ParameterLayout) -> torch.Tensor:
    return torch.cat([parts[name].flatten() for name in layout.names])


def agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    # The change of a parameter of size 1 in a step of 1e-3 is known to eps / 1e-3, its smallest to some 1e-9.
    return found.dtype == torch.float64 and torch.allclose(found, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    "make",
    [
        torch.optim.Adam,
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.8), eps=1e-2),
        lambda p: torch.optim.Adam(p, amsgrad=True, betas=(0.5, 0.5)),
        lambda p: torch.optim.AdamW(p, weight_decay=0.3, foreach=True),
    ],
    ids=["default", "eps", "amsgrad", "decay"],
)
def test_against_the_steps_that_torch_takes(make, steps):
    network = model()
    optimizer = make(network.parameters())
    expected = denominators(network, optimizer, steps)
    layout = ParameterLayout.of(network)
    assert "head.weight" not in layout.names  # tied: once, under its first name
    assert agree(adam_diagonal(optimizer.state_dict(), network, layout), flat(expected, layout))


def _groups(network: nn.Module, named: bool) -> list[dict[str, object]]:
    """Parameter groups with vectors first, which come second in the model, and with different settings."""
    parameters = list(network.named_parameters())
    chosen = [[(n, p) for n, p in parameters if (p.ndim < 2) == vectors] for vectors in (True, False)]
    settings = [{"eps": 1e-3, "betas": (0.9, 0.5)}, {"eps": 1e-6}]
    pick = [pairs if named else [p for _, p in pairs] for pairs in chosen]
    return [{"params": params, **setting} for params, setting in zip(pick, settings, strict=True)]


@pytest.mark.parametrize("named", [False, True], ids=["by order", "by name"])
def test_groups_in_another_order_than_the_model(named):
    network = model()
    optimizer = torch.optim.AdamW(_groups(network, named), weight_decay=0.0)
    expected = denominators(network, optimizer)
    layout = ParameterLayout.of(network)
    assert agree(adam_diagonal(optimizer.state_dict(), network, layout), flat(expected, layout))


def test_names_are_followed_whatever_the_order():
    network = model()
    optimizer = torch.optim.Adam(reversed(list(network.named_parameters())))
    expected = denominators(network, optimizer)
    layout = ParameterLayout.of(network)
    assert agree(adam_diagonal(optimizer.state_dict(), network, layout), flat(expected, layout))


@pytest.mark.parametrize("told", ["all", "trainable"])
def test_frozen_parameters_and_restricted_layouts(told):
    network = model()
    network.inner.weight.requires_grad_(False)
    parameters = [p for p in network.parameters() if told == "all" or p.requires_grad]
    optimizer = torch.optim.Adam(parameters)
    expected = denominators(network, optimizer)
    layout = ParameterLayout.of(network)
    for wanted in (layout, layout.subset(["norm.bias", "inner.bias"])):
        assert agree(adam_diagonal(optimizer.state_dict(), network, wanted), flat(expected, wanted))


def _states():
    """State dicts that must be refused, each with its model and a word of the reason."""
    network = model()
    fresh = torch.optim.Adam(network.parameters()).state_dict()
    optimizer = torch.optim.Adam(network.parameters())
    denominators(network, optimizer, 1)
    trained = optimizer.state_dict()
    momentum = torch.optim.SGD(network.parameters(), momentum=0.9)
    momentum.step()  # the gradients are still there
    turned = torch.optim.Adam(reversed(list(network.parameters())))
    turned.step()
    other = torch.optim.Adam((f"x.{n}", p) for n, p in network.named_parameters())
    other.step()
    halves = [list(network.norm.parameters()), [p for p in network.parameters() if p.shape != (3,)]]
    split = torch.optim.Adam([{"params": [network.inner.bias]}, *({"params": half} for half in halves)])
    split.step()
    frozen = model()
    part = torch.optim.Adam(frozen.parameters())
    frozen.inner.weight.requires_grad_(False)
    denominators(frozen, part, 1)
    frozen.inner.weight.requires_grad_(True)
    switched = copy.deepcopy(trained)
    switched["param_groups"][0]["amsgrad"] = True  # without the maxima that AMSGrad keeps
    stale = copy.deepcopy(trained)
    stale["state"][0]["step"] = torch.tensor(0.0)
    unread = copy.deepcopy(trained)
    unread["param_groups"][0]["betas"] = (0.9, LeftOut())
    return {
        "no optimiser": (network, {"weight": torch.ones(2)}, "optimizer.state_dict()"),
        "a list": (network, [1, 2], "optimizer.state_dict()"),
        "not stepped": (network, fresh, "has no state for embedding.weight"),
        "not all trained": (frozen, part.state_dict(), "has no state for inner.weight"),
        "momentum": (network, momentum.state_dict(), "momentum_buffer"),
        "amsgrad without maxima": (network, switched, "no second moments"),
        "no steps": (network, stale, "after 0 steps"),
        "left out": (network, unread, "embedding.weight are no numbers"),
        "another model's": (nn.Linear(3, 2), trained, "has 6 parameters, the model 2"),
        "another size": (nn.Sequential(*[nn.Linear(2, 2) for _ in range(3)]), trained, "in no way"),
        "another order": (network, turned.state_dict(), "in no way"),
        "two ways": (network, split.state_dict(), "in more than one way"),
        "other names": (network, other.state_dict(), "no parameter embedding.weight; it has x.embedding.weight"),
    }


STATES = _states()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_an_optimiser_of_the_wrapped_model_is_found_by_its_names(prefix):
    network = model()
    optimizer = torch.optim.Adam((prefix + name, p) for name, p in network.named_parameters())
    expected = denominators(network, optimizer)
    found = adam_diagonal(optimizer.state_dict(), network, ParameterLayout.of(network))
    assert (found - torch.cat([each.flatten() for each in expected.values()])).abs().max() < 1e-9


def test_a_diagonal_that_a_precision_cannot_hold_is_refused():
    """The inverse root of 1e-40 is a number in float32, and that of 1e-80 isn't. Both are numbers in float64."""
    operator = MatrixOperator(symmetric([1.0] * 3, dtype=torch.float32))
    diagonal = np.array([1.0, 1e-40, 1.0])
    assert float(Preconditioned(operator, diagonal).scale[1]) == pytest.approx(1e20, rel=1e-6)
    for bad in (1e-80, 1e100):
        with pytest.raises(InputError, match=r"1 of 3 .* torch.float32, the first is .* at 1"):
            Preconditioned(operator, [1.0, bad, 1.0])


@pytest.mark.parametrize("name", STATES)
def test_what_is_not_this_models_adam_is_refused_in_one_line(name):
    network, state, word = STATES[name]
    with pytest.raises(InputError, match=word.replace("(", r"\(").replace(")", r"\)")) as caught:
        adam_diagonal(state, network, ParameterLayout.of(network))
    assert "\n" not in str(caught.value)


def test_groups_that_could_be_merged_in_too_many_ways_are_refused():
    """Without a state an entry may belong to any parameter. A search through eight groups of six would not end."""
    network = nn.Sequential(*[nn.Linear(1, 1) for _ in range(24)])
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam([{"params": parameters[i : i + 6]} for i in range(0, 48, 6)])
    with pytest.raises(InputError, match="in more than one way"):
        adam_diagonal(optimizer.state_dict(), network, ParameterLayout.of(network))
