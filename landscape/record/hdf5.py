"""Records as HDF5 files: the header, groups with their dimension scales, and where each unit's row is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from landscape.errors import InputError
from landscape.record.heaps import has_endless_heap
from landscape.record.request import Request, Unit, to_json
from landscape.record.schema import FORMAT, ROWS, SCHEMA_VERSION, Layout, Variable, length_of, utf8

LABELS = "DIMENSION_LABELS"
_OF_HDF5 = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", LABELS}
# The netCDF library's name for a dimension without a coordinate; readers of netCDF then show no variable for it.
_NO_COORDINATE = "This is a netCDF dimension but not a netCDF variable."

MOST_UNPACKED = 10  # times the file: records aren't packed, and what somebody packed is let through, but no bomb
_UNWRITTEN_BYTES = 2**26  # of rows that are padding alone


@dataclass(frozen=True)
class Row:
    """Where a unit is: the file, and the position in its group."""

    path: Path
    position: int


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The record, open for reading.

    Raises:
        InputError: the file is no landscape record, is damaged, or follows a newer schema.
    """
    if not path.is_file() or not h5py.is_hdf5(path):
        raise InputError(f"{path} is not a landscape record; it is left as it is, name another file")
    try:
        file = _file(path)
    except OSError as error:
        raise InputError(
            f"{path} is damaged, HDF5 cannot open it ({first_line(error)}); restore it, or save what can be read with "
            "--merge"
        ) from error
    with file:
        with readable(path):
            check_header(path, file.attrs)
        yield file


def _file(path: Path) -> h5py.File:
    if has_endless_heap(path):
        raise OSError("a heap of texts has no end")
    return h5py.File(path, "r")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What reading a damaged record raises (h5py, NumPy, xarray and JSON: nearly every type there is) as one line.

    Raises:
        InputError: something was raised.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)}); restore it, or save what can be read with --merge"
        ) from error


def check_structure(file: h5py.File) -> None:
    """Refuse what no record has: groups in groups, links to elsewhere, and data that the file doesn't have.

    HDF5 follows links into other files, reads data from them, and makes terabytes of a variable that was never written.

    Raises:
        ValueError: the file has such a thing.
    """
    _refuse_unwritten(file, sum(check_group(file, name) for name in file))


def check_group(file: h5py.File, name: str) -> int:
    """The same of one group.

    Returns:
        The bytes of its variables.
    """
    _check_member(file, name, h5py.Group)
    group = file[name]
    for each in group:
        _check_member(group, each, h5py.Dataset)
    rows, size = len(group["sha256"]), 0
    for data in group.values():
        if data.dtype.kind not in "biuf" and not h5py.check_string_dtype(data.dtype):
            raise ValueError(f"{data.name} has a type that no record has")
        if not is_scale(data) and (not data.shape or data.shape[0] != rows):
            raise ValueError(f"{data.name} hasn't a row for each of {rows} checkpoints")
        if data.is_virtual or data.external:
            raise ValueError(f"{data.name} has its data in another file")
        size += 0 if _is_no_coordinate(data) else data.nbytes
    _refuse_unwritten(file, size)
    return size


def _refuse_unwritten(file: h5py.File, size: int) -> None:
    if size > MOST_UNPACKED * Path(file.filename).stat().st_size + _UNWRITTEN_BYTES:
        raise ValueError("its variables are said to be larger than the file")


def _check_member(group: h5py.Group, name: str, kind: type) -> None:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to elsewhere")  # noqa: TRY004
    if group.get(name, getclass=True) is not kind:
        raise ValueError(f"{name} is no {kind.__name__.lower()}")


def is_scale(data: h5py.Dataset) -> bool:
    """Whether it is a dimension's scale, from the attribute itself: HDF5's own function crashes on a damaged one."""
    return data.attrs.get("CLASS") in (b"DIMENSION_SCALE", "DIMENSION_SCALE")


def _is_no_coordinate(data: h5py.Dataset) -> bool:
    """Whether it is a dimension alone: never written, and never read."""
    return is_scale(data) and data.attrs["NAME"].decode().startswith(_NO_COORDINATE)


def header(request: Request) -> dict[str, Any]:
    """What a record, and the folder of its parts, says of itself."""
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "fingerprint": request.fingerprint,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def check_header(path: Path, attrs: Mapping[str, Any]) -> None:
    """Refuse what this version cannot read.

    Raises:
        InputError: it is no record, or one of a newer schema.
    """
    if str(attrs.get("format")) != FORMAT:
        raise InputError(f"{path} is not a landscape record; it is left as it is, name another file")
    if (version := int(attrs.get("schema_version", SCHEMA_VERSION))) > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}, this landscape-probe reads up to {SCHEMA_VERSION}; upgrade it"
        )


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def survey(path: Path) -> tuple[Request, dict[Unit, Row]]:
    """What the record was asked for, and where each of its units is.

    Raises:
        InputError: see `opened`; also if the request or the bookkeeping cannot be read.
    """
    with opened(path) as file, readable(path):
        check_structure(file)
        request = Request.from_plain(json.loads(file.attrs["request"]))
        rows = {
            (name, sha): Row(path, position)
            for name, group in file.items()
            for position, sha in enumerate(group["sha256"].asstr()[:])
        }
        for (name, _), row in rows.items():
            provenance_in(file[name], row.position)
    return request, rows


