"""``python -m benchmarks.scaling.contention``: the time of a probe beside a process that takes one core.

OpenMP's threads wait for each other after every operation. Suppose that they wait by spinning, and that another process
takes the core of one thread. Then all other threads spin until the system gives this core back.
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
_LONGEST = 300  # seconds after which a probe is stopped


@contextmanager
def spinning() -> Iterator[None]:
    """Run a process that takes the first core of those that this process may use."""
    core = psutil.Process().cpu_affinity()[0]
    code = f"import psutil; psutil.Process().cpu_affinity([{core}])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as spinner:
        try:
            yield
        finally:
            spinner.kill()


def seconds(checkpoint: Path, given: dict[str, str]) -> float:
    """Seconds that the command takes for the top eigenpairs of a checkpoint; infinite after `_LONGEST`.

    Args:
        checkpoint: file of the checkpoint.
        given: environment variables to add.
    """
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
        checkpoint: Checkpoint whose eigenpairs are computed.
        rounds: Number of probes with free cores, and as many with one core taken.
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
