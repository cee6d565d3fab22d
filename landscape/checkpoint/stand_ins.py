"""Stand-ins for objects that a checkpoint holds besides its weights: settings, callbacks, NumPy scalars.

Each global that torch's safe loader doesn't know is replaced by a stand-in of this module. A stand-in accepts whatever
the pickle gives it and does nothing; only plain NumPy scalars and arrays are rebuilt. The weights beside a namespace of
arguments can thus be read, and no code from the file is run.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

# Types of the standard library that only hold values. A pickle that names anything else of the library wants it called.
_VALUES = (
    *("argparse.Namespace", "types.SimpleNamespace", "pathlib.", "datetime.", "decimal.", "fractions.", "uuid."),
    *("typing.Any", "typing.Union", "typing.Optional"),  # in typed settings, such as OmegaConf's
)
_BUILTINS = {f"builtins.{each.__name__}" for each in (bool, complex, dict, float, int, list, set, str, tuple)}
_OLD_NAMES = {"__builtin__", "copy_reg"}  # modules of Python 2's standard library, which old protocols name


class LeftOut:
    """Stand-in for an object that is not read."""

    def __new__(cls, *given: Any, **named: Any) -> "LeftOut":
        """Accept the arguments of the object's constructor."""
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        """Ignore the arguments."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class _DType(LeftOut):
    """Stand-in for the dtype of NumPy scalars: its code, such as ``f8``, and its byte order."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code, self.order = code if isinstance(code, str) else "", "="

    @property
    def is_plain(self) -> bool:
        """Whether the dtype is boolean, integer or float, of at most eight bytes."""
        return self.code[:1] in tuple("biuf") and self.code[1:] in tuple("1248")

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


class ArrayLeft(LeftOut):
    """A NumPy array, rebuilt from its bytes; ``array`` is None if its entries aren't plain numbers."""

    array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        """Rebuild the array from NumPy's state: version, shape, dtype, memory order and bytes."""
        if not (isinstance(state, tuple) and len(state) == 5):
            return
        _, shape, dtype, in_columns, data = state
        if isinstance(dtype, _DType) and dtype.is_plain and isinstance(data, bytes):
            numbers = np.frombuffer(data, dtype.order + dtype.code)
            self.array = numbers.astype(dtype.code).reshape(shape, order="F" if in_columns else "C")


def _scalar(dtype: object = None, data: object = None, *_: object) -> object:
    """A NumPy scalar as a Python number; a `LeftOut` if the scalar isn't a plain number."""
    if isinstance(dtype, _DType) and dtype.is_plain and isinstance(data, bytes) and len(data) == int(dtype.code[1:]):
        return np.frombuffer(data, dtype.order + dtype.code)[0].item()
    return LeftOut()


def _reconstruct(kind: object = None, *_: object) -> object:
    """The empty array that NumPy makes before filling it; a `LeftOut` if ``kind`` isn't an array."""
    return ArrayLeft() if kind is ArrayLeft else LeftOut()


_OF_NUMPY: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _DType,
    "numpy.ndarray": ArrayLeft,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
}
"""Functions by which pickle rebuilds numbers and arrays of NumPy."""


def left_out(names: Iterable[str]) -> list[str]:
    """The globals whose objects aren't read."""
    return [name for name in names if name not in _OF_NUMPY]


def stand_ins(names: Iterable[str]) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]] | None:
    """Stand-ins with which `torch.serialization.safe_globals` reads a checkpoint without the named objects.

    Args:
        names: globals that the checkpoint's pickle names, without those that the safe loader knows.

    Returns:
        Pairs of a stand-in and its name; None if one of the names can't be left out. Such a name is a function of the
        standard library, which no honest checkpoint calls, or a part of a whole model, whose weights would be left out
        with it.
    """
    names = list(names)
    if any(_is_function(name) or name.startswith("torch.nn.modules.") for name in names):
        return None
    return [(_stand_in(name), name) for name in names]


def _is_function(name: str) -> bool:
    package = name.partition(".")[0]
    of_python = package in sys.stdlib_module_names or package in _OLD_NAMES
    is_value = name in _BUILTINS or name.startswith(_VALUES) or name == "collections.defaultdict"
    return of_python and not is_value


def _stand_in(name: str) -> Callable[..., Any]:
    if name == "collections.defaultdict":
        return lambda *_: {}
    if name in _OF_NUMPY:
        return _OF_NUMPY[name]
    return type(name.rpartition(".")[2], (LeftOut,), {})


def as_tensor(value: object) -> object:
    """A rebuilt array, or a NumPy array of numbers, as a tensor; any other value unchanged."""
    array = value.array if isinstance(value, ArrayLeft) else value
    return torch.from_numpy(array) if isinstance(array, np.ndarray) and array.dtype.kind in "biuf" else value
