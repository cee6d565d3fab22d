"""A training that is ended and goes on from its own checkpoint has the rows of an uninterrupted one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape.problem.batches import map_tensors

INSTRUMENTS = ("loss", "top_eigenvalues", "critical_sharpness")


class _EndedError(Exception):
    pass


def train(folder, name, steps, end=None, resume=False):
    """Train with a checkpoint every 10 steps; ended before the step ``end``, with nothing told to the watch."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 5)
    targets = inputs.sin().sum(1, keepdim=True)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    watch = landscape.watch(
        model, nn.MSELoss(), [(inputs[:32], targets[:32])], optimizer=optimizer, record=folder / name, budget=100.0,
        instruments=INSTRUMENTS, on_error="raise",
    )  # fmt: skip
    start = 0
    if resume:
        saved = torch.load(folder / "training.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        watch.load_state_dict(saved["watch"])
        start = saved["step"]
    for step in range(start, steps):
        if step == end:
            watch.rows._record._parts.release()  # as the end of a process does
            raise _EndedError
        if step % 10 == 0:
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "watch": watch.state_dict()}
            torch.save({**states, "rng": torch.get_rng_state(), "step": step}, folder / "training.pt")
        places = torch.randint(64, (16,))
        loss = nn.functional.mse_loss(model(inputs[places]), targets[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watch.step(step, loss=loss, batch=inputs[places])
        if step == end:
            raise _EndedError
    watch.close()


def rows(path):
    """Every number and text of a record but times."""
    with landscape.open_record(path) as tree:
        groups = {name: node.to_dataset().load() for name, node in tree.children.items()}
    found = {}
    for name, data in groups.items():
        for variable, values in data.variables.items():
            if variable == "provenance":
                texts = map(json.loads, values.values)
                found[name, variable] = [{**each, "seconds": 0, "started": ""} for each in texts]
            else:
                found[name, variable] = values.values
    return found


@pytest.mark.parametrize(
    "ends", [(25,), *(pytest.param(each, marks=pytest.mark.slow) for each in ((11, 38), (3, 10, 11, 30)))]
)
def test_the_rows_are_those_of_an_uninterrupted_training(tmp_path, ends):
    train(tmp_path, "whole.h5", 45)
    for place, end in enumerate(ends):
        with pytest.raises(_EndedError):
            train(tmp_path, "ended.h5", 45, end, resume=place > 0)
    train(tmp_path, "ended.h5", 45, resume=True)
    whole, ended = rows(tmp_path / "whole.h5"), rows(tmp_path / "ended.h5")
    assert whole.keys() == ended.keys()
    assert {name for name, _ in whole} == set(INSTRUMENTS)
    for key, values in whole.items():
        np.testing.assert_array_equal(values, ended[key], err_msg=str(key))
    for name in INSTRUMENTS:
        steps = whole[name, "step"]
        assert len(steps) > 4
        assert len(set(steps.tolist())) == len(steps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_state_that_was_read_onto_the_cpu_goes_on_on_a_gpu():
    model = nn.Linear(5, 1, device="cuda")
    data = torch.randn(8, 5), torch.randn(8, 1)
    states = []
    for state in ({}, states):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        watch = landscape.watch(
            model, nn.MSELoss(), [data], optimizer=optimizer, instruments=["top_eigenvalues"], budget=1e3,
            on_error="raise",
        )  # fmt: skip
        if state:
            watch.load_state_dict(map_tensors(Tensor.cpu, state[0]))
        nn.functional.mse_loss(model(data[0].cuda()), data[1].cuda()).backward()
        optimizer.step()
        watch.step()
        states.append(watch.state_dict())
    assert states[1]["made"] == 2


def test_rows_that_are_lost_are_told(tmp_path, caplog):
    with pytest.raises(_EndedError):
        train(tmp_path, "run.h5", 45, 25)
    shutil.rmtree(tmp_path / "run.h5.parts")
    train(tmp_path, "run.h5", 30, resume=True)
    assert "the record has other rows before step 20 than the state knows of" in caplog.messages


def test_a_record_of_another_training_is_not_continued(tmp_path):
    with pytest.raises(_EndedError):
        train(tmp_path, "run.h5", 45, 25)
    model = nn.Linear(5, 1)
    data = torch.randn(8, 5), torch.randn(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = landscape.watch(model, nn.MSELoss(), [data], optimizer=optimizer, record=tmp_path / "run.h5")
    with pytest.raises(landscape.InputError, match="is the record of another training"):
        watch.resume(20)


def test_a_state_of_other_instruments_is_refused(tmp_path):
    model = nn.Linear(5, 1)
    data = torch.randn(8, 5), torch.randn(8, 1)
    watches = [
        landscape.watch(
            model, nn.MSELoss(), [data], optimizer=torch.optim.SGD(model.parameters(), 0.1), instruments=each
        )
        for each in (["loss"], ["loss", "crossings"])
    ]
    with pytest.raises(landscape.InputError, match="a watch with the instruments loss, and this one has loss, cross"):
        watches[1].load_state_dict(watches[0].state_dict())
    with pytest.raises(landscape.InputError, match="this isn't the state of a watch"):
        watches[0].load_state_dict({})


def test_an_error_in_the_training_leaves_an_unfinished_record(tmp_path):
    model = nn.Linear(5, 1)
    data = torch.randn(8, 5), torch.randn(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    path = tmp_path / "run.h5"
    watch = landscape.watch(
        model, nn.MSELoss(), [data], optimizer=optimizer, record=path, instruments=["loss"], budget=9.0
    )

    def fails():
        with watch:
            for _ in range(3):
                nn.functional.mse_loss(model(data[0]), data[1]).backward()
                optimizer.step()
                watch.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not path.exists()
    with landscape.open_record(path) as tree:
        assert 0 in tree["loss"].step.values
