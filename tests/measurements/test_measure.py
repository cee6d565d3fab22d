"""Measurements from Python: the functions that a notebook uses, and the display of their results."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
import threading

import numpy as np
import pytest
import torch
from rich.console import Console

import landscape
from landscape.errors import InputError
from landscape.loading.source import Source
from landscape.measurements import Learning, Loss, Samples, TopEigenpairs
from landscape.measurements.runner import probe
from landscape.record.order import place_in_run
from landscape.reporting.display import rounded_up, to_error
from landscape.reporting.progress import Progress
from landscape.reporting.progress_bar import ProgressBar


def test_load_problem_has_the_weights_of_the_checkpoint(tiny):
    problem = landscape.load_problem("b.pt", dtype="float64", batch_size=6)
    state = torch.load("b.pt")["state"]
    assert torch.equal(problem.vector, torch.cat([state[name].flatten() for name in problem.layout.names]).double())
    assert [len(x) for x, _ in problem.batches] == [6, 6, 6, 2]
    pairs = landscape.top_eigenpairs(problem.hessian(), 13, tol=1e-9)
    exact = np.linalg.eigvalsh(tiny.hessian("b.pt").numpy())
    radius = pairs.residuals + pairs.rounding
    assert (abs(pairs.eigenvalues - exact[np.argsort(-abs(exact))]) <= radius).all()


def test_load_problem_refuses_in_one_line(tiny):
    with pytest.raises(InputError, match="dtype must be float32 or float64, not 'half'"):
        landscape.load_problem("a.pt", dtype="half")
    with pytest.raises(InputError, match="device must be"):
        landscape.load_problem("a.pt", device="banana")


def test_probe_gives_what_the_record_holds(tiny):
    measurements = [Loss(), TopEigenpairs(k=3)]
    result = probe(["a.pt", "b.pt"], measurements, "run.h5")
    assert (result.path.name, result.measured) == ("run.h5", 4)
    with landscape.open_record("run.h5") as record:
        for position, row in enumerate(result.rows):
            assert row.step == 10 * position
            np.testing.assert_array_equal(
                row.data["eigenpairs"].eigenvalues, record["eigenpairs/eigenvalues"][position]
            )
            assert row.data["loss"].loss == record["loss/loss"][position]
    again = probe(["b.pt", "a.pt", "b.pt"], measurements, "other.h5")
    assert [row.path for row in again.rows] == ["a.pt", "b.pt"], "in the order of their steps, each once"
    assert probe(["a.pt", "b.pt"], measurements, "run.h5").measured == 0


def test_how_a_row_came_to_be(tiny):
    result = probe(["b.pt"], [TopEigenpairs(k=2, seed=5)], "run.h5", source=Source(batch_size=9), command="by hand")
    told = json.loads(str(result.rows[0].data["eigenpairs"].provenance.values))
    assert told["command"] == "by hand"
    assert told["settings"] == {
        "k": 2,
        "which": "LM",
        "tol": 1e-3,
        "tol_value": None,
        "seed": 5,
        "max_products": None,
        "eigenvectors": True,
        "errors": "to products in float64",
        "matrix": {"kind": "hessian", "unit": "term", "samples": 1, "seed": 0, "precondition": None},
    }
    assert told["problem"].endswith("problem.py:tiny")
    assert (told["dtype"], told["batch_size"], told["checkpoint"]["step"]) == ("float32", 9, 10)
    assert told["device"] == f"cpu ({os.uname().machine})"
    assert told["route"]["name"] == "cached"
    assert told["versions"].keys() == {"landscape-probe", "torch", "numpy", "scipy", "python"}
    assert len(told["data_sha256"]) == 64
    assert told["threads"] == torch.get_num_threads()


def test_a_resumed_sweep_makes_its_products_as_it_began(tiny, monkeypatch):
    """The memory that decides the route may have changed in between, but the numbers must not change."""
    probe(["a.pt"], [TopEigenpairs(k=2)], "run.h5")
    monkeypatch.setattr("landscape.curvature.products.batched.half_of_memory", lambda _: 0)
    result = probe(["a.pt", "b.pt"], [TopEigenpairs(k=2)], "run.h5")
    routes = [json.loads(str(row.data["eigenpairs"].provenance.values))["route"]["name"] for row in result.rows]
    assert routes == ["cached", "cached"]
    fresh = probe(["a.pt"], [TopEigenpairs(k=2)], "fresh.h5")
    assert "products by graph rebuilt for each product" in TopEigenpairs(k=2).show(fresh.rows[0].data["eigenpairs"])[1]


def test_a_checkpoint_that_changes_meanwhile_is_refused(tiny, monkeypatch):
    read = Source.read
    seen = []

    def changing(self, path):
        seen.append(str(path))
        if seen.count("b.pt") == 1 and str(path) == "b.pt":
            checkpoint = read(self, path)
            tiny.save("b.pt", 99)
            return checkpoint
        return read(self, path)

    monkeypatch.setattr(Source, "read", changing)
    with pytest.raises(InputError, match=r"^b\.pt changed while it was being measured"):
        probe(["a.pt", "b.pt"], [Loss()], "run.h5")


def test_a_file_that_another_training_wrote_over_needs_another_record(command, tiny):
    assert command("a.pt", "b.pt", "-o", "run.h5").status == 0
    tiny.save("b.pt", 7, step=10)
    before = (tiny.folder / "run.h5").read_bytes()
    ran = command("b.pt", "-o", "run.h5")
    assert (ran.status, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert "run.h5 has a row of b.pt at step 10 as the file was before it was replaced" in ran.err
    assert (tiny.folder / "run.h5").read_bytes() == before
    assert command("b.pt", "-o", "run.h5", "--overwrite").status == 0


def test_a_file_that_a_training_keeps_writing_has_a_row_for_each_step(command, tiny):
    for step in (10, 20, 30):
        tiny.save("last.pt", step, step=step)
        assert command("last.pt", "-o", "run.h5").status == 0
    with landscape.open_record("run.h5") as record:
        assert record["loss"].step.values.tolist() == [10, 20, 30]


def test_the_last_checkpoint_may_not_change_before_the_run_is_measured(tiny, monkeypatch):
    """If the last checkpoint changed, its rows and the measurements of the whole run would belong to different runs."""
    read, seen = Source.read, []

    def changing(self, path):
        seen.append(str(path))
        if seen == ["a.pt", "b.pt", "a.pt", "b.pt", "b.pt"]:  # read first, measured, and for the run
            tiny.save("b.pt", 99, step=10)
        return read(self, path)

    monkeypatch.setattr(Source, "read", changing)
    with pytest.raises(InputError, match=r"^b\.pt changed while it was being measured"):
        probe(["a.pt", "b.pt"], [Samples(), Learning()], "run.h5")
    assert len(seen) == 5


def test_checkpoints_without_a_step_come_last_by_the_numbers_in_their_names():
    ordered = [
        (0, "w99.pt"),
        (7, "w1.pt"),
        (None, "a.pt"),
        (None, "w1.pt"),
        (None, "w1²2.pt"),  # a digit in Unicode, but no number
        (None, "w02.pt"),  # equal numbers are ordered as texts
        (None, "w2.pt"),
        (None, "w10.pt"),
    ]
    for shuffled in (ordered[::-1], ordered[1::2] + ordered[::2]):
        assert sorted(shuffled, key=lambda each: place_in_run(*each)) == ordered


# ---------------------------------------------------------------------- screen and notebook


def test_a_value_is_shown_to_its_error():
    assert to_error(5.3077712345, 1.3e-5) == "5.307771"
    assert to_error(2.41647, 1.5e-3) == "2.4165"
    assert to_error(-123456.0, 30.0) == "-1.2346e+05"
    assert to_error(123456.0, 1.0) == "123456.0"
    assert to_error(0.5, 3.0) == "0.500", "three digits at the least"
    assert to_error(0.0, 1e-9) == "0.00000"
    assert to_error(1.5, float("nan")) == "1.50000"


@pytest.mark.parametrize("value", [1.0, 9.96, 5.30777, 1 / 3, 2.5e-7, -8.3e4])
@pytest.mark.parametrize("error", [1.01e-5, 9.9e-4, 3e-3])
def test_rounding_adds_less_than_the_error(value, error):
    assert abs(float(to_error(value, error)) - value) <= error / 2


def test_a_bound_is_never_rounded_down():
    assert rounded_up(4.4e-4, 1) == "5e-04"
    assert rounded_up(1.31e-5, 2) == "1.4e-05"
    assert rounded_up(0.995, 2) == "1.0e+00"
    assert rounded_up(0.0, 2) == "0.0e+00"


def test_eigenpairs_in_a_notebook():
    pairs = landscape.top_eigenpairs(np.diag([5.0, 2.0, 1.0]), 2)
    bundle = pairs._repr_mimebundle_()
    assert bundle.keys() == {"text/plain", "text/html"}
    assert "5.000" in bundle["text/plain"]
    assert "±: the matrix in float64 has an eigenvalue this close" in bundle["text/plain"]
    assert bundle["text/html"].startswith("<pre ")
    assert "5.000" in bundle["text/html"]
    assert "\x1b" not in bundle["text/plain"] + bundle["text/html"]


def test_a_table_says_what_did_not_converge():
    table = landscape.reporting.display.eigenvalue_table(
        np.array([2.0, 0.0]),
        np.array([[1.0, 3.0], [0.0, 0.0]]),
        np.array([1.0, 0.0]),
        np.array([False, True]),
        "in float64",
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    text = console.file.getvalue()
    rows = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row[1:-1]] for row in rows] == [
        ["1", "2.00", "1.0e+00", "5.0e-01", "NO"],
        ["2", "0.00000", "0.0e+00", "-", "yes"],
    ]


PROGRESS = Progress("iterating", 12345, np.array([1e-2, 3e-3]), 0.5)


@pytest.mark.parametrize("shown", [True, False])
def test_a_progress_bar_is_silent_where_there_is_no_terminal(capsys, shown):
    with ProgressBar("hessian", shown=shown) as bar, bar.unit("loss", "a.pt"):
        bar(PROGRESS)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_progress_bar_on_a_terminal_fits_and_goes_away(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with ProgressBar() as bar:
        with bar.unit("loss", "a checkpoint [/named] at length.pt", 12, ["loss", "eigenpairs"]):
            pass
        with bar.unit("eigenpairs", "a checkpoint [/named] at length.pt", 13, ["loss"]):
            bar(PROGRESS)
            bar._bar.refresh()
            shown = capsys.readouterr().err
            bar(Progress("iterating", 0, np.array([]), 0.0))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "13/14 a checkpoint" in text
    assert "+ 0.0 s" in text
    assert "iterating 12345 products, residual 1e-02" in text
    assert max(map(len, text.replace("\r", "\n").splitlines())) <= 80
    assert capsys.readouterr().out == ""


class GoingTerminal(io.StringIO):
    """A terminal that goes: what is written to it afterwards fails."""

    gone = False

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


@pytest.mark.parametrize("place", range(5))
def test_a_progress_bar_outlives_its_terminal(monkeypatch, place):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # of the thread that redraws
    monkeypatch.setattr(sys, "stderr", GoingTerminal())
    places = iter(range(5))

    def goes() -> None:
        sys.stderr.gone = next(places) >= place

    goes()
    with ProgressBar() as bar:
        goes()
        with bar.unit("loss", "a.pt"):
            goes()
            bar(PROGRESS)
            goes()
            with bar.paused():
                goes()
    assert sys.stderr.gone


def test_where_there_is_no_terminal_each_measurement_is_a_line(command, tiny, monkeypatch):
    monkeypatch.setattr("landscape.reporting.progress_bar.SILENT", 0.0)
    ran = command("a.pt", "b.pt", "--eigenpairs", "-k", 2, "-o", "run.h5")
    lines = re.sub(r"[0-9.]+ s\b", "TIME", ran.err).splitlines()
    assert lines == [
        "landscape-probe: 1 of 4 measured: loss of a.pt in TIME; left: more than TIME",
        "landscape-probe: 2 of 4 measured: eigenpairs of a.pt in TIME; left: TIME",
        "landscape-probe: 3 of 4 measured: loss of b.pt in TIME; left: TIME",
        "landscape-probe: 4 of 4 measured: eigenpairs of b.pt in TIME",
    ]
    assert ran.status == 0


def test_a_block_is_printed_as_soon_as_its_measurements_are_finished(tiny):
    order = []

    class Bar(ProgressBar):
        def unit(self, measurement, checkpoint, *more):
            order.append((measurement, checkpoint))
            return super().unit(measurement, checkpoint, *more)

    def shown(row):
        order.append(row.path)
        assert set(row.data) == {"loss", "eigenpairs"}
        assert "eigenvectors" not in row.data["eigenpairs"], "a value for each parameter can exceed memory"

    asked = [Loss(), TopEigenpairs(k=2)]
    result = probe(["a.pt", "b.pt"], asked, "run.h5", bar=Bar(), on_row=shown)
    assert order == [("loss", "a.pt"), ("eigenpairs", "a.pt"), "a.pt", ("loss", "b.pt"), ("eigenpairs", "b.pt"), "b.pt"]
    again = probe(["b.pt", "a.pt"], asked, "run.h5", bar=Bar(), on_row=shown)
    assert order[6:] == ["a.pt", "b.pt"]
    assert [row.path for row in result.rows] == [row.path for row in again.rows]


def test_what_is_shown_at_once_is_what_the_record_shows(command, tiny):
    asked = ("a.pt", "b.pt", "--self-check", "--samples", "--eigenpairs", "--density", "--trace", "--diagonal", "-k", 1,
             "--spectrum", "--per-layer", "--slice", "1d", "--slice", "2d", "--valley", "--points", 7, "--probes", 2,
             "--log-det", 9.0, "--effective-dimension", 0.1, "--steps", 5, "-o", "run.h5")  # fmt: skip
    first, again = command(*asked, "--json"), command(*asked, "--json")
    assert json.loads(first.out) == json.loads(again.out)
    assert command(*asked).out.startswith("\na.pt, step 0\n")


def test_a_solve_drives_the_bar():
    seen = []
    landscape.top_eigenpairs(np.diag(np.arange(1.0, 40.0)), 3, progress=seen.append)
    assert {each.phase for each in seen} == {"iterating", "verifying", "searching"}
    with ProgressBar(shown=False) as bar:
        for each in seen:
            bar(each)


MORE = """

