"""Reads the object in a file, and never runs code from it unless that is asked for.

``torch.load(weights_only=True)`` is the gate: it builds tensors and plain containers alone, and stand-ins for other
objects where these can be left out. What a pickle names is found by reading it, which runs nothing.
"""

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from landscape.checkpoint.recognise import Kind
from landscape.checkpoint.scan import operations, refuse_bombs
from landscape.checkpoint.stand_ins import left_out, stand_ins
from landscape.errors import InputError
from landscape.reporting.messages import cause, listed

_DAMAGED = "is cut short or damaged"
_AGAIN = "copy it again or take an earlier checkpoint"
_MOST_OPERATIONS = 10**6  # looked through for the names of code, of which a message has four


def load_pickled(path: Path, kind: Kind, allow_code_execution: bool) -> tuple[object, tuple[str, ...]]:
    """The object in a file of ``torch.save``, in its zip format or the one before it.

    Args:
        path: The file.
        kind: ``zip`` or ``pickle``, as recognised.
        allow_code_execution: Unpickle whatever is in the file, running the code it names.

    Returns:
        The object, and a note on what of it was left out.

    Raises:
        InputError: The file is damaged, or unpickling it would run code and that is not allowed.
    """
    plain = kind == "pickle" and not _has_magic_number(path)
    if plain and not allow_code_execution:
        raise InputError(f"{path}: {_plain_pickle_refusal(path)}")
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            if plain:
                return pickle.load(file), ()
            if allow_code_execution:
                return torch.load(file, map_location="cpu", weights_only=False), ()
            refuse_explosive(path, kind)
            return _load_safely(path, file, kind)
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise nearly every type there is
        raise InputError(f"{path}: {_refusal(path, kind, error, allow_code_execution)}") from error


def _load_safely(path: Path, file: IO[bytes], kind: Kind) -> tuple[object, tuple[str, ...]]:
    try:
        return torch.load(file, map_location="cpu", weights_only=True), ()
    except pickle.UnpicklingError:
        names = _code_in_file(path, kind)
        if not names or (known := stand_ins(names)) is None:
            raise
    file.seek(0)
    with torch.serialization.safe_globals(known):
        content = torch.load(file, map_location="cpu", weights_only=True)
    left = left_out(names)
    return content, (f"left out what else is in it, as reading it would run code: {listed(left)}",) if left else ()


