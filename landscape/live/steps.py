"""The steps of an optimiser in a training, seen through its hooks."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from landscape.problem import Problem


@dataclass(frozen=True)
class Moment:
    """One step of a training: the weights before and after, and the optimiser that made the step.

    Attributes:
        step: number of the step, as the training counts.
        before: the problem at the weights before the step, theta_t.
        after: flat vector after the step, theta_{t+1}, (dim,); None where it isn't finite.
        optimizer: the optimiser, in the state after the step.
        groups: settings of the optimiser's groups of parameters during the step, such as the learning rate.
    """

    step: int
    before: Problem
    after: Tensor | None
    optimizer: Optimizer
    groups: tuple[Mapping[str, Any], ...]

    @cached_property
    def problem(self) -> Problem:
        """The problem at theta_t, with the optimiser's state: moments after the step, settings during the step.

        The moments after the step t are those that the step t was made with.
        """
        state = self.optimizer.state_dict()
        groups = [
            {**now, **then} for now, then in zip(state["param_groups"], self.groups, strict=True)
        ]  # the scheduler may have changed the learning rate since
        return self.before.with_optimizer({**state, "param_groups": groups})

    @property
    def learning_rate(self) -> float:
        """Learning rate of the step, of the first group of parameters; 1 for an optimiser without one."""
        return float(self.groups[0].get("lr", 1.0))

    @property
    def update(self) -> Tensor | None:
        """The update u = (theta_t - theta_{t+1}) / learning rate, (dim,) float64; None where theta_{t+1} isn't finite.

        With several learning rates, the update is for the first group's learning rate as the unit.
        """
        if self.after is None:
            return None
        difference = self.before.vector.to(torch.float64) - self.after.to(torch.float64)
        return difference / self.learning_rate if self.learning_rate else difference


class Steps:
    """Watches an optimiser, and copies the weights around the steps at which a copy is wanted.

    Between these steps, a step costs two calls of a function, and nothing is copied.

    Attributes:
        wanted: whether the next step is to be copied.
        made: number of steps since the last call of `taken`.
    """

    def __init__(self, problem: Problem, optimizer: Optimizer) -> None:
        self.wanted, self.made = False, 0
        self._problem, self._optimizer = problem, optimizer
        self._before: Problem | None = None
        self._after: Tensor | None = None
        self._groups: tuple[dict[str, Any], ...] = ()
        watcher = weakref.ref(self)  # an optimiser that lives on doesn't keep this object

        def before(*_: Any) -> None:
            if (steps := watcher()) is not None:
                steps._copy_before()

        def after(*_: Any) -> None:
            if (steps := watcher()) is not None:
                steps._copy_after()

        self._handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def close(self) -> None:
        """Take the hooks off the optimiser."""
        for handle in self._handles:
            handle.remove()

    def taken(self, step: int) -> Moment | None:
        """The latest step as a moment, and forget the copies; None where no step was made, or none could be copied.

        Weights that aren't finite aren't copied: nothing can be measured there.

        Args:
            step: number of the step.
        """
        before, after, made = self._before, self._after, self.made
        self._before = self._after = None
        self.made = 0
        if not made or before is None:
            return None
        return Moment(step, before, after, self._optimizer, self._groups)

    def _tensors(self) -> dict[str, Tensor]:
        model = self._problem.model
        return dict(model.named_parameters()) | dict(model.named_buffers())

    def _copy_before(self) -> None:
        self._before = self._after = None
        tensors = {name: each.detach() for name, each in self._tensors().items()} if self.wanted else {}
        if tensors and all(bool(tensors[name].isfinite().all()) for name in self._problem.layout.names):
            self._groups = tuple(
                {key: _plain(value) for key, value in group.items() if key != "params"}
                for group in self._optimizer.param_groups
            )
            self._before = self._problem.with_state(tensors)

    def _copy_after(self) -> None:
        self.made += 1
        if self._before is not None:
            flat = self._problem.layout.flatten({name: each.detach() for name, each in self._tensors().items()})
            self._after = flat.to(self._problem.vector) if bool(flat.isfinite().all()) else None


def _plain(value: Any) -> Any:
    """A setting that later steps don't change: a learning rate may be a tensor that a scheduler writes into."""
    return value.detach().clone() if isinstance(value, Tensor) else value
