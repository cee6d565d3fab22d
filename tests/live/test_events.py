"""Events: each criterion on sequences for which the answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import landscape
from landscape.figures import draw
from landscape.live.events import WINDOW, JumpCriterion, ThresholdCriterion
from models.settings import SwitchSettings, TrainingSettings
from models.training import SUBSET, TrainingRun


def _told(losses):
    criterion = JumpCriterion()
    return [(step, event.name) for step, loss in enumerate(losses) if (event := criterion.judge(step, loss))]


def test_noise_and_trends_are_no_jumps():
    """One of 10^9 normal numbers lies beyond six deviations; the robust deviation of 50 numbers errs by about 12 %."""
    for seed in range(20):
        noise = np.random.default_rng(seed).standard_normal(2000)
        assert _told(5 + 0.1 * noise - np.linspace(0, 3, 2000)) == []
        assert _told(np.exp(noise - np.linspace(0, 3, 2000))) == []  # batches' losses near 0 are skewed like this
        assert _told(-3 + 0.1 * noise) == []


def test_a_jump_of_a_loss_that_falls_steeply_is_told():
    losses = np.exp(-0.1 * np.arange(100))
    losses[60:] *= 10
    assert _told(losses) == [(60, "loss jumped")]


def test_a_jump_is_told_once():
    losses = np.ones(200) + 0.01 * np.random.default_rng(0).standard_normal(200)
    losses[100:] += 1
    assert _told(losses) == [(100, "loss jumped")]
    losses[150] = math.nan
    assert _told(losses) == [(100, "loss jumped"), (150, "not finite")]
    assert _told(losses[:150] - 5) == [(100, "loss jumped")]
    assert _told([1.0] * 15 + [100.0]) == []  # too few losses before


def _by_definition(losses):
    """The steps of jumps, by the criterion as docs/watch.md words it, with NumPy's medians."""
    told, rises = [], []
    for step in range(10, len(losses)):
        middle, loss = np.median(losses[step - 10 : step]), losses[step]
        rise = np.log(loss / middle) if min(loss, middle) > 0 else (loss - middle) / abs(middle)
        before = np.array(rises[-50:])
        rises.append(rise)
        if len(before) < 10 or (told and step <= told[-1] + WINDOW):
            continue
        deviation = 1.4826 * np.median(np.abs(before - np.median(before)))
        if rise > 0.05 and rise > np.median(before) + 6 * deviation:
            told.append(step)
    return told


@given(
    st.integers(0, 10**6),
    st.sampled_from(["exponential", "standard_cauchy", "lognormal", "few values"]),
    st.integers(1, 250),
)
def test_jumps_are_those_of_the_definition(seed, kind, count):
    random = np.random.default_rng(seed)
    losses = random.choice([1.0, 1.0, 1.02, 5.0], count) if kind == "few values" else getattr(random, kind)(size=count)
    assert [step for step, _ in _told(losses.tolist())] == _by_definition(losses.tolist())


def test_the_jump_criterion_goes_on_from_its_state():
    losses = np.exp(np.random.default_rng(1).standard_t(1.5, 400))
    criterion, told = JumpCriterion(), []
    for step, loss in enumerate(losses):
        if step == 123:
            fresh = JumpCriterion()
            fresh.load_state_dict(criterion.state_dict())
            criterion = fresh
        if event := criterion.judge(step, loss):
            told.append((step, event.name))
    assert told == _told(losses)
    assert told
    assert np.diff([step for step, _ in told]).min() > WINDOW


@pytest.mark.parametrize(
    ("ratios", "crossings"),
    [
        ([0.5, 0.9, 1.2, 1.3], [2]),
        ([1.2, 1.3], []),  # was never seen below
        ([0.5, 1.05, 1.2, 0.95, 1.3, 0.5, 2.0], [2, 6]),  # 1.05 and 0.95 are uncertain
        ([0.5, math.nan, 1.5], [2]),
    ],
)
def test_the_threshold_is_crossed_beyond_the_error(ratios, crossings):
    criterion = ThresholdCriterion()
    assert [step for step, ratio in enumerate(ratios) if criterion.judge(step, ratio, 0.1)] == crossings


def _descent(rate, steps, curvature=2.0):
    """Gradient descent on a quadratic of this curvature, watched at every step."""
    model = nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), rate(0) if callable(rate) else rate)
    scale = math.sqrt(curvature / 2)
    data = torch.tensor([[scale], [-scale]]), torch.zeros(2, 1)
    told = []
    instruments = [
        landscape.live.every(1, landscape.live.TrackedEigenvalues(k=1)),
        landscape.live.every(1, "stability"),
    ]
    watch = landscape.watch(model, nn.MSELoss(), [data], optimizer=optimizer, instruments=instruments, on_error="raise")
    for name in landscape.live.EVENTS:
        watch.on(name, told.append)
    for step in range(steps):
        loss = nn.functional.mse_loss(model(data[0]), data[1])
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate(step) if callable(rate) else rate
        optimizer.step()
        watch.step(step, loss=loss)
    return watch, told


