"""The schedule of the instruments: each has an account of counted work, and takes its turn when the account allows.

Work is counted, not timed, in seconds of a nominal machine (`landscape.curvature.products.work`). So the schedule is a
function of the model, the data and the settings, and two runs have rows at equal steps. Timing would give every run a
schedule of its own.

A step of the training earns ``budget`` times its own work. Every instrument first gets what one turn in 80 steps
takes, the cheaper instruments before the dearer ones where the income isn't enough for all. What is left is shared
equally, and no instrument gets more than a turn in every step. A turn is paid by its products or losses, so an account
may be overdrawn, and the next turn comes later. An instrument with a turn in every so many steps has no
account; its work is taken from the income.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch

from landscape.curvature.products.work import Counting, Work
from landscape.measurements.cost import Cost
from landscape.problem import Problem
from landscape.problem.batches import samples_in
from landscape.sampling.groups import Groups

Unit = Literal["loss", "product", "groups"]
EVERY = 80  # steps from turn to turn as planned: turns' work varies, and 100 steps have a turn then
FIXED = 2e-3  # nominal seconds of a turn beside torch's operations: Python's own work, and the row
_IDLE = 2e-5  # nominal seconds of a step without a turn: hooks, and the judgement of the loss
_UPDATE_BYTES = 40  # bytes that an optimiser reads and writes for each parameter in float32
_UPDATE_OPERATIONS = 4  # for each tensor of parameters
_PLAIN = 0.75  # work of a training's own gradient, by that of a `Problem` with a loss for each sample


class Accounts:
    """The accounts of the instruments, in nominal seconds.

    Attributes:
        costs: work of the latest turn of each instrument; before its first turn, what is foreseen.
        credit: account of each instrument.
    """

    def __init__(
        self, budget: float, foreseen: Mapping[str, float], step: float, every: Mapping[str, int] | None = None
    ) -> None:
        """Open the accounts: with one turn where the income of 80 steps pays for it, so that a run begins with a row.

        Args:
            budget: share of the training's work.
            foreseen: foreseen work of a turn of each instrument.
            step: work of a step of the training.
            every: steps from turn to turn of the instruments that have no account.
        """
        self.budget = budget
        self._every = dict(every or {})
        self._fixed = {name: foreseen[name] for name in self._every}  # work of their latest turns
        self.costs = {name: cost for name, cost in foreseen.items() if name not in self._every}
        self._rates: dict[float, dict[str, float]] = {}  # by the work of a step, for these costs
        early = {name for name, each in self.intervals(step).items() if each <= EVERY}
        self.credit = {name: cost if name in early else 0.0 for name, cost in self.costs.items()}

    def rates(self, income: float) -> dict[str, float]:
        """The work that each instrument earns by a step; see the module's docstring.

        Args:
            income: work that all instruments earn together.
        """
        needs = {name: cost / EVERY for name, cost in self.costs.items()}
        rates = _level(needs, income)
        rest = income - sum(rates.values())
        if rest > 0:
            more = _level({name: cost - rates[name] for name, cost in self.costs.items()}, rest)
            rates = {name: rate + more[name] for name, rate in rates.items()}
        return rates

    def _income(self, work: float) -> float:
        fixed = sum(cost / self._every[name] for name, cost in self._fixed.items())
        return max(0.0, self.budget * work - fixed - _IDLE)

    def earn(self, work: float) -> None:
        """Pay a step's income into the accounts; an account holds at most one turn and a step's income."""
        if work not in self._rates:
            self._rates[work] = self.rates(self._income(work))
        credit, costs = self.credit, self.costs
        for name, rate in self._rates[work].items():
            credit[name] = min(credit[name], costs[name]) + rate

    def due(self, step: int) -> set[str]:
        """The instruments that have a turn at a step.

        Args:
            step: number of steps of the optimiser before.
        """
        found = {name for name, credit in self.credit.items() if credit >= self.costs[name]}
        if self._every:
            found |= {name for name, every in self._every.items() if step % every == 0}
        return found

    def may_borrow(self, name: str) -> bool:
        """Whether an instrument may take a turn now, and pay the rest later: half of the turn must be there."""
        return name in self.credit and self.credit[name] >= self.costs[name] / 2

    def pay(self, name: str, work: float, following: float | None = None) -> None:
        """Pay for a turn.

        Args:
            name: the instrument.
            work: work of the turn.
            following: work of the next turn, as far as it is foreseen; default: that of this turn.
        """
        expected = work if following is None else following
        if name in self._every:
            self._fixed[name] = expected
        else:
            self.credit[name] -= work
            self.costs[name] = expected
        self._rates.clear()

    def intervals(self, work: float) -> dict[str, float]:
        """Steps from one turn to the next of each instrument, with training steps of this work."""
        rates = self.rates(self._income(work))
        steps = {name: max(1.0, cost / rates[name]) if rates[name] else math.inf for name, cost in self.costs.items()}
        return steps | {name: float(each) for name, each in self._every.items()}

    def state_dict(self) -> dict[str, Any]:
        """The accounts as plain numbers."""
        return {"costs": dict(self.costs), "credit": dict(self.credit), "fixed": dict(self._fixed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the accounts of `state_dict`."""
        self.costs.update(state["costs"])
        self.credit.update(state["credit"])
        self._fixed.update(state["fixed"])
        self._rates.clear()


