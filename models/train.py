"""The command ``python -m models.train``: train one model, with checkpoints along the way."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from landscape.errors import InputError
from models.settings import TrainingSettings, newest_checkpoint

app = App(name="python -m models.train", version_flags=[])


@app.default
def main(
    settings: Annotated[TrainingSettings, Parameter(name="*")],
    *,
    out: Path,
    threads: int = 1,
    watch: float | None = None,
) -> int:
    """Train a model with Adam on fresh data and write checkpoints into a folder.

    An interrupted run can be continued by the same command. The run continues from the newest checkpoint at the end of
    an epoch and reaches the weights of an uninterrupted run, bit for bit.

    Args:
        settings: Settings of the run.
        out: Folder for the checkpoints, step-000000.pt and so on.
        threads: Number of torch's threads; another number may change the last bits of the results.
        watch: Share of the training's work that is spent on measuring its landscape, such as 0.05, into
            watch.landscape.h5 in the folder. The weights don't change by it.
    """
    try:
        _train(settings, out, threads, watch)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {out} can't be written to ({error}); choose another --out", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        newest = newest_checkpoint(out, settings.steps_per_epoch)
        start = f"after {newest.name}" if newest else "at the start"
        print(f"interrupted; the same command continues {start} in {out}", file=sys.stderr)
        return 130
    return 0


def _train(settings: TrainingSettings, out: Path, threads: int, watch: float | None) -> None:
    """Train with a progress bar, and print the path of the last checkpoint."""
    import torch

    from models.training import train

    if threads < 1:
        raise InputError(f"torch cannot compute with {threads} threads; give --threads 1 or more")
    torch.set_num_threads(threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(
            f"{settings.model} on {settings.task}", total=settings.epochs * settings.steps_per_epoch
        )
        last = train(settings, out, lambda step: progress.update(bar, completed=step), watch)
    print(last)


if __name__ == "__main__":
    app()
