"""Read folders of transformers, and of adapters (PEFT) on a base model, as checkpoints that bring their model.

The libraries build the model from the folder's configuration. The code that runs is therefore theirs, never the
folder's. The libraries also load the weights, because the names in a file differ from those in the model.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from landscape.checkpoint import Checkpoint
from landscape.checkpoint.contents import load_pickled, load_safetensors, refuse_explosive
from landscape.checkpoint.files import digest, identity
from landscape.checkpoint.layout import as_step, find_layout, optimizer_in
from landscape.checkpoint.recognise import recognise
from landscape.errors import InputError
from landscape.loading.pretrained.bounds import built_within, refuse_endless
from landscape.loading.pretrained.files import ADAPTER, CONFIG, Folder, folder_at, read_json, tokenizer_digest
from landscape.machine.memory import half_of_memory
from landscape.reporting.messages import amount, cause, listed, one_line

# Settings that are no part of the model: they differ between the checkpoints of a run, or between machines.
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "peft_version",
                  "base_model_name_or_path", "transformers_weights"}  # fmt: skip
CLASSIFICATIONS = ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "IMAGE_CLASSIFICATION")
_EXTRA = "install it with `pip install 'landscape-probe[hugging-face]'`, or name a problem factory with --problem"


def read_folder(path: Path) -> Checkpoint:
    """Read the model that a folder describes, with its weights in the stored dtype.

    Raises:
        InputError: a library is missing, or the folder is damaged, incomplete, quantised, changed while it was read or
            needs code of its own.
    """
    folder = folder_at(path)
    before = identity(folder.files)
    model, notes = _loaded(folder)
    if folder.adapter is not None:
        model = _adapted(path, folder.adapter, folder.settings, model)
        notes += (f"the adapter's {_varying(model):,} parameters vary, those of {folder.under} are constants",)
    optimizer, optimizer_notes = _optimizer(folder.optimizer)
    sha256 = digest(folder.files)
    if identity(folder.files) != before:
        raise InputError(f"{path}: changed while it was read; wait until the job that writes it has finished")
    return Checkpoint(
        path=path,
        state={name: tensor.detach() for name, tensor in model.state_dict().items()},
        format="hugging-face" if folder.adapter is None else "adapter",
        sha256=sha256,
        step=_step(path),
        arguments={"described": _fingerprint(folder.settings, folder.config)},
        tokenizer=tokenizer_digest(folder),
        optimizer=optimizer,
        model=model,
        notes=(*notes, *optimizer_notes),
    )


def _loaded(folder: Folder) -> tuple[nn.Module, tuple[str, ...]]:
    """Load a model, or an adapter's base model, and notes; transformers gets tensors and settings, never the folder."""
    path = folder.under
    transformers = library("transformers", path)
    name = _architecture(path, folder.config)
    try:
        architecture: Any = getattr(transformers, name, None)
    except Exception as error:  # transformers imports the module of an architecture only now
        raise InputError(
            f"{path}: {name} of transformers can't be imported ({cause(error)}): install what it needs again"
        ) from error
    models: Any = transformers.PreTrainedModel
    if models not in getattr(architecture, "__mro__", ()):
        raise InputError(
            f"{path / CONFIG}: transformers {transformers.__version__} has no architecture {one_line(repr(name), 80)} "
            "(code in the folder isn't run): build the model in a problem factory and name it with --problem"
        )
    state, notes = _state(folder.weights)
    options = {"dtype": "auto", "local_files_only": True, "trust_remote_code": False}
    options |= {"attn_implementation": "eager", "experts_implementation": "eager"}  # all are twice differentiable
    try:
        with quiet(transformers), built_within(folder.config, len(state)):
            config = architecture.config_class.from_pretrained(str(path / CONFIG), local_files_only=True)
            options |= {"config": config, "state_dict": state, "output_loading_info": True}
            model, report = architecture.from_pretrained(None, **options)
    except InputError as error:
        raise InputError(f"{path / CONFIG}: {error}") from error
    except Exception as error:  # transformers raises many types for damaged folders
        raise InputError(
            f"{path}: transformers can't load it ({cause(error)}); check or save the model again"
        ) from error
    if missing := [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]:
        raise InputError(
            f"{path}: {name} has {len(missing)} tensors that aren't in its files, or are of other shapes there "
            f"({listed(sorted(missing))}): give the folder of a model that was trained with this head"
        )
    model.config.use_cache = False
    unused = sorted(report["unexpected_keys"])
    return model, (*notes, *((f"left out tensors that {name} doesn't have: {listed(unused)}",) if unused else ()))


