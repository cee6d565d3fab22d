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
from numpy.typing import NDArray

from landscape.errors import InputError
from landscape.record.heaps import has_endless_heap
from landscape.record.request import Request, Unit, to_json
from landscape.record.schema import FORMAT, ROWS, SCHEMA_MINOR, SCHEMA_VERSION, Layout, Variable, length_of, utf8

LABELS = "DIMENSION_LABELS"
_OF_HDF5 = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", LABELS}
# The netCDF library's name for a dimension without a coordinate; readers of netCDF then show no variable for it.
_NO_COORDINATE = "This is a netCDF dimension but not a netCDF variable."

MOST_UNPACKED = 10  # times the file: records aren't packed, and what somebody packed is let through, but no bomb
_UNWRITTEN_BYTES = 2**26  # of rows that are padding alone


@dataclass(frozen=True)
class Contents:
    """What a group is made of.

    Attributes:
        layout: of its units: without the checkpoint dimension, and without what padding added.
        sizes: of each dimension, padding included.
        shorter: the true length in each row, of the dimensions in which rows differ.
    """

    layout: Layout
    sizes: dict[str, int]
    shorter: dict[str, NDArray[Any]]

    def lengths(self, position: int) -> dict[str, int]:
        """The true length of each dimension in one row."""
        return {
            dim: int(self.shorter[dim][position]) if dim in self.shorter else size for dim, size in self.sizes.items()
        }


@dataclass(frozen=True)
class RowPlace:
    """Where a unit is: the file, and the position in its group; and what the group is made of, if somebody looked."""

    path: Path
    position: int
    contents: Contents | None = None


@dataclass(frozen=True)
class Members:
    """The variables of a group, each opened once: that is most of what reading a record of one row takes.

    Attributes:
        scales: of dimensions.
        variables: the others.
    """

    scales: dict[str, h5py.Dataset]
    variables: dict[str, h5py.Dataset]


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
    _refuse_unwritten(file, sum(_bytes(check_group(file, name)) for name in file))


def check_group(file: h5py.File, name: str) -> Members:
    """The same of one group.

    Returns:
        Its variables.
    """
    group = _member(file, name, h5py.Group)
    members = _sorted_out({each: _member(group, each, h5py.Dataset) for each in group})
    rows = len((members.variables | members.scales)["sha256"])
    for data in (*members.scales.values(), *members.variables.values()):
        if data.dtype.kind not in "biuf" and not h5py.check_string_dtype(data.dtype):
            raise ValueError(f"{data.name} has a type that no record has")
        if data.is_virtual or data.external:
            raise ValueError(f"{data.name} has its data in another file")
    for data in members.variables.values():
        if not data.shape or data.shape[0] != rows:
            raise ValueError(f"{data.name} hasn't a row for each of {rows} checkpoints")
    _refuse_unwritten(file, _bytes(members))
    return members


def _bytes(members: Members) -> int:
    read = [*members.variables.values(), *(each for each in members.scales.values() if not _is_no_coordinate(each))]
    return sum(data.nbytes for data in read)


def _refuse_unwritten(file: h5py.File, size: int) -> None:
    if size > MOST_UNPACKED * Path(file.filename).stat().st_size + _UNWRITTEN_BYTES:
        raise ValueError("its variables are said to be larger than the file")


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to elsewhere")  # noqa: TRY004
    member = group[name]
    if not isinstance(member, kind):
        raise ValueError(f"{name} is no {kind.__name__.lower()}")  # noqa: TRY004
    return member


def is_scale(data: h5py.Dataset) -> bool:
    """Whether it is a dimension's scale, from the attribute itself: HDF5's own function crashes on a damaged one."""
    attrs = data.attrs
    return "CLASS" in attrs and attrs["CLASS"] in (b"DIMENSION_SCALE", "DIMENSION_SCALE")


def _is_no_coordinate(data: h5py.Dataset) -> bool:
    """Whether a scale is a dimension alone: never written, and never read."""
    return bool(data.attrs["NAME"].decode().startswith(_NO_COORDINATE))


def header(request: Request) -> dict[str, Any]:
    """What a record, and the folder of its parts, says of itself."""
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "schema_minor": SCHEMA_MINOR,
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


