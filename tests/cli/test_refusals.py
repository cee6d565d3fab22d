"""Bad input to the command: one line on standard error, exit status 2, and no file written."""

from __future__ import annotations

import os
import pickle
import shutil

import h5py
import pytest
import torch

from landscape.checkpoint import save_checkpoint
from tests.conftest import ROOT


@pytest.fixture
def refused(command, tiny):
    """A function that runs a command that must be refused, and returns its line."""

    def run(*arguments):
        before = tiny.listing()
        ran = command(*arguments)
        assert ran.status == 2, ran
        assert ran.out == ""
        assert ran.err.startswith("landscape-probe: ")
        assert ran.err.count("\n") == 1
        assert ran.err.endswith("\n")
        assert "Traceback" not in ran.err
        assert tiny.listing() == before
        return ran.err

    return run


class Bomb:
    """An object that makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_files_that_are_no_checkpoint(refused, tiny):
    assert "nowhere.pt: no such file" in refused("nowhere.pt", "--hessian")
    assert "is a folder" in refused(tiny.folder, "--hessian")
    whole = (tiny.folder / "a.pt").read_bytes()
    contents = {
        "empty": b"",
        "random": torch.randint(0, 256, (5000,), generator=torch.Generator().manual_seed(0)).byte().numpy().tobytes(),
        "text": b"step,loss\n1,2.5\n",
        **{f"cut to {length}": whole[:length] for length in (1, 2, 30, 100, len(whole) // 2, len(whole) - 1)},
    }
    for name, content in contents.items():
        (tiny.folder / name).write_bytes(content)
        assert name in refused(name), name
        assert name in refused("a.pt", name, "--hessian"), f"{name}, as the second"


def test_a_pickle_that_runs_code(refused, command, tiny):
    torch.save({"weight": torch.zeros(3), "more": Bomb()}, "bomb.pt")
    (tiny.folder / "bare.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "bare.pkl"):
        assert name in refused(name)
        assert not (tiny.folder / "exploded").exists()


def test_weights_of_another_model(refused, tiny):
    save_checkpoint(tiny.folder / "other.pt", {"encoder.weight": torch.zeros(4, 4)})
    assert "other.pt" in refused("other.pt")
    wrong = torch.load("a.pt")["state"] | {"0.weight": torch.zeros(3, 5)}
    save_checkpoint(tiny.folder / "shape.pt", wrong)
    message = refused("shape.pt")
    assert "shape.pt" in message
    assert "0.weight" in message
    assert "shape.pt" in refused("a.pt", "shape.pt")
    tiny.save("scaled.pt", 5, arguments={"scale": 2.0})
    assert "scaled.pt belongs to another problem or model than a.pt" in refused("a.pt", "scaled.pt")
    shipped = ROOT / "data" / "looped.pt", ROOT / "data" / "single.pt"
    assert "single.pt belongs to another problem or model" in refused(*shipped, "--project", ROOT)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_not_finite(refused, tiny, value):
    state = torch.load("b.pt")["state"]
    state["2.bias"][0] = float(value)
    save_checkpoint(tiny.folder / "bad.pt", state)
    for checkpoints in (["bad.pt"], ["a.pt", "bad.pt"]):
        message = refused(*checkpoints, "--hessian", "-k", 2)
        assert message.startswith("landscape-probe: bad.pt: ")
        assert "NaN or infinite" in message


PROBLEMS = {
    "missing.py:tiny": "no such file",
    "problem.py:tinny": "did you mean tiny?",
    "problem.py:number": "is a int, not a function",
    "problem.py:raises": "no such corpus",
    "problem.py:not_a_problem": "returned a Sequential",
    "problem.py": "does not name a function",
    "problem.py:": "does not name a function",
    "broken.py:tiny": "SyntaxError",
    "failing.py:tiny": "ZeroDivisionError",
    "leaving.py:tiny": "ends the program",
    "nopackage.module:tiny": "nopackage",
    "unknown": "no problem 'unknown'",
    "problem.py:nan_data": "batch 0 of the data holds NaN or infinite values",
    "problem.py:infinite_data": "batch 0 of the data holds NaN or infinite values",
    "problem.py:nan_loss": "a.pt: the loss is NaN or infinite for 20 of 20 terms of batch 0",
    "problem.py:infinite_loss": "a.pt: the loss is NaN or infinite for 20 of 20 terms of batch 0",
    "problem.py:nan_gradient": "a.pt: the gradient is NaN or infinite",
}


@pytest.mark.parametrize(("problem", "said"), PROBLEMS.items())
def test_problems(refused, tiny, problem, said):
    (tiny.folder / "broken.py").write_text("def tiny(:\n")
    (tiny.folder / "failing.py").write_text("1 / 0\n")
    (tiny.folder / "leaving.py").write_text("raise SystemExit(0)\n")
    assert said in refused("a.pt", "--problem", problem, "--hessian", "-k", 2)


def test_projects(refused, tiny, monkeypatch):
    (tiny.folder / "empty").mkdir()
    (tiny.folder / "other").mkdir()
    (tiny.folder / "other" / "pyproject.toml").write_text("[tool.ruff]\n")
    (tiny.folder / "broken").mkdir()
    (tiny.folder / "broken" / "pyproject.toml").write_text("[tool")
    for folder, said in {
        "x" * 300: "has no pyproject.toml",
        "nowhere": "nowhere has no pyproject.toml",
        "empty": "empty has no pyproject.toml",
        "a.pt": "a.pt has no pyproject.toml",
        "other": "pyproject.toml has no [tool.landscape.problems]",
        "broken": "cannot be read as TOML",
    }.items():
        assert said in refused("a.pt", "--project", folder), folder


NUMBERS = {
    ("-k", "0"): "k must be between 1 and the number of parameters, 13, not 0",
    ("-k", "-1"): "k must be between 1",
    ("-k", "14"): "k must be between 1 and the number of parameters, 13, not 14",
    ("-k", "ten"): "'ten' is not a whole number",
    ("-k", "2.5"): "'2.5' is not a whole number",
    ("--tol", "0"): "tol must lie between 0 and 1",
    ("--tol", "-1e-3"): "tol must lie between 0 and 1",
    ("--tol", "nan"): "tol must lie between 0 and 1",
    ("--tol", "1"): "tol must lie between 0 and 1",
    ("--tol", "small"): '"small"',
    ("--max-products", "0"): "max_products must be at least 1",
    ("--max-products", "-5"): "max_products must be at least 1",
    ("--batch-size", "0"): "batch size must be at least 1",
    ("--batch-size", "-3"): "batch size must be at least 1",
    ("--seed", "1.5"): "'1.5' is not a whole number",
    ("--seed", "-1"): "seed must lie between 0 and",
    ("--seed", "9" * 25): "seed must lie between 0 and",
    ("--batch-size", "7.5"): "'7.5' is not a whole number",
    ("--max-products", "1e3"): "'1e3' is not a whole number",
    ("--which", "XX"): "XX",
    ("--dtype", "float16"): "float16",
    ("--crosscheck", "nobody"): "nobody",
    ("--hesian",): "Did you mean --hessian?",
    ("-k",): "-k",
}


@pytest.mark.parametrize(("options", "said"), NUMBERS.items(), ids=" ".join)
def test_values_of_options(refused, options, said):
    assert said in refused("a.pt", "--hessian", *options)


@pytest.mark.parametrize("device", ["banana", "mps", "meta", "cuda:x", "", "cpu:7"])
def test_devices_that_are_none(refused, device):
    assert f"device must be auto, cpu, cuda or cuda:N, not {device!r}" in refused("a.pt", "--device", device)


def test_devices_that_are_not_here(refused):
    absent = ["cuda:99"] if torch.cuda.is_available() else ["cuda", "cuda:99"]
    for device in absent:
        assert f"device {device} isn't available here" in refused("a.pt", "--device", device)


def test_options_that_do_not_go_together(refused):
    assert "no checkpoint given" in refused()
    assert "no checkpoint given" in refused("--hessian")
    assert "--crosscheck needs --which LM, not SA" in refused("a.pt", "--crosscheck", "pyhessian", "--which", "SA")
    assert "not on cuda:1" in refused("a.pt", "--crosscheck", "pyhessian", "--device", "cuda:1")
    idle = refused("a.pt", "--tol", "1e-4", "--probes", "5")
    assert "no requested measurement uses --tol or --probes: add --hessian or" in idle


def test_outputs_that_cannot_be(refused, tiny):
    (tiny.folder / "folder").mkdir()
    (tiny.folder / "notes.txt").write_text("not a record\n")
    shutil.copy("notes.txt", "notes.h5")
    with h5py.File("other.h5", "w") as file:
        file["x"] = 1.0
    for out in (
        "nowhere/out.h5",
        "folder",
        "notes.txt",
        "notes.h5",
        "other.h5",
        "notes.txt/out.h5",
        "a.pt",
        "",
        "..",
        "x" * 300,
    ):
        for option in ([], ["--overwrite"]):
            assert out in refused("a.pt", "--hessian", "-k", "2", "-o", out, *option), out


def test_a_record_of_another_request(refused, command, tiny):
    command("a.pt", "--hessian", "-k", 2, "-o", "run.h5")
    message = refused("a.pt", "--hessian", "-k", 3, "-o", "run.h5")
    assert "eigenpairs k is 2 there and 3 here" in message
    assert "--overwrite" in message
    assert "k is 2 there and 3 here" in refused("b.pt", "--hessian", "-k", 3, "-o", "run.h5")


def test_debug_adds_the_traceback(command, tiny):
    ran = command("nowhere.pt", "--debug")
    assert ran.status == 2
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("landscape-probe: nowhere.pt: no such file")
