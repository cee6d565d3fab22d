"""Folders of Hugging Face's transformers, and of adapters (PEFT) on top of one, as checkpoints that bring their model.

The libraries build the model from the folder's configuration, so that its code is theirs and never the folder's, and
give it the weights, since their names in a file differ from those in the model.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

from landscape.checkpoint import Checkpoint
from landscape.checkpoint.contents import refuse_explosive
from landscape.checkpoint.files import digest, identity, shards_of
from landscape.checkpoint.recognise import recognise
from landscape.errors import InputError
from landscape.wording import cause, listed, one_line

CONFIG, ADAPTER = "config.json", "adapter_config.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
# What differs between the checkpoints of a run, or between machines, and is no part of the model.
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "peft_version",
                  "base_model_name_or_path"}  # fmt: skip
_ADAPTERS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "VERA", "OFT", "BOFT")
CLASSIFICATIONS = ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "IMAGE_CLASSIFICATION")
_LARGEST_JSON = 2**24
_EXTRA = "install it with `pip install 'landscape-probe[hugging-face]'`, or name a problem factory with --problem"


def is_folder(path: Path) -> bool:
    """Whether a path is a folder of transformers or of an adapter."""
    return any(os.path.isfile(path / name) for name in (CONFIG, ADAPTER))  # false for a name too long


def read_folder(path: Path) -> Checkpoint:
    """The model that a folder describes, with its weights, in the precision in which they are stored.

    Raises:
        InputError: a library is missing, or the folder is damaged, incomplete, quantised or needs code of its own.
    """
    adapted = (path / ADAPTER).is_file()
    settings = _json(path / (ADAPTER if adapted else CONFIG))
    under = _under(path, settings) if adapted else path
    files = sorted({*_files(path), *_files(under)})
    before = identity(files)
    for folder in {path, under}:
        _refuse_hostile(folder)
    model, notes = _loaded(under)
    if adapted:
        model = _adapted(path, model)
        notes += (f"the adapter's {_varying(model):,} parameters vary, those of {under} are constants",)
    sha256 = digest(files)
    if identity(files) != before:
        raise InputError(f"{path}: changed while it was read; wait until the job that writes it has finished")
    return Checkpoint(
        path=path,
        state={name: tensor.detach() for name, tensor in model.state_dict().items()},
        format="adapter" if adapted else "hugging-face",
        sha256=sha256,
        step=_step(path),
        arguments={"described": _fingerprint(settings, _json(under / CONFIG))},
        model=model,
        notes=notes,
    )


def _refuse_hostile(path: Path) -> None:
    """Refuse indices that lead out of a folder, and pickles that explode; the libraries look for neither."""
    shards_of(path)
    for pickled in (*shards_of(path, "pytorch_model.bin"), path / "adapter_model.bin"):
        if pickled.is_file() and (kind := recognise(pickled)) != "safetensors":
            refuse_explosive(pickled, kind)


def _loaded(path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    transformers, config = _library("transformers", path), _json(path / CONFIG)
    name = _architecture(path, config)
    architecture: Any = getattr(transformers, name, None)
    models: Any = transformers.PreTrainedModel
    if models not in getattr(architecture, "__mro__", ()):
        raise InputError(
            f"{path / CONFIG}: transformers {transformers.__version__} has no architecture {one_line(repr(name), 80)} "
            "(code in the folder isn't run): build the model in a problem factory and name it with --problem"
        )
    options = {"dtype": "auto", "local_files_only": True, "trust_remote_code": False}
    options |= {"attn_implementation": "eager", "experts_implementation": "eager"}  # all have two derivatives
    try:
        with quiet(transformers):
            model, report = architecture.from_pretrained(str(path), **options, output_loading_info=True)
    except Exception as error:  # it has many for damaged folders
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
    return model, (f"left aside what {name} doesn't have: {listed(unused)}",) if unused else ()


def _under(path: Path, settings: Mapping[str, Any]) -> Path:
    """The folder of the model under an adapter.

    Raises:
        InputError: it isn't here, or the adapter is of a kind that isn't known to bring only numbers.
    """
    if settings.get("peft_type") not in _ADAPTERS:
        raise InputError(
            f"{path / ADAPTER}: adapters of the kind {one_line(repr(settings.get('peft_type')), 80)} aren't read, but "
            f"{listed(_ADAPTERS, 8)}: build the model in a problem factory and name it with --problem"
        )
    named = str(settings.get("base_model_name_or_path"))
    places = [place for place in (Path(named), path / named, path) if os.path.isfile(place / CONFIG)]
    if not places:
        raise InputError(
            f"{path / ADAPTER}: the model under it, {one_line(repr(named), 120)}, isn't a folder here (nothing is "
            "downloaded): put its folder there, or write its path as base_model_name_or_path"
        )
    return places[0]


def _adapted(path: Path, base: nn.Module) -> nn.Module:
    """A model with an adapter, whose parameters alone vary."""
    transformers, peft = _library("transformers", path), _library("peft", path)
    try:
        with quiet(transformers):
            model = peft.PeftModel.from_pretrained(base, str(path), is_trainable=True, local_files_only=True)
    except Exception as error:
        raise InputError(f"{path}: peft can't load the adapter ({cause(error)}); check or save it again") from error
    return model


def _varying(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def _architecture(path: Path, config: Mapping[str, Any]) -> str:
    if config.get("quantization_config"):
        raise InputError(
            f"{path}: its weights are quantised, which have no gradients: give the folder of the model before that"
        )
    names = config.get("architectures")
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise InputError(f"{path / CONFIG}: names no architecture; save the model with save_pretrained()")
    return names[0]


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without its progress bars, warnings and downloads: what matters of these is refused, or among the notes."""
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


