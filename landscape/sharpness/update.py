"""The update that an optimiser's next step makes, for a learning rate of 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landscape.checkpoint.optimizer import Entry, entries_by_name
from landscape.dynamics.edge_of_stability import UNKNOWN_DECAY, family
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.reporting.messages import cause, listed

# Settings that choose an implementation of a step, not its numbers.
_PLAIN = {"foreach": False, "fused": False, "capturable": False, "differentiable": False}


@dataclass(frozen=True)
class Update:
    """An optimiser's next update for a learning rate of 1, or the reason why there is none.

    Attributes:
        vector: update u, (dim,), float64: a step of learning rate eta goes to theta - eta u. Zeros without an update.
        learning_rate: the stored learning rate, of the first group of parameters; NaN without an update.
        reason: why there is no update; empty otherwise.
    """

    vector: Tensor
    learning_rate: float
    reason: str


def reason_without_update(problem: Problem) -> str:
    """Why the state of a problem's optimiser gives no update; empty where `optimizer_update` can make one."""
    if problem.optimizer is None:
        return "the checkpoint has no state of an optimiser"
    try:
        entries = entries_by_name(problem.optimizer, problem.model)
        groups = [entry.group for name, entry in entries.items() if name in problem.layout.names]
        families = {family(group) for group in groups}
        unknown = [group for group in groups if family(group) is None]
        decays = [each["weight_decay"] and "decoupled_weight_decay" not in each for each in groups if not unknown]
    except InputError as error:
        return str(error)
    if missing := [name for name in problem.layout.names if name not in entries]:
        return f"the optimiser has no parameter {missing[0]}; it has {listed(entries)}"
    if unknown:
        settings = sorted(set(unknown[0]) - {"params", "param_names"} - _PLAIN.keys())
        return f"steps of an optimiser with the settings {listed(settings, 12)} aren't known"
    if len(families) > 1:
        return "the groups of parameters are of different optimisers"
    return UNKNOWN_DECAY if "Adam" in families and any(decays) else ""


def optimizer_update(problem: Problem) -> Update:
    """The update of the next step of the problem's optimiser, which torch makes on a copy of the parameters.

    The step is made in float64, with the problem's gradient on all its data, from the stored state of the optimiser:
    momentum, second moments, number of steps and weight decay enter as in training. Of the parameters, only those that
    vary are moved. The update is the displacement theta - theta' over the learning rate of the first of their groups.
    Other groups keep their learning rates relative to that of the first group. Neither the problem nor the stored state
    is changed.

    Raises:
        InputError: the stored state isn't that of an optimiser of this model.
    """
    nothing = torch.zeros(problem.layout.dim, dtype=torch.float64, device=problem.device)
    if reason := reason_without_update(problem):
        return Update(nothing, math.nan, reason)
    assert problem.optimizer is not None, "a reason otherwise"
    entries = entries_by_name(problem.optimizer, problem.model)
    chosen = {name: entries[name] for name in problem.layout.names}
    values, gradients = (
        problem.layout.unflatten(each.to(torch.float64)) for each in (problem.vector, problem.gradient())
    )
    parameters = {name: nn.Parameter(values[name].clone()) for name in chosen}
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].clone()
    try:
        optimizer = _restored(problem.optimizer["param_groups"], chosen, parameters)
        rate = float(optimizer.param_groups[0]["lr"])
        if rate == 0:
            return Update(nothing, rate, "the stored learning rate is 0, so the optimiser's step has no direction")
        optimizer.step()
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"torch can't make a step from the stored state of the optimiser ({cause(error)}); is it this model's?"
        ) from error
    moved = {name: values[name] - parameter.detach() for name, parameter in parameters.items()}
    return Update(problem.layout.flatten(moved) / rate, rate, "")


def _restored(
    stored: Sequence[Mapping[str, Any]], chosen: Mapping[str, Entry], parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """A torch optimiser of some parameters, with a copy of the settings and of the state that is stored for each."""
    groups = []
    for group in stored:
        members = [parameters[name] for name, entry in chosen.items() if entry.group is group]
        if members:
            settings = {key: value for key, value in group.items() if key != "param_names"}
            groups.append(settings | _PLAIN | {"params": members})
    optimizer = torch.optim.SGD(groups) if family(groups[0]) == "SGD" else torch.optim.Adam(groups)
    for name, entry in chosen.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: _copied(key, value, parameter) for key, value in entry.state.items()}
    return optimizer


def _copied(key: str, value: Any, parameter: nn.Parameter) -> Any:
    """A copy of a part of the state: moments with the parameter's type and device, the number of steps on the CPU."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().cpu().clone() if key == "step" else value.detach().to(parameter, copy=True)