def is_older(attrs: Mapping[str, Any]) -> bool:
    """Whether a record, or the folder of its parts, is of a schema whose groups had other names."""
    return int(attrs.get("schema_version", SCHEMA_VERSION)) < SCHEMA_VERSION


def refuse_older(path: Path, attrs: Mapping[str, Any]) -> None:
    """Refuse to add to a record of an older schema, or to join it with others.

    Raises:
        InputError: the record is of an older schema.
    """
    if is_older(attrs):
        raise InputError(
            f"{path} is of an older version: it is read and drawn, but not added to or joined; measure into another "
            "file (-o)"
        )


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def survey(path: Path) -> tuple[Request, dict[Unit, RowPlace]]:
    """What the record was asked for, and where each of its units is.

    Raises:
        InputError: see `opened`; also if the request or the bookkeeping cannot be read, or the record is of an older
            schema.
    """
    with opened(path) as file, readable(path):
        refuse_older(path, file.attrs)
        check_structure(file)
        request = Request.from_plain(json.loads(file.attrs["request"]))
        rows = {
            (name, sha): RowPlace(path, position)
            for name, group in file.items()
            for position, sha in enumerate(group["sha256"].asstr()[:])
        }
        for name in file:
            for each in file[name]["provenance"].asstr()[:]:
                parsed_provenance(each)
    return request, rows


def write_header(file: h5py.File, request: Request) -> None:
    """The root's attributes."""
    file.attrs.update(header(request) | {"request": to_json(request.plain())})


def members_of(group: h5py.Group) -> Members:
    """The variables of a group that was checked before."""
    return _sorted_out(dict(group.items()))


def _sorted_out(members: dict[str, h5py.Dataset]) -> Members:
    scales = {name: data for name, data in members.items() if is_scale(data)}
    return Members(scales, {name: data for name, data in members.items() if name not in scales})


def contents_of(members: Members) -> Contents:
    """What a group is made of."""
    scales = {dim: scale for dim, scale in members.scales.items() if dim != ROWS}
    lengths = {length_of(dim): dim for dim in scales}
    coordinates = {
        dim: (_variable_in(scale, (dim,)), scale.asstr()[:] if h5py.check_string_dtype(scale.dtype) else scale[:])
        for dim, scale in scales.items()
        if not _is_no_coordinate(scale)
    }
    variables, shorter = {}, {}
    for name, data in members.variables.items():
        if name in lengths:
            shorter[lengths[name]] = data[:]
        else:
            variables[name] = _variable_in(data, _labels_in(data)[1:])
    return Contents(Layout(variables, coordinates), {dim: len(scale) for dim, scale in scales.items()}, shorter)


def _labels_in(data: h5py.Dataset) -> tuple[str, ...]:
    """The names of its dimensions, from the attribute itself: HDF5's own function crashes on one of another type."""
    labels = data.attrs[LABELS]
    if len(labels) != data.ndim or not all(isinstance(each, str) for each in labels):
        raise ValueError(f"{data.name} has no names for its dimensions")
    return tuple(labels)


def _variable_in(data: h5py.Dataset, dims: tuple[str, ...]) -> Variable:
    code = "text" if h5py.check_string_dtype(data.dtype) else data.dtype.str
    attrs = data.attrs
    return Variable(dims, code, {key: attrs[key] for key in attrs if key not in _OF_HDF5})


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
    return parsed_provenance(group["provenance"].asstr()[position])


def parsed_provenance(text: str) -> dict[str, Any]:
    """A row's provenance, from its JSON."""
    told: dict[str, Any] = json.loads(text)
    if not {"step", "path"} <= told["checkpoint"].keys():
        raise ValueError("a row's provenance doesn't say of which checkpoint it is")
    return told


def write_common(group: h5py.Group) -> None:
    """Attributes of the group for what is the same in the provenance of all its rows."""
    rows = [parsed_provenance(each) for each in group["provenance"].asstr()[:]]
    for key, value in rows[0].items():
        if key != "checkpoint" and all(key in row and row[key] == value for row in rows):
            group.attrs[key] = _attribute(value)


def _attribute(value: Any) -> Any:
    """Strings and numbers as they are; the rest as JSON, for netCDF has no attribute of a truth value either."""
    if isinstance(value, str):
        return utf8(value)
    fits = isinstance(value, float) or (type(value) is int and -(2**63) <= value < 2**63)
    return value if fits else to_json(value)
