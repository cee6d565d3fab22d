"""The command from end to end: its output, its records and its exit status, for all input that a user might give."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.func import functional_call

import landscape
from landscape.checkpoint import read_checkpoint, save_checkpoint
from landscape.cli.probe import main
from landscape.measurements import TopEigenpairs
from landscape.reporting.messages import counted
from models.problems import markov
from tests.conftest import ROOT

LOOPED = ROOT / "data" / "looped.pt"
THREADS = counted(torch.get_num_threads(), "thread")  # TEST_THREADS sets the number
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def numbers(path, group="eigenpairs"):
    """All variables of a group of a record, without provenance and paths."""
    with h5py.File(path) as file:
        names = sorted(set(file[group]) - {"provenance", "path"})
        return {name: np.asarray(file[group][name]).tolist() for name in names}


def provenance(path, group="eigenpairs", row=0):
    with h5py.File(path) as file:
        return json.loads(file[group]["provenance"].asstr()[row])


# ---------------------------------------------------------------------- the shipped checkpoint


def test_from_the_root_of_the_repository(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    ran = command("data/looped.pt", "--hessian", "-o", tmp_path / "looped.h5")
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert "data/looped.pt, step 4000" in lines
    assert any(re.fullmatch(r"loss 0\.892\d* ± 0\.037 \(standard error over 256 samples\)", line) for line in lines)
    assert "Hessian: 10 eigenvalues of largest magnitude, float32 on cpu (" in ran.out
    assert re.search(r"^products by cached double-backward graph, \d+ MB$", ran.out, re.MULTILINE)
    assert "±: the matrix in float64 has an eigenvalue this close" in ran.out
    assert lines[-1] == f"Record: {tmp_path / 'looped.h5'} (measured on {THREADS})"
    assert "\x1b" not in ran.out, "no colour where the output is no terminal"
    assert max(map(len, lines[:-1])) <= 80
    stored = numbers(tmp_path / "looped.h5")["eigenvalues"][0]
    assert len(stored) == 10
    shown = [float(row[2]) for row in (line.split("│") for line in lines) if len(row) > 3]
    np.testing.assert_allclose(shown, stored, rtol=5e-3)  # at least three digits are shown


def test_from_another_directory_as_a_module(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "landscape", "-k", "2", "--json", "--hessian", LOOPED, "--project", ROOT],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == ""
    content = json.loads(ran.stdout)
    assert content["record"] == "looped.landscape.h5", "the name where none is given"
    (row,) = content["rows"]
    assert row["checkpoint"]["step"] == 4000
    assert row["unmet_goals"] == []
    stored = numbers(tmp_path / "looped.landscape.h5")
    assert row["eigenpairs"]["eigenvalues"] == stored["eigenvalues"][0]
    assert row["eigenpairs"]["residuals"] == stored["residuals"][0]
    assert row["loss"]["loss"] == numbers(tmp_path / "looped.landscape.h5", "loss")["loss"][0]
    told = provenance(tmp_path / "looped.landscape.h5")
    assert told["command"] == f"landscape-probe -k 2 --json --hessian {LOOPED} --project {ROOT}"


def test_the_record_has_the_exact_eigenpairs(command, tmp_path):
    """The shipped weights are measured on few samples, so that the dense Hessian takes only seconds."""
    shipped = read_checkpoint(LOOPED)
    few = save_checkpoint(
        tmp_path / "few.pt", shipped.state, problem=shipped.problem, arguments=shipped.arguments | {"samples": 4}
    )
    assert_exact(few, command, tmp_path, products=2000)


@pytest.mark.slow
def test_the_record_of_the_shipped_checkpoint_has_the_exact_eigenpairs(command, tmp_path):
    assert_exact(LOOPED, command, tmp_path, products=2000)


def assert_exact(checkpoint, command, tmp_path, products):
    out = tmp_path / "exact.h5"
    arguments = ("--hessian", "--dtype", "float64", "--tol", "1e-8", "--max-products", products, "-o", out)
    ran = command(checkpoint, *arguments, "--project", ROOT)
    assert (ran.status, ran.err) == (0, "")
    hessian = dense_hessian(checkpoint)
    exact = np.linalg.eigvalsh(hessian)
    exact = exact[np.argsort(-abs(exact))][:10]
    with h5py.File(out) as file:
        group = file["eigenpairs"]
        values, residuals, rounding = group["eigenvalues"][0], group["residuals"][0], group["rounding"][0]
        vectors = group["eigenvectors"][0]
        assert group["converged"].shape == (1, 10)
        assert group["converged"][0].all()
        assert [dim.label for dim in group["eigenvectors"].dims] == ["checkpoint", "index", "parameter"]
    assert (abs(values - exact) <= residuals + rounding).all()
    # Both residuals belong to one vector. The dense Hessian and the products differ only by rounding.
    recomputed = np.linalg.norm(vectors @ hessian - values[:, None] * vectors, axis=1)
    assert (abs(recomputed - residuals) <= rounding).all()
    assert (residuals <= np.maximum(1e-8 * abs(values), rounding)).all()
    # n entries with a relative rounding of eps/2 each, in the norm of a vector and in an inner product.
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(10), atol=1e-7)
    with xr.open_datatree(out, engine="h5netcdf") as tree:
        assert tree["eigenpairs"]["eigenvectors"].dims == ("checkpoint", "index", "parameter")
        assert tree["eigenpairs"]["converged"].dims == ("checkpoint", "index")
        np.testing.assert_array_equal(tree["eigenpairs"]["eigenvalues"].sel(checkpoint=0), values)


def dense_hessian(path):
    """The dense Hessian, forward over reverse as in torch.func.hessian, a few columns at a time."""
    checkpoint = read_checkpoint(path)
    posed = markov(checkpoint, **checkpoint.arguments)
    model = posed.model.double().eval()
    ((tokens, targets),) = posed.batches
    state = {name: checkpoint.state[name].double() for name, _ in model.named_parameters()}

    def loss(vector):
        pieces = vector.split([tensor.numel() for tensor in state.values()])
        named = {name: piece.view_as(state[name]) for name, piece in zip(state, pieces, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, named, (tokens,)), targets)

    point = torch.cat([tensor.flatten() for tensor in state.values()])
    gradient = torch.func.grad(loss)
    column = torch.func.vmap(
        lambda e: torch.func.jvp(gradient, (point,), (e,))[1], chunk_size=max(4, 128 // len(tokens))
    )
    hessian = column(torch.eye(len(point), dtype=torch.float64)).numpy()
    return (hessian + hessian.T) / 2


# ---------------------------------------------------------------------- help


def loaded(call: str, *modules: str, folder: Path) -> tuple[str, list[str]]:
    """Make a call in a process of its own; return its output and those of some modules that it has loaded."""
    script = f"import sys; {call}; print([name for name in {modules} if name in sys.modules], file=sys.stderr)"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return ran.stdout, ast.literal_eval(ran.stderr.splitlines()[-1])


def test_nothing_is_loaded_that_nobody_asked_for(tmp_path):
    """Some modules take seconds to import; torch's compiler takes longer than torch itself."""
    slow = ("torch", "xarray", "scipy", "matplotlib", "h5py")
    assert loaded("import landscape; landscape.probe", *slow, folder=tmp_path)[1] == []
    asked = f"from landscape.cli.probe import main; main([{str(LOOPED)!r}, '--project', {str(ROOT)!r}])"
    slow = ("torch._dynamo", "scipy.stats", "matplotlib", "landscape.spectrum.solve", "landscape.slices")
    assert loaded(asked, *slow, folder=tmp_path)[1] == []


