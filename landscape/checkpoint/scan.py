"""Check a pickle for memory and time bombs by reading its operations, which runs no code.

The safe loader runs no code from a file, but it hashes keys, and it calls functions that make bytes of text. Short
pickles can therefore exhaust it in three ways. A tuple in a tuple, a million levels deep, overflows the interpreter's
stack when it is hashed. A tuple that holds one tuple twice, sixty levels deep, has 2^60 leaves. A number in place of
text allocates any amount of memory.
"""

import pickletools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from landscape.errors import InputError

_DEEPEST = 100  # levels of tuples in tuples; torch.save writes four
_MOST_LEAVES = 10**5  # of a tuple, beyond the number of operations before it
# Functions that make bytes of text.
_OF_TEXT = ("_codecs encode", "builtins bytearray", "__builtin__ bytearray")
_CODECS = ("latin1", "latin-1")
_PICKLES = 5  # in torch.save's older format: magic number, protocol, machine, object, storage keys


@dataclass(frozen=True)
class _Slot:
    """A value on the unpickler's stack, as far as known: its text or global's name, or the items of a tuple."""

    depth: int = 0
    leaves: int = 1
    text: str | None = None
    items: "tuple[_Slot, ...] | None" = None


_PLAIN = _Slot()


def refuse_bombs(file: IO[bytes]) -> None:
    """Refuse short pickles that would take unbounded memory or time, or overflow the stack, when they are loaded.

    Args:
        file: one pickle or several in a row; bytes that make no sense are left to the loader.

    Raises:
        InputError: a pickle is such a bomb; the message leaves out the file's name.
    """
    for _ in range(_PICKLES):
        _refuse_bomb(file)


def operations(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the next pickle's operations, up to its end or to bytes that make no sense."""
    for operation, argument in _operations(file):
        yield operation.name, argument


def _operations(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    opcodes = pickletools.genops(file)
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # only damaged text raises warnings
                operation, argument, _ = next(opcodes)
        except Exception:  # the end, or damaged bytes, on which pickletools raises many types
            return
        yield operation, argument


def _refuse_bomb(file: IO[bytes]) -> None:
    """Follow the unpickler's stack through one pickle."""
    stack: list[_Slot] = []
    marks: list[int] = []
    memo: dict[int, _Slot] = {}
    for count, (operation, argument) in enumerate(_operations(file)):
        name = operation.name
        try:
            if name == "MARK":
                marks.append(len(stack))
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "DUP":
                stack.append(stack[-1])
            else:
                _apply(operation, argument, stack, marks, count)
        except (IndexError, KeyError):  # the loader will report the damage
            return


def _apply(operation: pickletools.OpcodeInfo, argument: Any, stack: list[_Slot], marks: list[int], count: int) -> None:
    """Pop an operation's operands from the stack, and push its result."""
    before = operation.stack_before
    if pickletools.markobject in before:
        mark = marks.pop() - before.index(pickletools.markobject)
    else:
        mark = len(stack) - len(before)
    if mark < 0:
        raise IndexError
    taken = tuple(stack[mark:])
    del stack[mark:]
    if operation.name == "REDUCE":
        _refuse_call(*taken)
    if not operation.stack_after:
        return
    if not (operation.name.startswith("TUPLE") or operation.name in ("REDUCE", "NEWOBJ")):
        # Lists and dictionaries are never hashed.
        stack.append(_Slot(text=argument) if isinstance(argument, str) else _PLAIN)
        return
    items = taken if operation.name.startswith("TUPLE") else None
    result = _Slot(
        1 + max((each.depth for each in taken), default=0), 1 + sum(each.leaves for each in taken), None, items
    )
    if result.depth > _DEEPEST or result.leaves > count + _MOST_LEAVES:
        raise InputError(f"has tuples in tuples, {result.depth} levels deep and of {result.leaves:,} values")
    stack.append(result)


def _refuse_call(function: _Slot, arguments: _Slot) -> None:
    """Refuse to call a function of ``_OF_TEXT`` on anything but text, or to pass such a function to a call."""
    items = arguments.items
    if function.text in _OF_TEXT:
        if items is None or (items and items[-1].text not in _CODECS) or any(each.text is None for each in items):
            raise InputError(f"calls {function.text.replace(' ', '.')} with something other than latin-1 text")
    elif any(each.text in _OF_TEXT for each in items or ()):
        raise InputError("hands a function to another function, which could call it")
