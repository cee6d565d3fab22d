"""The command ``python -m tests.fuzz``: damage good files at random, and run a command on each in its own process.

The files are checkpoints, records, files of data, and a folder of transformers. Bytes or JSON values are damaged. A
right answer is exit status 2 with one line and nothing written. Exit status 0 or 3 is right too, because the damage may
leave a readable file. Limits are `MOST_SECONDS` of processor time and `MOST_BYTES` of memory. Each process is forked
from a process that has loaded the libraries.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint
from cyclopts import App
from safetensors.torch import save_file
from torch import distributed

from landscape.checkpoint import read_checkpoint
from landscape.cli import plot, probe
from tests.conftest import PROBLEM, TinyProject
from tests.support import hostile

MOST_SECONDS, MOST_BYTES, MOST_LETTERS = 10, 4_000_000_000, 2000
TOKENS = 50
_PATIENCE = 60  # wall-clock seconds for a process that waits; other processes' work counts on this clock


@dataclass(frozen=True)
class Source:
    """A good file, and the command that reads it.

    Attributes:
        path: path in the folder of good files.
        arguments: arguments of the command; ``X`` stands for the damaged file.
        plot: whether the command is landscape-plot.
    """

    path: str
    arguments: tuple[str, ...]
    plot: bool = False


CHECKPOINT = ("X", "-o", "new.h5")
FOLDER = ("model", "--data", "rows.npy", "-o", "new.h5")
SOURCES = [
    *(Source(name, CHECKPOINT) for name in ("a.pt", "bare.pt", "legacy.pt", "a.safetensors")),
    Source("run.h5", (*hostile.RUN, "-o", "X")),
    Source("run.h5", ("--merge", "X", "-o", "new.h5")),
    Source("run.h5", ("X", "--figure", "eigenvalues"), plot=True),
    *(Source(name, ("model", "--data", "X", "-o", "new.h5"))
      for name in ("rows.npy", "row.bin", "rows.npz", "rows.jsonl", "rows.safetensors", "rows.pt")),
    *(Source(f"sharded/{name}", ("sharded", "-o", "new.h5")) for name in (".metadata", "__0_0.distcp")),
    *(Source(f"model/{name}", FOLDER) for name in ("config.json", "model.safetensors", "trainer_state.json")),
]  # fmt: skip


def make_good(folder: Path) -> None:
    """Write good files of every kind into ``folder``, which must be the working directory."""
    from transformers import GPT2Config, GPT2LMHeadModel

    (folder / "problem.py").write_text(PROBLEM)
    (folder / "pyproject.toml").write_text('[tool.landscape.problems]\ndefault = "problem.py:tiny"\n')
    for seed, name in enumerate(("a", "b")):
        TinyProject(folder).save(f"{name}.pt", seed, step=10 * seed)
    hostile.make_good(folder, probe.main)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a single process saves
        distributed.checkpoint.save(read_checkpoint("a.pt").state, checkpoint_id="sharded", no_dist=True)
    torch.manual_seed(0)
    sizes = {"vocab_size": TOKENS, "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(folder / "model")
    (folder / "model" / "trainer_state.json").write_text(json.dumps({"global_step": 5, "log_history": [{"loss": 1.0}]}))
    rows = np.random.default_rng(0).integers(0, TOKENS, (8, 12))
    np.save(folder / "rows.npy", rows)
    rows.astype("<u2").tofile(folder / "row.bin")
    np.savez(folder / "rows.npz", input_ids=rows)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"input_ids": row}) for row in rows.tolist()))
    save_file({"input_ids": torch.from_numpy(rows)}, folder / "rows.safetensors")
    torch.save({"input_ids": torch.from_numpy(rows)}, folder / "rows.pt")


ODD: tuple[Any, ...] = (None, True, -1, 0, 10**30, 1e400, "", "x" * 10_000, "\x1b[31m", [], {}, [[]], {"a": {}})


def _odd(generator: random.Random, value: Any) -> Any:
    """A JSON value with one part replaced by an odd value, left out or repeated."""
    if not isinstance(value, dict | list) or not value or generator.random() < 0.2:
        return generator.choice(ODD)
    key = generator.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if generator.random() < 0.15:
        return (
            {k: v for k, v in value.items() if k != key} if isinstance(value, dict) else value[:key] + value[key:] * 2
        )
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[key] = _odd(generator, value[key])
    return changed


def damaged(generator: random.Random, source: Source, whole: bytes, other: bytes) -> tuple[str, bytes]:
    """Damage the content of a file.

    Returns:
        The kind of damage, and the damaged content.
    """
    if source.path.endswith((".json", ".jsonl")) and generator.random() < 0.7:
        lines = [json.loads(line) for line in (whole.splitlines() if source.path.endswith("l") else [whole])]
        place = generator.randrange(len(lines))
        lines[place] = _odd(generator, lines[place])
        return "another value", "\n".join(map(json.dumps, lines)).encode()
    return hostile._damage(generator, whole, hostile._telling(whole), other)


def answered(
    folder: Path, run: Callable[[Sequence[str]], int], arguments: Sequence[str]
) -> tuple[int, str, str, float, int]:
    """Run a command in a forked process.

    Returns:
        The exit status (negative for a signal), the output, the errors, the seconds of processor time, and the peak
        memory in bytes.
    """
    out, err = folder / "stdout", folder / "stderr"
    started = time.monotonic()
    if not (child := os.fork()):
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS + 1))
            os.chdir(folder)
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            warnings.simplefilter("default")
            status = run(arguments)
        except BaseException as error:
            print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    ended = 0
    while not ended and time.monotonic() - started < _PATIENCE:
        ended, status, used = os.wait4(child, os.WNOHANG)
        time.sleep(0.002)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
    texts = [path.read_text(errors="backslashreplace") for path in (out, err)]
    return os.waitstatus_to_exitcode(status), *texts, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def faults_of(status: int, out: str, err: str, most: int, changed: bool) -> list[str]:
    """The faults of a command's answer, each in a few words; empty if the answer is right."""
    faults = [] if status in (0, 2, 3) else [f"exit status {status}: {err.strip()[-200:]}"]
    if status == 2:
        faults += [f"{len(err.splitlines())} lines: {err[:300]!r}"] * (len(err.splitlines()) != 1)
        faults += ["standard output"] * bool(out) + ["files changed"] * changed
    faults += [f"{len(err)} letters"] * (len(err) > MOST_LETTERS)
    faults += ["control characters"] * any(not (each.isprintable() or each == "\n") for each in out + err)
    return faults + [f"{most / 1e6:.0f} MB"] * (most > MOST_BYTES)


