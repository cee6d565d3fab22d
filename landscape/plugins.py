"""Entry points by which other packages add measurements, matrices and figures.

A package names an object in its own metadata. Nothing of the package is imported before the name is asked for:

    [project.entry-points."landscape.measurements"]
    hutchinson = "my_package.measurement:Hutchinson"

The groups are ``landscape.measurements`` (a subclass of `landscape.measurements.Measurement`), ``landscape.matrices``
(a `landscape.curvature.kinds.Kind`) and ``landscape.figures`` (a `landscape.figures.page.Page`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from landscape.errors import InputError


def added(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group, by name; of two with one name, the one whose package comes first in the alphabet."""
    installed = _installed(group, tuple(sys.path))
    points = sorted(installed, key=lambda each: (each.name, each.dist.name if each.dist else ""))
    return {each.name: each for each in reversed(points)}


@cache
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """The entry points of the packages in these folders. A command asks several times, and reading them is slow."""
    return entry_points(group=group)


def load(entry: EntryPoint, wanted: Callable[[Any], bool]) -> Any:
    """Import the object that an entry point names.

    Args:
        entry: an entry point from `added`.
        wanted: ``wanted(object)`` tests whether an object is of the kind that the entry point's group holds.

    Raises:
        InputError: the package can't be imported, or the entry point names an object of another kind.
    """
    package = entry.dist.name if entry.dist else "a package"
    try:
        loaded = entry.load()
    except Exception as error:  # the package's own code may raise anything
        raise InputError(f"{entry.name} of {package} can't be loaded: {type(error).__name__}: {error}") from error
    if not wanted(loaded):
        raise InputError(f"{entry.name} of {package} is {entry.value}, which isn't of {entry.group}")
    return loaded
