"""The command `tests.fuzz`: the answers that count as faults, and a few of its inputs."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests import fuzz
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ((2, "", "error: one line\n", 10**8, False), ""),
        ((3, "some of it\n", "", 10**8, True), ""),
        ((1, "", "Traceback: ValueError", 10**8, False), "exit status 1: Traceback: ValueError"),
        ((-signal.SIGABRT, "", "", 10**8, False), "exit status -6"),
        ((2, "", "error: two\nlines\n", 10**8, False), "2 lines"),
        ((2, "loss 3\n", "error: one line\n", 10**8, False), "standard output"),
        ((2, "", "error: one line\n", 10**8, True), "files changed"),
        ((2, "", "error: " + "x" * 3000 + "\n", 10**8, False), "3008 letters"),
        ((0, "\x1b[31mred\n", "", 10**8, False), "control characters"),
        ((0, "", "", 5 * 10**9, False), "5000 MB"),
    ],
)
def test_what_a_fault_is(answer, fault):
    assert "; ".join(fuzz.faults_of(*answer)).startswith(fault)
    assert bool(fuzz.faults_of(*answer)) == bool(fault)


def test_a_process_that_crashes_or_never_ends_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "_PATIENCE", 1)

    def crash(_arguments):
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        signal.raise_signal(signal.SIGUSR1)

    assert fuzz.answered(tmp_path, crash, [])[:2] == (-signal.SIGUSR1, "begun\n")
    assert fuzz.answered(tmp_path, lambda _: signal.pause(), [])[0] == -signal.SIGKILL
    status, _, err, *_ = fuzz.answered(tmp_path, lambda _: 1 // 0, [])
    assert (status, "ZeroDivisionError" in err) == (1, True)


@pytest.mark.slow
def test_a_handful_of_damaged_files_is_refused_or_read():
    command = [sys.executable, "-m", "tests.fuzz", "12", "--seed", "1"]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (ran.returncode, "12 inputs, seed 1: " in ran.stdout) == (0, True), ran.stdout + ran.stderr