def _listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.name not in ("stdout", "stderr")
            and "__pycache__" not in path.parts}  # fmt: skip


app = App(help="Damage good files and see how the commands answer.", version_flags=[])


@app.default
def main(count: int = 2000, *, seed: int = 20261130, only: int | None = None) -> int:
    """Damage good files, and list the faulty answers, each with the number of its input.

    Args:
        count: Number of inputs.
        seed: Seed of all damage; input number i doesn't depend on the count.
        only: Try the input of this number alone, and print what the command says.
    """
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers, faulty, slowest, largest = Counter[str](), [], 0.0, 0
    with tempfile.TemporaryDirectory() as base:
        good, before = Path(base) / "good", Path.cwd()
        good.mkdir()
        os.chdir(good)
        make_good(good)
        os.chdir(before)
        for number in range(count) if only is None else [only]:
            generator = random.Random(f"{seed}-{number}")
            source = generator.choice(SOURCES)
            folder = Path(base) / "tried"
            shutil.copytree(good, folder)
            kind, content = damaged(generator, source, (good / source.path).read_bytes(), (good / "b.pt").read_bytes())
            name = source.path if "/" in source.path else f"x-{source.path}"
            (folder / name).write_bytes(content)
            there = _listing(folder)
            arguments = [name if each == "X" else each for each in source.arguments]
            run = plot.main if source.plot else probe.main
            status, out, err, seconds, most = answered(folder, run, arguments)
            faults = faults_of(status, out, err, most, _listing(folder) != there)
            if only is not None:
                print(f"{' '.join(arguments)} ({kind}), exit status {status}\n{out}{err}")
            answers["refused" if status == 2 else "read" if status in (0, 3) else "failed"] += 1
            slowest, largest = max(slowest, seconds), max(largest, most)
            if faults:
                faulty.append(f"{number} {' '.join(arguments)}: {kind}: {'; '.join(faults)}")
            shutil.rmtree(folder)
    told = ", ".join(f"{number} {what}" for what, number in sorted(answers.items()))
    print(f"{answers.total()} inputs, seed {seed}: {told}; at most {slowest:.1f} s and {largest / 1e6:.0f} MB")
    print(*(f"FAULTY {each}" for each in faulty), sep="\n")
    return int(bool(faulty))


if __name__ == "__main__":
    app()
