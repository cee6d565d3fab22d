"""The command ``python -m models.densely``: train on from a checkpoint of a run, with a checkpoint of every step."""

import sys
from pathlib import Path

from cyclopts import App

from landscape.errors import InputError
from models.settings import checkpoint_path, claim, settings_of

app = App(name="python -m models.densely", version_flags=[])


@app.default
def main(checkpoint: Path, *, steps: int = 100, out: Path, threads: int = 1) -> int:
    """Repeat the training that followed a checkpoint of ``models.train``, with a checkpoint after every step.

    With as many threads as the run had, the weights are equal to the run's weights, bit for bit.

    Args:
        checkpoint: Checkpoint to start from, in the folder of its run.
        steps: Number of steps.
        out: Folder for the checkpoints; their names are step-NNNNNN.pt with the step of the run.
        threads: Number of torch's threads.
    """
    try:
        print(_repeat(checkpoint, steps, out, threads))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _repeat(checkpoint: Path, steps: int, out: Path, threads: int) -> Path:
    """Train, and return the path of the last checkpoint."""
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