def test_a_rising_learning_rate_crosses_the_threshold_where_it_does():
    """The curvature is 2, so the ratio is the learning rate; the row of a step has the rate that makes the step."""
    watch, told = _descent(lambda step: 0.5 + 0.01 * step, 60)
    assert [(each.name, each.step) for each in told] == [("threshold crossed", 51)]
    assert watch.events == told


def test_weights_that_are_not_finite_are_told_and_nothing_is_measured():
    watch, told = _descent(1e30, 8)
    assert told[0].name == "not finite"
    assert not watch.resting


def test_there_is_no_such_event():
    watch, _ = _descent(0.1, 1)
    with pytest.raises(landscape.InputError, match="no event 'spike'; there are not finite, loss jumped"):
        watch.on("spike", print)


def test_an_event_s_function_may_change_the_training():
    """Called outside of the restored state: what the function draws, it draws from the training's generators."""
    watch, _ = _descent(0.1, 20)
    drawn = []
    watch.on("loss jumped", lambda event: drawn.append(torch.rand(())))
    torch.manual_seed(0)
    watch._steps.made = 1
    watch.step(loss=1e60)
    following = torch.rand(())
    torch.manual_seed(0)
    assert [*drawn, following] == [torch.rand(()), torch.rand(())]


class _Failing(landscape.live.Instrument):
    """Fails at step 60."""

    name = "failing"
    every = 60

    @property
    def settings(self):
        return {}

    def measure(self, moment):
        if moment.step == 60:
            raise ZeroDivisionError
        return landscape.live.Turn({})


def test_a_record_and_its_figure_have_every_event(tmp_path):
    """Different kinds at different steps, and two kinds at one step."""
    model = nn.Linear(3, 1)
    data = torch.randn(8, 3), torch.randn(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    instruments = [landscape.live.every(40, "loss"), landscape.live.every(40, "top_eigenvalues"), _Failing()]
    path = tmp_path / "run.h5"
    with landscape.watch(
        model, nn.MSELoss(), [data], optimizer=optimizer, record=path, instruments=instruments
    ) as watch:
        for step in range(130):
            loss = nn.functional.mse_loss(model(data[0]), data[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.step(step, loss={60: 1e6, 120: math.nan}.get(step, 1.0))
    expected = [(60, "loss jumped"), (60, "instrument failed"), (120, "not finite")]
    assert [(each.step, each.name) for each in watch.events] == expected
    with landscape.open_record(path) as tree:
        rows = tree["events"].to_dataset().load()
    stored = [(step, name) for step, names in zip(rows.step.values, rows.event.values, strict=True) for name in names]
    assert [each for each in stored if each[1]] == expected
    figure = draw("timeline", path)
    assert [each.get_text() for each in figure.legends[0].get_texts()] == [name for _, name in expected]


def test_plateau_fires_as_the_criterion_does():
    from landscape.dynamics.plateau import ShiftCriterion

    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    inputs = torch.randn(32, 3)
    data = inputs, inputs @ torch.ones(3, 1) + 0.1 * torch.randn(32, 1)
    plateau = landscape.live.every(5, landscape.live.Plateau(0.01, 0.01, patience=3))
    watch = landscape.watch(model, nn.MSELoss(), [data], optimizer=optimizer, instruments=[plateau])
    criterion, losses, expected = ShiftCriterion(0.01, 0.01, patience=3), [], []
    for step in range(200):
        loss = nn.functional.mse_loss(model(data[0]), data[1])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        if step % 5 == 0 and losses:
            norm = float(torch.cat([each.flatten() for each in gradients]).norm())
            if criterion.update(float(np.mean(losses[-5:])), norm):
                expected.append(step)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(data[0]), data[1])
        loss.backward()
        optimizer.step()
        watch.step(step, loss=loss)
        losses.append(float(loss.detach()))
    assert [(each.name, each.step) for each in watch.events] == [("plateau", expected[0])]


def test_the_plateau_of_a_watched_training_is_where_staged_training_switches():
    """Until the switch, staged training is Single-Attn's; `models` judges at the ends of epochs by its own measures."""
    switch = SwitchSettings("shift", patience=3, delta_loss=0.1, delta_grad=0.05, subset=16)
    staged = TrainingSettings("looped", epochs=40, steps_per_epoch=4, batch=8, switch=switch)
    run = TrainingRun.begin(staged)
    while run.switched is None:
        run.advance()
    single = TrainingRun.begin(replace(staged, model="single", switch=None))
    plateau = landscape.live.every(4, landscape.live.Plateau(0.1, 0.05, patience=3))
    single.watch = landscape.watch(
        single.model, nn.CrossEntropyLoss(), [single.draw(16, SUBSET)], optimizer=single.optimizer,
        instruments=[plateau],
    )  # fmt: skip
    while single.step <= run.step:
        single.advance()
    assert run.switched > 3
    assert [(each.name, each.step) for each in single.watch.events] == [("plateau", 4 * run.switched)]
