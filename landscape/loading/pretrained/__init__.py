"""Checkpoints that bring their model: folders of Hugging Face, adapters, and programs of torch.export."""

from __future__ import annotations

from pathlib import Path

from landscape.checkpoint import Checkpoint
from landscape.loading.pretrained.exported import is_program, read_program
from landscape.loading.pretrained.files import is_folder
from landscape.loading.pretrained.hugging_face import read_folder
from landscape.loading.pretrained.problem import PretrainedInputs

__all__ = ["PretrainedInputs", "brings_model", "read_with_model"]


def brings_model(path: Path) -> bool:
    """Whether the checkpoint at a path brings its model."""
    return is_folder(path) or is_program(path)


def read_with_model(path: Path) -> Checkpoint:
    """Read a checkpoint together with its model.

    Raises:
        InputError: the checkpoint is damaged or incomplete, or needs a library that isn't installed or code that isn't
            run.
    """
    return read_program(path) if is_program(path) else read_folder(path)
