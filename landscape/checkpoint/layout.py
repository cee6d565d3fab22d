"""Find the weights, the step and the optimizer state in the dictionaries that training scripts save."""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape.checkpoint.stand_ins import as_tensor
from landscape.checkpoint.store import FORMAT, VERSION
from landscape.errors import InputError
from landscape.reporting.messages import counted, listed, one_line

# The first key that holds weights is taken. The trained weights come before an average of them.
WEIGHT_KEYS = (
    *("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params"),
    *("ema", "model_ema", "state_dict_ema"),
)
# An epoch is not a step: its number of steps depends on the data, which the file does not describe.
STEP_KEYS = ("step", "global_step", "iteration", "iter_num", "iter")
OPTIMIZER_KEYS = (
    *("optimizer", "optimizer_state_dict", "optimizer_states", "optimizers"),
    *("optim", "optim_state_dict", "opt"),
)

_OWN_KINDS: dict[str, Any] = {
    "state": dict,
    "step": int | None,
    "optimizer": dict | None,
    "problem": str | None,
    "arguments": dict,
    "metrics": dict,
}
_MOST_STEPS = 2**63 - 1  # records store steps as int64
_PLAIN = None | int | float | str | list | tuple | dict
_DEEPEST, _MOST_VALUES = 50, 10**6  # of arguments: levels of nesting, and values


@dataclass(frozen=True)
class Layout:
    """The weights and other entries found in the object of a file; the fields are those of ``Checkpoint``."""

    state: dict[str, Tensor]
    format: str
    step: int | None = None
    problem: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Where:
    """Where the weights and the step lie in a file, as the user gives it; by default under their usual names.

    Attributes:
        weights: keys that lead to the weights, joined by dots, such as ``ema`` or ``state.model``.
        strip_prefix: prefix of the names to take, such as ``backbone.``. The prefix is removed, and tensors with other
            names are left out.
        step_from: ``name`` for the last number in the file's name, or keys that lead to the step, such as ``epoch``.
    """

    weights: str | None = None
    strip_prefix: str | None = None
    step_from: str | None = None

    def identity(self, digest: str) -> str:
        """SHA-256 that identifies the weights taken from a file with this digest.

        The result is the digest itself by default. If ``weights`` or ``strip_prefix`` is set, both are hashed with the
        digest.
        """
        if self.weights is None and self.strip_prefix is None:
            return digest
        return hashlib.sha256(f"{digest}:{self.weights!r}:{self.strip_prefix!r}".encode()).hexdigest()


AS_USUAL = Where()


def find_layout(content: object, path: Path, where: Where = AS_USUAL) -> Layout:
    """Find the weights in the object that a file holds.

    This package's own format is recognised first, then a dictionary with weights under one of ``WEIGHT_KEYS`` (the
    first key that holds weights), then a bare state dict.

    Args:
        content: The object in the file.
        path: Path of the file, for messages.
        where: The user's choice of keys and prefix.

    Raises:
        InputError: No state dict is under the given or usual keys, or the state dict holds something other than
            tensors.
    """
    layout = _found(content, path, where.weights)
    if where.strip_prefix is not None:
        layout = stripped(layout, path, where.strip_prefix)
    if where.step_from is not None:
        layout = replace(layout, step=_given_step(content, path, where.step_from))
    return layout


def stripped(layout: Layout, path: Path, prefix: str) -> Layout:
    """Keep the tensors whose names begin with a prefix, and remove the prefix from their names.

    Raises:
        InputError: No name begins with the prefix.
    """
    state = {name.removeprefix(prefix): each for name, each in layout.state.items() if name.startswith(prefix)}
    if not state:
        raise InputError(
            f"{path}: no name of its weights begins with {prefix!r} (--strip-prefix); its names are "
            f"{listed(layout.state, 6)}"
        )
    left = len(layout.state) - len(state)
    notes = (f"left out {counted(left, 'tensor')} whose names don't begin with {prefix!r}",) if left else ()
    return replace(layout, state=state, notes=layout.notes + notes)


def _given_step(content: object, path: Path, step_from: str) -> int:
    if step_from == "name":
        numbers = re.findall(r"[0-9]+", path.stem)
        value: object = int(numbers[-1]) if numbers else None
    else:
        value = _under(content, step_from, path, "--step-from")
    step = as_step(value)
    if step is None:
        raise InputError(f"{path}: --step-from {step_from} leads to no whole number")
    return step


