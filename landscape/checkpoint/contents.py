"""Read the object in a checkpoint file, running no code from the file unless the caller allows it.

``torch.load(weights_only=True)`` is the gate. It builds only tensors and plain containers. Stand-ins replace other
objects that can be left out. The globals that a pickle names are found by reading its operations, which runs no code.
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
_MOST_OPERATIONS = 10**6  # searched for names of code; a message lists four names


def load_pickled(path: Path, kind: Kind, allow_code_execution: bool) -> tuple[object, tuple[str, ...]]:
    """The object in a ``torch.save`` file, in the zip format or the older pickle format.

    Args:
        path: Path of the file.
        kind: Kind of the file, ``zip`` or ``pickle``, as `recognise` returns it.
        allow_code_execution: Unpickle every object in the file, which runs the code that the pickle names.

    Returns:
        The object, and a note that lists the objects left out, if any.

    Raises:
        InputError: The file is damaged, or unpickling it would run code and ``allow_code_execution`` is false.
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
    except Exception as error:  # damaged bytes raise nearly every type of exception
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
    return content, (
        f"left out other entries of the file, because reading them would run code: {listed(left)}",
    ) if left else ()


def load_safetensors(files: Sequence[Path]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in safetensors files, including tied tensors that a file stores only once.

    ``safetensors.torch.save_model`` stores a tied tensor under one name. The file's metadata maps each omitted name to
    the stored name, by which the omitted names are restored.

    Args:
        files: The one file, or all shards of a model's weights.

    Returns:
        The tensors by name, and a note on each restored name.

    Raises:
        InputError: A file is damaged or holds no tensors, or two files hold tensors of one name.
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
            # Cloned, because the tensors are views of the mapped file, which a training job may overwrite.
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
    """Refuse a ``torch.save`` file whose pickle would take unbounded memory or time.

    Raises:
        InputError: the pickle is one that `landscape.checkpoint.scan.refuse_bombs` refuses.
    """
    try:
        with path.open("rb") as file:
            # Read with torch's own reader: of two pickles in an archive, it gives the one that torch.load takes.
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
    """Globals that a ``torch.save`` file names, without those that the safe loader knows."""
    return _code_in_zip(path) if kind == "zip" else _code_in_pickle(path)


def _code_in_zip(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # damaged, or in a pickle protocol whose globals torch cannot list
        return _code_in_zipped_pickle(path)


def _code_in_zipped_pickle(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as file:
                return _code_in(file)
    except Exception:  # damaged, which the message then says
        return []


def _code_in_pickle(path: Path) -> list[str]:
    with path.open("rb") as file:
        return _code_in(file)


def _code_in(file: IO[bytes]) -> list[str]:
    """Globals named by the first five pickles in a file, without those that every state dict needs.

    ``torch.save``'s older format is five pickles in a row: magic number, protocol, machine, object, storage keys.
    """
    return sorted({name for _ in range(5) for name in _globals(file) if not _is_rebuilding(name)})


def _is_rebuilding(name: str) -> bool:
    """Whether state dicts need the global, such as a container, a storage type or a function to rebuild tensors."""
    module, _, attribute = name.rpartition(".")
    if module == "torch":
        is_dtype = isinstance(vars(torch).get(attribute), torch.dtype)  # getattr could import a submodule of torch
        return is_dtype or attribute.endswith("Storage") or attribute in ("Size", "Tensor", "device")
    return (
        module == "collections"
        or name == "_codecs.encode"
        or (module == "torch._utils" and attribute.startswith("_rebuild"))
    )


def _has_magic_number(path: Path) -> bool:
    with path.open("rb") as file:
        beginning = islice(operations(file), 3)  # the protocol, a frame in newer protocols, and the number
        return any(argument == torch.serialization.MAGIC_NUMBER for _, argument in beginning)


def _globals(file: IO[bytes]) -> Iterator[str]:
    """Globals that the next pickle names, in order, found without unpickling."""
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