def _state(files: Sequence[Path]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in a model's files, read as for every other checkpoint, and notes.

    Raises:
        InputError: a file is damaged, would run code, or holds something other than tensors.
    """
    state: dict[str, Tensor] = {}
    notes: tuple[str, ...] = ()
    for file in files:
        if (kind := recognise(file)) == "safetensors":
            tensors, file_notes = load_safetensors([file])
        else:
            content, file_notes = load_pickled(file, kind, allow_code_execution=False)
            layout = find_layout(content, file)
            tensors, file_notes = layout.state, (*file_notes, *layout.notes)
        state |= tensors
        notes += file_notes
    return state, notes


def _optimizer(file: Path | None) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The optimiser's ``state_dict`` in a file, or None, with notes on what was left out.

    The result is None if the file holds no ``state_dict``, is too large for the memory, or can't be read without
    running code. The model can still be measured, because few measurements need the optimiser.
    """
    if file is None:
        return None, ()
    if (size := file.stat().st_size) > half_of_memory(torch.device("cpu")):
        return None, (f"the optimiser is left out: {file} has {amount(size)}, more than half of the memory",)
    try:
        content, notes = load_pickled(file, recognise(file), allow_code_execution=False)
    except InputError as error:
        return None, (f"the optimiser is left out: {error}",)
    if optimizer := optimizer_in({"optimizer": content}):
        return optimizer, notes
    return None, (f"the optimiser is left out: {file} holds no state_dict of a torch optimiser",)


def _adapted(path: Path, weights: Path, settings: Mapping[str, Any], base: nn.Module) -> nn.Module:
    """The base model with an adapter; only the adapter's parameters vary.

    Raises:
        InputError: the adapter can't be loaded, or its file lacks some of its weights.
    """
    transformers, peft = library("transformers", path), library("peft", path)
    if (kind := recognise(weights)) != "safetensors":
        refuse_explosive(weights, kind)
    try:
        refuse_endless(_patterns(settings), [name for name, _ in base.named_modules()])
    except InputError as error:
        raise InputError(f"{path / ADAPTER}: {error}") from error
    try:
        with quiet(transformers):
            model: Any = peft.PeftModel.from_pretrained(base, str(path), is_trainable=True, local_files_only=True)
            needed = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    except Exception as error:
        raise InputError(f"{path}: peft can't load the adapter ({cause(error)}); check or save it again") from error
    if missing := sorted(needed.keys() - _state([weights])[0].keys()):
        raise InputError(
            f"{path}: the adapter has {len(missing)} tensors that aren't in {weights.name} ({listed(missing)}): "
            "save the adapter again, or give the folder of one that was trained"
        )
    return model


def _patterns(settings: Mapping[str, Any]) -> list[str]:
    """Settings of an adapter that peft matches with the names of modules as regular expressions."""
    values: list[Any] = [settings.get(key) for key in ("target_modules", "exclude_modules")]
    for key in ("modules_to_save", "layers_pattern", "rank_pattern", "alpha_pattern"):
        each = settings.get(key)
        values += each if isinstance(each, list | dict) else [each]
    return [each for each in values if isinstance(each, str)]


def _varying(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def _architecture(path: Path, config: Mapping[str, Any]) -> str:
    if config.get("quantization_config"):
        raise InputError(
            f"{path}: its weights are quantised and have no gradients: give the folder of the model from before the "
            "quantisation"
        )
    if config.get("configuration_files"):
        raise InputError(
            f"{path / CONFIG}: names other configurations for other versions of transformers (configuration_files), "
            "which aren't read: save the model again"
        )
    names = config.get("architectures")
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise InputError(f"{path / CONFIG}: names no architecture; save the model with save_pretrained()")
    return names[0]


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Suppress the progress bars, warnings and downloads of transformers.

    Problems that matter are refused, or are reported in the notes.
    """
    constants = importlib.import_module("huggingface_hub.constants")
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), patch.object(constants, "HF_HUB_OFFLINE", True):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def library(name: str, path: Path) -> Any:
    """Import a library that reading the checkpoint at a path needs.

    Raises:
        InputError: the library isn't installed, or is broken.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{path}: needs {name} to be read ({cause(error)}): {_EXTRA}") from error
    except Exception as error:  # raised by an incompatible library that it imports, such as torchvision
        raise InputError(
            f"{path}: {name} is broken here ({cause(error)}): install it and what it needs again"
        ) from error


def _fingerprint(*settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that are part of the model; equal for two folders that describe one model."""
    kept = [{key: value for key, value in each.items() if key not in _NOT_THE_MODEL} for each in settings]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _step(path: Path) -> int | None:
    """Training steps taken, from the ``trainer_state.json`` of transformers' Trainer; None without that file."""
    if not (path / "trainer_state.json").is_file():
        return None
    return as_step(read_json(path / "trainer_state.json").get("global_step"))


def heads() -> Mapping[str, set[str]]:
    """The architectures of transformers for each task.

    An architecture that is listed for two tasks, such as BART, belongs to the first of these tasks.
    """
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    tasks = ("SEQ_TO_SEQ_CAUSAL_LM", "CAUSAL_LM", "MASKED_LM", *CLASSIFICATIONS)
    return {task: set(_flat(getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES").values())) for task in tasks}


def _flat(names: Any) -> Iterator[str]:
    for name in names:
        yield from (name,) if isinstance(name, str) else name


def tokens_of(model: Any) -> int | None:
    """Number of tokens in the embedding table of a transformers model; None if it has no such table."""
    try:
        return len(model.get_input_embeddings().weight)
    except (AttributeError, NotImplementedError, TypeError):
        return None


def given_to(model: nn.Module) -> nn.Module:
    """The module whose ``forward`` defines the inputs: the model itself, or an adapter's base model."""
    return getattr(model, "get_base_model", lambda: model)()
