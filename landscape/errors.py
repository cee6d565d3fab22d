"""Exceptions: `InputError`, which users see, and `PeerError`, for a process whose peer has ended."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def in_one_line(text: str) -> str:
    """``text`` with every unprintable character escaped, such as ends of lines and terminal controls."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode() for each in text
    )


class InputError(ValueError):
    """An input that can't be used.

    The message is one line that states what is wrong, where, and what to do about it. The command line prints the
    message and exits with status 2. In Python the exception is an ordinary ``ValueError``. A message may quote names
    from a file: characters that would end or rewrite the line are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(in_one_line(message))


def refuse_fractions(**numbers: Any) -> None:
    """Raise InputError for a number that is neither None nor a whole number, such as 2.5 or True."""
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, Integral)):
            raise InputError(f"{name} must be a whole number, not {number!r}")


class PeerError(Exception):
    """The end of another process that shares the work, which ends the work of all processes."""
