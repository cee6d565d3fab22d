"""The records that a figure is drawn from, and what of them is drawn."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landscape.errors import InputError
from landscape.record import open_record, readable, row_at
from landscape.record.schema import utf8
from landscape.reporting.messages import listed

HESSIAN = "hessian"
LARGE = ("parameter",)
_ENDINGS = re.compile(r"(\.landscape)?(\.(h5|hdf5|nc))?(\.parts)?$")


@dataclass(frozen=True)
class RecordView:
    """One record.

    Attributes:
        label: its name in a legend.
        groups: the measurements in it, eigenvectors left out.
        identity: what says which record it is: file, fingerprint, checkpoints with their steps, versions, command.
        folder: where the record is, which tells records of one name apart.
    """

    label: str
    groups: dict[str, xr.Dataset]
    identity: dict[str, Any]
    folder: str = ""

    @classmethod
    def read(cls, path: str | Path, label: str | None = None, matrix: str = HESSIAN) -> RecordView:
        """Read a record, finished or not.

        Args:
            path: of the record.
            label: its name in a legend; None takes the file's.
            matrix: of another matrix than the Hessian by its name in the record's groups, such as ``ggn`` or
                ``fisher-mc``: what was measured of it stands where that of the Hessian does, and nothing else is there
                but the loss.

        Raises:
            InputError: there is none, it is damaged, or has nothing of that matrix.
        """
        path = Path(path)
        with open_record(path) as tree, readable(path):
            groups = {str(name): _without_large(node.to_dataset()).load() for name, node in tree.children.items()}
            identity: dict[str, Any] = {
                "record": utf8(path.name),
                "fingerprint": str(tree.attrs.get("fingerprint", "")),
                "created": str(tree.attrs.get("created", "")),
            }
            told = [json.loads(str(text)) for group in groups.values() for text in group.provenance.values[-1:]]
            identity["commands"] = sorted({each["command"] for each in told})
            identity["versions"] = told[-1]["versions"] if told else {}
            identity["checkpoints"] = [
                {"sha256": sha, "step": None if step < 0 else step}
                for sha, step in sorted(_checkpoints(groups).items())
            ]
        name = label or _ENDINGS.sub("", path.name) or path.name
        if matrix != HESSIAN:
            groups, name = _of_matrix(groups, matrix, utf8(path.name)), f"{name} ({matrix})"
        return cls(plain(name), groups, identity, plain(path.resolve().parent.name))

    def lacks(self, needs: Mapping[str, Sequence[str]]) -> str | None:
        """The first of these groups, or of their variables, that isn't there; None where all are."""
        for group, variables in needs.items():
            if group not in self.groups:
                return f"no /{group}"
            for name in variables:
                if name not in self.groups[group]:
                    return f"no {name} in its /{group}"
        return None

    def row(self, group: str, step: int | None = None) -> xr.Dataset:
        """One checkpoint's row of a group, without its padding: that of a step, or of the last step.

        Raises:
            InputError: no checkpoint is of that step.
        """
        rows = self.groups[group]
        found = np.flatnonzero(rows.step.values == (rows.step.values.max() if step is None else step))
        if not len(found):
            raise InputError(
                f"{self.label} has no {group} of step {step}; there are {listed(rows.step.values.tolist(), 8)}"
            )
        return row_at(rows, int(found[-1]))

    def series(self, group: str) -> xr.Dataset:
        """All rows of a group in the order of their steps; where steps aren't known, as they stand."""
        rows = self.groups[group]
        return rows.isel(checkpoint=np.argsort(rows.step.values, kind="stable"))


def distinguished(shown: Sequence[RecordView]) -> list[RecordView]:
    """The records with labels that differ: equal ones get their folder in front, and a number if that is equal too."""
    shown = _renamed(shown, [f"{record.folder}/{record.label}" for record in shown])
    return _renamed(shown, [f"{record.label} {place}" for place, record in enumerate(shown, 1)])


def _renamed(shown: Sequence[RecordView], names: Sequence[str]) -> list[RecordView]:
    """The records, with these names where two have one label."""
    often = Counter(record.label for record in shown)
    return [
        replace(record, label=name) if often[record.label] > 1 else record
        for record, name in zip(shown, names, strict=True)
    ]


def _checkpoints(groups: Mapping[str, xr.Dataset]) -> dict[str, int]:
    """The step of every checkpoint by its sha256; the row of a whole run has a digest of many, and is of none."""
    return {
        str(sha): int(step)
        for group in groups.values()
        for sha, step, told in zip(group.sha256.values, group.step.values, group.provenance.values, strict=True)
        if "run" not in json.loads(str(told)).get("checkpoint", {})
    }


def _of_matrix(groups: Mapping[str, xr.Dataset], matrix: str, record: str) -> dict[str, xr.Dataset]:
    """The groups of a matrix under the names that they have for the Hessian, and the loss."""
    ending = "_" + matrix.replace("-", "_")
    found = {name.removesuffix(ending): group for name, group in groups.items() if name.endswith(ending)}
    if not found:
        raise InputError(f"{record} has nothing of the matrix {matrix}; it has {listed(sorted(groups), 20)}")
    return found | {name: groups[name] for name in ("loss",) if name in groups}


def _without_large(group: xr.Dataset) -> xr.Dataset:
    return group.drop_vars([name for name, each in group.variables.items() if set(LARGE) & set(each.dims)])


def plain(text: object) -> str:
    """Text of a user's, such as the name of a file, as letters alone: no mathematics, no bytes that aren't text."""
    return utf8(str(text)).replace("$", r"\$")


def at_step(row: xr.Dataset) -> str:
    """``step 4000`` of a row; its file's name where the step isn't known."""
    step = int(row.step)
    return f"step {step}" if step >= 0 else plain(Path(str(row.path.values)).name)


def units(variable: xr.DataArray) -> str:
    """Units for an axis label, in brackets; nothing for a pure number."""
    text = str(variable.attrs.get("units", ""))
    shown = {"loss / parameter^2": "loss / parameter$^2$", "nat": "nats"}
    return "" if text in ("", "1") else f" [{shown.get(text) or plain(text)}]"