def write_header(file: h5py.File, request: Request) -> None:
    """The root's attributes."""
    file.attrs.update(header(request) | {"request": to_json(request.plain())})


def layout_in(group: h5py.Group) -> Layout:
    """The layout of a group's units: without the checkpoint dimension, and without what padding added."""
    coordinates = {
        dim: (_variable_in(scale, (dim,)), scale.asstr()[:] if h5py.check_string_dtype(scale.dtype) else scale[:])
        for dim, scale in _dimensions(group).items()
        if not _is_no_coordinate(scale)
    }
    lengths = {length_of(dim) for dim in _dimensions(group)}
    variables = {
        name: _variable_in(data, _labels_in(data)[1:])
        for name, data in group.items()
        if not is_scale(data) and name not in lengths
    }
    return Layout(variables, coordinates)


def _labels_in(data: h5py.Dataset) -> tuple[str, ...]:
    """The names of its dimensions, from the attribute itself: HDF5's own function crashes on one of another type."""
    labels = data.attrs[LABELS]
    if len(labels) != data.ndim or not all(isinstance(each, str) for each in labels):
        raise ValueError(f"{data.name} has no names for its dimensions")
    return tuple(labels)


def _variable_in(data: h5py.Dataset, dims: tuple[str, ...]) -> Variable:
    code = "text" if h5py.check_string_dtype(data.dtype) else data.dtype.str
    return Variable(dims, code, {key: value for key, value in data.attrs.items() if key not in _OF_HDF5})


def _dimensions(group: h5py.Group) -> dict[str, h5py.Dataset]:
    return {name: data for name, data in group.items() if is_scale(data) and name != ROWS}


def lengths_in(group: h5py.Group, position: int) -> dict[str, int]:
    """The true length of each dimension in one row."""
    return {
        dim: int(group[length_of(dim)][position]) if length_of(dim) in group else len(scale)
        for dim, scale in _dimensions(group).items()
    }


def create_group(file: h5py.File, name: str, layout: Layout, sizes: Mapping[str, int], rows: int) -> h5py.Group:
    """A group with all its variables, filled with padding: `checkpoint` leads each, and scales are attached."""
    group = file.create_group(name)
    scale = group.create_dataset(ROWS, data=np.arange(rows))
    scale.make_scale(ROWS)
    scale.attrs.update({"units": "1", "long_name": "position of the checkpoint in this group"})
    for dim, size in sizes.items():
        _create_scale(group, dim, size, layout)
    for each, variable in layout.variables.items():
        create_variable(group, each, variable)
    return group


def _create_scale(group: h5py.Group, dim: str, size: int, layout: Layout) -> None:
    if dim not in layout.coordinates:
        # Never written, so HDF5 stores nothing for it: a dimension over all parameters costs no space.
        group.create_dataset(dim, shape=(size,), dtype=">f4").make_scale(f"{_NO_COORDINATE}{size:10d}")
        return
    variable, values = layout.coordinates[dim]
    scale = group.create_dataset(dim, data=values, dtype=variable.storage)
    scale.make_scale(dim)
    scale.attrs.update(variable.attrs)


def create_variable(group: h5py.Group, name: str, variable: Variable) -> h5py.Dataset:
    """One variable, filled with padding, its scales and labels attached."""
    dims = (ROWS, *variable.dims)
    shape = tuple(len(group[dim]) for dim in dims)
    data = group.create_dataset(name, shape=shape, dtype=variable.storage, fillvalue=variable.padding)
    for position, dim in enumerate(dims):
        data.dims[position].attach_scale(group[dim])
        data.dims[position].label = dim
    data.attrs.update(variable.attrs)
    return data


def provenance_in(group: h5py.Group, position: int) -> dict[str, Any]:
    """How one row came to be."""
    told: dict[str, Any] = json.loads(group["provenance"].asstr()[position])
    if not {"step", "path"} <= told["checkpoint"].keys():
        raise ValueError("a row's provenance doesn't say of which checkpoint it is")
    return told


def write_common(group: h5py.Group) -> None:
    """Attributes of the group for what is the same in the provenance of all its rows."""
    rows = [provenance_in(group, position) for position in range(len(group["provenance"]))]
    for key, value in rows[0].items():
        if key != "checkpoint" and all(key in row and row[key] == value for row in rows):
            group.attrs[key] = _attribute(value)


def _attribute(value: Any) -> Any:
    """Strings and numbers as they are; the rest as JSON, for netCDF has no attribute of a truth value either."""
    if isinstance(value, str):
        return utf8(value)
    fits = isinstance(value, float) or (type(value) is int and -(2**63) <= value < 2**63)
    return value if fits else to_json(value)
