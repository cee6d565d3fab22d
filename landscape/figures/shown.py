"""The records that a figure is drawn from, and what of them is drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.errors import InputError
from landscape.record import open_record
from landscape.record.schema import length_of
from landscape.wording import listed

LARGE = ("parameter",)


@dataclass(frozen=True)
class Shown:
    """One record.

    Attributes:
        label: its name in a legend.
        groups: the measurements in it, eigenvectors left out.
        identity: what says which record it is: file, fingerprint, checkpoints, versions, command.
    """

    label: str
    groups: dict[str, xr.Dataset]
    identity: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path, label: str | None = None) -> Shown:
        """Read a record, finished or not.

        Raises:
            InputError: there is none, or it is damaged.
        """
        path = Path(path)
        with open_record(path) as tree:
            groups = {str(name): _without_large(node.to_dataset()).load() for name, node in tree.children.items()}
            identity: dict[str, Any] = {
                "record": path.name,
                "fingerprint": str(tree.attrs.get("fingerprint", "")),
                "created": str(tree.attrs.get("created", "")),
            }
        told = [json.loads(str(text)) for group in groups.values() for text in group.provenance.values[-1:]]
        identity["commands"] = sorted({each["command"] for each in told})
        identity["versions"] = told[-1]["versions"] if told else {}
        identity["checkpoints"] = sorted({str(sha) for group in groups.values() for sha in group.sha256.values})
        return cls(label or path.name.split(".")[0], groups, identity)

    def has(self, names: tuple[str, ...]) -> bool:
        """Whether all of these groups are there."""
        return set(names) <= self.groups.keys()

    def row(self, group: str, step: int | None = None) -> xr.Dataset:
        """One checkpoint's row of a group, without its padding: that of a step, or the last.

        Raises:
            InputError: no checkpoint is of that step.
        """
        rows = self.groups[group]
        place = rows.sizes["checkpoint"] - 1
        if step is not None:
            found = np.flatnonzero(rows.step.values == step)
            if not len(found):
                raise InputError(
                    f"{self.label} has no {group} of step {step}; there are {listed(rows.step.values.tolist(), 8)}"
                )
            place = int(found[-1])
        row = rows.isel(checkpoint=place)
        lengths = {dim: int(row[length_of(str(dim))]) for dim in row.sizes if length_of(str(dim)) in row}
        return row.isel({dim: slice(length) for dim, length in lengths.items()})

    def series(self, group: str) -> xr.Dataset:
        """All rows of a group in the order of their steps; where steps aren't known, as they stand."""
        rows = self.groups[group]
        return rows.isel(checkpoint=np.argsort(rows.step.values, kind="stable"))


def _without_large(group: xr.Dataset) -> xr.Dataset:
    return group.drop_vars([name for name, each in group.variables.items() if set(LARGE) & set(each.dims)])


def at_step(row: xr.Dataset) -> str:
    """``step 4000`` of a row; its file's name where the step isn't known."""
    step = int(row.step)
    return f"step {step}" if step >= 0 else Path(str(row.path.values)).name


def units(variable: xr.DataArray) -> str:
    """Units for an axis label, in brackets; nothing for a pure number."""
    text = str(variable.attrs.get("units", ""))
    shown = {"loss / parameter^2": "loss / parameter$^2$", "nat": "nats"}
    return "" if text in ("", "1") else f" [{shown.get(text, text)}]"
