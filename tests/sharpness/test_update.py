"""The update from an optimiser's stored state, against the next step of the optimiser that wrote the state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from landscape import InputError, Problem
from landscape.sharpness.update import optimizer_update, reason_without_update

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(12, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Network(nn.Module):
    """Two layers, and a scale that is a parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.second(torch.tanh(self.first(x)))


def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network().double()


def whole(model):
    return [{"params": model.parameters()}]


def by_groups(model):
    """Two groups, the second of a larger learning rate."""
    named = list(model.named_parameters())
    return [
        {"params": [pair for pair in named if pair[0].startswith("first")]},
        {"params": [pair for pair in named if not pair[0].startswith("first")], "lr": 0.05, "weight_decay": 0.0},
    ]


def out_of_order(model):
    """The first group has the model's last parameters."""
    named = dict(model.named_parameters())
    first = {name: named.pop(name) for name in ("second.weight", "scale")}
    return [{"params": list(first.items()), "lr": 0.03}, {"params": list(named.items())}]


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
CASES = {
    "gradient descent": (SGD, {}),
    "momentum": (SGD, {"momentum": 0.9}),
    "dampening": (SGD, {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    "Nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "maximising": (SGD, {"maximize": True}),
    "Adam": (ADAM, {}),
    "Adam, coupled decay": (ADAM, {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-4}),
    "AMSGrad": (ADAM, {"amsgrad": True}),
    "AdamW": (ADAMW, {"weight_decay": 0.2}),
    "foreach": (ADAMW, {"foreach": True}),
    "tensor": (ADAM, {"lr": torch.tensor(0.01)}),
}


def trained(kind, settings, groups, steps):
    """A model after some steps on all data, and the optimiser with which to go on."""
    model = network()
    optimizer = kind(groups(model), **({"lr": 0.01} | settings))
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(X), Y).backward()
    optimizer.step()


def posed(model, optimizer) -> Problem:
    return Problem(copy.deepcopy(model), nn.MSELoss(), [(X[:5], Y[:5]), (X[5:], Y[5:])]).with_optimizer(optimizer)


def flat(model):
    return torch.cat([each.detach().flatten() for each in model.parameters()])


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("groups", [whole, by_groups, out_of_order], ids=lambda each: each.__name__)
@pytest.mark.parametrize("case", CASES)
def test_the_update_is_the_next_step_over_the_learning_rate(case, groups, steps):
    model, optimizer = trained(*CASES[case], groups, steps)
    stored = copy.deepcopy(optimizer.state_dict())
    problem = posed(model, optimizer.state_dict())
    before = flat(model)
    found = optimizer_update(problem)
    assert found.reason == ""
    assert repr(optimizer.state_dict()) == repr(stored), "the stored state isn't changed"
    step(model, optimizer)
    rate = float(optimizer.param_groups[0]["lr"])
    assert found.learning_rate == rate
    # The loss of these steps is one mean, that of the problem a sum over batches: the gradients differ by rounding,
    # which Adam's first steps divide by gradients of up to 1e-3.
    torch.testing.assert_close(found.vector, (before - flat(model)) / rate, rtol=1e-9, atol=1e-11)


def test_a_stored_state_in_float32_makes_steps_in_float64():
    """The displacement of a float32 step would have 3 digits at this learning rate."""
    model, optimizer = trained(ADAM, {"lr": 1e-5}, whole, 2)
    exact = optimizer_update(posed(model, optimizer.state_dict())).vector
    state = optimizer.state_dict()
    for each in state["state"].values():
        each.update({name: value.float() for name, value in each.items()})
    found = optimizer_update(posed(model, state).to(dtype=torch.float32)).vector
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [whole, by_groups], ids=lambda each: each.__name__)
def test_only_parameters_that_vary_are_moved(groups):
    model, optimizer = trained(ADAMW, {}, groups, 2)
    problem = posed(model, optimizer.state_dict())
    everything = problem.layout.unflatten(optimizer_update(problem).vector)
    part = problem.restricted("second")
    found = optimizer_update(part)
    ratio = found.learning_rate / 0.01  # of the group that is first among these parameters
    for name, piece in part.layout.unflatten(found.vector).items():
        torch.testing.assert_close(piece, everything[name] / ratio)


def changed(change) -> Problem:
    model, optimizer = trained(ADAM, {"weight_decay": 0.1}, whole, 1)
    state = copy.deepcopy(optimizer.state_dict())
    change(state)
    return posed(model, state)


def test_no_update_without_a_known_optimiser():
    model, other = trained(torch.optim.RMSprop, {}, whole, 1)
    assert optimizer_update(posed(model, None)).reason == "the checkpoint has no state of an optimiser"
    for problem, reason in (
        (posed(model, other.state_dict()), "steps of an optimiser with the settings alpha, centered"),
        (
            changed(lambda state: state["param_groups"][0].pop("decoupled_weight_decay")),
            "whether this is Adam or AdamW",
        ),
        (changed(lambda state: state["param_groups"][0].update(lr=0.0)), "the stored learning rate is 0"),
        (changed(lambda state: state.pop("param_groups")), "this isn't the state_dict of a torch optimiser"),
        (
            changed(lambda state: state["param_groups"][0]["params"].pop()),
            "the optimiser has 4 parameters, the model 5",
        ),
    ):
        found = optimizer_update(problem)
        assert found.reason.startswith(reason)
        assert not found.vector.any()
        assert reason_without_update(problem) in (found.reason, "")


def test_a_damaged_state_is_one_line():
    def cut(state):
        state["state"][0]["exp_avg"] = torch.zeros(7)

    with pytest.raises(InputError, match="torch can't make a step from the stored state"):
        optimizer_update(changed(cut))
