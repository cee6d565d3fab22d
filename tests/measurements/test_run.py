"""Measurements of a whole run (dynamics, hops, learning): in the record, resumed, and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from landscape import InputError, Problem, probe
from landscape.checkpoint import read_checkpoint, save_checkpoint
from landscape.cli.plot import main as plot
from landscape.measurements import Dynamics, History, Learning, Run, Spectrum, Stability
from landscape.record import open_record

CLASSES = """
import torch
from torch import nn
from landscape.problem import Problem

def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=generator)
    return x, (x[:, 0] + 0.3 * torch.randn(40, generator=generator) > 0).long()

def classes(checkpoint, about=True):
    x, y = data()
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    told = {"hard": ["yes" if abs(value) < 0.5 else "no" for value in x[:, 0]], "margin": x[:, 0].abs().numpy()}
    return Problem(model, nn.CrossEntropyLoss(), [(x, y)], about=told if about else None)
"""


def group(path: str, name: str) -> xr.Dataset:
    with open_record(path) as record:
        return record[name].dataset.load()


@pytest.fixture
def descent(tiny):
    """A run of gradient descent on the classes, with checkpoints at every step from 0 to 14, at 20 and at 40."""
    (tiny.folder / "problem.py").write_text(CLASSES)
    (tiny.folder / "pyproject.toml").write_text('[tool.landscape.problems]\ndefault = "problem.py:classes"\n')
    namespace: dict = {}
    exec(CLASSES, namespace)
    x, y = namespace["data"]()
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(41):
        if step <= 14 or step % 20 == 0:
            save_checkpoint(tiny.folder / f"step-{step:02}.pt", model.state_dict(), step=step,
                            optimizer=optimizer.state_dict())  # fmt: skip
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return tiny


def flat(path: str) -> np.ndarray:
    return torch.cat([value.flatten() for value in read_checkpoint(path).state.values()]).numpy()


def hessian_at(path: str) -> np.ndarray:
    """The dense Hessian of the classes' loss in float64, by torch.func.hessian."""
    namespace: dict = {}
    exec(CLASSES, namespace)
    x, y = namespace["data"]()
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    shapes = {name: value.shape for name, value in model.named_parameters()}

    def loss(vector: torch.Tensor) -> torch.Tensor:
        pieces = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return functional.cross_entropy(functional_call(model, named, (x.double(),)), y)

    return torch.func.hessian(loss)(torch.as_tensor(flat(path)).double()).numpy()


def test_dynamics_of_a_large_model_leave_out_their_own_part_with_a_line(command, descent, monkeypatch):
    monkeypatch.setattr("landscape.measurements.dynamics.MAX_DIM", 10)
    ran = command("step-00.pt", "step-14.pt", "--dynamics", "--trace", "--dtype", "float64", "-o", "large.h5")
    assert (ran.status, ran.err) == (0, "")
    assert "--dynamics leaves out entropy" in ran.out
    assert "trace" in ran.out
    with open_record("large.h5") as record:
        assert set(record.children) == {"loss", "stability", "trace"}


def test_dynamics_of_a_run(command, descent):
    files = ["step-00.pt", "step-14.pt", "step-20.pt", "step-40.pt"]
    ran = command(*files[::-1], "--dynamics", "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    assert "run of 4 checkpoints up to step-40.pt, step 40" in ran.out
    assert "they need at least 8 checkpoints" in ran.out
    spectra, stability = group("step-00.landscape.h5", "spectrum"), group("step-00.landscape.h5", "stability")
    row = group("step-00.landscape.h5", "dynamics").isel(checkpoint=0)
    assert list(row.run_step.values) == [0, 14, 20, 40]
    values = np.abs(spectra.eigenvalues.values)
    shares = values / values.sum(1, keepdims=True)
    entropy = -np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1)), 0).sum(1)
    np.testing.assert_allclose(row.entropy.values, entropy, rtol=1e-10)
    np.testing.assert_allclose(row.effective_rank.values, np.exp(entropy), rtol=1e-10)
    assert (row.entropy_interval.values[:, 0] <= entropy).all()
    assert (row.entropy_interval.values[:, 1] >= entropy).all()
    # For gradient descent the ratio is the largest eigenvalue times the learning rate over two, at each checkpoint.
    np.testing.assert_allclose(stability.ratio.values, spectra.eigenvalues.values[:, 0] * 0.5 / 2, rtol=1e-5)
    assert list(stability.optimizer.values) == ["gradient descent"] * 4
    np.testing.assert_allclose(row.stability_ratio.values, stability.ratio.values)
    assert np.isnan(row.joint_information.values[0])
    n = spectra.sizes["eigenvalues"] if "eigenvalues" in spectra.sizes else spectra.sizes["index"]
    vectors = spectra.leading_vectors.values
    assert vectors.shape == (4, n, n), "all of them, where there are fewer than are asked for"
    joint = shares[1][spectra.leading_index.values[1]][:, None] * (vectors[1] @ vectors[0].T) ** 2
    marginal = np.outer(joint.sum(1), joint.sum(0))
    expected = (joint[joint > 1e-300] * np.log(joint[joint > 1e-300] / marginal[joint > 1e-300])).sum()
    assert row.joint_information.values[1] == pytest.approx(expected, rel=1e-6)
    assert row.overlap.values[1:] == pytest.approx(1, rel=1e-9), "the whole space is the whole space"


