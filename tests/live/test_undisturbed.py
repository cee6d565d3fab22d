"""A watched training has the bits of an unwatched one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape.live.undisturbed import undisturbed
from landscape.problem import switches
from tests.live.trainings import TRAININGS, equal

EVERYTHING = ["loss", "top_eigenvalues", "stability", "critical_sharpness", "noise_scale", "crossings", "trace"]


@pytest.mark.parametrize("name", TRAININGS)
def test_a_watched_training_has_the_bits_of_an_unwatched_one(name):
    training = TRAININGS[name]
    alone = training.run(12)
    groups = set()
    watched = training.run(
        12,
        budget=50.0,
        instruments=EVERYTHING,
        on_error="raise",
        log_to=lambda numbers, step: groups.update(each.partition("/")[0] for each in numbers),
    )
    assert watched.watch.seconds > 0
    assert watched.losses == alone.losses
    assert equal(watched.states, alone.states)
    assert watched.randoms == alone.randoms
    assert watched.counted == alone.counted
    assert groups >= set(watched.watch.instruments) | {"stability"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_500_steps_have_the_same_bits(name):
    """With the default instruments, by the budget: turns of each at many different steps."""
    training = TRAININGS[name]
    alone, watched = training.run(500), training.run(500, budget=1.0, on_error="raise")
    assert watched.losses == alone.losses
    assert equal(watched.states, alone.states)
    assert watched.randoms == alone.randoms
    assert watched.counted == alone.counted


def test_two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        training = TRAININGS["SGD with momentum"]
        alone, watched = training.run(8), training.run(8, budget=50.0, on_error="raise")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert equal(watched.states, alone.states)


def _state():
    return (
        random.getstate(),
        [each.tolist() if isinstance(each, np.ndarray) else each for each in np.random.get_state()],
        torch.get_rng_state().tolist(),
        torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        switches.state(),
    )


def _disturb():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    torch.set_num_threads(torch.get_num_threads() + 1)


def _disturb_and_fail():
    _disturb()
    raise ZeroDivisionError


@pytest.mark.parametrize("outside", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")])
def test_everything_is_restored_after_an_exception_too(outside):
    with outside():
        before = _state()
        with undisturbed(torch.device("cpu")):
            assert landscape.measuring()
            assert torch.is_grad_enabled()
            assert not torch.is_autocast_enabled("cpu")
            _disturb()
        assert _state() == before
        with pytest.raises(ZeroDivisionError), undisturbed(torch.device("cpu")):
            _disturb_and_fail()
        assert _state() == before
    assert not landscape.measuring()


class _Broken(landscape.live.Instrument):
    name = "broken"

    @property
    def settings(self):
        return {"broken": {}}

    def measure(self, moment):
        moment.before.model.eval()
        _disturb()
        raise ZeroDivisionError("no number")


def test_an_instrument_that_fails_rests_and_the_training_goes_on():
    training = TRAININGS["dropout"]
    alone, watched = training.run(6), training.run(6, budget=50.0, instruments=["loss", _Broken()])
    assert equal(watched.states[0], alone.states[0])
    assert watched.randoms == alone.randoms
    assert watched.watch.resting == {"broken": "ZeroDivisionError: no number"}
    assert [each.name for each in watched.watch.events] == ["instrument failed"]
    with pytest.raises(ZeroDivisionError):
        training.run(6, budget=50.0, instruments=[_Broken()], on_error="raise")


def test_a_loss_that_waits_for_backward_is_refused():
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batch = (torch.randn(8, 6), torch.randint(3, (8,)))
    instruments = [landscape.live.every(1, "loss")]
    watch = landscape.watch(model, nn.CrossEntropyLoss(), [batch], optimizer=optimizer, instruments=instruments)
    for _ in range(2):
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        watch.step(loss=loss)
    optimizer.step()
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    with pytest.raises(landscape.InputError, match="hasn't been through backward"):
        watch.step(loss=loss)
    watch.step(loss=loss.detach())
