"""Find the files to read in a folder of transformers or of an adapter; their digest identifies the checkpoint.

The libraries look for files by their own rules, which change from version to version. So the files are found here.
transformers gets the contents of these files and not the folder, and thus reads no file outside the digest. peft reads
the two files of an adapter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape.checkpoint.files import digest, files_in, shards_in, shards_of
from landscape.errors import InputError
from landscape.reporting.messages import cause, listed, one_line

CONFIG, ADAPTER, OPTIMIZER = "config.json", "adapter_config.json", "optimizer.pt"
_INDEX = ".index.json"
_WEIGHTS, _OF_ADAPTERS = ("model.safetensors", "pytorch_model.bin"), ("adapter_model.safetensors", "adapter_model.bin")
# Version 0.1 identified a checkpoint by all files of these names, and its records are still found by that digest.
_PATTERNS = ("*.safetensors", f"*.safetensors{_INDEX}", "*.bin", f"*.bin{_INDEX}")
_KNOWN_ADAPTERS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "VERA", "OFT", "BOFT")
_LARGEST_JSON = 2**24  # bytes
# Names of the files that tokenizers of transformers read, without chat templates.
_TOKENS = ("*token*", "*vocab*", "merges.txt", "*.model", "*.spm", "*.codes", "dict.txt", "emoji.json",
           "byte_maps.json", "normalizer.json", "word_*.json")  # fmt: skip
_NO_TOKENIZER = (".safetensors", ".bin", ".py")


@dataclass(frozen=True)
class Folder:
    """Files and settings in a folder of transformers, or in the folders of an adapter and its base model.

    Attributes:
        path: path of the folder.
        under: folder of the model; `path` itself, unless an adapter names another folder.
        adapter: file with an adapter's weights; None for a model without an adapter.
        settings: settings of the adapter if there is one, otherwise of the model.
        config: settings of the model.
        weights: files with the model's weights.
        optimizer: file with the optimiser's state, which transformers' Trainer writes beside the weights; None if there
            is none.
        files: all files that are read, and other files that version 0.1 counted as weights; the digest is of these
            files.
    """

    path: Path
    under: Path
    adapter: Path | None
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    optimizer: Path | None
    files: tuple[Path, ...]


def is_folder(path: Path) -> bool:
    """Whether a path is a folder of transformers or of an adapter."""
    return any(os.path.isfile(path / name) for name in (CONFIG, ADAPTER))  # false for a too long name


def folder_at(path: Path) -> Folder:
    """Find the files to read in a folder, without reading the weights.

    Raises:
        InputError: the folder is damaged or incomplete, names files outside itself, or is of a kind that isn't read.
    """
    adapted = (path / ADAPTER).is_file()
    settings = read_json(path / (ADAPTER if adapted else CONFIG))
    under = _under(path, settings) if adapted else path
    adapter = _adapter(path) if adapted else None
    config = read_json(under / CONFIG)
    index, weights = _weights(under, config)
    beside = {file for folder in (path, under) for pattern in _PATTERNS for file in folder.glob(pattern)}
    read = {under / CONFIG, path / (ADAPTER if adapted else CONFIG), *index, *weights, *([adapter] if adapter else [])}
    optimizer = path / OPTIMIZER if (path / OPTIMIZER).is_file() else None
    files = sorted(read | {file for file in beside if file.is_file()} | ({optimizer} if optimizer else set()))
    return Folder(path, under, adapter, settings, config, tuple(weights), optimizer, tuple(files))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a settings file.

    Raises:
        InputError: the file can't be read, is too large, or holds something other than an object.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise InputError(
                f"{path}: has {path.stat().st_size:,} bytes, too many for a configuration; save the model again"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: can't be read as JSON ({cause(error)}); save the model again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a configuration; save the model again")
    return content


def tokenizer_files(folder: Path) -> list[Path]:
    """The files in a folder that its tokenizer may read."""
    candidates = {file for pattern in _TOKENS for file in folder.glob(pattern) if file.suffix not in _NO_TOKENIZER}
    return sorted(file for file in candidates if file.is_file())


def tokenizer_digest(folder: Folder) -> str | None:
    """Digest of the tokenizer's files, which tells whether two folders have one tokenizer; None without a tokenizer."""
    files = tokenizer_files(tokenizer_place(folder))
    return digest(files) if files else None


def tokenizer_place(folder: Folder) -> Path:
    """The folder of the tokenizer: the adapter's folder if it has tokenizer files, otherwise the model's folder."""
    return folder.path if tokenizer_files(folder.path) else folder.under


def _weights(folder: Path, config: Mapping[str, Any]) -> tuple[list[Path], list[Path]]:
    """The index, if any, and the weight files: those that the configuration names, or the usual ones."""
    if (named := config.get("transformers_weights")) is not None:
        (file,) = files_in(folder, [named], folder / CONFIG)
        return ([file], shards_in(folder, file)) if file.name.endswith(_INDEX) else ([], [file])
    for name in _WEIGHTS:
        if files := shards_of(folder, name):
            return ([] if files == [folder / name] else [folder / f"{name}{_INDEX}"]), files
    raise InputError(f"{folder}: has no weights ({listed(_WEIGHTS)}, whole or with an index): save the model again")


def _adapter(path: Path) -> Path:
    """The file with an adapter's weights, looked for in the order of peft.

    Raises:
        InputError: there is no such file; peft would then take cached weights under the folder's name.
    """
    if weights := next((path / name for name in _OF_ADAPTERS if (path / name).is_file()), None):
        return weights
    raise InputError(f"{path}: has no weights of an adapter ({listed(_OF_ADAPTERS)}): save the adapter again")


def _under(path: Path, settings: Mapping[str, Any]) -> Path:
    """The folder of an adapter's base model.

    Raises:
        InputError: the folder isn't on this machine, it has an adapter of its own, or the adapter is of a kind that
            isn't known to bring only numbers.
    """
    if settings.get("peft_type") not in _KNOWN_ADAPTERS:
        raise InputError(
            f"{path / ADAPTER}: adapters of the kind {one_line(repr(settings.get('peft_type')), 80)} aren't read, "
            f"only {listed(_KNOWN_ADAPTERS, 8)}: build the model in a problem factory and name it with --problem"
        )
    named = str(settings.get("base_model_name_or_path"))
    places = [place for place in (Path(named), path / named, path) if os.path.isfile(place / CONFIG)]
    if not places:
        raise InputError(
            f"{path / ADAPTER}: its base model {one_line(repr(named), 120)} isn't a folder here (nothing is "
            "downloaded): put the base model's folder there, or write its path as base_model_name_or_path"
        )
    if not places[0].samefile(path) and (places[0] / ADAPTER).is_file():
        raise InputError(
            f"{path / ADAPTER}: its base model {places[0]} has an adapter of its own: merge that adapter into its "
            "model (merge_and_unload) and save the model again"
        )
    return places[0]
