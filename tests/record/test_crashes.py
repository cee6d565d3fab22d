"""Runs that end at any moment, by any signal or by a full disk: finished measurements and their numbers stay."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import chdir, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch.nn import functional

from landscape.checkpoint import read_checkpoint, save_checkpoint
from landscape.cli.probe import main
from landscape.record import open_record
from tests.conftest import ROOT

PROBLEM = """
import torch
from torch import nn
from landscape.problem import Problem

def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=generator)
    return x, (x[:, 0] + 0.3 * torch.randn(30, generator=generator) > 0).long()

def model():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))

def classes(checkpoint):
    x, y = data()
    sides = ["left" if value < 0 else "right" for value in x[:, 1]]
    return Problem(model(), nn.CrossEntropyLoss(), [(x, y)], about={"side": sides})
"""

THREE = ["0004.pt", "0012.pt", "0040.pt"]
RUN = [f"{step:04}.pt" for step in range(10)]
SUMS = ["--probes", "8", "--steps", "12"]

# The requests, which together have all measurements of the command line.
RUNS: dict[str, list[str]] = {
    "top": [*THREE, "--hessian", "-k", "4", "--density", "--trace", "--log-det", "100", *SUMS,
            "--effective-dimension", "0.1"],
    "sure": [*THREE, "--hessian", "-k", "2", "--tol-value", "1e-3", "--spectrum", "--per-layer", "--dtype", "float64"],
    "lines": [*THREE[:2], "--slice", "1d", "--points", "7", "--valley", "--samples", "--subset", "20"],
    "planes": [*THREE, "--slice", "1d", "--slice", "2d", "--points", "5", "--direction", "filter",
               "--direction", "top"],
    "adaptive": [*THREE, "--slice", "2d", "--adaptive", "0.05", "--points", "9", "--at", "12", "--at", "-1"],
    "run": [*RUN, "--dynamics", "--hops", "-k", "1", "--samples"],
    "ggn": [*THREE, "--matrix", "ggn", "--eigenpairs", "-k", "3", "--density", "--trace", "--spectrum", *SUMS[:2]],
    "fisher": [*THREE, "--matrix", "fisher", "--eigenpairs", "-k", "3", "--trace", "--per-layer", "--probes", "10"],
    "sampled": [*THREE, "--matrix", "fisher-mc", "-k", "3", "--which", "LA", "--eigenpairs", "--trace"],
    "empirical": [*THREE, "--matrix", "fisher-empirical", "--eigenpairs", "-k", "3", "--density", *SUMS],
    "adam": [*THREE, "--precondition", "adam", "--hessian", "-k", "3", "--trace", "--spectrum", "--probes", "10"],
    "loops": ["looped-0.pt", "looped-1.pt", "--loops", "-k", "2", "--probes", "10", "--tol", "0.1"],
}  # fmt: skip

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminal"}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints of a run by Adam and of the shipped loop on few samples, and with their problems."""
    folder = tmp_path_factory.mktemp("crashes") / "files"
    folder.mkdir()
    (folder / "mine.py").write_text(PROBLEM)
    namespace: dict[str, Any] = {}
    exec(PROBLEM, namespace)
    torch.manual_seed(3)
    (x, y), model = namespace["data"](), namespace["model"]()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(41):
        if f"{step:04}.pt" in [*THREE, *RUN]:
            save_checkpoint(folder / f"{step:04}.pt", model.state_dict(), step=step, problem="classes",
                            optimizer=optimizer.state_dict())  # fmt: skip
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    shipped = read_checkpoint(ROOT / "data" / "looped.pt")
    for number in range(2):
        state = {name: value * (1 + 0.01 * number) for name, value in shipped.state.items()}
        save_checkpoint(folder / f"looped-{number}.pt", state, problem="markov", step=number,
                        arguments=shipped.arguments | {"samples": 2})  # fmt: skip
    (folder / "pyproject.toml").write_text(
        '[tool.landscape.problems]\nclasses = "mine.py:classes"\nmarkov = "models.problems:markov"\n'
    )
    return folder