@pytest.mark.slow
def test_a_run_is_resumed_and_another_run_is_another_row(command, descent, monkeypatch):
    files = ["step-00.pt", "step-14.pt", "step-20.pt"]
    assert command(*files, "--dynamics", "-o", "run.h5").status == 0
    assert "nothing measured" in command(*files, "--dynamics", "-o", "run.h5").out
    ran = command(*files, "step-40.pt", "--dynamics", "-o", "run.h5")
    assert ran.status == 0
    rows = group("run.h5", "dynamics")
    assert rows.sizes["checkpoint"] == 2
    assert list(rows.step.values) == [20, 40]
    assert len(set(rows.sha256.values)) == 2
    told = json.loads(str(rows.provenance.values[1]))
    assert told["checkpoint"]["run"] == list(group("run.h5", "spectrum").sha256.values)
    fresh = command(*files, "step-40.pt", "--dynamics", "-o", "fresh.h5")
    assert fresh.status == 0
    whole = group("fresh.h5", "dynamics")
    for name in ("entropy", "joint_information", "information_null", "overlap", "stability_ratio"):
        np.testing.assert_array_equal(rows[name].values[1], whole[name].values[0])


@pytest.mark.slow
def test_what_is_shown_has_no_padding_of_longer_rows(command, descent):
    """A run of three checkpoints is shown alike beside a run of four and in a record of its own."""
    files, asked = ["step-00.pt", "step-04.pt", "step-14.pt"], ["--dynamics", "--samples"]
    assert command(*files, "step-40.pt", *asked, "-o", "both.h5").status == 0
    beside, alone = command(*files, *asked, "-o", "both.h5"), command(*files, *asked, "-o", "alone.h5")
    assert (beside.status, alone.status) == (0, 0)
    assert "nan" not in beside.out
    about_run = [out[out.index("run of 3 checkpoints") : out.index("Record:")] for out in (beside.out, alone.out)]
    assert about_run[0] == about_run[1]


