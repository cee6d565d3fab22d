"""``python -m benchmarks.scaling.contention``: a probe beside a process that takes one core.

Threads of OpenMP wait for each other after every operation. Where they wait by spinning, and another process has the
core of one of them, the others spin until the system gives that core back.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from cyclopts import App

from benchmarks.support.cases import ROOT
from benchmarks.support.machine import this_machine
from benchmarks.support.tables import Table

WAYS = {"the command as it is": {}, "threads that wait by spinning": {"OMP_WAIT_POLICY": "ACTIVE"}}
_LONGEST = 300  # seconds of a probe


@contextmanager
def spinning() -> Iterator[None]:
    """A process that takes the first of the cores this one may use."""
    core = psutil.Process().cpu_affinity()[0]
    code = f"import psutil; psutil.Process().cpu_affinity([{core}])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as spinner:
        try:
            yield
        finally:
            spinner.kill()


def seconds(checkpoint: Path, given: dict[str, str]) -> float:
    """How long the command takes for the top eigenpairs of a checkpoint; infinite if it doesn't end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "landscape", str(checkpoint), "--hessian", "-o", f"{folder}/a.h5"]
        started = time.perf_counter()
        try:
            subprocess.run(
                command, cwd=ROOT, env=environment | given, check=True, capture_output=True, timeout=_LONGEST
            )
        except subprocess.TimeoutExpired:
            return float("inf")
    return time.perf_counter() - started


app = App(name="python -m benchmarks.scaling.contention", version_flags=[])


@app.default
def main(checkpoint: Path = ROOT / "data" / "looped.pt", *, rounds: int = 3) -> None:
    """Print, as Markdown, how long a probe takes with all cores free and with one of them taken.

    Args:
        checkpoint: Whose eigenpairs.
        rounds: Of either.
    """
    rows = []
    for way, given in WAYS.items():
        free, taken = [], []
        for _ in range(rounds):
            free.append(seconds(checkpoint, given))
            with spinning():
                taken.append(seconds(checkpoint, given))
        ratios = [beside / alone for alone, beside in zip(free, taken, strict=True)]
        rows.append(
            (way, f"{statistics.median(free):.1f}", f"{statistics.median(taken):.1f}",
             f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
        )  # fmt: skip
    header = ("", "seconds, all cores free", "seconds, one core taken", "ratio")
    title = f"A probe of {checkpoint.name} beside a process that spins, {psutil.cpu_count()} cores"
    print(f"{this_machine(torch.device('cpu'))}\n\n{Table(title, header, rows).markdown()}")


if __name__ == "__main__":
    app()