def _under(content: object, keys: str, path: Path, option: str) -> object:
    """The value under keys joined by dots; keys that are numbers or contain dots are tried too."""
    if isinstance(content, Mapping):
        for key in content:
            if str(key) == keys:
                return content[key]
            if keys.startswith(f"{key}."):
                with contextlib.suppress(InputError):
                    return _under(content[key], keys.removeprefix(f"{key}."), path, option)
    available = f"its keys are {listed(map(_shown, content), 6)}" if isinstance(content, Mapping) else "it has no keys"
    raise InputError(f"{path}: nothing under {keys!r} ({option}); {available}")


def _found(content: object, path: Path, weights: str | None) -> Layout:
    if weights is not None:
        state, notes = _weights(_tensors_under(content, weights, path), path, f"the value under {weights!r}")
        whole: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
        step, step_notes = _step(whole)
        return Layout(state, f"dict[{weights!r}]", step, optimizer=optimizer_in(whole), notes=notes + step_notes)
    if isinstance(content, nn.Module):
        state, notes = _weights(content, path, "the model")
        return Layout(state, "nn.Module", notes=notes)
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    if content.get("format") == FORMAT:
        return _own(content, path)
    candidates = [key for key in WEIGHT_KEYS if _holds_weights(content.get(key))]
    if candidates:
        return _training_dict(content, candidates, path)
    if not any(isinstance(as_tensor(value), Tensor) for value in content.values()):
        raise InputError(_nothing_found(content, path))
    state, notes = _weights(content, path, "the state dict")
    return Layout(state, "state_dict", notes=notes)


def _tensors_under(content: object, weights: str, path: Path) -> nn.Module | Mapping[Any, Any]:
    value = _under(content, weights, path, "--weights")
    if not isinstance(value, nn.Module | Mapping):
        raise InputError(f"{path}: under {weights!r} is a {type(value).__name__}, not a state dict (--weights)")
    return value


def _own(content: Mapping[str, Any], path: Path) -> Layout:
    version = content.get("version")
    if version != VERSION:
        raise InputError(
            f"{path}: is in version {one_line(version)} of the checkpoint format, and this release reads version "
            f"{VERSION}; upgrade landscape-probe"
        )
    wrong = [key for key, kind in _OWN_KINDS.items() if key not in content or not isinstance(content[key], kind)]
    if wrong:
        raise InputError(f"{path}: its {listed(wrong)} is missing or of the wrong type; write it with save_checkpoint")
    if abs(content["step"] or 0) > _MOST_STEPS:
        raise InputError(f"{path}: its step is too large for a record; write it with save_checkpoint")
    if not all(isinstance(each, int | float) for each in content["metrics"].values()):
        raise InputError(f"{path}: its metrics are not all numbers; write it with save_checkpoint")
    _check_plain(content["arguments"], path)
    state, notes = _weights(content["state"], path, "its state")
    return Layout(state, "landscape", notes=notes, **{key: content[key] for key in _OWN_KINDS if key != "state"})


def _check_plain(arguments: Mapping[Any, Any], path: Path) -> None:
    """Refuse arguments with values that are not plain, too deeply nested, or too many to compare and store."""
    level: list[Any] = [arguments]
    count = 0
    for _ in range(_DEEPEST):
        count += len(level)
        if wrong := [each for each in level if not isinstance(each, _PLAIN)]:
            raise InputError(
                f"{path}: its arguments have a {type(wrong[0]).__name__} in them, which is not a plain value; "
                "write it with save_checkpoint"
            )
        level = list(islice((item for each in level for item in _items(each)), _MOST_VALUES + 1))
        if not level or count > _MOST_VALUES:
            break
    if level:
        raise InputError(
            f"{path}: its arguments are more than {_DEEPEST} levels deep, or more than {_MOST_VALUES:,} values; "
            "write plain ones with save_checkpoint"
        )


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _training_dict(content: Mapping[str, Any], candidates: list[str], path: Path) -> Layout:
    taken, *others = candidates
    state, notes = _weights(content[taken], path, f"the dict under {taken!r}")
    if others:
        more = listed(map(repr, others))
        notes += (f"took the weights under {taken!r}; there are others under {more} (--weights chooses)",)
    step, step_notes = _step(content)
    return Layout(
        state,
        f"dict[{taken!r}]",
        step=step,
        optimizer=optimizer_in(content),
        notes=notes + step_notes,
    )


def _holds_weights(value: object) -> bool:
    return isinstance(value, nn.Module) or (
        isinstance(value, Mapping) and any(isinstance(as_tensor(item), Tensor) for item in value.values())
    )


