"""The command ``python -m tests.bits``: check that a change of the source changes no number, to the last bit.

    python -m tests.bits measure FOLDER before     # in a checkout without the change
    python -m tests.bits measure FOLDER after      # in one with it, on the same machine
    python -m tests.bits compare FOLDER before after

Both shipped checkpoints, a short run and a folder of transformers are measured, in float32 and float64. Eigenpairs of
every matrix are measured too. Problems have few samples, so one checkout takes some minutes. There is one thread and no
compiled product, so other processes on the machine change no bit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from cyclopts import App

import landscape

ROOT = Path(__file__).parents[1]
PROBLEM = """from models.problems import markov

def few(checkpoint, **settings):
    return markov(checkpoint, **settings | {"samples": 8})
"""
FEW = ("--problem", "problem.py:few")
SHIPPED = ("--hessian", "--density", "--trace", "--log-det", "30", "--effective-dimension", "1", "--spectrum",
           "--per-layer", "--loops", "--slice", "1d", "--slice", "2d", "--valley", "--samples", "--self-check",
           "--points", "9")  # fmt: skip
FOLDER = ("--hessian", "-k", "3", "--density", "--trace", "--per-layer", "--slice", "1d", "--samples", "--self-check",
          "--points", "9")  # fmt: skip
RUN = ("--dynamics", "--hops", "--samples", "--hessian", "-k", "2", "--points", "9",
       "--slice", "2d", "--direction", "pca", "--direction", "pca")  # fmt: skip
STEPS = 12
# Data sets and attributes on when, where and by what command a row was made. They differ between any two runs.
OF_THE_RUN = {"created", "fingerprint", "command", "seconds", "started", "memory", "memory_foreseen", "versions",
              "route", "provenance"}  # fmt: skip
GROUPS = {"hessian": "eigenpairs"}  # old names of groups, and their present names
app = App(help="Compare the numbers of two checkouts, bit by bit.", version_flags=[])


def requests() -> dict[str, tuple[str, ...]]:
    """The arguments of each command, by name of its record."""
    made: dict[str, tuple[str, ...]] = {}
    for dtype in ("float32", "float64"):
        for name in ("looped", "single"):
            kept = [each for each in SHIPPED if name == "looped" or each != "--loops"]
            made[f"{name}-{dtype}"] = (f"{name}.pt", *FEW, *kept, "--dtype", dtype)
        made[f"folder-{dtype}"] = ("folder", "--data", "rows.npy", *FOLDER, "--dtype", dtype)
        made[f"run-{dtype}"] = (*(f"run/{step}.pt" for step in range(STEPS)), *FEW, *RUN, "--dtype", dtype)
    for matrix in ("differences", "bfloat16", "ggn", "fisher", "fisher-mc", "fisher-empirical"):
        made[matrix] = ("looped.pt", *FEW, "--eigenpairs", "-k", "3", "--matrix", matrix)
    made["part"] = ("looped.pt", *FEW, "--hessian", "-k", "3", "--params", "*weight")
    return made


def make_inputs(folder: Path) -> None:
    """Write the checkpoints and the data, which all checkouts share."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder.mkdir(parents=True)
    (folder / "problem.py").write_text(PROBLEM)
    for name in ("looped.pt", "single.pt"):
        (folder / name).write_bytes((ROOT / "data" / name).read_bytes())
    (folder / "run").mkdir()
    checkpoint = landscape.read_checkpoint(folder / "looped.pt")
    problem = landscape.load_problem(folder / "looped.pt", problem=f"{folder / 'problem.py'}:few")
    for step in range(STEPS):
        state = dict(checkpoint.state) | problem.layout.unflatten(problem.vector)
        landscape.save_checkpoint(folder / "run" / f"{step}.pt", state, step=step, arguments=checkpoint.arguments)
        problem = problem.at(problem.vector - 0.2 * problem.gradient())
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(folder / "folder")
    np.save(folder / "rows.npy", np.random.default_rng(0).integers(0, 20, (8, 12)))


@app.command
def measure(folder: Path, name: str, /) -> int:
    """Write every record of this checkout into the folder FOLDER/NAME.

    Args:
        folder: Folder of the inputs; they are made if the folder doesn't exist.
        name: Name of this checkout.
    """
    if not folder.exists():
        make_inputs(folder)
    (folder / name).mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for record, arguments in requests().items():
        out = f"{name}/{record}.h5"
        if not (folder / out).exists():
            command = [sys.executable, "-m", "landscape", *arguments, "--compile", "off", "-o", out]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            print(f"{record}: exit status {done.returncode} {done.stderr.strip()}", flush=True)
    return 0


def numbers(path: Path) -> Iterator[tuple[str, Any]]:
    """Every compared value of a record, with its present name."""
    with h5py.File(path) as file:
        for group, rows in file.items():
            here = GROUPS.get(group, group)
            yield from ((f"{here}@{name}", value) for name, value in rows.attrs.items() if name not in OF_THE_RUN)
            yield from ((f"{here}/{name}", data[()]) for name, data in rows.items() if name not in OF_THE_RUN)


def _bits(value: Any) -> Any:
    """The compared content of a value: its bytes, or its texts."""
    array = np.asarray(value)
    return array.tolist() if array.dtype.hasobject else array.tobytes()


def differing(before: Path, after: Path) -> list[str]:
    """The names of values whose bits differ between two records, or that one of the records lacks."""
    old, new = dict(numbers(before)), dict(numbers(after))
    return [
        name
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or _bits(old[name]) != _bits(new[name])
    ]


@app.command
def compare(folder: Path, before: str, after: str, /) -> int:
    """Print the differences between two checkouts' records; the exit status is 1 if there are any.

    Args:
        folder: Folder of the inputs.
        before: Name of one checkout.
        after: Name of the other.
    """
    found = {
        record: differing(folder / before / f"{record}.h5", folder / after / f"{record}.h5") for record in requests()
    }
    for record, names in found.items():
        values = sum(np.size(value) for _, value in numbers(folder / after / f"{record}.h5"))
        print(f"{record}: {values} values, " + (f"other bits in {', '.join(names)}" if names else "the same bits"))
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(app())
