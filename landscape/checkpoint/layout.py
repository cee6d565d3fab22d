"""Where the weights, the step and the optimizer lie in the dictionaries that training scripts save."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape.checkpoint.store import FORMAT, VERSION
from landscape.errors import InputError
from landscape.wording import listed, one_line

# The first of these that holds weights is taken: the weights being trained before an average of them.
WEIGHT_KEYS = (
    *("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params"),
    *("ema", "model_ema", "state_dict_ema"),
)
# An epoch is no step: how many steps it has depends on data that the file does not describe.
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
_MOST_STEPS = 2**63 - 1  # as records store them
_PLAIN = None | int | float | str | list | tuple | dict
_DEEPEST, _MOST_VALUES = 50, 10**6  # of arguments


@dataclass(frozen=True)
class Layout:
    """What was found in the object that a file holds; the fields are those of ``Checkpoint``."""

    state: dict[str, Tensor]
    format: str
    step: int | None = None
    problem: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_layout(content: object, path: Path) -> Layout:
    """Finds the weights in the object that a file holds.

    This package's own format is recognised first, then a dictionary with weights under one of ``WEIGHT_KEYS`` (the
    first that fits, in that order), then a bare state dict.

    Args:
        content: The object in the file.
        path: The file, for messages.

    Raises:
        InputError: No state dict is where training scripts put it, or it holds something other than tensors.
    """
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
    if not any(isinstance(value, Tensor) for value in content.values()):
        raise InputError(_nothing_found(content, path))
    state, notes = _weights(content, path, "the state dict")
    return Layout(state, "state_dict", notes=notes)


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
        raise InputError(f"{path}: its step is beyond what a record holds; write it with save_checkpoint")
    if not all(isinstance(each, int | float) for each in content["metrics"].values()):
        raise InputError(f"{path}: its metrics are not all numbers; write it with save_checkpoint")
    _check_plain(content["arguments"], path)
    state, notes = _weights(content["state"], path, "its state")
    return Layout(state, "landscape", notes=notes, **{key: content[key] for key in _OWN_KINDS if key != "state"})


def _check_plain(arguments: Mapping[Any, Any], path: Path) -> None:
    """Refuse arguments that comparing and storing them would not come to an end with."""
    level: list[Any] = [arguments]
    count = 0
    for _ in range(_DEEPEST):
        count += len(level)
        if wrong := [each for each in level if not isinstance(each, _PLAIN)]:
            raise InputError(
                f"{path}: its arguments have a {type(wrong[0]).__name__} in them, which is no plain value; "
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
        notes += (f"took the weights under {taken!r}, though there are some under {listed(map(repr, others))} too",)
    step, step_notes = _step(content)
    return Layout(
        state,
        f"dict[{taken!r}]",
        step=step,
        optimizer=_optimizer(content),
        notes=notes + step_notes,
    )


def _holds_weights(value: object) -> bool:
    return isinstance(value, nn.Module) or (
        isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())
    )


def _weights(
    source: nn.Module | Mapping[Any, Any], path: Path, where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a state dict, without the extra state that modules may add to it."""
    entries = source.state_dict() if isinstance(source, nn.Module) else source
    extra = dict.fromkeys(key for key in entries if isinstance(key, str) and key.split(".")[-1] == "_extra_state")
    state = {key: value for key, value in entries.items() if key not in extra}
    wrong = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        kinds = listed(f"{_shown(key)} ({type(state[key]).__name__})" for key in wrong)
        raise InputError(f"{path}: {where} has entries that are not named tensors: {kinds}; save model.state_dict()")
    if not state:
        raise InputError(f"{path}: {where} is empty, so there are no weights in it; save model.state_dict()")
    _check_dense(state, path)
    notes = (f"left aside the extra state of modules: {listed(extra)}",) if extra else ()
    return {key: value.detach() for key, value in state.items()}, notes


def _check_dense(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors without data of their own here: meta, sparse, and the shards of a distributed one."""
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
        value = content.get(key)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, int | float) and not isinstance(value, bool) and _is_step(value):
            return int(value), (f"step {int(value)} is its {key!r}",)
    if "epoch" in content:
        return None, ("the step is unknown: there is an 'epoch', but an epoch is no number of steps",)
    return None, ()


def _is_step(value: float) -> bool:
    return abs(value) <= _MOST_STEPS and value == value // 1


def _optimizer(content: Mapping[str, Any]) -> dict[str, Any] | None:
    for key in OPTIMIZER_KEYS:
        value = content.get(key)
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping) and {"state", "param_groups"} <= set(value):
            return dict(value)
    return None


def _shown(key: object) -> str:
    """A key, for messages: what isn't text or a number can take for ever to print."""
    return repr(key) if isinstance(key, str | int) else f"a {type(key).__name__}"


def _nothing_found(content: Mapping[Any, Any], path: Path) -> str:
    if not content:
        return f"{path}: holds an empty dict, so there are no weights in it; save model.state_dict()"
    keys = listed(map(_shown, content), 6)
    return (
        f"{path}: no tensors found, neither at the top nor under {listed(map(repr, WEIGHT_KEYS), 3)} usual keys; "
        f"its keys are {keys}; save model.state_dict()"
    )