def test_eigenvectors_that_are_rounding_are_no_subspace():
    """The Hessian of a linear regression on 5 samples in 21 dimensions has rank 5, and is constant."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 20, generator=generator), torch.randn(5, 1, generator=generator)
    problem = Problem(nn.Linear(20, 1), nn.MSELoss(), [(x, y)])
    problems = [problem.at(problem.vector + shift) for shift in (0.0, 0.1)]
    rows: list[xr.Dataset] = []
    for place, each in enumerate(problems):
        history = History(before=lambda: rows[-1] if rows else None)
        row = Spectrum(21).measure(each, lambda *_: None, history).dataset
        rows.append(row.assign(sha256=str(place)))
    empty = xr.Dataset(
        dict.fromkeys(("ratio", "eigenvalue", "eigenvalue_error", "threshold"), ((), np.nan)) | {"converged": False}
    )
    run = Run((0, 1), ("a", "b"), problems.__getitem__, lambda name, i: rows[i] if name == "spectrum" else empty)
    found = Dynamics().measure(problems[-1], lambda *_: None, History(run=run)).dataset
    assert list(found.leading_count.values) == [5, 5]
    assert found.overlap.values[1] == pytest.approx(1, abs=1e-5)
    assert found.overlap_null.values[1] == pytest.approx(5 / 21)
    assert found.joint_information.values[1] == pytest.approx(found.entropy.values[1], rel=1e-3)


def test_a_hessian_that_is_zero_has_no_dynamics(command, tiny):
    """The loss of a linear model is its output. No eigenvalue has a share, and no warning (here an error) is given."""
    (tiny.folder / "flat.py").write_text(
        "import torch\nfrom torch import nn\nfrom landscape.problem import Problem\n"
        "def flat(checkpoint):\n"
        "    model = nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 1)).requires_grad_(False)\n"
        "    model[2].requires_grad_(True)\n"
        "    return Problem.from_sample_losses(model, lambda m, x: m(x)[:, 0], [torch.ones(9, 2)])\n"
    )
    ran = command("a.pt", "b.pt", "--dynamics", "--problem", "flat.py:flat")
    assert (ran.status, ran.err) == (0, "")
    assert "dynamics over 2 checkpoints: none, because every Hessian is zero" in ran.out
    assert np.isnan(group("a.landscape.h5", "dynamics").information.values).all()


def test_measurements_of_a_run_say_what_they_are_made_of(descent):
    files = ["step-00.pt", "step-14.pt"]
    for measurements, line in (
        ([Dynamics()], "uses the rows of spectrum"),
        ([Spectrum(0), Stability(), Dynamics()], "need leading eigenvectors"),
        ([Learning()], "uses the rows of samples"),
    ):
        with pytest.raises(InputError, match=line):
            probe(files, measurements, f"{len(measurements)}-{measurements[-1].name}.h5")


def test_no_threshold_is_claimed_where_some_parameters_are_fixed(command, descent):
    ran = command("step-00.pt", "step-14.pt", "--dynamics", "--params", "0.*")
    assert ran.status == 0
    assert "no threshold is claimed: only some of the parameters vary here" in ran.out
    assert np.isnan(group("step-00.landscape.h5", "stability").ratio.values).all()


def test_a_joint_law_of_other_neighbours_is_missing_and_said_so(command, descent):
    assert command("step-00.pt", "step-20.pt", "--dynamics", "-o", "run.h5").status == 0
    ran = command("step-00.pt", "step-14.pt", "step-20.pt", "--dynamics", "-o", "run.h5")
    assert ran.status == 3
    assert "joint laws are missing" in ran.out


def test_stability_claims_nothing_of_what_it_does_not_know(command, descent):
    state = read_checkpoint("step-14.pt").state
    save_checkpoint("none.pt", state, step=1)
    fresh = torch.optim.Adam([nn.Parameter(value.clone()) for value in state.values()])
    save_checkpoint("adam.pt", state, step=2, optimizer=fresh.state_dict())
    for parameter in fresh.param_groups[0]["params"]:
        parameter.grad = torch.full_like(parameter, 0.1)
    fresh.step()
    save_checkpoint("adam-1.pt", state, step=3, optimizer=fresh.state_dict())
    ran = command("none.pt", "adam.pt", "adam-1.pt", "--dynamics")
    assert ran.status == 0
    rows = group("none.landscape.h5", "stability")
    assert list(rows.optimizer.values) == ["", "Adam", "Adam"]
    assert "no state of an optimiser" in str(rows.reason.values[0])
    assert "before its first step" in str(rows.reason.values[1])
    assert list(np.isnan(rows.ratio.values)) == [True, True, False]
    # After one step Adam divides by |g| = 0.1 everywhere, so its eigenvalue is the Hessian's divided by 0.1.
    plain, preconditioned = rows.eigenvalue.values[1:]
    assert preconditioned == pytest.approx(plain / 0.1, rel=1e-3)
    assert rows.ratio.values[2] == pytest.approx(preconditioned * 1e-3 * 0.1 / (1.9 * 2), rel=1e-6)


def test_the_threshold_counts_a_weight_decay_of_the_objective_once(command, descent):
    """The ratio is (lambda + w) eta / 2, whether the objective has the optimiser's weight decay w or not."""
    state = read_checkpoint("step-14.pt").state
    parameters = [nn.Parameter(value.clone()) for value in state.values()]
    for step, decay in enumerate((0.3, 0.3, 0.0)):
        optimizer = torch.optim.SGD(parameters, lr=0.5, weight_decay=decay)
        save_checkpoint(f"decay-{step}.pt", state, step=step, optimizer=optimizer.state_dict())
    assert command("decay-0.pt", "decay-1.pt", "--dynamics", "-o", "without.h5").status == 0
    assert command("decay-0.pt", "decay-1.pt", "--dynamics", "--weight-decay", 0.3, "-o", "with.h5").status == 0
    ratio = (np.linalg.eigvalsh(hessian_at("step-14.pt"))[-1] + 0.3) * 0.5 / 2
    for name in ("without.h5", "with.h5"):
        rows = group(name, "stability")
        np.testing.assert_allclose(rows.ratio.values, ratio, rtol=1e-4)
        np.testing.assert_allclose(rows.eigenvalue.values / rows.threshold.values > 1, ratio > 1)
    assert command("decay-0.pt", "decay-1.pt", "--dynamics", "--weight-decay", 0.2, "-o", "other.h5").status == 0
    assert "a weight decay that isn't the optimiser's" in str(group("other.h5", "stability").reason.values[0])


