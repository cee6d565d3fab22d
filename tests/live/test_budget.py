"""The schedule: shares of the income, turns, debts; and what counted work is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import landscape
from landscape.live import watching
from landscape.live.budget import EVERY, Accounts, TrainingWork
from tests.live.trainings import TRAININGS, equal

COSTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-3, 1e3), min_size=1)


@given(COSTS, st.floats(0, 1e3))
def test_rates_share_the_income(costs, income):
    accounts = Accounts(1.0, costs, 0.0)
    rates = accounts.rates(income)
    assert sum(rates.values()) == pytest.approx(min(income, sum(costs.values())), rel=1e-9, abs=1e-12)
    assert all(rates[name] <= cost * (1 + 1e-12) for name, cost in costs.items())
    if income >= sum(costs.values()) / EVERY:  # every instrument can have its turn in time
        assert all(rates[name] >= cost / EVERY * (1 - 1e-9) for name, cost in costs.items())


@given(COSTS, st.floats(1e-3, 10), st.integers(1, 2000))
def test_turns_cost_no_more_than_was_earned(costs, income, steps):
    """An account has its first turn at most for nothing, and isn't overdrawn by turns of equal work."""
    accounts = Accounts(1.0, costs, income)
    spent, first = 0.0, sum(accounts.credit.values())
    for step in range(steps):
        for name in accounts.due(step):
            accounts.pay(name, costs[name])
            spent += costs[name]
        accounts.earn(income)
    assert spent <= first + steps * income * (1 + 1e-9)
    assert min(accounts.credit.values()) >= -1e-9


def test_intervals_are_those_of_the_turns():
    costs = {"cheap": 0.5, "dear": 30.0}
    accounts = Accounts(0.5, costs, 2.0)
    turns = {name: [] for name in costs}
    for step in range(1000):
        for name in accounts.due(step):
            turns[name].append(step)
            accounts.pay(name, costs[name])
        accounts.earn(2.0)
    foreseen = accounts.intervals(2.0)
    for name, steps in turns.items():
        assert np.mean(np.diff(steps)) == pytest.approx(foreseen[name], rel=0.05)
    assert foreseen["dear"] <= EVERY


def test_a_turn_that_costs_more_makes_the_next_one_later():
    accounts = Accounts(1.0, {"one": 10.0}, 1.0)
    turns = []
    for step in range(100):
        if accounts.due(step):
            turns.append(step)
            accounts.pay("one", 30.0 if len(turns) == 1 else 10.0)
        accounts.earn(1.0)
    assert turns[0] == 0
    assert 45 <= turns[1] <= 51  # 30 of debt, paid from 10 that were there, then a turn at 30 before it is known again
    assert np.diff(turns[1:]).max() <= 30


def test_an_instrument_with_fixed_steps_takes_from_the_income():
    accounts = Accounts(1.0, {"fixed": 50.0, "other": 5.0}, 10.0, {"fixed": 10})
    assert [step for step in range(30) if "fixed" in accounts.due(step)] == [0, 10, 20]
    assert accounts.intervals(10.0) == {"other": pytest.approx(1.0, rel=1e-4), "fixed": 10.0}
    assert accounts.intervals(5.0)["other"] == math.inf
    assert not accounts.may_borrow("fixed")
    assert accounts.may_borrow("other")
    accounts.pay("other", 5.0)
    assert not accounts.may_borrow("other")


def test_work_of_a_step_is_proportional_to_samples_where_products_dominate():
    model = nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 512))
    problem = landscape.Problem(model, nn.MSELoss(), [(torch.randn(64, 512), torch.randn(64, 512))])
    work = TrainingWork(problem)
    update = work.of_step(0)
    # Two layers of n x n: forward 2 n^2 each a sample, backward 4 n^2 for the second, and 2 n^2 for the first's weights
    products = 64 * (2 * 2 + 4 + 2) * 512**2
    assert work.of_step() - update > 0.75 * products / (8e10 * torch.get_num_threads())
    assert (work.of_step(128) - update) / (work.of_step(64) - update) == pytest.approx(2, rel=0.05)


def test_the_schedule_is_a_function_of_counted_work():
    training = TRAININGS["dropout"]
    one, other = (training.run(40, budget=2.0).watch for _ in range(2))
    first, second = one.state_dict(), other.state_dict()
    assert equal(first["accounts"], second["accounts"])
    assert one.seconds != other.seconds


class _Slow(landscape.live.Instrument):
    """An instrument that takes a second of a clock, which isn't in its counted work."""

    name = "slow"
    unit = "loss"

    def __init__(self):
        self.turns, self.now = 0, 0.0

    def perf_counter(self):
        self.now += 1e-3
        return self.now

    @property
    def settings(self):
        return {self.name: {}}

    def measure(self, moment):
        self.turns += 1
        self.now += 1
        return landscape.live.Turn({}, 1e-3)


def test_instruments_rest_beyond_twice_the_budget_but_not_those_with_fixed_steps(monkeypatch):
    slow, turns = _Slow(), []
    monkeypatch.setattr(watching, "_GRACE", 0.01)
    monkeypatch.setattr(watching, "time", slow)
    training = TRAININGS["dropout"]
    watch = training.run(
        41, budget=20.0, instruments=[slow, landscape.live.every(5, "loss")],
        log_to=lambda numbers, step: turns.append((step, *numbers)),
    ).watch  # fmt: skip
    (event,) = watch.events
    assert event.name == "over budget"
    assert event.value > 2 * 20
    assert 0 < slow.turns < 20  # of 41 that the budget allows
    assert [step for step, *names in turns if "loss/loss" in names] == [*range(0, 41, 5)]


def test_what_does_not_fit_is_told(caplog):
    watch = TRAININGS["dropout"].run(3, budget=1e-3, instruments=["loss", "trace"]).watch
    assert watch.intervals["trace"] > EVERY
    (line,) = caplog.messages
    assert line.startswith("a budget of 0.1 % gives turns at these intervals: loss ")
    assert "trace" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "budget is a share"),
        ({"instruments": ["sharpness"]}, "no instrument 'sharpness'; there are"),
        ({"instruments": []}, "no instrument is given"),
        ({"instruments": ["loss", "loss"]}, "two instruments write the group loss"),
        ({"instruments": [landscape.Dynamics()]}, "over the checkpoints of a whole run"),
        ({"instruments": [3]}, "an instrument is given by its name"),
        ({"on_error": "ignore"}, "on_error is"),
        ({"mode": "both"}, "mode is"),
        ({"log_to": 3}, "log_to takes"),
    ],
)
def test_bad_arguments_are_refused_before_the_training(arguments, message):
    with pytest.raises(landscape.InputError, match=message) as refusal:
        TRAININGS["dropout"].run(1, **arguments)
    assert "\n" not in str(refusal.value)


def test_every_is_a_whole_number():
    with pytest.raises(landscape.InputError, match="at least 1, not 0"):
        landscape.live.every(0, "loss")
    with pytest.raises(landscape.InputError, match="whole number"):
        landscape.live.every(2.5, "loss")
