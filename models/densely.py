"""The command ``python -m models.densely``: trains on from a checkpoint of a run and keeps every step."""

import json
import sys
from dataclasses import fields
from pathlib import Path

from cyclopts import App

from landscape.errors import InputError
from models.settings import SETTINGS_FILE, SwitchSettings, TrainingSettings, checkpoint_path, claim

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

    from models.registry import complete_sizes
    from models.training import Run

    if steps < 1 or threads < 1:
        raise InputError("give --steps 1 or more, and --threads 1 or more")
    settings = _settings_of(checkpoint)
    torch.set_num_threads(threads)
    run = Run.begin(settings)
    run.load(checkpoint)
    claim(out, settings, complete_sizes(settings.model, **settings.sizes()))
    run.save(out)
    for _ in range(steps):
        run.advance()
        run.save(out)
    return checkpoint_path(out, run.step)


def _settings_of(checkpoint: Path) -> TrainingSettings:
    """Return the settings of the run that a checkpoint lies in.

    Raises:
        InputError: If there are none.
    """
    file = checkpoint.parent / SETTINGS_FILE
    try:
        stored = json.loads(file.read_text())
        known = {each.name: stored[each.name] for each in fields(TrainingSettings) if each.name in stored}
        switch = known.get("switch")
        return TrainingSettings(**known | {"switch": None if switch is None else SwitchSettings(**switch)})
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file} can't be read as a run's settings: name a checkpoint in its run's folder") from error


if __name__ == "__main__":
    app()