def test_the_first_crossing_of_the_threshold_is_stored_and_shown(command, descent):
    """Learning rates that rise are a schedule: the threshold falls below the eigenvalue at the third checkpoint."""
    state = read_checkpoint("step-14.pt").state
    top = float(np.linalg.eigvalsh(hessian_at("step-14.pt"))[-1])
    for step, share in enumerate((0.5, 0.9, 1.1, 1.5)):
        shifted = {name: value + 1e-6 * step for name, value in state.items()}
        optimizer = torch.optim.SGD([nn.Parameter(value) for value in state.values()], lr=2 * share / top)
        save_checkpoint(f"rising-{step}.pt", shifted, step=10 * step, optimizer=optimizer.state_dict())
    ran = command(*(f"rising-{step}.pt" for step in range(4)), "--dynamics")
    assert "0.5 to 1.5 of the stability threshold; first above it after step 10, by 20" in ran.out
    row = group("rising-0.landscape.h5", "dynamics").isel(checkpoint=0)
    assert row.crossing_interval.values.tolist() == [10, 20]
    assert str(row.crossing_reason.values) == ""
    ran = command("rising-0.pt", "rising-1.pt", "--dynamics", "-o", "below.h5")
    assert "of the stability threshold; below the threshold at every checkpoint" in ran.out


def test_hops_of_the_steps_that_were_kept(command, descent):
    files = sorted(path.name for path in descent.folder.glob("step-*.pt"))
    ran = command(*files, "--hops", "-k", 2, "--dtype", "float64", "-o", "hops.h5")
    assert (ran.status, ran.err) == (0, "")
    row = group("hops.h5", "hops").isel(checkpoint=0, window=0)
    assert (int(row.window_start), int(row.window_middle), int(row.window_end)) == (0, 7, 14)
    updates = np.diff([flat(f"step-{step:02}.pt").astype(np.float64) for step in range(15)], axis=0)
    values, vectors = np.linalg.eigh(hessian_at("step-07.pt"))
    values, vectors = values[::-1], vectors[:, ::-1]
    components = updates @ vectors
    np.testing.assert_allclose(row.eigenvalue.values, values[:2], rtol=1e-8)
    np.testing.assert_allclose(np.abs(row.component.values), np.abs(components[:, :2]), atol=1e-8)
    changes = (np.sign(components[1:, :2]) != np.sign(components[:-1, :2])).mean(0)
    np.testing.assert_allclose(row.rate.values, changes)
    for threshold, eps in enumerate(row.eps.values):
        parts = [values > eps, np.abs(values) <= eps, values < -eps]
        squares = np.array([(components[:, part] ** 2).sum() for part in parts])
        net = np.array([(components[:, part].sum(0) ** 2).sum() for part in parts])
        np.testing.assert_allclose(row.path_share.values[threshold, :3], squares / squares.sum(), atol=1e-8)
        np.testing.assert_allclose(row.net_share.values[threshold, :3], net / net.sum(), atol=1e-8)
    assert not row.path_share.values[:, 3].any(), "all eigenvectors are known"
    assert "hops over steps 0 to 14" in ran.out


def test_learning_of_classes(command, descent):
    files = ["step-00.pt", "step-04.pt", "step-14.pt", "step-40.pt"]
    ran = command(*files, "--samples", "-o", "learning.h5")
    assert (ran.status, ran.err) == (0, "")
    samples, row = group("learning.h5", "samples"), group("learning.h5", "learning").isel(checkpoint=0)
    assert str(row.grouped_by.values) == "hard"
    assert str(row.criterion.values) == "right", "one term a sample, with classes"
    np.testing.assert_array_equal(row.known.values, samples.accuracy.values == 1)
    for index, name in enumerate(row.group_name.values):
        chosen = samples.about_hard.values[0] == name
        np.testing.assert_allclose(row.group_loss.values[:, index], samples.loss.values[:, chosen].mean(1))
        np.testing.assert_allclose(row.group_accuracy.values[:, index], samples.accuracy.values[:, chosen].mean(1))
        np.testing.assert_allclose(row.group_known.values[:, index], row.known.values[:, chosen].mean(1))
    by_margin = command(*files, "--samples", "--group-by", "margin", "-o", "margin.h5")
    assert by_margin.status == 0
    assert group("margin.h5", "learning").sizes["group"] == 3
    by_loss = command(*files, "--samples", "--group-by", "loss", "-o", "loss.h5")
    assert "which is the outcome itself" in by_loss.out


