"""`--critical-sharpness` from the command to the record: each choice of the update, its reasons and its errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from landscape.checkpoint import save_checkpoint
from landscape.cli.plot import main as plot
from landscape.record import open_record
from tests.conftest import TinyProject

RATE = 0.05


def row_of(path, place=0, group="critical_sharpness"):
    with open_record(path) as record:
        return record[group].dataset.isel(checkpoint=place).load()


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 2, generator=generator).double(), torch.randn(20, 1, generator=generator).double()


def loss_at(project: TinyProject, vector: torch.Tensor) -> float:
    """The mean squared error in float64 at a flat vector, by torch alone."""
    model, (x, y) = project.model().double(), data()
    shapes = {name: each.shape for name, each in model.named_parameters()}
    pieces = vector.split([shape.numel() for shape in shapes.values()])
    named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
    return float((functional_call(model, named, (x,)) - y).square().mean())


def weights_of(name: str) -> torch.Tensor:
    return torch.cat([each.double().flatten() for each in torch.load(name)["state"].values()])


def assert_crosses(project: TinyProject, row, update: torch.Tensor, name: str = "a.pt") -> None:
    """The loss at the bracket's ends lies on both sides of the loss before the step."""
    theta, (low, high) = weights_of(name), row.learning_rate_bracket.values
    before = loss_at(project, theta)
    assert loss_at(project, theta - low * update) < before < loss_at(project, theta - high * update)
    assert high - low <= 0.05 * high
    assert low < float(row.learning_rate) < high
    assert float(row.sharpness) == pytest.approx(2 / float(row.learning_rate))
    np.testing.assert_allclose(row.sharpness_bracket, [2 / high, 2 / low])


@pytest.fixture
def run(tiny):
    """Checkpoints of four steps of Adam from a.pt, with the optimiser's state."""
    model, (x, y) = tiny.model(), data()
    model.load_state_dict(torch.load("a.pt")["state"])
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for step in range(4):
        save_checkpoint(f"s{step}.pt", model.state_dict(), step=step, optimizer=optimizer.state_dict())
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x.float()), y.float()).backward()
        optimizer.step()
    return [f"s{step}.pt" for step in range(4)]


def test_without_an_optimiser_the_update_is_the_gradient(command, tiny):
    ran = command("a.pt", "--critical-sharpness", "-o", "a.h5")
    assert (ran.status, ran.err) == (0, "")
    assert "critical sharpness along the gradient: " in ran.out
    row, theta = row_of("a.h5"), weights_of("a.pt").requires_grad_()
    hessian = tiny.hessian("a.pt")
    model, (x, y) = tiny.model().double(), data()
    model.load_state_dict(torch.load("a.pt")["state"])
    nn.functional.mse_loss(model(x), y).backward()
    gradient = torch.cat([each.grad.flatten() for each in model.parameters()])
    assert theta.shape == gradient.shape
    assert_crosses(tiny, row, gradient)
    quotient = float(gradient @ hessian @ gradient / (gradient @ gradient))
    for name in ("quadratic_sharpness", "directional_curvature"):  # for the gradient they are one number
        assert float(row[name]) == pytest.approx(quotient, rel=1e-5)
    assert float(row.update_norm) == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert int(row.forward_passes) == row.sizes["point"] + 1
    assert float(row.tried_loss[0]) == pytest.approx(loss_at(tiny, theta.detach()), rel=1e-6)
    assert float(row.sharpness_error) > float(row.sharpness_standard_error) > 0


def test_the_optimisers_step_is_the_default(command, tiny, run):
    ran = command(*run, "--critical-sharpness", "-o", "r.h5")
    assert (ran.status, ran.err.count("\n")) == (0, ran.err.count("measured:"))
    for step in range(3):  # the step that training took, from data in float32
        update = (weights_of(f"s{step}.pt") - weights_of(f"s{step + 1}.pt")) / RATE
        row = row_of("r.h5", step)
        assert str(row.along.values) == "the optimiser's next step"
        assert float(row.step_learning_rate) == RATE
        assert_crosses(tiny, row, update, f"s{step}.pt")
    assert "learning rate of the step itself: 0.05" in ran.out


def test_the_displacement_to_the_next_checkpoint(command, tiny, run):
    ran = command(*run, "--critical-sharpness", "--update", "next", "-o", "r.h5")
    assert ran.status == 0
    for step in range(3):
        update = weights_of(f"s{step}.pt") - weights_of(f"s{step + 1}.pt")
        assert_crosses(tiny, row_of("r.h5", step), update, f"s{step}.pt")
    last = row_of("r.h5", 3)
    assert str(last.reason.values) == "the last checkpoint of the run has no next checkpoint"
    assert np.isnan([last.sharpness, last.learning_rate, last.quadratic_sharpness]).all()
    assert "none (0 losses): the last checkpoint of the run has no next checkpoint" in ran.out
    for more in ([], ["--step", "1"], ["--step", "3"]):  # the last one has nothing but its reason
        assert plot(["r.h5", "--figure", "critical-sharpness", "--format", "png", "-o", "r.png", *more]) == 0
    alone = command("s0.pt", "--critical-sharpness", "--update", "next", "-o", "alone.h5")
    assert alone.status == 2
    assert "name at least 2 checkpoints" in alone.err


def test_a_vector_and_a_checkpoint_in_files(command, tiny):
    np.save("u.npy", weights_of("a.pt").numpy())
    for name, update in (("u.npy", weights_of("a.pt")), ("b.pt", weights_of("a.pt") - weights_of("b.pt"))):
        ran = command("a.pt", "--critical-sharpness", "--update", name, "-o", f"{name}.h5", "--json")
        assert ran.status == 0
        row = row_of(f"{name}.h5")
        if row.reason:
            assert "goes uphill" in str(row.reason.values)
        else:
            assert_crosses(tiny, row, update)
        (shown,) = json.loads(ran.out)["rows"]
        assert shown["critical_sharpness"]["reason"] == str(row.reason.values)


