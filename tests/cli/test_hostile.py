"""Hostile and damaged input: one line, exit status 2, soon, in little memory, with no code run and no file written.

A damaged file may still be a good file, for example if a bit of a weight was flipped. Then exit status 0 or 3 is right,
and the case isn't counted. Such cases are marked as damaged where they are made. All other cases must be refused.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from landscape.cli import plot, probe
from landscape.machine.memory import Growth
from tests.conftest import PROBLEM, ROOT, TinyProject
from tests.support import hostile
from tests.support.hostile import Case

LOOPED = ROOT / "data" / "looped.pt"
MOST_SECONDS, MOST_BYTES, MOST_LETTERS = 10, 1_500_000_000, 2000


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with good files of every kind."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "problem.py").write_text(PROBLEM)
    (folder / "pyproject.toml").write_text('[tool.landscape.problems]\ndefault = "problem.py:tiny"\n')
    before = Path.cwd()
    os.chdir(folder)
    try:
        for seed, name in enumerate(("a", "b")):
            TinyProject(folder).save(f"{name}.pt", seed, step=10 * seed)
        hostile.make_good(folder, probe.main)
    finally:
        os.chdir(before)
    return folder


def listing(folder: Path) -> dict[str, str]:
    """Every file with the hash of its content, or with its size if it is huge; links and pipes only by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts:
            continue
        plain = path.is_file() and not path.is_symlink()
        size = path.stat().st_size if plain else 0
        content = path.read_bytes() if plain and size < 10**8 else str(size).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def arguments_of(case: Case, folder: Path) -> list[str]:
    given = list(case.make(folder))
    return [*given, "--project", str(ROOT)] if "looped" in case.name else given


def faults_of(case: Case, status: int, out: str, err: str) -> list[str]:
    """The faults of the answer to a case."""
    faults = []
    if status != 2 and not (case.damaged and status in (0, 3)):
        faults.append(f"exit status {status}")
    if status == 2:
        lines = err.splitlines()
        faults += [f"{len(lines)} lines"] * (len(lines) != 1 or not err.endswith("\n"))
        faults += ["standard output"] * bool(out)
    faults += [f"{len(err)} letters"] * (len(err) > MOST_LETTERS)
    faults += ["control characters"] * any(not (each.isprintable() or each == "\n") for each in out + err)
    faults += ["a traceback"] * ("\nTraceback" in err or err.startswith("Traceback"))
    return faults


def answer(
    case: Case, good: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, list[str]]:
    """The exit status of a case in this process, and its faults."""
    shutil.copytree(good, folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)
    given = arguments_of(case, folder)
    before = listing(folder)
    capsys.readouterr()
    growth, started = Growth(torch.device("cpu")), time.process_time()  # other processes' work counts on the wall clock
    try:
        status = (plot if case.plot else probe).main(given)
    except Exception as error:
        return 1, [f"raised {type(error).__name__}: {error}"]
    seconds, most = time.process_time() - started, growth.most()
    captured = capsys.readouterr()
    faults = faults_of(case, status, captured.out, captured.err)
    faults += [f"{seconds:.1f} s"] * (seconds > MOST_SECONDS)
    faults += [f"{most / 1e6:.0f} MB"] * (most > MOST_BYTES)
    after = listing(folder)
    faults += ["files changed"] * ((after != before and status == 2) or hostile.CANARY in after)
    monkeypatch.undo()
    shutil.rmtree(folder)
    return status, faults


def check(
    cases: list[Case],
    good: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> int:
    """Run all cases, and return the number of cases with bad input."""
    started = time.monotonic()
    refused, faulty = Counter[str](), {}
    for number, case in enumerate(cases):
        status, faults = answer(case, good, folder / str(number), capsys, monkeypatch)
        refused[case.name.partition(":")[0].split()[0]] += status == 2
        if faults:
            faulty[case.name] = faults
    with capsys.disabled():
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(refused.items()))
        seconds = time.monotonic() - started
        print(f"\n{refused.total()} of {len(cases)} inputs refused, seed {hostile.SEED}, {seconds:.0f} s: {told}")
    assert faulty == {}
    return refused.total()


def test_bad_input_is_refused_in_one_line(good, tmp_path, capsys, monkeypatch):
    every = [case for case in hostile.cases(good, LOOPED) if not case.slow]
    chosen = random.Random(hostile.SEED).sample(every, 120)
    assert check(chosen, good, tmp_path, capsys, monkeypatch) >= 100


@pytest.mark.slow
def test_all_bad_input_is_refused_in_one_line(good, tmp_path, capsys, monkeypatch):
    assert check(hostile.cases(good, LOOPED), good, tmp_path, capsys, monkeypatch) >= 600


WORST = (
    "pickle in zip: a key of tuples, 10^6 deep",
    "pickle in legacy: 10 GB of zeros",
    "zip: a version of 400 MB",
    "tensor in legacy: 10^12 numbers claimed",
    "safetensors: a name of 10 MB of wrappers",
    "record drawn: hashes of 16 TB",
    "place: 1 TB of holes as safetensors",
    "parts: a device",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [WORST[0], pytest.param("", id="all")])
def test_the_worst_in_a_process_of_little_memory(good, tmp_path, name):
    """In a process of its own the output of libraries and of the interpreter's end is seen too."""
    chosen = [case for case in hostile.cases(good, LOOPED) if case.name in ([name] if name else WORST)]
    assert len(chosen) == (1 if name else len(WORST))
    for number, case in enumerate(chosen):
        folder = tmp_path / str(number)
        shutil.copytree(good, folder)
        given = arguments_of(case, folder)
        before = listing(folder)
        ran = subprocess.run(
            [sys.executable, "-c", START.format(plot=case.plot), *given],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=60,
            check=False,
            text=True,
        )
        assert faults_of(case, ran.returncode, ran.stdout, ran.stderr) == [], (case.name, ran)
        assert listing(folder) == before


# Imported before the limit is set, because libraries map far more memory than they use.
START = f"""
import resource, sys
import torch
from pathlib import Path
import landscape.figures, landscape.measurements.runner, landscape.cli.plot, landscape.cli.probe
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + {MOST_BYTES},) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
sys.exit((landscape.cli.plot if {{plot}} else landscape.cli.probe).main())
"""
