"""What counts as a step, and what is known of it: weights before and after, learning rate, update, state."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import landscape
from landscape.live.instrument import Instrument, Turn
from landscape.measurements import RowData
from tests.live.trainings import TRAININGS

INPUTS, TARGETS = torch.randn(16, 4), torch.randn(16, 1)


class _Seeing(Instrument):
    """Keeps the moments that it sees."""

    name = "seeing"
    every = 1

    def __init__(self):
        self.moments = []

    @property
    def settings(self):
        return {self.name: {}}

    def measure(self, moment):
        self.moments.append(moment)
        return Turn({self.name: RowData({})})


def _watched(make=lambda each: torch.optim.SGD(each, 0.1), model=None):
    model = model or nn.Linear(4, 1)
    optimizer, seeing = make(model.parameters()), _Seeing()
    watch = landscape.watch(
        model, nn.MSELoss(), [(INPUTS, TARGETS)], optimizer=optimizer, instruments=[seeing], on_error="raise"
    )
    return model, optimizer, watch, seeing


def _flat(model):
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def _backward(model, optimizer):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(INPUTS), TARGETS)
    loss.backward()
    return loss


def test_a_row_is_of_the_weights_before_with_the_rate_that_makes_the_step():
    model, optimizer, watch, seeing = _watched()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    weights, gradients = [], []
    for step in range(4):
        _backward(model, optimizer)
        weights.append(_flat(model))
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters()]))
        optimizer.step()
        scheduler.step()
        watch.step(step)
    weights.append(_flat(model))
    assert [each.step for each in seeing.moments] == [0, 1, 2, 3]
    for step, moment in enumerate(seeing.moments):
        assert torch.equal(moment.before.vector, weights[step])
        assert torch.equal(moment.after, weights[step + 1])
        assert moment.learning_rate == pytest.approx(0.1 * 0.5**step)
        # theta is about 1 in size, so the difference by eps over the learning rate is the rounding of the update.
        rounding = 4 * torch.finfo(torch.float32).eps * float(weights[step].abs().max()) / moment.learning_rate
        assert (moment.update - gradients[step]).abs().max() < rounding
        assert moment.problem.optimizer["param_groups"][0]["lr"] == pytest.approx(0.1 * 0.5**step)


def test_a_learning_rate_that_is_a_tensor_is_the_step_s():
    model, optimizer, watch, seeing = _watched(lambda each: torch.optim.Adam(each, torch.tensor(0.1), capturable=False))
    for _ in range(2):
        _backward(model, optimizer)
        optimizer.step()
        optimizer.param_groups[0]["lr"].mul_(0.5)
        watch.step()
    assert [each.learning_rate for each in seeing.moments] == [pytest.approx(0.1), pytest.approx(0.05)]


def test_accumulated_gradients_are_one_step():
    seeing = _Seeing()
    TRAININGS["accumulated gradients"].run(9, instruments=[seeing])
    assert [each.step for each in seeing.moments] == [2, 5, 8]


def test_steps_that_a_grad_scaler_skips_are_none():
    model, optimizer, watch, seeing = _watched()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(4):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(INPUTS), TARGETS)
        scaler.scale(loss).backward()
        if step == 1:
            model.weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        watch.step(step, loss=loss)
    assert [each.step for each in seeing.moments] == [0, 2, 3]


def test_an_optimiser_with_a_closure():
    model, optimizer, watch, seeing = _watched(lambda each: torch.optim.LBFGS(each, max_iter=3))
    before = _flat(model)
    for _ in range(2):
        optimizer.step(lambda: _backward(model, optimizer))
        watch.step()
    assert torch.equal(seeing.moments[0].before.vector, before)
    assert torch.equal(seeing.moments[1].after, _flat(model))


def test_weights_that_become_infinite_have_no_update():
    model, optimizer, watch, seeing = _watched()
    for _ in range(2):
        _backward(model, optimizer)
        model.weight.grad.fill_(1e38)
        optimizer.param_groups[0]["lr"] = 1e10
        optimizer.step()
        watch.step()
    assert [each.after for each in seeing.moments] == [None]
    assert seeing.moments[0].update is None
    assert [each.name for each in watch.events] == ["not finite"]


def test_a_batch_may_be_its_number_of_samples():
    earned = []
    for batch in (INPUTS[:6], 6, None):
        model, optimizer, watch, _ = _watched()
        watch._accounts.__init__(0.5, {"seeing": 1e9}, 1.0)
        _backward(model, optimizer)
        optimizer.step()
        watch.step(batch=batch)
        earned.append(watch._accounts.credit["seeing"])
    assert earned[0] == earned[1] < earned[2]


def test_steps_ascend():
    model, optimizer, watch, _ = _watched()
    for step, refused in ((3, False), (3, True), (2, True), (4, False)):
        _backward(model, optimizer)
        optimizer.step()
        if refused:
            with pytest.raises(landscape.InputError, match="the numbers of steps ascend"):
                watch.step(step)
        else:
            watch.step(step)


def test_nothing_is_copied_between_turns():
    model, optimizer, watch, seeing = _watched()
    seeing.every = None
    watch._accounts.__init__(1e-6, {"seeing": 1.0}, 1.0)
    watch._schedule()
    _backward(model, optimizer)
    optimizer.step()
    assert watch._steps.made == 1
    assert watch._steps._before is None
    watch.step()
    assert seeing.moments == []


def test_an_optimiser_does_not_keep_the_watch():
    model, optimizer, watch, _ = _watched()
    kept = weakref.ref(watch._steps)
    del watch
    gc.collect()
    assert kept() is None
    _backward(model, optimizer)
    optimizer.step()


def test_a_closed_watch_leaves_no_hook():
    _, optimizer, watch, _ = _watched()
    assert optimizer._optimizer_step_pre_hooks
    watch.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_shared_and_frozen_parameters():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    model, optimizer, watch, seeing = _watched(model=model)
    _backward(model, optimizer)
    optimizer.step()
    watch.step()
    (moment,) = seeing.moments
    assert moment.after.numel() == 16 + 4 + 4 + 4
    tied = moment.before.at(moment.after).tensors()
    assert all(torch.equal(tied[name], each.detach()) for name, each in model.named_parameters())
