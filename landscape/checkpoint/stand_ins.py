"""What takes the place of objects that a checkpoint holds besides its weights: settings, callbacks, NumPy scalars.

Each global that torch's safe loader doesn't know gets a class from here, which takes whatever the pickle gives it and
does nothing. So the weights beside a namespace of arguments are read, and no code of the file's is.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

# Of the standard library these only hold values; whoever names anything else of it wants it called.
_VALUES = ("argparse.Namespace", "types.SimpleNamespace", "pathlib.", "datetime.", "decimal.", "fractions.", "uuid.")
_BUILTINS = {f"builtins.{each.__name__}" for each in (bool, complex, dict, float, int, list, set, str, tuple)}
_OLD_NAMES = {"__builtin__", "copy_reg"}  # of the standard library in Python 2, which old protocols write


class LeftOut:
    """What was not read, whatever it was."""

    def __new__(cls, *given: Any, **named: Any) -> "LeftOut":
        """Take what it would have been made of."""
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        """Keep nothing of it."""

    def __setstate__(self, state: Any) -> None:
        """Nor of its state."""


class _DType(LeftOut):
    """The type of NumPy scalars: its code, such as `f8`, and its byte order."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def _scalar(dtype: object = None, data: object = None, *_: object) -> object:
    """A NumPy scalar as a plain number, if it is one."""
    if isinstance(dtype, _DType) and isinstance(data, bytes) and isinstance(dtype.code, str):
        code = dtype.code
        if code[:1] in tuple("biuf") and code[1:] in tuple("1248") and len(data) == int(code[1:]):
            return np.frombuffer(data, dtype.order + code)[0].item()
    return LeftOut()


def stand_ins(names: Iterable[str]) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]] | None:
    """What `torch.serialization.safe_globals` takes in order to read a checkpoint without the objects of these names.

    Args:
        names: the globals that its pickle wants, other than those the safe loader knows.

    Returns:
        Callables by name; None if one of them is more than an object that may be left out: a function of the standard
        library, which no honest checkpoint calls, or a part of a whole model, whose weights would be left out with it.
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
    if name == "numpy.dtype":
        return _DType
    if name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"):
        return _scalar
    return type(name.rpartition(".")[2], (LeftOut,), {})