class Runner:
    """A helper that starts runs of the command and ends them."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crashing"],
            cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "ready\n"
        self.whole: dict[str, Whole] = {}

    def folder(self, name: str) -> Path:
        """A new working directory with the checkpoints."""
        made = self.files.parent / name / "cwd"
        shutil.copytree(self.files, made)
        return made

    def start(self, folder: Path, arguments: list[str], **more: Any) -> int:
        job = {"folder": str(folder), "arguments": arguments} | more
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps(job), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def ended(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())

    def run(self, folder: Path, arguments: list[str], **more: Any) -> int:
        self.start(folder, arguments, **more)
        return self.ended()

    def uninterrupted(self, name: str) -> Whole:
        """The results of an uninterrupted run, which is made once."""
        if name not in self.whole:
            folder = self.folder(f"whole-{name}")
            started = time.monotonic()
            status = self.run(folder, [*RUNS[name], "-o", "out.h5"], watched=True)
            seconds = time.monotonic() - started
            assert status in (0, 3), (folder.parent / "err").read_text()
            calls, numbers = int((folder.parent / "calls").read_text()), numbers_in(folder / "out.h5")
            self.whole[name] = Whole(status, seconds, calls, numbers, shown_in(folder))
        return self.whole[name]


class Whole:
    """The results and the time of an uninterrupted run."""

    def __init__(self, status: int, seconds: float, calls: int, numbers: dict[str, Any], shown: str) -> None:
        self.status, self.seconds, self.calls, self.numbers, self.shown = status, seconds, calls, numbers, shown


@pytest.fixture(scope="module")
def runner(files: Path) -> Iterator[Runner]:
    made = Runner(files)
    yield made
    made.server.communicate(timeout=60)


def numbers_in(path: Path) -> dict[str, Any]:
    """The bits of every variable of a record, without the provenance."""
    with h5py.File(path) as file:
        return {
            f"{group}/{name}": (data.dtype.str, data.shape, values_of(data))
            for group, members in file.items()
            for name, data in members.items()
            if name != "provenance"
        }


def values_of(data: h5py.Dataset) -> Any:
    return data.asstr()[:].tolist() if h5py.check_string_dtype(data.dtype) else data[...].tobytes()


def provenance_in(path: Path) -> dict[tuple[str, str], str]:
    """The provenance of each row, with its date and its seconds, so that a repeated measurement changes the text."""
    with h5py.File(path) as file:
        return {
            (name, sha): text
            for name, group in file.items()
            for sha, text in zip(group["sha256"].asstr()[:], group["provenance"].asstr()[:], strict=True)
        }


def shown_in(folder: Path) -> str:
    """The output of the last run, without memory and date."""
    shown = (folder.parent / "out").read_text()
    return re.sub(r"memory beyond model and data: .*\n", "", shown).replace(
        "complete already, nothing measured", "measured"
    )


def finished_parts(folder: Path) -> dict[str, tuple[int, int]]:
    """The parts that exist, each with values that change when the part is written again."""
    found = (folder / "out.h5.parts").glob("*.h5")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


class Attempts:
    """The interruptions of one run, and the results that must survive each of them."""

    def __init__(self, runner: Runner, seed: int) -> None:
        self.runner = runner
        self.name = list(RUNS)[seed % len(RUNS)]
        self.whole = runner.uninterrupted(self.name)
        self.folder = runner.folder(f"seed-{seed}")
        self.arguments = [*RUNS[self.name], "-o", "out.h5"]
        self.before = set(os.listdir(self.folder))
        self.parts: dict[str, tuple[int, int]] = {}
        self.told: dict[tuple[str, str], str] = {}
        self.where = f"seed {seed}, {self.name}"

    def end(self, random_: random.Random) -> str:
        """Start the run, end it at a moment or at a call of the writer, and return its outcome."""
        sent = random_.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        if random_.random() < 0.5:
            more = {"watched": True, "at": random_.randint(1, self.whole.calls), "after": random_.random() < 0.5}
            status = self.runner.run(self.folder, self.arguments, signal=sent, **more)
        else:
            process = self.runner.start(self.folder, self.arguments)
            time.sleep(random_.uniform(0, self.whole.seconds))
            with suppress(ProcessLookupError):
                os.kill(process, sent)
            status = self.runner.ended()
        err = (self.folder.parent / "err").read_text()
        where = f"{self.where}, {sent.name}: {status} {err}"
        assert status in (self.whole.status, -sent, 128 + sent), where
        if status == 128 + sent:
            assert err.count("\n") == 1, where
            assert WORDS[sent] in err, where
        self.compare(where)
        return f"{sent.name} came too late" if status == self.whole.status else f"{sent.name} {self.name}"

    def compare(self, where: str) -> None:
        """Assert that everything that was finished before is unchanged, and remember what is finished now."""
        out, now = self.folder / "out.h5", finished_parts(self.folder)
        if out.exists():
            assert numbers_in(out) == self.whole.numbers, where
            assert self.told.items() <= provenance_in(out).items(), where
            self.told, self.parts = provenance_in(out), {}
            return
        assert self.parts.items() <= now.items(), where
        self.parts = now
        for part in now:
            self.told |= provenance_in(self.folder / "out.h5.parts" / part)
        if now:
            with open_record(out) as tree:
                assert sum(group.sizes["checkpoint"] for group in tree.children.values()) == len(now), where

    def finish(self) -> None:
        """Let the run end; assert that numbers and words are those of an uninterrupted run, with no other file."""
        assert self.runner.run(self.folder, self.arguments) == self.whole.status, self.where
        self.compare(self.where)
        assert set(os.listdir(self.folder)) - self.before == {"out.h5"}, self.where
        assert shown_in(self.folder) == self.whole.shown, self.where
        shutil.rmtree(self.folder.parent)


def killed_and_resumed(runner: Runner, seeds: Iterable[int]) -> Counter[str]:
    """Interrupt a run one to three times for each seed, and then let it end."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        random_, attempts = random.Random(seed), Attempts(runner, seed)
        kept = 0
        for _ in range(random_.choice([1, 1, 2, 3])):
            counts[attempts.end(random_)] += 1
            kept = len(attempts.told)
        attempts.finish()
        counts["resumed"] += 1
        counts["units kept"] += kept
    print("\n".join(f"{what}: {number}" for what, number in sorted(counts.items())))
    return counts