def load_safetensors(files: Sequence[Path]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in safetensors files, with those restored that were left out as duplicates of tied ones.

    ``safetensors.torch.save_model`` keeps one of the names that share a tensor and records ``left out: kept`` in the
    file's metadata.

    Args:
        files: One, or all that a model's weights were split into.

    Returns:
        The tensors by name, and notes on what was restored.

    Raises:
        InputError: A file is damaged or holds no tensors, or two files hold one of the same name.
    """
    state: dict[str, Tensor] = {}
    notes: tuple[str, ...] = ()
    for path in files:
        tensors, restored = _load_safetensors(path)
        if twice := state.keys() & tensors.keys():
            raise InputError(f"{path}: holds {listed(sorted(twice))}, as another file of the same folder does")
        state |= tensors
        notes += restored
    return state, notes


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Cloned, as the tensors are otherwise windows on a file that a training job may overwrite.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: {_DAMAGED} as a safetensors file ({cause(error)}); {_AGAIN}") from error
    if not state:
        raise InputError(f"{path}: holds no tensors; save model.state_dict()")
    aliases = {name: kept for name, kept in metadata.items() if kept in state and name not in state}
    state |= {name: state[kept] for name, kept in aliases.items()}
    return state, tuple(f"restored {name}, stored once as {kept}" for name, kept in aliases.items())


def refuse_explosive(path: Path, kind: Kind) -> None:
    """Refuse a file of ``torch.save`` whose pickle would take memory or time without bound.

    Raises:
        InputError: it would.
    """
    try:
        with path.open("rb") as file:
            # torch's own reader: of two pickles in one archive the one that it will load
            pickled = torch._C.PyTorchFileReader(file).get_record("data.pkl") if kind == "zip" else None
            refuse_bombs(file if pickled is None else io.BytesIO(pickled))
    except InputError as error:
        raise InputError(f"{path}: its pickle {error}, as no state dict does; save model.state_dict()") from error


def _refusal(path: Path, kind: Kind, error: Exception, allow_code_execution: bool) -> str:
    if allow_code_execution:
        return f"cannot be unpickled ({cause(error)}); make its code importable, or save model.state_dict()"
    wanted = _code_in_file(path, kind)
    unless = "or pass --allow-code-execution if you trust whoever wrote it"
    if not wanted and "Unsupported operand" in str(error):
        return (
            "is damaged, or saved with a pickle_protocol that PyTorch's safe loader does not read; "
            f"save it again with torch.save's own, {unless}"
        )
    if not wanted:
        reason = "its pickle does not parse" if isinstance(error, pickle.UnpicklingError) else cause(error)
        return f"{_DAMAGED} ({reason}); {_AGAIN}"
    if any(name.startswith("torch.nn.modules.") for name in wanted):
        return (
            f"holds a whole pickled model, and unpickling it would run code ({listed(wanted)}); "
            f"save model.state_dict() instead, {unless}"
        )
    return f"unpickling it would run code: {listed(wanted)}; save model.state_dict() and plain values alone, {unless}"


def _plain_pickle_refusal(path: Path) -> str:
    wanted = _code_in_pickle(path)
    if not wanted:
        return f"{_DAMAGED}, or a pickle that torch.save did not write; save model.state_dict() with torch.save"
    return (
        f"is a pickle that torch.save did not write, and unpickling it would run code: {listed(wanted)}; save "
        "model.state_dict() with torch.save, or pass --allow-code-execution if you trust whoever wrote it"
    )


def _code_in_file(path: Path, kind: Kind) -> list[str]:
    """The globals that a file of ``torch.save`` names, other than those the safe loader knows."""
    return _code_in_zip(path) if kind == "zip" else _code_in_pickle(path)


def _code_in_zip(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # damaged, or of a pickle protocol that torch does not list
        return _code_in_zipped_pickle(path)


def _code_in_zipped_pickle(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as file:
                return _code_in(file)
    except Exception:  # damaged, which is then what the message says
        return []


def _code_in_pickle(path: Path) -> list[str]:
    with path.open("rb") as file:
        return _code_in(file)


def _code_in(file: IO[bytes]) -> list[str]:
    """The globals that the pickles at the head of a file name, other than those every state dict needs.

    ``torch.save``'s older format is five pickles in a row: magic number, protocol, machine, object, storage keys.
    """
    return sorted({name for _ in range(5) for name in _globals(file) if not _is_rebuilding(name)})


def _is_rebuilding(name: str) -> bool:
    """Whether it is a global that state dicts need: containers, bytes, storages, how to rebuild a tensor."""
    module, _, attribute = name.rpartition(".")
    if module == "torch":
        is_dtype = isinstance(vars(torch).get(attribute), torch.dtype)  # getattr would import what it names
        return is_dtype or attribute.endswith("Storage") or attribute in ("Size", "Tensor", "device")
    return (
        module == "collections"
        or name == "_codecs.encode"
        or (module == "torch._utils" and attribute.startswith("_rebuild"))
    )


def _has_magic_number(path: Path) -> bool:
    with path.open("rb") as file:
        beginning = islice(operations(file), 3)  # protocol, frame in newer ones, number
        return any(argument == torch.serialization.MAGIC_NUMBER for _, argument in beginning)


def _globals(file: IO[bytes]) -> Iterator[str]:
    """Every global that the next pickle names, in its order and without unpickling it."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    for name, argument in islice(operations(file), _MOST_OPERATIONS):
        if name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = strings[-1] if strings else ""
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            strings.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            strings.append(argument)
