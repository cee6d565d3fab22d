"""``python -m benchmarks.scaling.large FILE``: write a checkpoint with GPT-2 small's shapes, to probe a large model.

python -m benchmarks.scaling.large runs/gpt2-small.pt
landscape-probe runs/gpt2-small.pt --problem benchmarks.scaling.large:problem --hessian -k 5 --memory 13GB
"""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from benchmarks.support.cases import gpt2_small
from landscape.checkpoint import Checkpoint, save_checkpoint
from landscape.problem import Problem


def problem(checkpoint: Checkpoint) -> Problem:
    """The problem of such a checkpoint, with 64 random tokens as its data."""
    return gpt2_small()


app = App(name="python -m benchmarks.scaling.large", version_flags=[])


@app.default
def main(file: Path) -> None:
    """Write a checkpoint of half a gigabyte: the initial weights of 124 million parameters.

    Args:
        file: File to write.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(file, gpt2_small().model.state_dict())


if __name__ == "__main__":
    app()
