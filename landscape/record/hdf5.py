"""Records as HDF5 files: the header, groups with their dimension scales, and the place of each unit's row."""

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
from landscape.record.schema import FORMAT, ROWS, SCHEMA_MINOR, SCHEMA_VERSION, TEXT, Layout, Variable, length_of, utf8

LABELS = "DIMENSION_LABELS"
_OF_HDF5 = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", LABELS}
# The netCDF library's name for a dimension without a coordinate. Readers of netCDF show no variable for it.
_NO_COORDINATE = "This is a netCDF dimension but not a netCDF variable."

MOST_UNPACKED = 10  # times the file's size: a file that somebody compressed passes, and a bomb does not
_UNWRITTEN_BYTES = 2**26  # allowed for rows that hold only padding


@dataclass(frozen=True)
class Contents:
    """Layout and dimension lengths of a group.

    Attributes:
        layout: layout of the group's units, without the checkpoint dimension and without padding.
        sizes: size of each dimension, padding included.
        shorter: true length in each row, (rows,), for each dimension in which rows differ.
    """

    layout: Layout
    sizes: dict[str, int]
    shorter: dict[str, NDArray[Any]]

    def lengths(self, position: int) -> dict[str, int]:
        """True length of each dimension in the row at ``position``."""
        return {
            dim: int(self.shorter[dim][position]) if dim in self.shorter else size for dim, size in self.sizes.items()
        }


@dataclass(frozen=True)
class RowPlace:
    """Place of a unit: the file, the position in its group, and the group's contents if they were read already."""

    path: Path
    position: int
    contents: Contents | None = None


@dataclass(frozen=True)
class Members:
    """The variables of a group, each opened once.

    Opening the variables takes most of the time of reading a record of one row.

    Attributes:
        scales: scales of the dimensions, by name.
        variables: the other variables, by name.
    """

    scales: dict[str, h5py.Dataset]
    variables: dict[str, h5py.Dataset]


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a record for reading.

    Raises:
        InputError: the file is no landscape record, is damaged, or follows a newer schema.
    """
    if not path.is_file() or not h5py.is_hdf5(path):
        raise InputError(f"{path} is not a landscape record, and is left unchanged; name another file")
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
    """Turn any exception from reading a damaged record into an `InputError` of one line.

    h5py, NumPy, xarray and JSON raise nearly every type of exception on damaged records.

    Raises:
        InputError: the block raised an exception.
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
    """Refuse what no record has: groups in groups, links to other places, and data missing from the file.

    HDF5 follows links into other files and reads data from these files. HDF5 also fills terabytes for a variable that
    was never written.

    Raises:
        ValueError: the file has such a group, link or variable.
    """
    _refuse_unwritten(file, sum(_bytes(check_group(file, name)) for name in file))


def check_group(file: h5py.File, name: str) -> Members:
    """Check one group as `check_structure` checks a file.

    Returns:
        The variables of the group.
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
        raise ValueError("its variables claim to be larger than the file")


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to another place")  # noqa: TRY004
    member = group[name]
    if not isinstance(member, kind):
        raise ValueError(f"{name} is not a {kind.__name__.lower()}")  # noqa: TRY004
    return member


def is_scale(data: h5py.Dataset) -> bool:
    """Whether a variable is a dimension's scale, by its attribute: HDF5's own function crashes on a damaged one."""
    attrs = data.attrs
    return "CLASS" in attrs and attrs["CLASS"] in (b"DIMENSION_SCALE", "DIMENSION_SCALE")


def _is_no_coordinate(data: h5py.Dataset) -> bool:
    """Whether a scale has no coordinate; such a scale is never written and never read."""
    return bool(data.attrs["NAME"].decode().startswith(_NO_COORDINATE))


def header(request: Request) -> dict[str, Any]:
    """Attributes that identify a record, or the folder of its parts."""
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "schema_minor": SCHEMA_MINOR,
        "fingerprint": request.fingerprint,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def check_header(path: Path, attrs: Mapping[str, Any]) -> None:
    """Refuse a header that this version cannot read.

    Raises:
        InputError: the file is no record, or follows a newer schema.
    """
    if str(attrs.get("format")) != FORMAT:
        raise InputError(f"{path} is not a landscape record, and is left unchanged; name another file")
    if (version := int(attrs.get("schema_version", SCHEMA_VERSION))) > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}, and this landscape-probe reads up to {SCHEMA_VERSION}; upgrade "
            "landscape-probe"
        )


def is_older(attrs: Mapping[str, Any]) -> bool:
    """Whether a record, or the folder of its parts, follows an older schema, whose groups had other names."""
    return int(attrs.get("schema_version", SCHEMA_VERSION)) < SCHEMA_VERSION


def refuse_older(path: Path, attrs: Mapping[str, Any]) -> None:
    """Refuse to add to a record of an older schema, or to join it with others.

    Raises:
        InputError: the record follows an older schema.
    """
    if is_older(attrs):
        raise InputError(
            f"{path} has an older version: landscape-probe reads and draws this record, but can't add to it or join "
            "it; measure into another file (-o)"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's type if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def survey(path: Path) -> tuple[Request, dict[Unit, RowPlace]]:
    """The request of a record, and the place of each of its units.

    Raises:
        InputError: see `opened`; also if the request or the bookkeeping cannot be read, or the record follows an older
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
    """Write the root's attributes."""
    file.attrs.update(header(request) | {"request": to_json(request.plain())})


