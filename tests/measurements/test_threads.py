"""The command takes as many threads as pay; a Python process keeps its own number."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from landscape.curvature.products.work import Work
from landscape.measurements import Loss
from landscape.measurements.runner import probe
from landscape.measurements.threads import VARIABLES, threads_that_pay
from landscape.problem import Problem
from tests.cli.test_cli import provenance

AVAILABLE = 3  # of torch in these tests, so that a change of the number shows


@pytest.fixture
def several(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(AVAILABLE)
    yield
    torch.set_num_threads(before)


def of_width(width: int) -> Problem:
    return Problem(nn.Linear(width, width), nn.MSELoss(), [(torch.ones(width, width), torch.ones(width, width))])


def test_the_number_follows_from_the_time_of_an_operation():
    # 8e10 operations and 1.2e10 bytes a second on one thread, and a handover of 10 microseconds: t = sqrt(w / 10 us).
    assert Work(flops=8 * 10**10, operations=1000).threads(64) == 10
    assert Work(flops=8 * 10**10, operations=1000).threads(4) == 4
    assert Work(bytes=12 * 10**9, operations=10_000).threads(64) == 3
    assert Work(bytes=12 * 10**9, operations=10_000_000).threads(64) == 1
    assert Work().threads(64) == 1


@pytest.mark.parametrize(("width", "threads"), [(10, 1), (1500, AVAILABLE)])
def test_small_models_take_one_thread(several, width, threads):
    with threads_that_pay(of_width(width)):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == AVAILABLE


def test_the_number_is_restored_after_an_error(several):
    with suppress(ZeroDivisionError), threads_that_pay(of_width(10)):
        raise ZeroDivisionError
    assert torch.get_num_threads() == AVAILABLE


def test_a_loss_that_transforms_functions_is_counted(several):
    """As physics-informed losses are written: the derivative of the output by the input, for each sample."""

    def loss(model, batch):
        slopes = torch.func.vmap(torch.func.jacrev(lambda x: model(x).sum()))(batch)
        return slopes.square().sum(1)

    problem = Problem.from_sample_losses(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), loss,
                                         [torch.ones(5, 3)])  # fmt: skip
    with threads_that_pay(problem):
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", VARIABLES)
def test_the_users_number_stays(several, monkeypatch, name):
    monkeypatch.setenv(name, str(AVAILABLE))
    with threads_that_pay(of_width(10)):
        assert torch.get_num_threads() == AVAILABLE


def test_only_the_command_changes_the_number(several, command, tiny):
    assert "(measured on 1 thread)" in command("a.pt", "-o", "command.h5").out
    assert provenance("command.h5", "loss")["threads"] == 1
    assert probe("a.pt", [Loss()], "python.h5").threads == AVAILABLE
    assert provenance("python.h5", "loss")["threads"] == AVAILABLE
    assert torch.get_num_threads() == AVAILABLE