@pytest.mark.slow
def test_killed_runs_are_resumed(runner: Runner) -> None:
    assert killed_and_resumed(runner, [4, 16, 28, 40])["resumed"] == 4


@pytest.mark.slow
def test_a_hundred_killed_runs_lose_nothing(runner: Runner) -> None:
    assert killed_and_resumed(runner, range(int(os.environ.get("SEEDS", "100"))))["units kept"]


# Commands on an existing record, and the commands that made the record.
CHANGES = {
    "append": ([[*THREE, "-o", "out.h5"]], [*THREE, "--hessian", "-k", "2", "-o", "out.h5"]),
    "overwrite": ([[*THREE, "-o", "out.h5"]], [*THREE, "--hessian", "-k", "2", "--overwrite", "-o", "out.h5"]),
    "merge": (
        [[*THREE[:2], "-o", "a.h5"], [THREE[2], "-o", "b.h5"]],
        ["--merge", "a.h5", "b.h5", "-o", "out.h5"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_record_outlives_a_kill_while_it_is_changed(runner: Runner, name: str) -> None:
    earlier, change = CHANGES[name]

    def begun(at: int) -> Path:
        folder = runner.folder(f"{name}-{at}")
        for arguments in earlier:
            assert runner.run(folder, arguments) == 0
        return folder

    def records(folder: Path) -> dict[str, dict[str, Any]]:
        return {path.name: numbers_in(path) for path in folder.glob("*.h5") if path.is_file()}

    whole = begun(0)
    assert runner.run(whole, change, watched=True) == 0
    calls, after = int((whole.parent / "calls").read_text()), records(whole)
    for at in random.Random(0).sample(range(1, calls + 1), 8):
        folder = begun(at)
        before = records(folder)
        assert runner.run(folder, change, watched=True, signal=signal.SIGKILL, at=at) == -signal.SIGKILL
        assert records(folder) in (before, after), at
        status = runner.run(folder, change)
        assert status == 0 or (name == "merge" and before != after == records(folder)), at
        assert records(folder) == after, at


@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_moment_is_one_line(runner: Runner) -> None:
    for seed, share in ((4, 0.2), (16, 0.6), (28, 0.85), (40, 0.97)):
        attempts = Attempts(runner, seed)
        full = int(share * attempts.whole.calls)
        assert runner.run(attempts.folder, attempts.arguments, watched=True, full=full) == 2
        err = (attempts.folder.parent / "err").read_text()
        assert err.count("\n") == 1
        assert "No space left on device" in err
        attempts.compare(attempts.where)
        attempts.finish()


# Without a terminal, without a reader, without space for the output


def run(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell, in which CMD stands for the command."""
    line = line.replace("CMD", f"{sys.executable} -m landscape 0004.pt")
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def test_output_without_reader_or_space(runner: Runner) -> None:
    folder = runner.folder("output")
    ran = run(folder, "CMD -o full.h5 > /dev/full")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "the output cannot be written (No space left on device); stored results are kept" in ran.stderr
    ran = run(folder, "set -o pipefail; CMD -o full.h5 | true")
    assert (ran.returncode, ran.stderr) == (0, "")
    ran = run(folder, "CMD -o closed.h5 >&- 2>&-; echo $?")
    assert (ran.stdout, ran.stderr) == ("0\n", "")
    ran = run(folder, "set -o pipefail; python -m landscape --merge full.h5 -o merged.h5 | true".replace(
        "python", sys.executable))  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    for name in ("full.h5", "closed.h5", "merged.h5"):
        with open_record(folder / name) as tree:
            assert tree["loss"].sizes["checkpoint"] == 1


def test_a_terminal_that_goes(runner: Runner) -> None:
    """When a terminal closes, a signal is sent, and all later writing to it fails."""
    whole = runner.uninterrupted("adaptive")
    folder = runner.folder("terminal")
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-m", "landscape", *RUNS["adaptive"], "-o", "out.h5"], ENVIRONMENT)
    deadline = time.monotonic() + 60
    while not finished_parts(folder) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 4096)
    os.close(terminal)
    _, ended = os.waitpid(process, 0)
    # The run may have been done, and about to print, before the signal.
    assert os.waitstatus_to_exitcode(ended) in (129, whole.status)
    assert finished_parts(folder) or (folder / "out.h5").exists()
    assert runner.run(folder, [*RUNS["adaptive"], "-o", "out.h5"]) == whole.status
    assert numbers_in(folder / "out.h5") == whole.numbers


@pytest.mark.slow
def test_what_nohup_protects_goes_on(runner: Runner) -> None:
    folder = runner.folder("nohup")
    asked = " ".join(RUNS["adaptive"])
    line = f"trap '' HUP; {sys.executable} -m landscape {asked} -o out.h5 & "
    line += "until ls out.h5.parts/*.h5; do sleep 0.1; done; kill -HUP $!; wait $!"
    assert run(folder, line).returncode == 0
    assert (folder / "out.h5").exists()


def test_an_object_that_a_signal_cut_short_adds_no_line(runner: Runner) -> None:
    """For example, h5netcdf.File closes in `__del__` a file that its constructor had no time to open."""
    folder = runner.folder("half-made")
    assert run(folder, "CMD -o out.h5").returncode == 0
    script = (
        "import os, signal, sys, h5py\n"
        "class Half:\n"
        "    def __init__(self, *given, **named): os.kill(os.getpid(), signal.SIGTERM); self.closed = False\n"
        "    def __del__(self): self.closed\n"
        "h5py.File = Half\n"
        "from landscape.cli.probe import main; sys.exit(main())\n"
    )
    (folder / "half.py").write_text(script)
    ran = subprocess.run([sys.executable, "half.py", "0004.pt", "-o", "out.h5"], cwd=folder, env=ENVIRONMENT,
                         capture_output=True, text=True, check=False)  # fmt: skip
    assert (ran.returncode, ran.stderr.count("\n")) == (143, 1), ran.stderr


# Two runs


def test_the_second_of_two_runs_says_who_is_first(runner: Runner) -> None:
    folder = runner.folder("two")
    arguments = [*RUNS["adaptive"], "-o", "out.h5"]
    process = runner.start(folder, arguments)
    deadline = time.monotonic() + 60
    while not finished_parts(folder) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process, signal.SIGSTOP)
    for second in (arguments, [*THREE, "-o", "out.h5"], [*THREE, "-o", "out.h5", "--overwrite"]):
        with chdir(folder), redirect_stderr(StringIO()) as err:
            assert main(second) == 2
        said = f"landscape-probe: out.h5 is being written by process {process} on {socket.gethostname()} since 2"
        assert err.getvalue().startswith(said)
        assert err.getvalue().count("\n") == 1
    os.kill(process, signal.SIGKILL)
    assert runner.ended() == -signal.SIGKILL
    assert runner.run(folder, arguments) == 0, "what a kill leaves keeps nobody out"