def members_of(group: h5py.Group) -> Members:
    """The variables of a group that was checked before."""
    return _sorted_out(dict(group.items()))


def _sorted_out(members: dict[str, h5py.Dataset]) -> Members:
    scales = {name: data for name, data in members.items() if is_scale(data)}
    return Members(scales, {name: data for name, data in members.items() if name not in scales})


def contents_of(members: Members) -> Contents:
    """The layout and dimension lengths of a group."""
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
    """Names of a variable's dimensions, from the attribute: HDF5's own function crashes on one of another type."""
    labels = data.attrs[LABELS]
    if len(labels) != data.ndim or not all(isinstance(each, str) for each in labels):
        raise ValueError(f"{data.name} has no names for its dimensions")
    return tuple(labels)


def _variable_in(data: h5py.Dataset, dims: tuple[str, ...]) -> Variable:
    code = TEXT if h5py.check_string_dtype(data.dtype) else data.dtype.str
    attrs = data.attrs
    return Variable(dims, code, {key: attrs[key] for key in attrs if key not in _OF_HDF5})


def create_group(file: h5py.File, name: str, layout: Layout, sizes: Mapping[str, int], rows: int) -> h5py.Group:
    """Create a group whose variables are padding, each with `checkpoint` as first dimension and its scales attached."""
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
        # HDF5 stores nothing for a variable that is never written: a dimension over all parameters costs no space.
        group.create_dataset(dim, shape=(size,), dtype=">f4").make_scale(f"{_NO_COORDINATE}{size:10d}")
        return
    variable, values = layout.coordinates[dim]
    # The longest row of the layout may not be one of the group's rows.
    scale = group.create_dataset(dim, data=values[:size], dtype=variable.storage)
    scale.make_scale(dim)
    scale.attrs.update(variable.attrs)


def create_variable(group: h5py.Group, name: str, variable: Variable) -> h5py.Dataset:
    """Create one variable, filled with padding, with its scales and labels attached."""
    dims = (ROWS, *variable.dims)
    shape = tuple(len(group[dim]) for dim in dims)
    data = group.create_dataset(name, shape=shape, dtype=variable.storage, fillvalue=variable.padding)
    for position, dim in enumerate(dims):
        data.dims[position].attach_scale(group[dim])
        data.dims[position].label = dim
    data.attrs.update(variable.attrs)
    return data


def provenance_in(group: h5py.Group, position: int) -> dict[str, Any]:
    """The provenance of the row at ``position``."""
    return parsed_provenance(group["provenance"].asstr()[position])


def parsed_provenance(text: str) -> dict[str, Any]:
    """Parse a row's provenance from its JSON."""
    provenance: dict[str, Any] = json.loads(text)
    if not {"step", "path"} <= provenance["checkpoint"].keys():
        raise ValueError("a row's provenance doesn't name its checkpoint")
    return provenance


def write_common(group: h5py.Group) -> None:
    """Write the provenance entries that all rows share as attributes of the group."""
    rows = [parsed_provenance(each) for each in group["provenance"].asstr()[:]]
    for key, value in rows[0].items():
        if key != "checkpoint" and all(key in row and row[key] == value for row in rows):
            group.attrs[key] = _attribute(value)


def _attribute(value: Any) -> Any:
    """Strings and numbers unchanged; other values as JSON.

    Truth values are JSON too, because netCDF has no attributes of this type.
    """
    if isinstance(value, str):
        return utf8(value)
    fits = isinstance(value, float) or (type(value) is int and -(2**63) <= value < 2**63)
    return value if fits else to_json(value)