def test_an_edited_vector_is_another_request(command, tiny):
    np.save("u.npy", np.ones(13))
    assert command("a.pt", "--critical-sharpness", "--update", "u.npy", "-o", "a.h5").status == 0
    np.save("u.npy", 2 * np.ones(13))
    again = command("a.pt", "--critical-sharpness", "--update", "u.npy", "-o", "a.h5")
    assert again.status == 2
    assert "update" in again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--update", "optimizer"), "no update of the optimiser is known: the checkpoint has no state of an optimiser"),
        (("--update", "sideways"), "'sideways' is not a direction"),
        (("--tol-value", 1.5), "a share between 0 and 1, not 1.5"),
    ],
)
def test_refusals(command, tiny, arguments, message):
    before = tiny.listing()
    ran = command("a.pt", "--critical-sharpness", *arguments)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err
    assert tiny.listing() == before


def test_an_update_without_the_measurement_is_refused(command, tiny):
    ran = command("a.pt", "--hessian", "--update", "gradient")
    assert ran.status == 2
    assert "no requested measurement uses --update: add --critical-sharpness" in ran.err


def test_rounding_is_an_unmet_goal(command, tiny):
    ran = command("a.pt", "--critical-sharpness", "--tol-value", 1e-9, "-o", "a.h5")
    assert ran.status == 3
    assert "because of the loss's rounding: compute in float64" in ran.out + ran.err
    assert not bool(row_of("a.h5").converged)
    exact = command("a.pt", "--critical-sharpness", "--tol-value", 1e-9, "--dtype", "float64", "-o", "b.h5")
    assert exact.status == 0
    apart = abs(float(row_of("a.h5").learning_rate) - float(row_of("b.h5").learning_rate))
    assert apart <= float(row_of("a.h5").width_by_rounding)


def test_one_request_over_checkpoints_of_which_some_have_no_crossing(command, tiny, run):
    """Rows of different lengths, and with a reason, share a group; a second call measures nothing."""
    np.save("u.npy", weights_of("s0.pt").numpy() - weights_of("s3.pt").numpy())
    asked = (*run, "--critical-sharpness", "--update", "u.npy", "-o", "r.h5")
    ran = command(*asked)
    assert ran.status == 0
    rows = [row_of("r.h5", place) for place in range(4)]
    assert any(np.isfinite(float(row.sharpness)) for row in rows)
    again = command(*asked)
    assert (again.status, again.out) == (0, again.out)
    assert [line for line in again.out.splitlines() if line.startswith("critical")] == [
        line for line in ran.out.splitlines() if line.startswith("critical")
    ]


# ---------------------------------------------------------------------- losses on other data

OTHER = """
import torch
from torch import nn
from landscape import Problem

def problem(checkpoint):
    generator = torch.Generator().manual_seed({seed})
    x, y = torch.randn(30, 2, generator=generator), torch.randn(30, 1, generator=generator)
    return Problem(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), nn.MSELoss(), [(x, y)])

def small(checkpoint):
    return Problem(nn.Linear(2, 1), nn.MSELoss(), [(torch.ones(2, 2), torch.ones(2, 1))])
"""


def write_other(tiny, seed):
    (tiny.folder / "other.py").write_text(OTHER.format(seed=seed))


def test_the_relative_critical_sharpness_is_of_the_other_losses_along_the_own_update(command, tiny):
    write_other(tiny, 9)
    ran = command("a.pt", "--critical-sharpness", "--other-data", "other.py:problem", "-o", "a.h5")
    assert ran.status == 0
    assert "along the gradient, losses of other.py:problem" in ran.out
    theta = weights_of("a.pt").requires_grad_()
    x, y = data()
    shapes = {name: each.shape for name, each in tiny.model().named_parameters()}

    def loss(vector, inputs, targets):
        pieces = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return (functional_call(tiny.model().double(), named, (inputs,)) - targets).square().mean()

    (update,) = torch.autograd.grad(loss(theta, x, y), theta)
    generator = torch.Generator().manual_seed(9)
    other = torch.randn(30, 2, generator=generator).double(), torch.randn(30, 1, generator=generator).double()
    row = row_of("a.h5", group="relative_critical_sharpness")
    low, high = row.learning_rate_bracket.values
    start = theta.detach()
    assert loss(start - low * update, *other) < loss(start, *other) < loss(start - high * update, *other)
    assert row.samples == 30
    assert row_of("a.h5").samples == 20


def test_other_data_that_changed_are_refused(command, tiny):
    write_other(tiny, 9)
    asked = ["--critical-sharpness", "--other-data", "other.py:problem", "-o", "a.h5"]
    assert command("a.pt", *asked).status == 0
    write_other(tiny, 10)
    before = tiny.listing()
    ran = command("a.pt", "b.pt", *asked)
    assert (ran.status, ran.out) == (2, "")
    assert "a.h5 is the record of another request (relative_critical_sharpness other_data is sha256" in ran.err
    assert tiny.listing() == before


def test_other_data_of_another_model_are_refused_before_anything_is_measured(command, tiny):
    write_other(tiny, 9)
    before = tiny.listing()
    ran = command("a.pt", "--critical-sharpness", "--other-data", "other.py:small")
    assert (ran.status, ran.out) == (2, "")
    assert "--other-data other.py:small: a.pt: names do not fit the model" in ran.err
    assert tiny.listing() == before