def _level(needs: Mapping[str, float], income: float) -> dict[str, float]:
    """Share an income equally, but give nobody more than the need; those with small needs come first."""
    shares, left = {}, max(income, 0.0)
    for place, (name, need) in enumerate(sorted(needs.items(), key=lambda each: each[1])):
        shares[name] = min(need, left / (len(needs) - place))
        left -= shares[name]
    return shares


_GRADIENT_IN_LOSSES = 3  # work of a gradient: a forward pass, and two passes' work backwards
_SMALL = 1.7  # time of a gradient on few samples, by its counted work: 1.1 to 2.5 on four trainings
_UNFORESEEN = 50  # products of an instrument that can't tell its work beforehand


class TrainingWork:
    """The work of a training's steps and of turns, from the counted work of one gradient on the evaluation set.

    Attributes:
        samples: number of samples of the evaluation set's first batch.
    """

    def __init__(self, problem: Problem) -> None:
        """Count a gradient on the first batch."""
        self._problem, self._device, batch = problem, problem.device, problem.batches[0]
        self.samples = samples_in(batch)
        vector = problem.vector.clone().requires_grad_()
        with problem.evaluating(), Counting() as counting:
            torch.autograd.grad(problem.share(vector, batch), vector)
        self._counted = counting.work
        whole = counting.work.of_all(problem.batches)
        whole.operations *= len(problem.batches)
        self._gradient = whole.seconds(self._device)
        operator = problem.hessian()
        with Counting() as counting:
            operator.matvec(torch.ones_like(problem.vector))
        self._product = counting.work.seconds(self._device)
        layout = problem.layout
        update = Work(bytes=_UPDATE_BYTES * layout.dim, operations=_UPDATE_OPERATIONS * len(layout.names))
        self._update = update.seconds(self._device)
        self._steps: dict[int | None, float] = {}  # by the number of samples, for a watch asks at every step

    def of_step(self, samples: int | None = None) -> float:
        """Nominal seconds of one step of the training.

        Args:
            samples: number of samples in the training's batch; default: as in the evaluation set's first batch.
        """
        if samples not in self._steps:
            share, one = 1.0 if samples is None else samples / self.samples, self._counted
            gradient = Work(int(one.flops * share), 0, int(one.bytes * share), one.operations)
            self._steps[samples] = _PLAIN * gradient.seconds(self._device) + self._update
        return self._steps[samples]

    def of_unit(self, unit: Unit) -> float:
        """Nominal seconds of one evaluation of the loss, one product with the Hessian, or a gradient of each group."""
        if unit == "groups":
            return self._groups
        return self._product if unit == "product" else self._gradient / _GRADIENT_IN_LOSSES

    @cached_property
    def _groups(self) -> float:
        """Nominal seconds of a gradient on every group of samples, each by itself; one group is counted."""
        groups = Groups.of(self._problem)
        with Counting() as counting:
            next(groups.problems(self._problem)).gradient()
        return _SMALL * len(groups) * counting.work.seconds(self._device)

    def foreseen(self, cost: Cost | None) -> float:
        """Nominal seconds of a turn, as far as they can be foreseen."""
        if cost is None:
            return _UNFORESEEN * self._product + FIXED
        groups = cost.groups * self._groups if cost.groups else 0.0
        return cost.losses / _GRADIENT_IN_LOSSES * self._gradient + cost.products * self._product + groups + FIXED
