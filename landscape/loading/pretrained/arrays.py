"""Read the user's data file, for a checkpoint that brings its model, as tensors by name."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from landscape.checkpoint.contents import load_pickled, load_safetensors
from landscape.checkpoint.recognise import recognise
from landscape.errors import InputError
from landscape.reporting.messages import amount, cause, listed

TARGETS = ("labels", "label", "target", "targets", "y")
IGNORED = -100  # target of a place that the loss ignores, as in CrossEntropyLoss and Hugging Face
_MOST_UNPACKED, _LARGE = 20, 1_000_000_000  # times a file's size, checked only for data above _LARGE bytes
KINDS = ".npz, .safetensors or .pt of named arrays, .npy or .bin of tokens, .jsonl, or .txt"


@dataclass(frozen=True)
class Arrays:
    """The contents of a data file.

    Attributes:
        inputs: tensors by the names under which the model takes them, with the sample's dimension first.
        target: tensor to predict; None if the file has none.
        texts: one text for each sample, instead of inputs or beside them.
        stream: whether the data are one long text, or one long row of tokens, to be cut into sequences.
    """

    inputs: dict[str, Tensor]
    target: Tensor | None = None
    texts: tuple[str, ...] = ()
    stream: bool = False


def read_arrays(path: str | Path) -> Arrays:
    """Read a data file by its suffix.

    ``.npz``, ``.safetensors`` and ``.pt`` hold arrays by name; an array with a name in `TARGETS` is the target.
    ``.npy`` holds tokens, (samples, length) or one row. ``.bin`` holds one row of tokens as unsigned 16-bit integers,
    as nanoGPT writes them. ``.jsonl`` holds one sample a line, with lists of numbers, or a ``text``, by name. ``.txt``
    holds one text.

    Raises:
        InputError: there is no such file, or it is of another kind, is damaged, or holds no samples.
    """
    path = Path(path).expanduser()
    if path.suffix not in _READERS:
        raise InputError(f"--data: {path} has an unknown format: give a {KINDS}")
    try:
        _check_file(path)
        arrays = _READERS[path.suffix](path)
    except InputError as error:
        raise InputError(f"--data: {path}: {error}") from error
    except Exception as error:  # every library raises its own types for damaged files
        raise InputError(f"--data: {path} can't be read ({cause(error)}); check it, or write it again") from error
    sizes = {name: len(tensor) for name, tensor in arrays.inputs.items() if tensor.ndim}
    sizes |= {"target": len(arrays.target)} if arrays.target is not None and arrays.target.ndim else {}
    sizes |= {"text": len(arrays.texts)} if arrays.texts and not arrays.stream else {}
    if not arrays.stream and len(set(sizes.values())) > 1:
        raise InputError(
            f"--data: {path} has {listed(f'{n} {name}' for name, n in sizes.items())}: give one of each for each sample"
        )
    if not (arrays.texts or any(sizes.values())):
        raise InputError(f"--data: {path} holds no samples")
    return arrays


def _check_file(path: Path) -> None:
    if not path.exists():
        raise InputError("no such file; check the path")
    if not path.is_file():
        raise InputError("is not a regular file; give a file with the samples")
    _check_size(path.stat().st_size, path)


def _check_size(needed: int, path: Path) -> None:
    """Refuse data too large for the memory, or far larger than their file."""
    half, size = psutil.virtual_memory().total // 2, path.stat().st_size
    if needed > half:
        raise InputError(f"has {amount(needed)} of data, more than half of this machine's memory; give fewer samples")
    if needed > max(_LARGE, _MOST_UNPACKED * size):
        raise InputError(
            f"would take {amount(needed)} of memory, more than {_MOST_UNPACKED} times its size; give shorter samples, "
            "or an array that isn't compressed"
        )


def _named(arrays: Mapping[str, Any]) -> Arrays:
    wrong = [name for name, value in arrays.items() if not isinstance(value, Tensor)]
    if wrong:
        raise InputError(f"{listed(wrong)} aren't arrays of numbers")
    target = next((name for name in TARGETS if name in arrays), None)
    inputs = {name: tensor for name, tensor in arrays.items() if name != target}
    return Arrays(inputs, None if target is None else arrays[target])


def _npz(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        _check_size(sum(each.file_size for each in archive.infolist()), path)
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return _named({name: torch.from_numpy(file[name]) for name in file.files})


def _safetensors(path: Path) -> Arrays:
    return _named(load_safetensors([path])[0])


def _torch(path: Path) -> Arrays:
    content, _ = load_pickled(path, recognise(path), allow_code_execution=False)
    if not isinstance(content, Mapping):
        raise InputError(f"holds a {type(content).__name__}: save a dictionary of tensors by name")
    return _named({str(name): value for name, value in content.items()})


def _tokens(tokens: np.ndarray) -> Arrays:
    if tokens.ndim not in (1, 2) or tokens.dtype.kind not in "iu":
        raise InputError(f"holds {tokens.dtype} of shape {tokens.shape}: tokens are whole numbers, (samples, length)")
    return Arrays({"input_ids": torch.from_numpy(tokens.astype(np.int64))}, stream=tokens.ndim == 1)


def _npy(path: Path) -> Arrays:
    with path.open("rb") as opened:
        return _tokens(np.load(opened, allow_pickle=False))


def _bin(path: Path) -> Arrays:
    _check_size(4 * path.stat().st_size, path)  # two bytes a token become an int64
    return _tokens(np.fromfile(path, dtype="<u2"))


def _txt(path: Path) -> Arrays:
    text = path.read_text(encoding="utf-8")
    return Arrays({}, texts=(text,) if text.strip() else (), stream=True)


def _jsonl(path: Path) -> Arrays:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        raise InputError("its lines aren't objects that all have the same names")
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
    texts = columns.pop("text", [])
    if not all(isinstance(text, str) for text in texts):
        raise InputError("a 'text' isn't a string")
    lists = (values for values in columns.values() if isinstance(values[0], list))
    _check_size(sum(8 * len(values) * max(map(len, values)) for values in lists), path)
    named = _named({name: _padded(name, values) for name, values in columns.items()})
    if "input_ids" in named.inputs and "attention_mask" not in named.inputs:
        lengths = [len(row) for row in columns["input_ids"]]
        named.inputs["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return Arrays(named.inputs, named.target, tuple(texts))


def _padded(name: str, values: list[Any]) -> Tensor:
    """Rows of different lengths as one tensor, padded with `IGNORED` if they are a target, otherwise with 0."""
    filling = IGNORED if name in TARGETS else 0
    if not isinstance(values[0], list):
        return torch.tensor(values)
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(v) for v in values], batch_first=True, padding_value=filling)


_READERS = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".npy": _npy,
    ".bin": _bin,
    ".jsonl": _jsonl,
    ".txt": _txt,
}
