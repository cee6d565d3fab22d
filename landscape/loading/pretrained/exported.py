"""Read programs of ``torch.export`` (.pt2) as checkpoints that bring their model, without the class of the model."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram, unflatten

from landscape.checkpoint import Checkpoint
from landscape.errors import InputError
from landscape.loading.pretrained.archive import plain_archive
from landscape.reporting.messages import cause

SUFFIX = ".pt2"


def is_program(path: Path) -> bool:
    """Whether a path is a file with the suffix that ``torch.export.save`` asks for."""
    return path.suffix == SUFFIX and os.path.isfile(path)  # false for a too long name


@dataclass(frozen=True)
class Exported(Checkpoint):
    """A checkpoint that is an exported program, and the inputs with which the program is called.

    Attributes:
        inputs: names of the program's inputs, in their order.
        by_name: whether the inputs are keyword arguments.
        batch: the fixed number of samples that the program takes; None if it takes any number.
    """

    inputs: tuple[str, ...] = ()
    by_name: bool = False
    batch: int | None = None


def read_program(path: Path) -> Exported:
    """Read an exported program as a model, with the modules and names of the model that was exported.

    Raises:
        InputError: the file is damaged, or does more than a plain model.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({cause(error)}); check the path and its permissions") from error
    try:
        plain, graph = plain_archive(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(plain))
            model = unflatten(program)
        called = _called_with(program)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes raise nearly every type of exception
        raise InputError(
            f"{path}: is no program of torch.export, or damaged, or of another version of torch ({cause(error)}); "
            "export it again"
        ) from error
    return Exported(
        path=path,
        state={name: tensor.detach() for name, tensor in model.state_dict().items()},
        format="exported program",
        sha256=hashlib.sha256(content).hexdigest(),
        arguments={"described": graph},
        model=model,
        **called,
    )


def _called_with(program: ExportedProgram) -> dict[str, Any]:
    """The fields of `Exported` that describe how the program is called."""
    inputs = program.graph_signature.user_inputs
    positional, keywords = program.call_spec.in_spec.children()
    if positional.num_leaves and keywords.num_leaves:
        raise InputError("takes positional and keyword arguments: export it with one kind of these")
    by_name = keywords.num_leaves > 0
    sizes = [
        node.meta["val"].shape[0]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in inputs and node.meta["val"].ndim
    ]
    fixed = next((int(size) for size in sizes if isinstance(size, int)), None)
    return {"inputs": tuple(keywords.context if by_name else inputs), "by_name": by_name, "batch": fixed}
