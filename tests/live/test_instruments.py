"""Instruments on trainings whose numbers are known in closed form or from torch itself."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape.live.named import OWN, _measurements
from landscape.measurements import History
from landscape.reporting.progress_bar import ProgressBar


def test_the_relative_critical_sharpness_is_of_the_other_data():
    """Along the update u of a quadratic with gradient g and Hessian H, the loss is back at 2 g.u / u.Hu."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    own, other = ((torch.randn(20, 3).double(), torch.randn(20, 1).double()) for _ in range(2))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    weights, rows = model.weight.detach().clone(), {}
    watch = landscape.watch(
        model, nn.MSELoss(), [own], optimizer=optimizer, other_data=[other], on_error="raise", budget=1e3,
        instruments=["critical_sharpness"], log_to=lambda numbers, step: rows.update(numbers),
    )  # fmt: skip
    loss = nn.functional.mse_loss(model(own[0]), own[1])
    loss.backward()
    update = model.weight.grad.clone().flatten()
    optimizer.step()
    watch.step(0, loss=loss)
    for group, (inputs, targets) in (("critical_sharpness", own), ("relative_critical_sharpness", other)):
        residuals = inputs @ weights.T - targets
        gradient = (2 / 20 * inputs.T @ residuals).flatten()
        hessian = 2 / 20 * inputs.T @ inputs
        crossing = float(2 * gradient @ update / (update @ hessian @ update))
        low, high = (rows[f"{group}/sharpness_bracket[{i}]"] for i in range(2))
        assert low <= 2 / crossing <= high, group
        assert high / low < 1.2


def test_train_mode_takes_the_statistics_of_the_whole_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
    inputs, targets = torch.randn(32, 4), torch.randn(32, 1)
    optimizer, rows = torch.optim.SGD(model.parameters(), 0.1), {}
    for mode in ("train", "eval"):
        watch = landscape.watch(
            model, nn.MSELoss(), [(inputs, targets)], optimizer=optimizer, mode=mode, instruments=["loss"],
            log_to=lambda numbers, step, mode=mode: rows.setdefault(mode, numbers["loss/loss"]), on_error="raise",
            budget=1e3,
        )  # fmt: skip
        loss = nn.functional.mse_loss(model(inputs), targets)  # moves the running statistics, of which eval's row is
        before = {name: each.clone() for name, each in model.state_dict().items()}
        with torch.no_grad():
            expected = nn.functional.mse_loss(copy.deepcopy(model).train(mode == "train")(inputs), targets).item()
        loss.backward()
        optimizer.step()
        stepped = {name: each.clone() for name, each in model.state_dict().items()}
        watch.step(0, loss=loss)
        assert all(torch.equal(model.state_dict()[name], each) for name, each in stepped.items())
        assert not torch.equal(before["0.weight"], stepped["0.weight"])
        assert rows[mode] == pytest.approx(expected, rel=1e-6)
        watch.close()
    assert abs(rows["train"] / rows["eval"] - 1) > 1e-3


class _Looped(nn.Module):
    """A network that calls one layer twice, so that there is a loop to measure."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs):
        return self.out(self.layer(self.layer(inputs).tanh()).tanh())


DEAR = {"valley", "sampling_error", "neighbourhood", "slices_2d"}
NAMES = sorted(_measurements().keys() - OWN.keys())


@pytest.mark.parametrize("name", [pytest.param(each, marks=pytest.mark.slow if each in DEAR else ()) for each in NAMES])
def test_every_measurement_of_one_checkpoint_is_an_instrument(name, tmp_path):
    """The row is that of the measurement itself at the weights before the step."""
    torch.manual_seed(0)
    model = _Looped()
    batch = torch.randn(24, 4), torch.randint(2, (24,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    path = tmp_path / "run.h5"
    with landscape.watch(
        model, nn.CrossEntropyLoss(), [batch], optimizer=optimizer, record=path, on_error="raise",
        instruments=[landscape.live.every(2, name)],
    ) as watch:  # fmt: skip
        for step in range(3):
            before = copy.deepcopy(model)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            watch.step(step, loss=loss)
    problem = landscape.Problem(before, nn.CrossEntropyLoss(), [batch]).to(compile_products="off")
    measurement = _measurements()[name]().resolve(problem, 1)
    expected = measurement.measure(problem, ProgressBar(shown=False), History()).dataset
    with landscape.open_record(path) as tree:
        rows = tree[measurement.name].to_dataset().load()
    assert rows.step.values.tolist() == [0, 2]
    for variable, values in expected.data_vars.items():
        if values.dtype.kind in "fiub":
            np.testing.assert_array_equal(rows[variable].values[-1], values, err_msg=variable)


def _default(model, data, caplog, **posed):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rows = {}
    watch = landscape.watch(
        model, nn.MSELoss(), [data], optimizer=optimizer, budget=1e3, on_error="raise",
        log_to=lambda numbers, step: rows.update(numbers), **posed,
    )  # fmt: skip
    loss = nn.functional.mse_loss(model(data[0]), data[1])
    loss.backward()
    optimizer.step()
    watch.step(0, loss=loss)
    return watch, rows, [line for line in caplog.messages if line.startswith("no ")]


def test_the_default_leaves_out_what_can_not_measure_here(caplog):
    torch.manual_seed(0)
    mixing = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
    watch, _, lines = _default(mixing, (torch.randn(32, 4), torch.randn(32, 1)), caplog, mode="train")
    assert list(watch.instruments) == ["loss", "top_eigenvalues", "critical_sharpness"]
    assert len(lines) == 1
    assert lines[0].startswith("no noise_scale in this training: the samples of a batch depend on one another")
    with pytest.raises(landscape.InputError, match="depend on one another"):  # what is asked for by name is refused
        _default(mixing, (torch.randn(32, 4), torch.randn(32, 1)), caplog, mode="train", instruments=["noise_scale"])


def test_one_sample_and_one_parameter(caplog):
    """The loss (w x - y)^2 of one parameter has the second derivative 2 x^2, for one sample or on average."""
    model = nn.Linear(1, 1, bias=False).double()
    one = torch.tensor([[1.5]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    watch, rows, lines = _default(model, one, caplog)
    assert "noise_scale" not in watch.instruments
    assert lines == ["no noise_scale in this training: one sample shows no spread over samples: give more samples"]
    assert rows["top_eigenvalues/largest"] == pytest.approx(2 * 1.5**2, rel=1e-12)
    assert rows["stability/ratio"] == pytest.approx(2 * 1.5**2 * 0.1 / 2, rel=1e-9)
    with pytest.raises(landscape.InputError, match="k must be at most the number of parameters, 1"):
        _default(model, one, caplog, instruments=[landscape.live.TrackedEigenvalues(k=3)])
