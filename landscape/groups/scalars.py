"""The scalars of a record: one number for each checkpoint, with its unit and whether its computation converged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

import numpy as np
import xarray as xr

from landscape.errors import InputError
from landscape.record import Request, open_record, readable
from landscape.record.schema import ROWS, length_of

# Names of scalars that say how a number was computed, not what it is: compared only where they are asked for.
_OF_COMPUTATION = (
    "*error", "*rounding", "*miss_probability", "misjudged", "orthogonality", "asymmetry", "width", "*_floor",
    "learning_rate", "momentum", "false_alarms_*", "chance_*", "cosine_given",
)  # fmt: skip

# The scalars of a first look; of each line the first one that all records have.
MAIN = (
    ("loss/loss",),
    ("loss/gradient_norm",),
    ("eigenpairs/largest", "spectrum/largest"),
    ("trace/trace", "spectrum/trace"),
    ("stability/ratio",),
)


@dataclass(frozen=True)
class Scalar:
    """One scalar of one record.

    Attributes:
        steps: training step of each checkpoint, (c,); -1 if unknown.
        values: the numbers, (c,).
        converged: whether each number's computation reached its goal, (c,).
        long_name: the meaning.
        units: the units; "1" for a pure number.
        by_default: whether the scalar is compared where none is named.
    """

    steps: np.ndarray
    values: np.ndarray
    converged: np.ndarray
    long_name: str
    units: str
    by_default: bool


@dataclass(frozen=True)
class RunRecord:
    """A record as one run of a group.

    Attributes:
        path: path of the record.
        request: what was measured, and of which checkpoints.
        scalars: the scalars by name, such as ``loss/gradient_norm``: the record's group and its variable.
    """

    path: Path
    request: Request
    scalars: dict[str, Scalar]

    @property
    def checkpoints(self) -> frozenset[str]:
        """The sha256 of the checkpoints: those of the loss, which the command measures of each."""
        every = self.request.checkpoints
        return frozenset(every["loss"] if "loss" in every else chain(*every.values()))

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read the scalars of a record, finished or not.

        Raises:
            InputError: the file is no record, or is damaged.
        """
        with open_record(path) as tree, readable(path):
            request = Request.from_plain(json.loads(tree.attrs["request"]))
            scalars = {}
            for group, node in tree.children.items():
                which = str(request.settings.get(str(group), {}).get("which", ""))
                for name, scalar in _scalars(node.to_dataset(), which).items():
                    scalars[f"{group}/{name}"] = scalar
        return cls(path, request, scalars)


def _scalars(rows: xr.Dataset, which: str) -> dict[str, Scalar]:
    """The scalars of one group: its numbers without a further dimension, and the largest of its eigenvalues."""
    steps, found = rows.step.values, {}
    for key, variable in rows.data_vars.items():
        name = str(key)
        if variable.dims != (ROWS,) or variable.dtype.kind not in "fiu" or name == "step" or name.endswith("_length"):
            continue
        flag = f"{name}_converged" if f"{name}_converged" in rows else "converged"
        by_default = variable.dtype.kind == "f" and not any(fnmatchcase(name, each) for each in _OF_COMPUTATION)
        found[name] = Scalar(
            steps, variable.values.astype(np.float64), _all_converged(rows, flag), *_described(variable), by_default
        )
    if "eigenvalues" in rows and rows.eigenvalues.dims == (ROWS, "index") and which != "SA":
        found["largest"] = _largest(rows, which)
    return found


def _described(variable: xr.DataArray) -> tuple[str, str]:
    return str(variable.attrs.get("long_name", "")), str(variable.attrs.get("units", "1"))


def _all_converged(rows: xr.Dataset, flag: str) -> np.ndarray:
    """Whether all of a row's goals of a name were reached, (c,); True where the group has no goals."""
    goals = rows[flag] if flag in rows else xr.DataArray(np.ones(rows.sizes[ROWS], bool), dims=[ROWS])
    for dim in goals.dims[1:]:
        if length_of(str(dim)) in rows:  # what follows is padding
            goals = goals | (xr.DataArray(np.arange(rows.sizes[dim]), dims=[dim]) >= rows[length_of(str(dim))])
    return np.asarray(goals.all(goals.dims[1:]).values, dtype=bool)


def _largest(rows: xr.Dataset, which: str) -> Scalar:
    """The largest eigenvalue of each row.

    Among the eigenvalues of largest magnitude, the largest eigenvalue is there only if one of them is positive. Without
    a positive one the value is NaN.
    """
    values = rows.eigenvalues.values
    filled = np.where(np.isnan(values), -np.inf, values)
    place = filled.argmax(axis=1)
    top = np.take_along_axis(filled, place[:, None], axis=1)[:, 0]
    converged = np.ones(len(values), bool)
    if "converged" in rows:
        converged = np.take_along_axis(rows.converged.values.astype(bool), place[:, None], axis=1)[:, 0]
    if which == "LM":
        top = np.where(top > 0, top, np.nan)
    top = np.where(np.isfinite(top), top, np.nan)
    return Scalar(rows.step.values, top, converged, "largest eigenvalue", _described(rows.eigenvalues)[1], True)


def chosen_scalars(runs: list[RunRecord], patterns: Sequence[str] | None) -> list[str]:
    """Names of the scalars to compare: of those that all records have, the ones that a pattern matches.

    Args:
        runs: all records.
        patterns: patterns of names, such as ``loss/*``; ``["main"]`` for those of `MAIN`; None for every scalar but
            settings, counts and errors.

    Raises:
        InputError: a pattern matches no scalar that all records have, or there is no such scalar.
    """
    shared = [name for name in runs[0].scalars if all(name in run.scalars for run in runs)]
    if patterns is None:
        found = [name for name in shared if runs[0].scalars[name].by_default]
    elif list(patterns) == ["main"]:
        found = [name for line in MAIN for name in [each for each in line if each in shared][:1]]
    else:
        found = []
        for pattern in patterns:
            matched = [name for name in shared if fnmatchcase(name, pattern)]
            if not matched:
                missing = [str(run.path) for run in runs if not any(fnmatchcase(each, pattern) for each in run.scalars)]
                where = f"{missing[0]} has no scalar {pattern}" if missing else f"no scalar {pattern} is in all records"
                raise InputError(f"{where}; all records have {', '.join(sorted(shared)) or 'none'}")
            found += [name for name in matched if name not in found]
    if not found:
        raise InputError("the records share no scalar: measure the same quantities of every run")
    return found