def test_help_is_short_and_quick(tmp_path):
    out, slow = loaded(
        "from landscape.cli.probe import main; main(['--help'])", "torch", "xarray", "scipy", "h5py", folder=tmp_path
    )
    assert slow == []
    lines = out.splitlines()
    assert len(lines) <= 2 * 55  # two screens
    assert max(map(len, lines)) <= 80
    for option in ("--hessian", "-k", "--which", "--tol", "--problem", "--project", "--overwrite", "--json", "--out"):
        assert option in out
    assert "Exit status: 0 done" in out


@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_sleep_while_they_wait_in_a_process_of_the_commands_own(given, policy):
    """The variables aren't set in a process of the user, which passes the arguments itself."""
    script = (
        "import os, sys; from landscape.cli.probe import main; main(['--version']); "
        "print(os.environ.get('OMP_WAIT_POLICY')); sys.argv = ['x', '--version']; main(); "
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "OMP_WAIT_POLICY"} | given
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split()[1::2] == [given.get("OMP_WAIT_POLICY", "None"), policy]
    assert ran.stdout.split()[-1] == "False"


@pytest.mark.slow
def test_the_examples_of_help_run_as_printed(command, tmp_path):
    examples = [line for line in command("--help").out.splitlines() if line.startswith("  landscape-probe ")]
    assert len(examples) == 4
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("data", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    running = [
        subprocess.Popen(
            line, shell=True, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for line in examples
    ]
    printed = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0, 0]
    assert [err for _, err in printed] == [b"", b"", b"", b""]
    assert "Other measurements: --hessian" in printed[0][0].decode()
    assert {path.name for path in tmp_path.glob("*.h5")} == {
        "looped.landscape.h5", "single.landscape.h5", "5.h5", "loops.h5"
    }  # fmt: skip


def test_version(command):
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", command("--version").out)


# ---------------------------------------------------------------------- the record and the screen


def test_options_and_checkpoints_come_in_any_order(command, tiny):
    first = command("a.pt", "b.pt", "--hessian", "-k", 3, "-o", "1.h5", "--json")
    second = command("--json", "-o", "2.h5", "a.pt", "-k", 3, "--hessian", "b.pt")
    rows = [json.loads(ran.out)["rows"] for ran in (first, second)]
    assert [row["checkpoint"]["path"] for row in rows[0]] == ["a.pt", "b.pt"]
    assert rows[0] == rows[1]
    assert provenance("2.h5")["command"] == "landscape-probe --json -o 2.h5 a.pt -k 3 --hessian b.pt"


def test_the_command_in_a_record_names_the_first_checkpoints_alone(command, tiny):
    """Every row holds the command. With all names in the command, a record would grow quadratically."""
    names = [f"c{number}.pt" for number in range(12)]
    for number, name in enumerate(names):
        tiny.save(name, number, step=number)
    assert command(*names[:6], "--json", *names[6:], "-o", "many.h5").status == 0
    told = provenance("many.h5", "loss")["command"]
    assert told == "landscape-probe c0.pt c1.pt c2.pt c3.pt c4.pt '[7 more checkpoints]' --json -o many.h5"
    assert command(*names[:6], "-o", "few.h5").status == 0
    assert provenance("few.h5", "loss")["command"].count(".pt") == 6


@pytest.mark.parametrize("place", ["--weights=ema", "--strip-prefix=x."])
def test_no_line_leads_to_weights_that_were_not_meant(command, tiny, place):
    """A direction reads a file's usual weights, even if other weights of the checkpoints are requested."""
    (tiny.folder / "folder").mkdir()
    for name in ("b.pt", "folder"):
        refused = command("a.pt", place, "--slice", "1d", "--direction", name)
        assert (refused.status, len(refused.err.splitlines())) == (2, 1)
        assert f"{name}: --weights and --strip-prefix don't apply" in refused.err


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_each_end_of_the_spectrum(command, tiny, which):
    ran = command("a.pt", "--hessian", "-k", 5, "--which", which, "--dtype", "float64", "--tol", "1e-8", "-o", "a.h5")
    assert ran.status == 0
    ascending = np.linalg.eigvalsh(tiny.hessian("a.pt").numpy())
    expected = {
        "LM": ascending[np.argsort(-abs(ascending))][:5],
        "LA": ascending[::-1][:5],
        "SA": ascending[:5],
        "BE": np.concatenate([ascending[::-1][:3], ascending[:2]]),
    }[which]
    stored = numbers("a.h5")
    radius = np.array(stored["residuals"][0]) + stored["rounding"][0]
    assert (abs(np.array(stored["eigenvalues"][0]) - expected) <= radius).all()


def test_the_loss_is_the_mean_squared_error(command, tiny):
    row = json.loads(command("a.pt", "--json").out)["rows"][0]["loss"]
    model = tiny.model()
    model.load_state_dict(torch.load("a.pt")["state"])
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 2, generator=generator), torch.randn(20, 1, generator=generator)
    errors = (model(x) - y).square().flatten()
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(errors.mean(), list(model.parameters()))])
    # Sums of 20 float32 terms have errors of at most 20 units of rounding.
    assert row["loss"] == pytest.approx(errors.mean().item(), rel=20 * 1.2e-7)
    assert row["standard_error"] == pytest.approx((errors.std() / 20**0.5).item(), rel=1e-5)
    assert row["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert (row["samples"], row["parameters"]) == (20, 13)


def test_micro_batches_change_nothing_but_rounding(command, tiny):
    common = ("a.pt", "--hessian", "-k", 4, "--tol", "1e-5")
    assert command(*common, "-o", "whole.h5").status == 0
    assert command(*common, "--batch-size", 7, "-o", "parts.h5").status == 0
    whole, parts = numbers("whole.h5"), numbers("parts.h5")
    error = sum(np.array(each["residuals"][0]) + each["rounding"][0] for each in (whole, parts))
    assert (abs(np.array(whole["eigenvalues"][0]) - parts["eigenvalues"][0]) <= error).all()
    assert provenance("parts.h5")["batch_size"] == 7


def test_eigenvectors_can_be_left_out(command, tiny):
    command("a.pt", "--hessian", "-k", 2, "--no-eigenvectors", "-o", "without.h5")
    command("a.pt", "--hessian", "-k", 2, "-o", "with.h5")
    without, stored = numbers("without.h5"), numbers("with.h5")
    assert "eigenvectors" not in without
    assert np.array(stored["eigenvectors"]).shape == (1, 2, 13)
    assert without["eigenvalues"] == stored["eigenvalues"]


def test_one_sample_has_no_standard_error_and_json_says_null(command, tiny):
    (tiny.folder / "one.py").write_text(
        "from problem import *\n\n"
        "def one(checkpoint):\n"
        "    x, y = data()\n"
        "    return Problem(model(), nn.MSELoss(), [(x[:1], y[:1])])\n"
    )
    ran = command("a.pt", "--problem", "one.py:one", "--json")
    assert json.loads(ran.out, parse_constant=pytest.fail)["rows"][0]["loss"]["standard_error"] is None
    assert "(one sample: no error known)" in command("a.pt", "--problem", "one.py:one").out


def test_several_checkpoints_and_their_notes(command, tiny):
    state = {f"module.{name}": value for name, value in torch.load("b.pt")["state"].items()}
    save_checkpoint(tiny.folder / "wrapped.pt", state, step=7)
    ran = command("a.pt", "wrapped.pt", "a.pt")
    lines = ran.out.splitlines()
    assert [line for line in lines if ".pt" in line] == ["a.pt, step 0", "wrapped.pt, step 7"], "each one once"
    assert len([line for line in lines if line.startswith("note: ")]) == 1
    assert lines[lines.index("wrapped.pt, step 7") + 1].startswith("note: ")
    assert "module." in ran.out


def test_names_are_text_and_are_not_broken(command, tiny):
    """Brackets aren't read as markup, colons aren't read as emoji, and a long name stays on its line."""
    folder = tiny.folder / ("very long name " * 6).strip()
    folder.mkdir()
    checkpoint = shutil.copy("a.pt", folder / "[red]a[slash] :smile:.pt")
    out = folder / "[bold] record.h5"
    lines = command(checkpoint, "--hessian", "-k", 1, "-o", out).out.splitlines()
    assert f"{checkpoint}, step 0" in lines
    assert lines[-1] == f"Record: {out} (measured on {THREADS})"


def test_a_name_that_the_screen_has_no_letters_for_is_spelt_out(tiny, monkeypatch):
    name = os.fsdecode(b"a\xff.pt")
    shutil.copy("a.pt", name)
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii"))
    assert main([name, "--hessian", "-k", "1"]) == 0
    sys.stdout.flush()
    shown = screen.getvalue().decode()
    assert "a\\udcff.pt, step 0" in shown
    assert "loss 1.6845 \\xb1 0.55" in shown


def test_whoever_reads_the_output_may_stop(tiny):
    line = "set -o pipefail; landscape-probe a.pt --hessian -k 3 | true"
    ran = subprocess.run(["bash", "-c", line], env=ENVIRONMENT, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    assert numbers("a.landscape.h5")["converged"] == [[True] * 3]


# ---------------------------------------------------------------------- doing it again


def test_a_finished_request_is_shown_again(command, tiny, monkeypatch):
    arguments = ("a.pt", "b.pt", "--hessian", "-k", 3)
    first = command(*arguments)
    before = tiny.listing()
    monkeypatch.setattr(TopEigenpairs, "measure", lambda *_: pytest.fail("measured again"))
    second = command(*arguments)
    assert second.out == first.out.replace(f"(measured on {THREADS})", "(complete already, nothing measured)")
    assert (second.status, tiny.listing()) == (0, before)


def test_an_edit_of_the_code_is_seen_by_what_it_does(command, tiny):
    """The printed loss is equal before and after the edit."""
    source = """
def loss(output, target):
    factor = 1.0
    return factor * (output - target).square().sum(1)

def mine(checkpoint):
    return Problem(model(), loss, [data()])
"""
    path = tiny.folder / "edited.py"
    path.write_text((tiny.folder / "problem.py").read_text() + source)
    options = ("--problem", "edited.py:mine", "--trace")
    assert command("a.pt", *options).status == 0
    assert "complete already" in command("a.pt", *options).out
    path.write_text(path.read_text().replace("factor = 1.0", "factor = 1.01"))
    before = tiny.listing()
    for arguments in (("a.pt",), ("a.pt", "b.pt", "-o", "a.landscape.h5")):
        ran = command(*arguments, *options)
        assert (ran.status, ran.out) == (2, "")
        assert "has the loss" in ran.err
        assert "the code of the model or of the loss has changed" in ran.err
    assert tiny.listing() == before
    assert "remove a.landscape.h5 and a.landscape.h5.parts" in ran.err
    assert command("a.pt", *options, "--overwrite").status == 0


@pytest.mark.parametrize(("dtype", "said"), [("float64", True), ("bfloat16", True), ("float32", False)])
def test_weights_of_another_precision_are_noted(command, tiny, dtype, said):
    state = torch.load(tiny.folder / "a.pt")["state"]
    landscape.save_checkpoint("other.pt", {key: value.to(getattr(torch, dtype)) for key, value in state.items()})
    ran = command("other.pt")
    assert ran.status == 0
    assert (f"note: weights stored in {dtype} are used in float32" in ran.out) == said


def test_a_second_command_adds_a_checkpoint_and_a_measurement(command, tiny):
    command("a.pt", "-o", "run.h5")
    alone = numbers("run.h5", "loss")
    assert command("a.pt", "b.pt", "-o", "run.h5").status == 0
    both = numbers("run.h5", "loss")
    assert both["sha256"][0] == alone["sha256"][0]
    assert both["loss"][0] == alone["loss"][0]
    assert both["step"] == [0, 10]
    assert command("b.pt", "--hessian", "-k", 2, "-o", "run.h5").status == 0
    assert numbers("run.h5", "loss") == both
    assert numbers("run.h5")["step"] == [10]
    assert np.array(numbers("run.h5")["eigenvalues"]).shape == (1, 2)


def test_a_second_command_that_asks_for_less_shows_what_is_there(command, tiny):
    first = command("a.pt", "b.pt", "--hessian", "-k", 2, "-o", "run.h5")
    before = (tiny.folder / "run.h5").read_bytes()
    ran = command("b.pt", "--hessian", "-k", 2, "-o", "run.h5")
    assert ran.status == 0
    assert "complete already, nothing measured" in ran.out
    shown = ran.out[: ran.out.index("\nRecord:")]
    assert shown.startswith("\nb.pt")
    assert shown in first.out
    assert (tiny.folder / "run.h5").read_bytes() == before


def test_append_warns_and_is_left_out(command, tiny):
    ran = command("a.pt", "--append")
    assert ran.status == 0
    assert ran.err == (
        "landscape-probe: --append isn't needed any more: a record accepts later requests by itself; "
        "version 0.3 removes it\n"
    )


def test_overwrite_replaces(command, tiny):
    command("a.pt", "--hessian", "-k", 2, "-o", "run.h5")
    assert command("b.pt", "-o", "run.h5", "--overwrite").status == 0
    with h5py.File("run.h5") as file:
        assert set(file) == {"loss"}
        assert file["loss/step"][:].tolist() == [10]


# ---------------------------------------------------------------------- exit status


def test_what_did_not_converge_is_said_everywhere(command, tiny):
    arguments = ("a.pt", "--hessian", "-k", 3, "--tol", "1e-12", "--dtype", "float64", "--max-products", 4)
    ran = command(*arguments)
    assert ran.status == 3
    assert re.search(r"^NOT CONVERGED: \d of 3 eigenpairs .*: raise --max-products or --tol$", ran.out, re.MULTILINE)
    assert re.search(r"│ NO +│", ran.out)
    converged = numbers("a.landscape.h5")["converged"]
    assert not all(converged[0])
    again = command(*arguments, "--json")
    assert again.status == 3, "and when it is shown again"
    (row,) = json.loads(again.out)["rows"]
    assert row["eigenpairs"]["converged"] == converged[0]
    assert len(row["unmet_goals"]) == 1


SWEEP = [f"{number:02}.pt" for number in range(12)]


@pytest.fixture
def sweep(tiny):
    """A dozen checkpoints, whose sweep takes a second or more, and the arguments that measure them to all digits."""
    for seed, name in enumerate(SWEEP):
        tiny.save(name, seed, step=seed)
    return [*SWEEP, "--hessian", "-k", "10", "--dtype", "float64", "--tol", "1e-12", "-o"]


@pytest.mark.parametrize(
    ("sent", "status", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
    ],
)
def test_a_signal_costs_at_most_the_unit_in_work(command, tiny, sweep, monkeypatch, sent, status, word):
    # A test run in the background ignores interrupts, and its children inherit this. So Python starts the command.
    start = "import signal, sys; signal.signal(2, signal.default_int_handler); import landscape.__main__"
    script = f"{start} as command; sys.exit(command.main())"
    run = [sys.executable, "-c", script, *sweep, "run.h5"]
    process = subprocess.Popen(run, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    parts = tiny.folder / "run.h5.parts"
    while len(list(parts.glob("eigenpairs-*.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err == f"landscape-probe: {word}; finished results are kept, and the same command continues from them\n"
    kept = len(list(parts.glob("*.h5")))
    assert 4 <= kept < 2 * len(SWEEP)
    assert not (tiny.folder / "run.h5").exists()

    measured = []
    original = TopEigenpairs.measure
    monkeypatch.setattr(TopEigenpairs, "measure", lambda *given: measured.append(1) or original(*given))
    finished = len(list(parts.glob("eigenpairs-*.h5")))
    assert command(*sweep, "run.h5").status == 0
    assert len(measured) == len(SWEEP) - finished
    assert not parts.exists()
    assert command(*sweep, "whole.h5").status == 0
    for group in ("eigenpairs", "loss"):
        assert repr(numbers("run.h5", group)) == repr(numbers("whole.h5", group)), "bit for bit, and NaN is NaN"


def test_the_handler_of_sigterm_is_put_back(command, tiny):
    before = signal.getsignal(signal.SIGTERM)
    command("a.pt")
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_fails_halfway_keeps_what_was_before(command, tiny):
    state = torch.load("b.pt")["state"]
    save_checkpoint(tiny.folder / "overflowing.pt", {name: value * 1e30 for name, value in state.items()}, step=15)
    ran = command("a.pt", "overflowing.pt", "c.pt", "--hessian", "-k", 2, "-o", "run.h5")
    assert ran.status == 2
    assert ran.out.startswith("\na.pt, step 0\n"), "what was finished before is shown"
    assert "step 15" not in ran.out
    assert "Record:" not in ran.out
    assert ran.err.startswith("landscape-probe: overflowing.pt: the loss is NaN or infinite for 20 of 20 terms")
    sha = read_checkpoint("a.pt").sha256
    parts = tiny.folder / "run.h5.parts"
    assert {path.name for path in parts.iterdir()} == {f"loss-{sha}.h5", f"eigenpairs-{sha}.h5", "request.json"}
    refused = command("a.pt", "--hessian", "-k", 3, "-o", "run.h5")
    assert refused.status == 2
    assert "unfinished record of another request (eigenpairs k is 2 there and 3 here)" in refused.err
    assert "complete already, nothing measured" in command("a.pt", "--hessian", "-k", 2, "-o", "run.h5").out
    assert not parts.exists()


# ---------------------------------------------------------------------- PyHessian beside it


def test_the_cross_check_is_shown_and_in_the_json(command, tiny):
    ran = command("a.pt", "--crosscheck", "pyhessian", "-k", 2)
    assert (ran.status, ran.err) == (0, "")
    assert "Comparison with PyHessian at its defaults" in ran.out
    assert "NOT CONVERGED" not in ran.out
    peer = json.loads(command("a.pt", "--crosscheck", "pyhessian", "-k", 2, "--json").out)["rows"][0]["pyhessian"]
    assert len(peer["eigenvalues"]) == len(peer["residuals"]) == 2
    assert f"{peer['products']} products" in ran.out
