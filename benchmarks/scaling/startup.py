"""``python -m benchmarks.scaling.startup``: the processor time until the first number, beside that of importing torch.

Python's own compiled files are written before the first round, as they are on a user's machine.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from cyclopts import App

from benchmarks.support.cases import ROOT
from benchmarks.support.machine import this_machine
from benchmarks.support.tables import Table
from benchmarks.support.timing import Spread

TORCH = "`import torch`"
app = App(help="Compare the start of the command with that of torch.", version_flags=[])


def seconds(arguments: list[str]) -> float:
    """Processor time of a Python process, all threads together."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@app.default
def main(checkpoint: Path = ROOT / "data" / "looped.pt", *, rounds: int = 7) -> None:
    """Print, as Markdown, a line for each start.

    Args:
        checkpoint: The checkpoint whose loss the command prints.
        rounds: Number of rounds. A ratio is taken within a round.
    """
    with tempfile.TemporaryDirectory() as folder:
        starts = {
            TORCH: ["-c", "import torch"],
            "`import landscape; landscape.probe`": ["-c", "import landscape; landscape.probe"],
            "`landscape-probe --help`": ["-m", "landscape", "--help"],
            f"`landscape-probe {checkpoint.name}`": ["-m", "landscape", str(checkpoint), "-o", f"{folder}/a.h5",
                                                     "--overwrite"],
        }  # fmt: skip
        for arguments in starts.values():
            seconds(arguments)
        taken = [{name: seconds(arguments) for name, arguments in starts.items()} for _ in range(rounds)]
    rows = [
        (name, Spread.of(each[name] for each in taken).show(".2f"),
         Spread.of(each[name] / each[TORCH] for each in taken).show(".2f"))
        for name in starts
    ]  # fmt: skip
    table = Table("Processor time until the first number", ("", "seconds", "by that of importing torch"), rows)
    print(f"{this_machine(torch.device('cpu'))}\n\n{table.markdown()}")


if __name__ == "__main__":
    app()