def margin(checkpoint, **_):
    inputs, _ = data()
    return Problem(model(), multi_margin, [(inputs, torch.zeros(20).long())])

def multi_margin(output, target):
    return nn.functional.multi_margin_loss(output.expand(-1, 3), target, reduction="none")

def smoother(checkpoint, *, scale=1.0):
    inputs, targets = data()
    return Problem(model(), nn.SmoothL1Loss(), [(inputs, scale * targets)])

class Fixed(nn.Sequential):
    def forward(self, x):
        return super().forward(x).mm(torch.ones(1, 1, dtype=torch.float32))

def fixed(checkpoint, **_):
    return Problem(Fixed(*model()), nn.MSELoss(), [data()])
"""


@pytest.fixture
def more(tiny):
    path = tiny.folder / "problem.py"
    path.write_text(path.read_text() + MORE)
    tiny.save("a.pt", 0)
    return tiny


def test_a_loss_without_second_derivative_is_refused_in_one_line(more, command):
    ran = command("a.pt", "--problem", "problem.py:margin", "--hessian", "-k", 2)
    assert ran.status == 2
    assert "can't be differentiated twice" in ran.err
    assert ran.err.count("\n") == 1


def test_a_tensor_of_fixed_precision_is_refused_in_one_line(more, command):
    ran = command("a.pt", "--problem", "problem.py:fixed", "--dtype", "float64")
    assert ran.status == 2
    assert "can't be evaluated in torch.float64" in ran.err
    assert ran.err.count("\n") == 1


def test_another_loss_under_the_same_name_is_another_request(more, command):
    path = more.folder / "problem.py"
    assert command("a.pt", "--problem", "problem.py:smoother").status == 0
    path.write_text(path.read_text().replace("SmoothL1Loss()", "SmoothL1Loss(beta=0.5)"))
    ran = command("a.pt", "--problem", "problem.py:smoother")
    assert ran.status == 2
    assert "model_sha256" in ran.err
    assert "--overwrite" in ran.err
