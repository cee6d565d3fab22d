"""A training that is watched: the record of `landscape.watch` in the run's folder, continued as the training is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

import landscape

if TYPE_CHECKING:
    from models.training import TrainingRun

RECORD = "watch.landscape.h5"
_SEQUENCES = 256  # of the evaluation set, fresh data of the task
_KEY = (0, 2)  # of the evaluation set's random data; the data of a step have a key of one number


@contextmanager
def watched(run: TrainingRun, folder: Path, budget: float | None) -> Iterator[None]:
    """A context in which a run is watched, and its checkpoints have the watch's state beside them.

    Args:
        run: at the step at which it begins or goes on.
        folder: of the run.
        budget: see `landscape.watch`; None for an unwatched run.

    Raises:
        InputError: the record can't be made.
    """
    if budget is None:
        yield
        return
    data = run.draw(_SEQUENCES, _KEY)
    watch = landscape.watch(
        run.model, nn.CrossEntropyLoss(), [data], optimizer=run.optimizer, record=folder / RECORD, budget=budget
    )
    if run.step:
        state = _state(folder, run.step)
        if state.exists():
            watch.load_state_dict(torch.load(state, weights_only=True))
        else:
            watch.resume(run.step)
    run.watch = watch
    try:
        with watch:
            yield
    finally:
        run.watch = None


def save_watch(run: TrainingRun, folder: Path) -> None:
    """Write the watch's state beside the checkpoint of this step, and remove the state of the checkpoint before.

    A run goes on from checkpoints at the ends of epochs, so other checkpoints have none. Call this before the
    checkpoint is written: a checkpoint without a state would lose what the watch knew.
    """
    if run.watch is None or run.step % run.settings.steps_per_epoch:
        return
    states = sorted(folder.glob("watch-*.pt"))
    path, temporary = _state(folder, run.step), folder / "watch.tmp"
    torch.save(run.watch.state_dict(), temporary)
    temporary.replace(path)
    for older in states[:-1]:  # the last one is of the checkpoint that is still the newest
        older.unlink()


def _state(folder: Path, step: int) -> Path:
    return folder / f"watch-{step:06d}.pt"
