"""What other packages add: measurements, matrices and figures, by their entry points.

A package names an object in its own metadata, and nothing of the package is imported before somebody asks for the name:

    [project.entry-points."landscape.measurements"]
    hutchinson = "my_package.measurement:Hutchinson"

The groups are ``landscape.measurements`` (a subclass of `landscape.measurements.Measurement`), ``landscape.matrices``
(a `landscape.curvature.kinds.Kind`) and ``landscape.figures`` (a `landscape.figures.page.Page`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from landscape.errors import InputError


def added(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by their names; of two of one name the first by the package's name."""
    found = sorted(entry_points(group=group), key=lambda each: (each.name, each.dist.name if each.dist else ""))
    return {each.name: each for each in reversed(found)}


def load(entry: EntryPoint, wanted: Callable[[Any], bool]) -> Any:
    """Import what an entry point names.

    Args:
        entry: as `added` gives it.
        wanted: whether an object is of the kind that the entry point's group is made of.

    Raises:
        InputError: the package fails to be imported, or has something else there.
    """
    package = entry.dist.name if entry.dist else "a package"
    try:
        found = entry.load()
    except Exception as error:  # whatever the package's own code raises
        raise InputError(f"{entry.name} of {package} can't be loaded: {type(error).__name__}: {error}") from error
    if not wanted(found):
        raise InputError(f"{entry.name} of {package} is {entry.value}, which isn't of {entry.group}")
    return found