def _library(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{path}: needs {name} to be read ({cause(error)}): {_EXTRA}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise InputError(f"{path}: has {path.stat().st_size:,} bytes, which is no configuration")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: can't be read as JSON ({cause(error)}); save the model again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a configuration; save the model again")
    return content


def _fingerprint(*settings: Mapping[str, Any]) -> str:
    """By which two folders are known to describe one model."""
    kept = [{key: value for key, value in each.items() if key not in _NOT_THE_MODEL} for each in settings]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    """What makes up the model: its configuration and weights."""
    found = {file for pattern in (CONFIG, ADAPTER, *_WEIGHTS) for file in path.glob(pattern) if file.is_file()}
    return sorted(found)


def _step(path: Path) -> int | None:
    """The steps taken, by the journal that transformers' Trainer puts into the folder."""
    if not (path / "trainer_state.json").is_file():
        return None
    step = _json(path / "trainer_state.json").get("global_step")
    return step if isinstance(step, int) else None


def tokenizer_of(path: Path, needed: bool) -> Any:
    """The tokenizer of a folder; None where there is none and it isn't needed.

    Raises:
        InputError: it is needed, and there is none or it needs code of its own.
    """
    transformers = _library("transformers", path)
    try:
        with quiet(transformers):
            return transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        if not needed:
            return None
        raise InputError(
            f"{path}: has no tokenizer to read text with ({cause(error)}): give tokens as --data"
        ) from error


def heads() -> Mapping[str, set[str]]:
    """What each architecture of transformers predicts; one that is in two lists, as BART is, by the first."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    tasks = ("SEQ_TO_SEQ_CAUSAL_LM", "CAUSAL_LM", "MASKED_LM", *CLASSIFICATIONS)
    return {task: set(_flat(getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES").values())) for task in tasks}


def _flat(names: Any) -> Iterator[str]:
    for name in names:
        yield from (name,) if isinstance(name, str) else name


def given_to(model: nn.Module) -> nn.Module:
    """The module whose ``forward`` says which inputs there are: the one under an adapter."""
    return getattr(model, "get_base_model", lambda: model)()
