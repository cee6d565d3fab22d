"""Checkpoints a few steps apart late in training, which the runs themselves don't keep."""

from __future__ import annotations

from pathlib import Path

from landscape.checkpoint import read_checkpoint
from models.settings import TrainingSettings, checkpoint_path
from models.training import TrainingRun


def continue_training(checkpoint: Path, folder: Path, apart: int, pairs: int) -> list[Path]:
    """Train on from a checkpoint of a model with its default settings; what is there already is kept.

    Args:
        checkpoint: with the state of its optimiser.
        folder: for the snapshots.
        apart: steps between two snapshots.
        pairs: of successive snapshots, so that there is one snapshot more.

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
