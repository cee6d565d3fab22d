"""What a pickle would do, found by reading its operations, which runs nothing.

The safe loader runs no code of a file's, but it hashes keys, and it calls what makes bytes of text. A tuple in a tuple,
a million times, overflows the interpreter's stack when it is hashed; one that has itself twice, sixty levels deep, has
2^60 leaves; a number given where text belongs is memory of any size. So this is looked for before.
"""

import pickletools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from landscape.errors import InputError

_DEEPEST = 100  # tuples in tuples; what torch.save writes has four
_MOST_LEAVES = 10**5  # beyond those that the pickle spells out itself
_OF_TEXT = ("_codecs encode", "builtins bytearray", "__builtin__ bytearray")
_CODECS = ("latin1", "latin-1")
_PICKLES = 5  # in torch.save's older format: magic number, protocol, machine, object, storage keys


@dataclass(frozen=True)
class _Slot:
    """A value on the unpickler's stack, as far as it is known: text or a global's name, or the items of a tuple."""

    depth: int = 0
    leaves: int = 1
    text: str | None = None
    items: "tuple[_Slot, ...] | None" = None


_PLAIN = _Slot()


def refuse_bombs(file: IO[bytes]) -> None:
    """Refuse pickles of a few bytes that take memory or time without bound, or overflow the stack, when they are read.

    Args:
        file: one pickle or several in a row; what makes no sense is left to the loader.

    Raises:
        InputError: what is wrong, without the file's name.
    """
    for _ in range(_PICKLES):
        _refuse_bomb(file)


def operations(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the operations of the next pickle, up to its end or to where it stops making sense."""
    for operation, argument in _operations(file):
        yield operation.name, argument


def _operations(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    found = pickletools.genops(file)
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of text that only damaged bytes have
                operation, argument, _ = next(found)
        except (
            Exception
        ):  # at the end, and pickletools raises many types on damaged bytes; what came before still counts
            return
        yield operation, argument


def _refuse_bomb(file: IO[bytes]) -> None:
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
        except (IndexError, KeyError):  # the loader will say that it is damaged
            return


def _apply(operation: pickletools.OpcodeInfo, argument: Any, stack: list[_Slot], marks: list[int], count: int) -> None:
    """Take from the stack what an operation takes, and put there what it makes."""
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
    made = _Slot(
        1 + max((each.depth for each in taken), default=0), 1 + sum(each.leaves for each in taken), None, items
    )
    if made.depth > _DEEPEST or made.leaves > count + _MOST_LEAVES:
        raise InputError(f"has tuples in tuples, {made.depth} levels deep and of {made.leaves:,} values")
    stack.append(made)


def _refuse_call(function: _Slot, arguments: _Slot) -> None:
    """Let what makes bytes of text be called with text alone, and not be handed to something that calls it."""
    items = arguments.items
    if function.text in _OF_TEXT:
        if items is None or (items and items[-1].text not in _CODECS) or any(each.text is None for each in items):
            raise InputError(f"calls {function.text.replace(' ', '.')} with something other than latin-1 text")
    elif any(each.text in _OF_TEXT for each in items or ()):
        raise InputError("hands a function on to another, to be called there")
