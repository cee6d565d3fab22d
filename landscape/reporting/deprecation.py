"""Old names, which work and warn for one version (CONTRIBUTING.md, "Versions")."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
UNTIL = "0.3"


def told(old: str, new: str) -> str:
    """What is said to whoever uses an old name."""
    return f"{old} is called {new} now; the old name goes with version {UNTIL}"


def renamed_settings(**names: str) -> Callable[[type[T]], type[T]]:
    """A class whose constructor takes some arguments under their old names too, with a FutureWarning.

    Args:
        **names: the new name of each old one.
    """

    def wrapped(cls: type[T]) -> type[T]:
        made: Callable[..., None] = cls.__init__

        @functools.wraps(made)
        def init(self: T, *args: Any, **given: Any) -> None:
            for old, new in names.items():
                if old in given:
                    warnings.warn(told(f"{cls.__name__}({old}=...)", new), FutureWarning, stacklevel=2)
                    given[new] = given.pop(old)
            made(self, *args, **given)

        cls.__init__ = init  # type: ignore[method-assign, assignment]
        return cls

    return wrapped


def with_new_names(arguments: Sequence[str], names: dict[str, str]) -> tuple[list[str], list[str]]:
    """A command line with new names in the place of old options, and a line on each old one.

    Args:
        arguments: of the command line.
        names: the new name of each old option.
    """
    lines, renamed = [], []
    for argument in arguments:
        option, sign, value = argument.partition("=")
        if option in names:
            lines.append(told(option, names[option]))
            option = names[option]
        renamed.append(option + sign + value)
    return renamed, list(dict.fromkeys(lines))
