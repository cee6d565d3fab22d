"""Checkpoints a few steps apart late in training; training runs themselves keep fewer checkpoints."""

from __future__ import annotations

from pathlib import Path

from landscape.checkpoint import read_checkpoint
from models.settings import TrainingSettings, checkpoint_path
from models.training import TrainingRun


def continue_training(checkpoint: Path, folder: Path, apart: int, pairs: int) -> list[Path]:
    """Continue the training of a model with default settings and save snapshots, unless all of them exist.

    Args:
        checkpoint: file of the checkpoint, with the state of its optimiser.
        folder: folder of the snapshots.
        apart: number of steps between two snapshots.
        pairs: number of pairs of successive snapshots; there is one snapshot more.

    Returns:
        The snapshots in order, the first a copy of the checkpoint.

    Raises:
        InputError: the checkpoint can't be continued from.
    """
    read = read_checkpoint(checkpoint)
    run = TrainingRun.begin(TrainingSettings(read.arguments["model"]))
    run.restore(checkpoint)
    snapshots = [checkpoint_path(folder, run.step + apart * i) for i in range(pairs + 1)]
    if all(path.exists() for path in snapshots):
        return snapshots
    for path in snapshots:
        while checkpoint_path(folder, run.step) != path:
            run.advance()
        run.save(folder)
    return snapshots
