"""The exception a user of landscape-probe is meant to see, and the one of processes that lose each other."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def in_one_line(text: str) -> str:
    """``text`` with every character spelt out that a terminal would obey rather than print, ends of lines too."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode() for each in text
    )


class InputError(ValueError):
    """What was given cannot be used.

    The message is one line that says what is wrong, where, and what to do about it. The command line prints it and
    exits with status 2; in Python it is an ordinary ``ValueError``. A message may quote names out of a file: whatever
    would end or rewrite the line is spelt out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(in_one_line(message))


def refuse_fractions(**numbers: Any) -> None:
    """Raise InputError where one of these isn't a whole number (or None): 2.5 probes are not 2, nor is True one."""
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, Integral)):
            raise InputError(f"{name} must be a whole number, not {number!r}")


class PeerError(Exception):
    """Another of several processes that work together has ended, and with it the work of all."""
