"""Every measurement from the command to the record, against the dense matrix of a small project."""

from __future__ import annotations

import functools
import json
import re
import shutil

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import landscape
from landscape import InputError
from landscape.cli.plot import main as plot
from landscape.measurements import History, Layers, PerBatch, Slices1D, TopEigenpairs, Trace, Valley, diagonal
from landscape.measurements.runner import probe
from landscape.record import open_record
from landscape.reporting.progress_bar import ProgressBar
from tests.conftest import ROOT


def group(path, name, row=0):
    """One row of a group of a record."""
    with open_record(path) as record:
        return record[name].dataset.isel(checkpoint=row).load()


@pytest.fixture
def exact(tiny):
    """The eigenvalues of the Hessian at a.pt, descending."""
    return np.linalg.eigvalsh(tiny.hessian("a.pt").numpy())[::-1]


# The rounding of the oracle itself: 13 eigenvalues of a matrix of norm 4 in float64.
ORACLE = 13 * 4 * np.finfo(float).eps


def within(row, name, truth):
    low, high = row[f"{name}_interval"].values
    return low - ORACLE <= truth <= high + ORACLE


# ---------------------------------------------------------------------- one by one


def test_trace(command, tiny, exact):
    ran = command("a.pt", "--trace", "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    assert "Hessian: trace" in ran.out
    assert "Hessian: Frobenius norm" in ran.out
    row = group("a.landscape.h5", "trace")
    assert str(row.method.values) == "exact", "13 products are fewer than 10 probes and a deflation"
    assert within(row, "trace", exact.sum())
    assert within(row, "frobenius", np.linalg.norm(exact))
    assert row.trace.attrs["units"] == "loss / parameter^2"


SHIPPED = ROOT / "data" / "single.pt"
HEAD = landscape.Source(params=("head",))


def _deflated(tmp_path, pairs):
    """A density and a trace in one record with eigenpairs: their rows, and the number of known pairs in each."""
    asked = [*pairs, landscape.Density(3, probes=2, steps=8), landscape.Trace(probes=10)]
    made = landscape.probe(SHIPPED, asked, tmp_path / "r.h5", source=HEAD)
    rows = made.rows[0].data
    known = [json.loads(str(rows[name].provenance.values))["known"] for name in ("density", "trace")]
    return rows["density"], rows["trace"], known


def test_density_and_trace_deflate_the_eigenpairs_of_their_record(tmp_path):
    density, trace, known = _deflated(tmp_path, [TopEigenpairs(3)])
    assert known == [3, 3]
    row = group(tmp_path / "r.h5", "eigenpairs")
    np.testing.assert_array_equal(density.outliers, row.eigenvalues)
    # One product holds three pairs to the Hessian: of the trace's 30 directions 27 are Krylov vectors, 10 probes follow
    # one product measures the rounding of a probe, and six how far the matrix is from that in float64.
    assert (int(density.products_outliers), int(trace.products)) == (1, 1 + 27 + 10 + 1 + 6)
    pairs = landscape.eigenpairs_of(row)
    assert (pairs.which, pairs.tol, pairs.place, pairs.complete) == ("LM", 1e-3, "device", True)
    product = landscape.load_problem(SHIPPED, params="head").hessian() @ pairs.eigenvectors
    residuals = (product - pairs.eigenvectors * torch.as_tensor(pairs.eigenvalues).to(product)).norm(dim=0)
    np.testing.assert_allclose(residuals, pairs.residuals, atol=2 * pairs.rounding)


@pytest.mark.parametrize(
    ("pairs", "trace_knows"),
    [
        (TopEigenpairs(3, "LA"), 0),
        (TopEigenpairs(3, eigenvectors=False), 0),
        (TopEigenpairs(2), 2),
        (TopEigenpairs(3, tol_value=0.5), 3),
    ],
)
def test_eigenpairs_that_are_no_outliers_or_too_far_off_are_not_deflated_in_a_density(tmp_path, pairs, trace_knows):
    density, trace, known = _deflated(tmp_path, [pairs])
    assert known == [0, trace_knows]
    assert density.products_outliers > 3
    assert trace.products == 6 + 30 + 10 + 1 - max(0, trace_knows - 1)


def test_full_spectrum(command, tiny, exact):
    ran = command("a.pt", "--spectrum", "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    row = group("a.landscape.h5", "spectrum")
    assert abs(row.eigenvalues.values - exact).max() <= row.rounding
    assert int(row.positive + row.negative + row.null) == 13
    assert f"all 13 eigenvalues from {exact[0]:.4f}"[:-1] in ran.out


def test_density_can_be_made_again_from_its_row(command, tiny, exact):
    ran = command("a.pt", "--density", "-k", 2, "--probes", 4, "--steps", 50, "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    row = group("a.landscape.h5", "density")
    found = landscape.density_of(row)
    measured = landscape.spectral_density(landscape.load_problem("a.pt", dtype="float64").hessian(), 4, 50, 2)
    np.testing.assert_array_equal(found.nodes, measured.nodes)
    assert found.width == measured.width == float(row.width)
    outliers = exact[np.argsort(-abs(exact))][:2]
    assert (abs(found.outliers - outliers) <= found.residuals + found.rounding).all()
    np.testing.assert_allclose(np.nansum(found.weights, axis=1), 1, atol=13 * 2.2e-16 * 4)


def test_log_det_and_effective_dimension(command, tiny, exact):
    alpha = 2 * abs(exact).max()
    ran = command("a.pt", "--log-det", alpha, "--effective-dimension", alpha, "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    assert within(group("a.landscape.h5", "log_det"), "log_det", np.log(exact + alpha).sum())
    positive = exact[exact > 0]
    dimension = (positive / (positive + alpha)).sum()
    assert within(group("a.landscape.h5", "effective_dimension"), "effective_dimension", dimension)


def test_layers(command, tiny):
    ran = command("a.pt", "--per-layer", "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    row = group("a.landscape.h5", "layers")
    assert row.layer.values.tolist() == ["0", "2"]
    assert row.parameters.values.tolist() == [9, 4]
    hessian = tiny.hessian("a.pt").numpy()
    for i, block in enumerate((hessian[:9, :9], hessian[9:, 9:])):
        values = np.linalg.eigvalsh(block)
        low, high = row.interval.values[i]
        assert low <= values[abs(values).argmax()] <= high
        low, high = row.trace_interval.values[i]
        assert low <= np.trace(block) <= high
    for index, layer in enumerate("02"):
        (line,) = (line for line in ran.out.splitlines() if line.startswith(f"│ {layer} "))
        shown = [float(cell.split("±")[0]) for cell in line.strip("│").split("│")[2:4]]
        np.testing.assert_allclose(shown, [row.eigenvalue[index], row.trace[index]], rtol=1e-2)


LOOPED = """

class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.inside(x))
        return self.head(x)

def looped(checkpoint):
    torch.manual_seed(0)
    return Problem(Looped(), nn.MSELoss(), [data()])
"""


@pytest.fixture
def looped(tiny):
    """A checkpoint of a model that uses 6 parameters three times, and its problem's name."""
    path = tiny.folder / "problem.py"
    path.write_text(path.read_text() + LOOPED)
    torch.manual_seed(3)
    state = {"inside.weight": torch.randn(2, 2), "inside.bias": torch.randn(2)}
    state |= {"head.weight": torch.randn(1, 2), "head.bias": torch.randn(1)}
    landscape.save_checkpoint("looped.pt", state, step=1)
    return "looped.pt", "--problem", "problem.py:looped"


def test_loops(command, looped):
    ran = command(*looped, "--loops", "-k", 2, "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    row = group("looped.landscape.h5", "loops")
    assert row.module.values.tolist() == ["inside"]
    assert row.sizes["use"] == 3
    problem = landscape.load_problem("looped.pt", "problem.py:looped", dtype="float64", params=["inside"])
    tied = problem.hessian().matmat(torch.eye(6, dtype=torch.float64)).numpy()
    assert float(row.total) == pytest.approx(np.trace(tied), rel=1e-12)
    assert row.traces.values.sum() == pytest.approx(np.trace(tied), rel=1e-12)
    shares = float(row.trace_share), 1 - np.trace(row.traces.values) / np.trace(tied)
    assert shares[0] == pytest.approx(shares[1], rel=1e-9)
    low, high = row.tied_intervals.values[0]
    assert low <= np.linalg.eigvalsh(tied)[-1] <= high
    assert "used T = 3 times" in ran.out
    assert "cross-loop share of the trace: " in ran.out


def test_a_model_without_a_loop_is_refused(command, tiny):
    ran = command("a.pt", "--loops")
    assert ran.status == 2
    assert "there is no loop" in ran.err
    assert not (tiny.folder / "a.landscape.h5").exists()


# ---------------------------------------------------------------------- which matrix


def test_every_measurement_takes_another_matrix(command, tiny):
    flags = ("--eigenpairs", "--density", "--trace", "--spectrum", "--per-layer", "--log-det", 0.1)
    flags += ("--effective-dimension", 0.1)
    ran = command("a.pt", *flags, "-k", 2, "--matrix", "ggn", "-o", "all.h5")
    assert (ran.status, ran.err) == (0, "")
    names = ("eigenpairs", "density", "trace", "spectrum", "layers", "log_det", "effective_dimension")
    with h5py.File("all.h5") as file:
        assert set(file) == {"loss", *(f"{name}_ggn" for name in names)}


def test_every_matrix_has_a_group_of_its_own(command, tiny):
    kinds = {
        "ggn": landscape.GaussNewton,
        "fisher": landscape.ExactFisher,
        "fisher-mc": landscape.MonteCarloFisher,
        "fisher-empirical": landscape.EmpiricalFisher,
    }
    problem = landscape.load_problem("a.pt")
    for kind, operator in kinds.items():
        ran = command("a.pt", "--trace", "--matrix", kind, "-o", "all.h5")
        assert (ran.status, ran.err) == (0, ""), kind
        expected = landscape.estimate_trace(operator(problem)).trace.value
        assert float(group("all.h5", f"trace_{kind.replace('-', '_')}").trace) == expected


def test_only_some_parameters(command, tiny):
    hessian = tiny.hessian("a.pt").numpy()
    command("a.pt", "--spectrum", "--params", "2", "--dtype", "float64", "-o", "module.h5")
    command("a.pt", "--spectrum", "--params", "*.weight", "--params", "0.bias", "--dtype", "float64", "-o", "globs.h5")
    for out, block in (("module.h5", hessian[9:, 9:]), ("globs.h5", hessian[:12, :12])):
        row = group(out, "spectrum")
        assert abs(row.eigenvalues.values - np.linalg.eigvalsh(block)[::-1]).max() <= 2 * row.rounding
    told = json.loads(str(group("globs.h5", "spectrum").provenance.values))
    assert told["params"] == ["*.weight", "0.bias"]


def test_preconditioned_by_a_diagonal(command, tiny):
    diagonal = np.linspace(1, 2, 13)
    np.save("diagonal.npy", diagonal)
    ran = command("a.pt", "--spectrum", "--precondition", "diagonal.npy", "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    row = group("a.landscape.h5", "spectrum_preconditioned")
    expected = np.linalg.eigvalsh(tiny.hessian("a.pt").numpy() / np.sqrt(np.outer(diagonal, diagonal)))[::-1]
    assert abs(row.eigenvalues.values - expected).max() <= 2 * row.rounding
    assert "preconditioned by diagonal.npy" in ran.out


def test_a_preconditioner_is_known_by_its_content(command, tiny):
    np.save("diagonal.npy", np.full(13, 2.0))
    options = ("--trace", "--precondition")
    assert command("a.pt", *options, "diagonal.npy").status == 0
    assert "complete already" in command("a.pt", *options, "./diagonal.npy").out
    np.save("diagonal.npy", np.full(13, 4.0))
    ran = command("a.pt", *options, "diagonal.npy")
    assert ran.status == 2
    assert "precondition is sha256" in ran.err
    np.save("diagonal.npy", np.zeros(13))
    before = tiny.listing()
    ran = command("a.pt", *options, "diagonal.npy", "-o", "zero.h5")
    assert (ran.status, ran.out) == (2, "")
    assert "--precondition diagonal.npy: 13 of 13 entries" in ran.err
    assert tiny.listing() == before


def test_a_log_det_that_is_not_defined_leaves_the_rest(command, tiny):
    ran = command("a.pt", "--log-det", "1e-9", "--trace", "--spectrum")
    assert ran.status == 3
    assert "log det(A + alpha I) has no value" in ran.out
    assert "NOT CONVERGED: log det(A + alpha I) is not defined for alpha = 1e-09" in ran.out
    assert "--matrix ggn" in ran.out
    row = group("a.landscape.h5", "log_det")
    assert np.isnan(row.log_det)
    assert not row.converged
    assert (group("a.landscape.h5", "spectrum").eigenvalues < 0).any()


def test_preconditioned_by_adam(command, tiny):
    model = tiny.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 2)).square().mean().backward()
        optimizer.step()
    state = model.state_dict()
    landscape.save_checkpoint("trained.pt", state, step=3, optimizer=optimizer.state_dict())
    ran = command("trained.pt", "--hessian", "-k", 2, "--precondition", "adam", "--dtype", "float64", "--tol", "1e-8")
    assert (ran.status, ran.err) == (0, "")
    moments = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in model.parameters()]).double().numpy()
    scale = 1 / np.sqrt(np.sqrt(moments / (1 - 0.999**3)) + 1e-8)
    expected = np.linalg.eigvalsh(scale[:, None] * tiny.hessian("trained.pt").numpy() * scale)
    row = group("trained.landscape.h5", "eigenpairs_preconditioned")
    low, high = row.intervals.values[0]
    assert low <= expected[abs(expected).argmax()] <= high


REFUSALS = {
    ("--matrix", "ggn"): "no requested measurement uses --matrix: add --hessian or",
    ("--probes", "20"): "no requested measurement uses --probes: add --density or",
    ("--hessian", "--tol", "1e-4", "--tol-value", "0.01"): "--tol and --tol-value are two goals",
    ("--trace", "--tol-estimate", "0.1", "--probes", "20"): "--tol-estimate and --probes are two goals",
    ("--trace", "--fisher-unit", "sequence"): "add --matrix fisher or fisher-mc or fisher-empirical",
    ("--trace", "--matrix", "fisher", "--fisher-samples", "3"): "add --matrix fisher-mc",
    ("--trace", "--matrix", "fisher-mc", "--fisher-samples", "0"): "at least 1 sampled label",
    ("--trace", "--probes", "1"): "probes must be at least 2",
    ("--trace", "--tol-estimate", "0"): "must lie between 0 and 1",
    ("--density", "--probes", "0"): "probes",
    ("--density", "--steps", "0"): "steps",
    ("--hessian", "--tol-value", "2"): "tol_value must lie between 0 and 1",
    ("--log-det", "-1"): "alpha",
    ("--log-det", "nan"): "alpha",
    ("--slice", "1d", "--direction", "sideways"): "'sideways' is not a direction: give filter, layer",
    ("--slice", "1d", "--points", "2"): "at least 3 points",
    ("--slice", "1d", "--points", "0"): "at least 3 points",
    ("--valley", "-k", "2", "--points", "0"): "at least 7 points",
    ("--slice", "1d", "--reach", "-1"): "reach of a slice must be a positive number",
    ("--slice", "2d", "--direction", "top"): "a plane has two directions, and 1 are given",
    ("--slice", "1d", "--direction", "problem.py"): "problem.py",
    ("--slice", "1d", "--direction", "short.npy"): "has shape (12,), and the parameter vector has shape (13,)",
    ("--slice", "1d", "--direction", "zero.npy"): "is not a direction: the vector is zero",
    ("--hessian", "--direction", "top"): "add --slice",
    ("--hessian", "--precondition", "adam"): "no optimiser's state_dict under optimizer",
    ("--hessian", "--precondition", "nowhere.npy"): "nowhere.npy",
    ("--hessian", "--params", "encoder.*"): "encoder.*",
    ("--per-layer", "--precondition", "a.npy"): "--per-layer",
    ("--eigenpairs", "--matrix", "ggn", "--crosscheck", "pyhessian"): "PyHessian knows the plain Hessian only",
    ("--loops", "--loop-module", "nowhere"): "nowhere",
    ("--loops", "--precondition", "ones.npy"): "--loops can't be preconditioned",
}


@pytest.mark.parametrize(("options", "said"), REFUSALS.items(), ids=" ".join)
def test_refusals(command, tiny, options, said):
    np.save("short.npy", np.ones(12))
    np.save("zero.npy", np.zeros(13))
    np.save("ones.npy", np.ones(13))
    before = tiny.listing()
    ran = command("a.pt", *options, *(["-k", "2"] if "--hessian" in options else []))
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert tiny.listing() == before


# ---------------------------------------------------------------------- slices


def test_slices_along_all_kinds_of_directions(command, tiny):
    vector = np.random.default_rng(0).standard_normal(13)
    np.save("mine.npy", vector)
    names = ["top", "filter", "mine.npy", "gradient", "b.pt", "bottom", "top", "filter", "layer", "gaussian"]
    directions = [word for name in names for word in ("--direction", name)]
    ran = command("a.pt", "--slice", "1d", *directions, "--points", 10, "--reach", 1, "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    row = group("a.landscape.h5", "slices_1d")
    assert row.loss.shape == (10, 11)  # an even number is raised by one
    hessian = tiny.hessian("a.pt").numpy()
    values = np.linalg.eigvalsh(hessian)
    assert row.curvature.values[[0, 6, 5]] == pytest.approx(values[[-1, -2, 0]], rel=1e-5)
    assert row.curvature.values[2] == pytest.approx(vector @ hessian @ vector, rel=1e-9)
    assert row.norm.values[[0, 2, 3]] == pytest.approx([1, np.linalg.norm(vector), 1])
    assert row.cosine.values[0, 6] == pytest.approx(0, abs=1e-6)
    assert abs(row.cosine.values[1, 7]) < 0.99  # another draw
    problem = landscape.load_problem("a.pt", dtype="float64")
    theta, step = problem.vector, torch.tensor(vector)
    along = [problem.at(theta + float(a) * step).loss() for a in row.position.values[2]]
    assert row.loss.values[2] == pytest.approx(along, rel=1e-13)
    assert row.loss.values[4][-1] == pytest.approx(landscape.load_problem("b.pt", dtype="float64").loss(), rel=1e-12)
    weighted = (row.sample_weight.values[:, None] * row.sample_loss.values).sum(1) / row.sample_weight.values.sum()
    assert np.abs(weighted - row.loss.values).max() < 1e-12
    for name in ("top eigenvector 2, eigenvalue", "line to b.pt", "mine.npy", "filter-normalised Gaussian 2"):
        assert name in ran.out


def test_a_plane_goes_to_where_the_loss_has_risen(command, tiny):
    ran = command("a.pt", "--slice", "2d", "--direction", "b.pt", "--direction", "top", "--points", 5, "--slice", "1d")
    assert ran.status == 0
    row = group("a.landscape.h5", "slices_2d")
    assert row.loss.shape == (5, 5)
    assert row.cosine.values[0, 1] == pytest.approx(0, abs=1e-6)
    assert abs(float(row.cosine_given)) > 1e-4
    assert row.risen.values.all()
    base = float(group("a.landscape.h5", "loss").loss)
    (up,), (across,) = np.flatnonzero(row.second.values == 0), np.flatnonzero(row.first.values == 0)
    for edge in (row.loss[up, 0], row.loss[up, -1], row.loss[0, across], row.loss[-1, across]):
        assert float(edge) > base + 0.999 * float(row.rise[0])
    assert float(row.loss[up, across]) == base
    again = "a.pt --slice 2d --direction b.pt --direction top --points 5 --slice 1d"
    assert "complete already" in command(*again.split()).out


def test_in_a_sweep_the_line_from_a_checkpoint_to_itself_is_left_out(command, tiny):
    """The row's other direction and the lines of other checkpoints don't change by this."""
    asked = ("--slice", "1d", "--direction", "b.pt", "--direction", "filter", "--points", 5, "--reach", 1)
    ran = command("a.pt", "b.pt", "c.pt", *asked, "-o", "all.h5")
    assert (ran.status, ran.err) == (0, "")
    _, own, _ = re.split(r"\n(?=[abc]\.pt, step)", ran.out)[1:]
    assert ran.out.count("note: the line to b.pt is left out: ") == 1
    assert "note: the line to b.pt is left out: " in own
    assert "loss along 1 line," in own
    for name in ("a.pt", "c.pt"):
        command(name, *asked, "-o", f"{name}.h5")
    command("b.pt", "--slice", "1d", *asked[4:], "-o", "b.pt.h5")
    rows = [group("all.h5", "slices_1d", position) for position in range(3)]
    for row, name in zip(rows, "abc", strict=True):
        alone = group(f"{name}.pt.h5", "slices_1d")
        for each in ("loss", "position", "curvature", "sample_loss"):
            assert np.array_equal(row[each].values[-len(alone[each]) :], alone[each].values), (name, each)
    assert rows[1].norm.values[0] == 0
    assert np.isnan(rows[1].loss.values[0]).all()
    assert np.isnan(rows[1].cosine.values[0]).all()
    assert command("a.pt", "b.pt", "c.pt", *asked, "-o", "all.h5").out.count("is left out: ") == 1
    assert plot(["all.h5", "--figure", "slices-1d", "--step", "10"]) == 0


@pytest.mark.parametrize(
    ("checkpoints", "slices", "said"),
    [
        (("b.pt",), "1d", "copy.pt has the weights of a measured checkpoint"),
        (("a.pt", "b.pt"), "2d", "copy.pt is a checkpoint that gets a plane"),
    ],
)
def test_a_line_that_leads_nowhere_is_refused_before_anything_is_measured(command, tiny, checkpoints, slices, said):
    shutil.copy("b.pt", "copy.pt")
    before = tiny.listing()
    ran = command(*checkpoints, "--slice", slices, "--direction", "copy.pt", "--direction", "filter")
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert tiny.listing() == before


def test_a_direction_is_known_by_the_content_of_its_file(command, tiny):
    np.save("mine.npy", np.ones(13))
    arguments = ("a.pt", "--slice", "1d", "--direction", "mine.npy", "--points", 3, "--reach", 1)
    assert command(*arguments).status == 0
    np.save("mine.npy", 2 * np.ones(13))
    ran = command(*arguments)
    assert ran.status == 2
    assert "directions is" in ran.err


def test_a_direction_that_changes_before_it_is_used_is_refused(tiny):
    problem = landscape.load_problem("a.pt")
    for name, change in (
        ("mine.npy", lambda: np.save("mine.npy", 2 * np.ones(13))),
        ("d.pt", lambda: tiny.save("d.pt", 9)),
    ):
        np.save("mine.npy", np.ones(13))
        tiny.save("d.pt", 8)
        resolved = Slices1D((name,), 3, 1.0).resolve(problem, 1)
        change()
        with pytest.raises(InputError, match="changed while it was in use"):
            resolved.measure(problem, lambda *_: None, History())


def test_an_eigenvector_that_does_not_converge_says_so(command, tiny, monkeypatch):
    solve = functools.partial(landscape.top_eigenpairs, tol=1e-30, max_products=3)
    monkeypatch.setattr("landscape.spectrum.eigenpairs.top_eigenpairs", solve)
    ran = command("a.pt", "--slice", "1d", "--direction", "top", "--direction", "gradient", "--points", 3, "--reach", 1)
    assert ran.status == 3
    assert "NOT CONVERGED: the top eigenvector 1" in ran.out
    assert list(group("a.landscape.h5", "slices_1d").converged.values) == [False, True]


# ---------------------------------------------------------------------- the valley


def test_the_valley_by_three_tests(command, tiny):
    """Near its minimum a smooth loss is a U along every direction. Definition 1 agrees with the exact spectrum."""
    ran = command("a.pt", "--valley", "-k", 2, "--points", 21, "--dtype", "float64")
    assert (ran.status, ran.err) == (0, "")
    row = group("a.landscape.h5", "valley")
    values = np.linalg.eigvalsh(tiny.hessian("a.pt").numpy())[::-1]
    assert row.eigenvalue.values == pytest.approx(values[:2], rel=1e-5)
    assert row.label.shape == row.exponent.shape == (2, 4)
    assert set(row.label.values.ravel()) <= {"U", "V", "undecided", "no valley"}
    inside = (row.exponent_interval[..., 0] <= row.exponent) & (row.exponent <= row.exponent_interval[..., 1])
    assert inside.values.all()
    problem = landscape.load_problem("a.pt", dtype="float64")
    first, second = (half.hessian() for half in problem.halves())
    difference = (first - second).matmat(torch.eye(13, dtype=torch.float64)).numpy()
    assert float(row.sampling_floor) == pytest.approx(np.abs(np.linalg.eigvalsh(difference)).max() / 2, rel=1e-2)
    floor = float(row.floor)
    assert floor == float(row.sampling_floor)
    assert int(row.positive) == (values > floor).sum()
    for eps, kappa, count in zip(row.eps.values, row.kappa.values, row.valley_count.values, strict=True):
        above = values[values > eps]
        assert len(above) == count
        assert kappa == pytest.approx(above.max() / above.min(), rel=1e-6)
    assert row.kappa_label.shape == (len(row.eps), len(row.delta))
    for word in ("geometry: at a rise of", "on 20 samples", "spectral (Definition 1)", "anisotropy:"):
        assert word in ran.out


def test_a_valley_needs_what_it_needs(command, tiny):
    for options, word in [(("--points", 5), "at least 7 points"), (("-k", 14), "k must be between")]:
        ran = command("a.pt", "--valley", *options)
        assert (ran.status, ran.out) == (2, "")
        assert word in ran.err


# ---------------------------------------------------------------------- over a run


def test_a_sweep_goes_by_steps_and_then_by_names(command, tiny):
    for seed, (name, step) in enumerate({"z.pt": 5, "10.pt": None, "9.pt": None, "y.pt": 30}.items()):
        tiny.save(name, seed, step)
    ran = command("10.pt", "y.pt", "9.pt", "z.pt", "-o", "run.h5", "--json")
    paths = [row["checkpoint"]["path"] for row in json.loads(ran.out)["rows"]]
    assert paths == ["z.pt", "y.pt", "9.pt", "10.pt"]
    with open_record("run.h5") as record:
        assert record["loss/step"].values.tolist() == [5, 30, -1, -1]


def test_a_sweep_stores_the_overlap_of_successive_subspaces(command, tiny):
    assert command("c.pt", "a.pt", "b.pt", "--hessian", "-k", 3, "--dtype", "float64", "-o", "run.h5").status == 0
    with open_record("run.h5") as record:
        rows = record["eigenpairs"].dataset.load()
    assert rows.step.values.tolist() == [0, 10, 20]
    assert np.isnan(rows.overlap.values[0])
    for i in (1, 2):
        before, now = rows.eigenvectors.values[i - 1], rows.eigenvectors.values[i]
        assert rows.overlap.values[i] == pytest.approx(np.square(before @ now.T).sum() / 3)
    assert (rows.overlap.values[1:] <= 1 + 1e-12).all()


def test_a_sweep_draws_the_same_probes_everywhere(command, tiny):
    """Two checkpoints with equal weights, measured one after the other, give equal samples."""
    state = torch.load("a.pt")["state"]
    landscape.save_checkpoint("again.pt", state, step=1)
    assert command("a.pt", "again.pt", "--density", "-k", 0, "--probes", 3, "--steps", 5, "-o", "run.h5").status == 0
    with open_record("run.h5") as record:
        np.testing.assert_array_equal(*record["density/nodes"].values)


def test_a_warm_start_comes_from_the_record(tiny, monkeypatch):
    """A second run starts from the eigenvectors from which the first run would have continued."""
    starts = []
    solve = landscape.top_eigenpairs

    def watched(*args, start=None, **kwargs):
        starts.append(None if start is None else start.numpy().copy())
        return solve(*args, start=start, **kwargs)

    monkeypatch.setattr("landscape.spectrum.eigenpairs.top_eigenpairs", watched)
    landscape.probe(["a.pt"], [TopEigenpairs(k=2)], "run.h5")
    landscape.probe(["a.pt", "b.pt"], [TopEigenpairs(k=2)], "run.h5")
    assert starts[0] is None
    np.testing.assert_array_equal(starts[1].T, group("run.h5", "eigenpairs").eigenvectors)


def test_an_appended_measurement_opens_with_xarray(command, tiny):
    command("a.pt", "--trace", "-o", "run.h5")
    command("a.pt", "b.pt", "--trace", "--density", "-k", 1, "-o", "run.h5")
    with xr.open_datatree("run.h5", engine="h5netcdf") as tree:
        assert tree["trace"].sizes["checkpoint"] == 2
        assert tree["density/nodes"].dims == ("checkpoint", "probe", "node")


def test_a_valley_computes_no_spectrum_that_nobody_asked_for(command, tiny, monkeypatch):
    """The valley's other two tests need a spectrum in the record, by --spectrum."""
    monkeypatch.setattr(f"{Valley.__module__}.AFFORDABLE", 0)
    asked = ("a.pt", "--valley", "-k", 1, "--points", 7)
    alone = command(*asked, "-o", "alone.h5")
    assert "no spectral test and no anisotropy: they need all eigenvalues, which --spectrum computes" in alone.out
    assert "eps" not in group("alone.h5", "valley")
    both = command(*asked, "--spectrum", "-o", "both.h5")
    row, spectrum = group("both.h5", "valley"), group("both.h5", "spectrum")
    assert "no spectral test" not in both.out
    assert int(row.positive) == int((spectrum.eigenvalues.values > float(row.floor)).sum())
    np.testing.assert_array_equal(row.exponent, group("alone.h5", "valley").exponent)


@pytest.mark.parametrize(
    ("measurement", "says"),
    [
        (Layers(probes=5), "layer 1 of 2: verifying"), (TopEigenpairs(k=1), "verifying"), (Trace(probes=10), ""),
        (Slices1D(points=5, reach=0.1), "slicing"), (PerBatch(size=5), "1 of 4: verifying"),
    ],
    ids=lambda each: getattr(each, "name", ""),
)  # fmt: skip
def test_a_measurement_drives_the_bar(tiny, measurement, says):
    told = []

    class Bar(ProgressBar):
        def __call__(self, progress):
            told.append((self.at, progress))

        def unit(self, name, *more, **named):
            self.at = name
            return super().unit(name, *more, **named)

    probe("a.pt", [measurement], "a.h5", bar=Bar(shown=False))
    own = [progress for name, progress in told if name == measurement.name]
    assert any(says in each.phase for each in own)
    assert all(0 <= each.fraction <= 1 for each in own)
    assert {each.counted for each in own} == {"points" if measurement.name == "slices_1d" else "products"}


def test_a_diagonal_by_probes_says_its_error():
    shares = list(diagonal.SHARES)
    row = xr.Dataset(
        {
            "tensor_name": ("tensor", ["w"]), "tensor_error": ("tensor", [0.5]), "share": ("share", shares),
            "quantiles": (("tensor", "share"), [[1.0] * len(shares)]), "sum": 7.0, "probes": 20, "deflation": 4,
            "products": 99, "relative_error": 0.0123, "method": "probes", "arithmetic": "in float64",
        }
    )  # fmt: skip
    line, _ = diagonal.Diagonal().show(row)
    assert "sum 7, 20 probes" in line
    assert "99 products" in line
    assert "0.012 of the norm" in line
