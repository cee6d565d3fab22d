"""Deprecated names, which work with a warning for one version (CONTRIBUTING.md, "Versions")."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
UNTIL = "0.3"
APPENDED = "a record accepts later requests by itself"


def deprecation_note(old: str, new: str) -> str:
    """The warning on the use of an old name."""
    return f"{old} is called {new} now; version {UNTIL} removes the old name"


def superfluous_note(old: str, why: str) -> str:
    """The warning on the use of an argument or option that isn't needed any more."""
    return f"{old} isn't needed any more: {why}; version {UNTIL} removes it"


def renamed_settings(**names: str) -> Callable[[type[T]], type[T]]:
    """Decorate a class: its constructor takes some arguments by their old names too, with a FutureWarning.

    Args:
        **names: the new name of each old argument.
    """

    def wrapped(cls: type[T]) -> type[T]:
        cls.__init__ = renamed_arguments(cls.__name__, **names)(cls.__init__)  # type: ignore[method-assign]
        return cls

    return wrapped


def renamed_arguments(called: str, **names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function: it takes some arguments by their old names too, with a FutureWarning.

    Args:
        called: the function's name in the warning.
        **names: the new name of each old argument.
    """

    def wrapped(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def taking_old_names(*args: P.args, **given: P.kwargs) -> R:
            for old, new in names.items():
                if old in given:
                    warnings.warn(deprecation_note(f"{called}({old}=...)", new), FutureWarning, stacklevel=2)
                    given[new] = given.pop(old)
            return function(*args, **given)

        return taking_old_names

    return wrapped


def superfluous_argument(called: str, name: str, why: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that takes an argument it once had, with a FutureWarning, and does nothing with its value.

    Args:
        called: the function's name in the warning.
        name: of the argument.
        why: the argument isn't needed any more.
    """

    def wrapped(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def without(*args: P.args, **given: P.kwargs) -> R:
            if given.pop(name, None) is not None:
                warnings.warn(superfluous_note(f"{called}({name}=...)", why), FutureWarning, stacklevel=2)
            return function(*args, **given)

        return without

    return wrapped


def renamed_members(**names: str) -> Callable[[type[T]], type[T]]:
    """Decorate a class: its instances have some members by their old names too, with a FutureWarning.

    Args:
        **names: the new name of each old attribute or method.
    """

    def wrapped(cls: type[T]) -> type[T]:
        for old, new in names.items():
            setattr(cls, old, property(_member(f"{cls.__name__}.{old}", new)))
        return cls

    return wrapped


def _member(old: str, new: str) -> Callable[[object], Any]:
    def read(self: object) -> Any:
        warnings.warn(deprecation_note(old, new), FutureWarning, stacklevel=2)
        return getattr(self, new)

    return read


def renamed_exports(module: str, **names: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module that exports some objects by their old names too, with a FutureWarning.

    Args:
        module: the module's ``__name__``.
        **names: the new name of each old export.
    """

    def read(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(deprecation_note(f"{module}.{name}", names[name]), FutureWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return read


def with_new_names(
    arguments: Sequence[str], names: Mapping[str, str], superfluous: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """A command line with new names in the place of old options, and a line on each old one.

    Args:
        arguments: the arguments of the command line.
        names: the new name of each old option.
        superfluous: switches that are left out, and why they aren't needed any more.
    """
    lines, renamed = [], []
    for argument in arguments:
        option, sign, value = argument.partition("=")
        if argument in superfluous:
            lines.append(superfluous_note(argument, superfluous[argument]))
            continue
        if option in names:
            lines.append(deprecation_note(option, names[option]))
            option = names[option]
        renamed.append(option + sign + value)
    return renamed, list(dict.fromkeys(lines))