def _weights(
    source: nn.Module | Mapping[Any, Any], path: Path, where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a state dict, without the extra state of modules, and notes."""
    entries = source.state_dict() if isinstance(source, nn.Module) else source
    entries = {key: as_tensor(value) for key, value in entries.items()}
    averages = entries.pop("n_averaged", None) if _is_average(entries) else None
    extra = dict.fromkeys(key for key in entries if isinstance(key, str) and key.split(".")[-1] == "_extra_state")
    state = {key: value for key, value in entries.items() if key not in extra}
    wrong = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        kinds = listed(f"{_shown(key)} ({type(state[key]).__name__})" for key in wrong)
        raise InputError(f"{path}: {where} has entries that are not named tensors: {kinds}; save model.state_dict()")
    if not state:
        raise InputError(f"{path}: {where} is empty, so there are no weights in it; save model.state_dict()")
    _check_dense(state, path)
    notes: tuple[str, ...] = (f"left out the extra state of modules: {listed(extra)}",) if extra else ()
    if averages is not None:
        notes += (f"is an average over {int(averages)} models (AveragedModel)",)
    if eighths := [key for key, value in state.items() if value.is_floating_point() and value.dtype.itemsize == 1]:
        notes += (
            f"converted {counted(len(eighths), 'tensor')} of {state[eighths[0]].dtype} to float32, without any "
            "scale factor",
        )
    return {key: value.detach().float() if key in eighths else value.detach() for key, value in state.items()}, notes


def _is_average(entries: Mapping[Any, Any]) -> bool:
    """Whether the entries are the weights of a `torch.optim.swa_utils.AveragedModel`, which counts its models."""
    count = entries.get("n_averaged")
    named = all(isinstance(key, str) and key.startswith("module.") for key in entries if key != "n_averaged")
    return isinstance(count, Tensor) and count.numel() == 1 and named


def _check_dense(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not plain and dense: meta, sparse, and the shards of a distributed tensor."""
    plain = (Tensor, nn.Parameter, nn.Buffer)
    wrong = [
        f"{key} ({type(value).__name__} on {value.device}, {value.layout})"
        for key, value in state.items()
        if value.layout is not torch.strided or value.is_meta or type(value) not in plain
    ]
    if wrong:
        raise InputError(f"{path}: not plain dense tensors: {listed(wrong)}; save the full, dense state dict")


def _step(content: Mapping[str, Any]) -> tuple[int | None, tuple[str, ...]]:
    for key in STEP_KEYS:
        if (step := as_step(content.get(key))) is not None:
            return step, (f"step {step} is the file's {key!r}",)
    if "epoch" in content:
        return None, ("the step is unknown: there is an 'epoch', but an epoch is not a number of steps",)
    return None, ()


def as_step(value: object) -> int | None:
    """A number of steps as an int that a record can hold; None for anything else, including True and NaN."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if abs(value) <= _MOST_STEPS and value == value // 1 else None


def optimizer_in(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The optimiser's ``state_dict`` in the dictionary of a training script; None if there is none."""
    for key in OPTIMIZER_KEYS:
        value = content.get(key)
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping) and {"state", "param_groups"} <= set(value):
            return dict(value)
    return None


def _shown(key: object) -> str:
    """A key for messages. Only text and integers are printed, because other keys can take forever to print."""
    return repr(key) if isinstance(key, str | int) else f"a {type(key).__name__}"


def _deeper(content: Mapping[Any, Any], levels: int = 3) -> list[str]:
    """Dotted keys under which nested dictionaries hold tensors, at most three, down to ``levels`` levels."""
    places: list[str] = []
    for key, value in islice(content.items(), 1000):
        if not (isinstance(key, str) and isinstance(value, Mapping)):
            continue
        below = _deeper(value, levels - 1) if levels else []
        places += [key] if _holds_weights(value) else [f"{key}.{each}" for each in below]
    return places[:3]


def _nothing_found(content: Mapping[Any, Any], path: Path) -> str:
    if not content:
        return f"{path}: holds an empty dict, so there are no weights in it; save model.state_dict()"
    keys = listed(map(_shown, content), 6)
    if deeper := _deeper(content):
        names = " or ".join(map(one_line, deeper))
        return f"{path}: its weights are under unusual keys: name the weights by --weights {names}"
    return (
        f"{path}: no tensors found, neither at the top nor under {listed(map(repr, WEIGHT_KEYS), 3)} usual keys; "
        f"its keys are {keys}; save model.state_dict()"
    )
