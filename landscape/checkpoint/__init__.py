"""Checkpoints: written in one format, read from every usual one without running code, and fitted to a model."""

from landscape.checkpoint.fit import fit_state
from landscape.checkpoint.read import read_checkpoint
from landscape.checkpoint.store import Checkpoint, is_problem_name, save_checkpoint

__all__ = ["Checkpoint", "fit_state", "is_problem_name", "read_checkpoint", "save_checkpoint"]
