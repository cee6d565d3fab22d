"""The `Checkpoint` class, and the one checkpoint format that this package writes."""

import contextlib
import numbers
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.reporting.messages import cause, one_line

FORMAT = "landscape-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a model at one step of its training, and the entries stored with them.

    Attributes:
        path: Path of the checkpoint's file or folder.
        state: Parameters and buffers by name, on the CPU, in the file's dtypes (8-bit floats become float32).
        format: Recognised format: ``landscape``, ``state_dict``, ``dict['model']``, ``safetensors``, ...
        sha256: SHA-256 of the file's bytes, in hexadecimal; see `landscape.checkpoint.files.digest` for several files,
            and `landscape.checkpoint.layout.Where.identity` for weights that a user chose.
        step: Training steps taken; None if the file doesn't give them.
        problem: A *name* to look up in the project's pyproject.toml, never a path to code.
        arguments: Keyword arguments for the problem's factory, as plain values.
        optimizer: The optimizer's ``state_dict``; None if the file has none.
        metrics: Numbers stored with the weights, by name.
        model: The model with these weights; None unless the checkpoint brings its model.
        tokenizer: SHA-256 of the tokenizer's files; None unless the checkpoint brings a tokenizer.
        notes: What was done to read the file, a sentence each.
    """

    path: Path
    state: dict[str, Tensor]
    format: str
    sha256: str
    step: int | None = None
    problem: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    model: nn.Module | None = None
    tokenizer: str | None = None
    notes: tuple[str, ...] = ()


def is_problem_name(name: object) -> bool:
    """Whether ``name`` can be a name in pyproject.toml (a bare TOML key), and so cannot be a path to code."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None


def save_checkpoint(
    path: str | Path,
    state: Mapping[str, Tensor],
    *,
    step: int | None = None,
    optimizer: Mapping[str, Any] | None = None,
    problem: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Write a checkpoint that ``read_checkpoint`` reads without running code.

    The file appears complete or not at all. It is written under a temporary name beside ``path``, synchronised to the
    disk and renamed. Missing folders are made.

    Args:
        path: Path of the file to write; an existing file is replaced.
        state: ``model.state_dict()``; the tensors may be on any device.
        step: Training steps taken.
        optimizer: ``optimizer.state_dict()``.
        problem: A name under ``[tool.landscape.problems]`` in the project's pyproject.toml.
        arguments: Keyword arguments for that problem's factory: numbers, strings, booleans, None, and lists, tuples and
            dicts of them.
        metrics: Numbers to keep beside the weights, such as the loss.

    Returns:
        ``path``.

    Raises:
        InputError: A value could not be read back without running code, ``problem`` is not a name, or the file cannot
            be written.
    """
    path = Path(path)
    if problem is not None and not is_problem_name(problem):
        raise InputError(
            f"{path}: problem={problem!r} is not a name; give a name of letters, digits, '_' and '-' "
            "and write where it is under [tool.landscape.problems] in pyproject.toml"
        )
    content = {
        "format": FORMAT,
        "version": VERSION,
        "state": {_string(name, path, "state"): _tensor(value, path, name) for name, value in state.items()},
        "step": None if step is None else int(step),
        "optimizer": None if optimizer is None else _plain(optimizer, path, "optimizer", tensors=True),
        "problem": problem,
        "arguments": _plain(arguments or {}, path, "arguments"),
        "metrics": {_string(name, path, "metrics"): float(value) for name, value in (metrics or {}).items()},
    }
    _write(path, content)
    return path


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be written: {cause(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # the file was renamed, or never made
            partial.unlink()


def _tensor(value: object, path: Path, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(f"{path}: state[{name!r}] is a {type(value).__name__}, not a tensor; give model.state_dict()")
    return value.detach().cpu()


def _string(name: object, path: Path, where: str) -> str:
    if not isinstance(name, str):
        raise InputError(f"{path}: {where} has the key {one_line(repr(name))}; keys must be strings")
    return name


def _plain(value: Any, path: Path, where: str, tensors: bool = False) -> Any:
    """A copy of ``value`` in built-in types, which ``torch.load(weights_only=True)`` reads back."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Real):  # also a NumPy scalar, which a learning-rate schedule may leave behind
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, str):
        return str.__str__(value)  # the value of a string enumeration
    if tensors and isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {_key(key, path, where): _plain(item, path, f"{where}[{key!r}]", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, path, f"{where}[{i}]", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise InputError(
        f"{path}: {one_line(where)} is a {type(value).__name__}, which cannot be read back without running code; "
        "give plain numbers, strings, lists or dicts"
    )


def _key(key: object, path: Path, where: str) -> str | int:
    if type(key) not in (str, int):
        raise InputError(
            f"{path}: {one_line(where)} has the key {one_line(repr(key))}; keys must be strings or whole numbers"
        )
    return key  # type: ignore[return-value]
