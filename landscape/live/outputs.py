"""Where a watch's numbers go beside the record: loggers of other libraries, CSV, Python's logging."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from landscape.errors import InputError

_MOST = 16  # numbers of a variable that go to loggers
Send = Callable[[Mapping[str, float], int], None]


def scalars(group: str, row: xr.Dataset) -> dict[str, float]:
    """The finite numbers of a row: ``group/variable``, and ``group/variable[i]`` for up to 16 numbers of a variable."""
    found = {}
    for name, variable in row.variables.items():
        if variable.dtype.kind in "fiub" and variable.ndim < 2 and variable.size <= _MOST:
            for place, value in enumerate(variable.values.reshape(-1)):
                found[f"{group}/{name}" + (f"[{place}]" if variable.ndim else "")] = float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def sender(target: Any) -> Send:
    """A function that sends numbers by name, and their step, to a logger.

    Args:
        target: an object with ``log(numbers, step=...)`` (Weights & Biases, trackio), an object with
            ``add_scalar(name, number, step)`` (TensorBoard), a `logging.Logger`, a path of a CSV file, or a function
            ``(numbers, step)``.

    Raises:
        InputError: the target is something else.
    """
    if isinstance(target, logging.Logger):
        return lambda numbers, step: target.info("step %d: %s", step, _line(numbers))
    if isinstance(target, str | Path):
        return _Csv(Path(target))
    if callable(getattr(target, "add_scalar", None)):

        def one_by_one(numbers: Mapping[str, float], step: int) -> None:
            for name, value in numbers.items():
                target.add_scalar(name, value, step)

        return one_by_one
    if callable(getattr(target, "log", None)):
        return lambda numbers, step: target.log(dict(numbers), step=step)
    if callable(target):
        return target
    raise InputError(
        f"log_to takes loggers with log(numbers, step=...) or add_scalar(name, number, step), a logging.Logger, a path "
        f"of a CSV file or a function (numbers, step), not {type(target).__name__}"
    )


def senders(targets: Any) -> list[Send]:
    """A function for each target; see `sender`. A single target needs no list."""
    several = isinstance(targets, Sequence) and not isinstance(targets, str)
    return [] if targets is None else [sender(each) for each in (targets if several else [targets])]


def _line(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in numbers.items())


class _Csv:
    """A table of three columns, step, name and number: instruments have their turns at different steps.

    A file that is there already is continued.
    """

    def __init__(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise InputError(f"{path} can't be written: there is no folder {path.parent}")
        self._path = path

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        fresh = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(("step", "name", "value"))
            writer.writerows((step, name, repr(value)) for name, value in numbers.items())
