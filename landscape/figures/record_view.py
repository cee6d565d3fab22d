"""The records that a figure is drawn from, as read for drawing."""

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
    """A record as figures see it.

    Attributes:
        label: name of the record in a legend.
        groups: measurements of the record by group, without variables that have a value for each parameter.
        identity: file name, fingerprint, time of creation, commands, versions, and checkpoints with their steps.
        folder: name of the record's folder, which distinguishes records of one name.
    """

    label: str
    groups: dict[str, xr.Dataset]
    identity: dict[str, Any]
    folder: str = ""

    @classmethod
    def read(cls, path: str | Path, label: str | None = None, matrix: str = HESSIAN) -> RecordView:
        """Read a record, finished or not.

        Args:
            path: path of the record.
            label: name of the record in a legend. Default: None, the file's name without its endings.
            matrix: the matrix to draw, by its name in the record's groups, such as ``ggn`` or ``fisher-mc``. The groups
                of a matrix other than the Hessian take the names of the Hessian's groups, and of the other groups only
                the loss is kept. Default: the Hessian, with all groups.

        Raises:
            InputError: the file is no record, is damaged, or has no measurement of that matrix.
        """
        path = Path(path)
        with open_record(path) as tree, readable(path):
            groups = {str(name): _without_large(node.to_dataset()).load() for name, node in tree.children.items()}
            identity: dict[str, Any] = {
                "record": utf8(path.name),
                "fingerprint": str(tree.attrs.get("fingerprint", "")),
                "created": str(tree.attrs.get("created", "")),
            }
            provenances = [json.loads(str(text)) for group in groups.values() for text in group.provenance.values[-1:]]
            identity["commands"] = sorted({each["command"] for each in provenances})
            identity["versions"] = provenances[-1]["versions"] if provenances else {}
            identity["checkpoints"] = [
                {"sha256": sha, "step": None if step < 0 else step}
                for sha, step in sorted(_checkpoints(groups).items())
            ]
        name = label or _ENDINGS.sub("", path.name) or path.name
        if matrix != HESSIAN:
            groups, name = _of_matrix(groups, matrix, utf8(path.name)), f"{name} ({matrix})"
        return cls(plain(name), groups, identity, plain(path.resolve().parent.name))

    def lacks(self, needs: Mapping[str, Sequence[str]]) -> str | None:
        """Text on the first of these groups or variables that the record lacks; None if it has all."""
        for group, variables in needs.items():
            if group not in self.groups:
                return f"no /{group}"
            for name in variables:
                if name not in self.groups[group]:
                    return f"no {name} in its /{group}"
        return None

    def row(self, group: str, step: int | None = None) -> xr.Dataset:
        """One checkpoint's row of a group, without padding: the row of a step, or of the last step for None.

        Raises:
            InputError: no checkpoint has that step.
        """
        rows = self.groups[group]
        positions = np.flatnonzero(rows.step.values == (rows.step.values.max() if step is None else step))
        if not len(positions):
            raise InputError(
                f"{self.label} has no {group} of step {step}; there are {listed(rows.step.values.tolist(), 8)}"
            )
        return row_at(rows, int(positions[-1]))

    def series(self, group: str) -> xr.Dataset:
        """All rows of a group in the order of their steps; unknown steps keep the order of the record."""
        rows = self.groups[group]
        return rows.isel(checkpoint=np.argsort(rows.step.values, kind="stable"))


def distinguished(shown: Sequence[RecordView]) -> list[RecordView]:
    """The records with distinct labels: equal labels get their folder in front, and a number if still equal."""
    shown = _renamed(shown, [f"{record.folder}/{record.label}" for record in shown])
    return _renamed(shown, [f"{record.label} {place}" for place, record in enumerate(shown, 1)])


def _renamed(shown: Sequence[RecordView], names: Sequence[str]) -> list[RecordView]:
    """The records; each whose label occurs more than once takes its name from `names`."""
    often = Counter(record.label for record in shown)
    return [
        replace(record, label=name) if often[record.label] > 1 else record
        for record, name in zip(shown, names, strict=True)
    ]


def _checkpoints(groups: Mapping[str, xr.Dataset]) -> dict[str, int]:
    """The step of every checkpoint by its sha256. Rows of a whole run are left out: their digest is of the run."""
    return {
        str(sha): int(step)
        for group in groups.values()
        for sha, step, provenance in zip(group.sha256.values, group.step.values, group.provenance.values, strict=True)
        if "run" not in json.loads(str(provenance)).get("checkpoint", {})
    }


def _of_matrix(groups: Mapping[str, xr.Dataset], matrix: str, record: str) -> dict[str, xr.Dataset]:
    """The groups of a matrix under the names of the Hessian's groups, and the loss."""
    ending = "_" + matrix.replace("-", "_")
    renamed = {name.removesuffix(ending): group for name, group in groups.items() if name.endswith(ending)}
    if not renamed:
        raise InputError(f"{record} has no measurement of the matrix {matrix}; it has {listed(sorted(groups), 20)}")
    return renamed | {name: groups[name] for name in ("loss",) if name in groups}


def _without_large(group: xr.Dataset) -> xr.Dataset:
    return group.drop_vars([name for name, each in group.variables.items() if set(LARGE) & set(each.dims)])


def plain(text: object) -> str:
    """A user's text, such as a file name, for matplotlib: no mathematics, and bytes that aren't UTF-8 spelt out."""
    return utf8(str(text)).replace("$", r"\$")


def at_step(row: xr.Dataset) -> str:
    """Text for a row's checkpoint: ``step 4000``, or the file's name if the step is unknown."""
    step = int(row.step)
    return f"step {step}" if step >= 0 else plain(Path(str(row.path.values)).name)


def units(variable: xr.DataArray) -> str:
    """Units for an axis label, in brackets; nothing for a pure number."""
    return bracketed(str(variable.attrs.get("units", "")))


def bracketed(text: str) -> str:
    """Units for an axis label, by their name; see `units`."""
    formatted = {"loss / parameter^2": "loss / parameter$^2$", "nat": "nats"}
    return "" if text in ("", "1") else f" [{formatted.get(text) or plain(text)}]"
