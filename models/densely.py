"""The command ``python -m models.densely``: trains on from a checkpoint of a run and keeps every step."""

import sys
from pathlib import Path

from cyclopts import App

from landscape.errors import InputError
from models.settings import checkpoint_path, claim, settings_of

app = App(name="python -m models.densely", version_flags=[])


@app.default
def main(checkpoint: Path, *, steps: int = 100, out: Path, threads: int = 1) -> int:
    """Repeat the training that followed a checkpoint of ``models.train``, with a checkpoint after every step.

    The weights are those of the run itself, bit for bit, with as many threads as it had.

    Args:
        checkpoint: Where to start, in the folder of its run.
        steps: How many steps.
        out: Folder for the checkpoints, step-000000.pt and so on.
        threads: Threads of torch.
    """
    try:
        print(_repeat(checkpoint, steps, out, threads))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _repeat(checkpoint: Path, steps: int, out: Path, threads: int) -> Path:
    """Train and return the last checkpoint."""
    import torch

    from models.training import TrainingRun, sizes_of

    if steps < 1 or threads < 1:
        raise InputError("give --steps 1 or more, and --threads 1 or more")
    settings = settings_of(checkpoint.parent)
    torch.set_num_threads(threads)
    run = TrainingRun.begin(settings)
    run.load(checkpoint)
    if out.resolve() == checkpoint.parent.resolve():
        raise InputError(f"{out} is the run's own folder, whose journal would be cut; choose another --out")
    claim(out, settings, sizes_of(settings))
    run.save(out)
    for _ in range(steps):
        run.advance()
        run.save(out)
    return checkpoint_path(out, run.step)


if __name__ == "__main__":
    app()