def test_masked_samples_are_in_no_group(command, descent):
    """Masked samples have no loss, so they get no number, no warning (an error in these tests) and no crash."""
    told = 'about={"hard": ["masked"] + ["seen"] * 39}'
    masked = CLASSES.replace("about=told if about else None", told).replace(
        "x, y = data()", "x, y = data(); y[0] = -100"
    )
    (descent.folder / "masked.py").write_text(masked)
    files = ["step-00.pt", "step-04.pt", "step-40.pt"]
    asked = ["--samples", "--slice", "1d", "--points", 5, "--reach", 1, "--problem", "masked.py:classes"]
    assert command(*files, *asked, "-o", "masked.h5").status == 0
    row = group("masked.h5", "learning").isel(checkpoint=0)
    assert list(row.group_name.values) == ["seen"]
    assert np.isfinite(row.group_loss.values).all()
    assert list(row.group_size.values) == [39]
    assert list(row.group_of.values) == [-1] + [0] * 39
    assert plot(["masked.h5", "-o", "figures"]) == 0


def test_a_sample_is_learnt_that_gains_a_twentieth_of_the_scale():
    """Targets of -1 and 1 have a variance of 1. So a gain of 0.051 is learnt, and a gain of 0.049 isn't."""
    x, y = torch.zeros(4, 1), torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    losses = np.array([[1.0, 1.0, 2.0, 2.0], [0.949, 0.951, 1.949, 1.951]])
    about = {"accuracy": ("sample", np.full(4, np.nan)), "weight": ("sample", np.ones(4))}
    rows = [xr.Dataset({"loss": ("sample", each)} | about) for each in losses]
    run = Run((0, 10), ("a", "b"), stored=lambda name, place: rows[place])
    problem = Problem(nn.Linear(1, 1), nn.MSELoss(), [(x, y)])
    found = Learning().measure(problem, lambda *_: None, History(run=run)).dataset
    np.testing.assert_array_equal(found.learnt.values, [10, np.nan, 10, np.nan])
    assert str(found.criterion.values) == "half of its gain, of at least 0.05"


def test_a_run_has_its_steps_for_an_axis_or_where_one_is_unknown_the_places():
    assert Run((5, 7, 20), ("a", "b", "c")).positions.tolist() == [5, 7, 20]
    assert Run((5, 7, None), ("a", "b", "c")).positions.tolist() == [0, 1, 2]


def test_learning_without_anything_told(command, tiny):
    ran = command("a.pt", "b.pt", "c.pt", "--samples")
    assert (ran.status, ran.err) == (0, "")
    row = group("a.landscape.h5", "learning").isel(checkpoint=0)
    assert row.sizes["group"] == 3
    assert "half of its gain" in str(row.criterion.values)
    assert "groups by loss at the last checkpoint" in ran.out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a.pt", "--dynamics"], "dynamics are measured over a run: name at least 2 checkpoints of the run"),
        (["a.pt", "b.pt", "--hops"], "need at least"),
        (["bare.pt", "b.pt", "--hops"], "have no step"),
        (
            ["a.pt", "b.pt", "--samples", "--group-by", "colour"],
            "can't be grouped by 'colour'; they can be grouped by loss",
        ),
        (["a.pt", "b.pt", "--group-by", "loss"], "add --samples"),
        (["a.pt", "--samples", "--group-by", "loss"], "--group-by groups the samples of a run"),
        (["a.pt", "same.pt", "--dynamics"], "two of these checkpoints have the same step"),
    ],
)
def test_refused_in_one_line_with_nothing_written(command, tiny, arguments, line):
    tiny.save("same.pt", 7, step=0)
    tiny.save("bare.pt", 8)
    before = tiny.listing()
    ran = command(*arguments)
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert line in ran.err
    assert tiny.listing() == before
