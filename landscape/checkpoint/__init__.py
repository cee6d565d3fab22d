"""Checkpoints: write them in one format, read every usual format without running code, and fit them to a model."""

from landscape.checkpoint.fit import fit_state, fitting_names
from landscape.checkpoint.layout import OPTIMIZER_KEYS
from landscape.checkpoint.read import read_checkpoint
from landscape.checkpoint.store import Checkpoint, is_problem_name, save_checkpoint

__all__ = [
    "OPTIMIZER_KEYS",
    "Checkpoint",
    "fit_state",
    "fitting_names",
    "is_problem_name",
    "read_checkpoint",
    "save_checkpoint",
]
