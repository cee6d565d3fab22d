"""Read a record, finished or unfinished."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import xarray as xr

from landscape.errors import InputError
from landscape.record.hdf5 import (
    LABELS,
    check_structure,
    contents_of,
    is_older,
    members_of,
    opened,
    readable,
)
from landscape.record.merge import merge, size_of_merged
from landscape.record.parts import Parts, replacing
from landscape.record.request import Request
from landscape.record.schema import OLD_GROUPS, OLD_VARIABLES, TEXT, length_of


def open_record(path: str | Path) -> xr.DataTree:
    """Open a record as a tree with a node for each measurement. Values are read when they are used.

    Groups and variables of older schemas have their present names.

    Args:
        path: OUT, or the folder `<OUT>.parts` of an unfinished run. OUT also stands for that folder while OUT doesn't
            exist. An unfinished record has the rows that are finished so far.

    Raises:
        InputError: there is no record, or it is damaged or of a newer schema, or it is unfinished and of an older
            schema.
    """
    for _ in range(_READINGS - 1):
        before = _files(Path(path))
        try:
            tree = _open_finished_or_not(Path(path))
        except (InputError, FileNotFoundError):
            if before <= _files(Path(path)):
                raise
        else:
            if before <= _files(Path(path)):
                return tree
            tree.close()
    return _open_finished_or_not(Path(path))


_READINGS = 4  # of a record whose writer merges its parts meanwhile; a writer does so once in many flushes


def _files(path: Path) -> set[tuple[str, int]]:
    """Names and identities of the files of an unfinished record; empty for a file."""
    if (unfinished := _unfinished(path)) is None:
        return set()
    found = set()
    for each in unfinished.folder.glob("*.h5"):
        with suppress(FileNotFoundError):
            found.add((each.name, each.stat().st_ino))
    return found


def _open_finished_or_not(path: Path) -> xr.DataTree:
    if (unfinished := _unfinished(path)) is None:
        return _open(path)
    if (contents := unfinished.contents()) is None:
        raise _missing(path)
    # Merged into a file, not into memory: eigenvectors are read when they are used, as from a finished record.
    folder = Path(tempfile.mkdtemp(prefix="landscape-record-"))
    try:
        request, rows = contents
        with replacing(folder / "record.h5", folder, size_of_merged(rows)) as temporary:
            merge(temporary, request, rows)
        tree = _open(folder / "record.h5")
    except BaseException:
        shutil.rmtree(folder)
        raise
    weakref.finalize(tree, shutil.rmtree, folder, ignore_errors=True)
    return tree


def _renamed(node: xr.DataTree) -> xr.DataTree:
    """A group of an older record, with the present names of its variables."""
    names = {old: new for old, new in OLD_VARIABLES.items() if old in node.variables}
    return xr.DataTree(node.dataset.rename(names)) if names else node


def row_at(group: xr.Dataset, position: int) -> xr.Dataset:
    """One row of a group at its own lengths, without padding."""
    row = group.isel(checkpoint=position)
    lengths = {dim: int(row[length_of(str(dim))]) for dim in row.sizes if length_of(str(dim)) in row}
    return row.isel({dim: slice(length) for dim, length in lengths.items()})


def read_row(path: Path, measurement: str, position: int, *, large: bool = True) -> xr.Dataset:
    """One row of a group of a file, in memory, at its own lengths: what `row_at` gives but for lengths and row number.

    xarray's data set of the whole group would take six times as long.

    Args:
        path: a record of the present schema.
        measurement: the group.
        position: of the row.
        large: also read the variables that have a value for each parameter.

    Raises:
        InputError: the record is damaged.
    """
    with opened(path) as file, readable(path):
        members = members_of(file[measurement])
        contents = contents_of(members)
        lengths = contents.lengths(position)
        scales = {
            dim: xr.Variable(dim, values[: lengths[dim]], variable.attrs)
            for dim, (variable, values) in contents.layout.coordinates.items()
        }
        variables = {}
        for name, variable in contents.layout.variables.items():
            if large or "parameter" not in variable.dims:
                data = members.variables[name]
                place = (position, *(slice(lengths[dim]) for dim in variable.dims))
                values = data.asstr()[place] if variable.dtype == TEXT else data[place]
                variables[name] = xr.Variable(variable.dims, values, variable.attrs)
        return xr.Dataset(variables, scales)


def read_request(path: str | Path) -> Request:
    """The request of a record, finished or unfinished.

    Raises:
        InputError: see `open_record`.
    """
    if unfinished := _unfinished(Path(path)):
        if (request := unfinished.request()) is None:
            raise _missing(Path(path))
        return request
    with opened(Path(path)) as file, readable(Path(path)):
        return Request.from_plain(json.loads(file.attrs["request"]))


def read_provenance(record: xr.DataTree, measurement: str, position: int) -> dict[str, Any]:
    """The provenance of one row."""
    stored: dict[str, Any] = json.loads(str(record[measurement].dataset["provenance"].values[position]))
    return stored


def _unfinished(path: Path) -> Parts | None:
    """The parts of an unfinished record; None if ``path`` is a file."""
    if path.exists() and not path.is_dir():
        return None
    return Parts(path) if path.is_dir() else Parts.of(path)


def _missing(path: Path) -> InputError:
    return InputError(f"{path}: there is no record here; check the name")


def _open(path: Path) -> xr.DataTree:
    with opened(path) as file, readable(path):
        check_structure(file)
    with readable(path):
        tree = xr.open_datatree(path, engine="h5netcdf")
    if is_older({str(key): value for key, value in tree.attrs.items()}):
        tree.children = {OLD_GROUPS.get(name, name): _renamed(node) for name, node in tree.children.items()}
    for node in tree.subtree:
        for variable in node.variables.values():
            variable.attrs.pop(LABELS, None)  # xarray's dimensions have these names
    return tree
