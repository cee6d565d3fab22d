"""The schema of a record: names, types, padding, and the rules by which units fit into one group.

A record and each of its parts follow this schema. Merging parts is therefore joining records. docs/record.md describes
the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.errors import InputError
from landscape.record.request import to_json

FORMAT = "landscape-record"
SCHEMA_VERSION = 2  # the major number, raised when older programs would misread a record
SCHEMA_MINOR = 0  # raised for additions that older programs may ignore
# Names in version 1 of the schema, and their present names.
OLD_GROUPS = {"hessian": "eigenpairs"}
OLD_VARIABLES = {"missed": "miss_probability"}
ROWS = "checkpoint"

TEXT = "text"
_NUMBERS = {"|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f4", "<f8"}
# xarray decodes variables with these units to time spans.
_TIME_SPANS = {"days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds"}


@dataclass(frozen=True)
class Variable:
    """A variable of one unit: dimensions (without `checkpoint`), type (NumPy's code or "text"), attributes."""

    dims: tuple[str, ...]
    dtype: str
    attrs: dict[str, Any]

    @property
    def storage(self) -> Any:
        """Type of the variable in the HDF5 file."""
        return h5py.string_dtype() if self.dtype == TEXT else np.dtype(self.dtype)

    @property
    def padding(self) -> Any:
        """Value that fills up shorter rows; None is HDF5's own default, the empty string for text."""
        if self.dtype == TEXT:
            return None
        dtype = np.dtype(self.dtype)
        return np.iinfo(dtype).max if dtype.kind == "u" else {"f": np.nan, "i": -1, "b": False}[dtype.kind]


BOOKKEEPING = {
    "step": Variable((), "<i8", {"units": "1", "long_name": "training step of the checkpoint, -1 if unknown"}),
    "path": Variable((), TEXT, {"units": "", "long_name": "file of the checkpoint when it was measured"}),
    "sha256": Variable((), TEXT, {"units": "", "long_name": "sha256 of the checkpoint's file"}),
    "provenance": Variable((), TEXT, {"units": "", "long_name": "how this row came to be, as JSON"}),
}
"""The record's own variables, of which each row has one value."""


@dataclass(frozen=True)
class Layout:
    """Variables and coordinates that the units of one group share.

    Attributes:
        variables: variables by name, without the coordinates of dimensions.
        coordinates: coordinate and its values, for each dimension that has one.
    """

    variables: dict[str, Variable]
    coordinates: dict[str, tuple[Variable, NDArray[Any]]]

    def join(self, other: Layout) -> Layout:
        """The joint layout of both, with the longer coordinates.

        Raises:
            InputError: the layouts do not fit into one group; the message names the variable or the coordinate.
        """
        if other is self:
            return self
        mine, others = self._described, other._described
        if changed := sorted(name for name in mine.keys() | others.keys() if mine.get(name) != others.get(name)):
            raise InputError(f"{changed[0]} has another type, other dimensions or other attributes, or is not in both")
        coordinates = {dim: _longer(dim, self, other) for dim in self.coordinates}
        if all(each is self.coordinates[dim] for dim, each in coordinates.items()):
            return self  # keeps the cached description, with which thousands of layouts may be compared
        return Layout(self.variables, coordinates)

    @cached_property
    def _described(self) -> dict[str, str]:
        scales = {dim: variable for dim, (variable, _) in self.coordinates.items()}
        return {name: to_json(vars(variable)) for name, variable in (self.variables | scales).items()}


def _longer(dim: str, a: Layout, b: Layout) -> tuple[Variable, NDArray[Any]]:
    short, long = sorted((b.coordinates[dim], a.coordinates[dim]), key=lambda each: len(each[1]))
    if not np.array_equal(short[1], long[1][: len(short[1])], equal_nan=short[0].dtype.startswith("<f")):
        raise InputError(f"the coordinate {dim} has other values")
    return long


def unit_of(measured: xr.Dataset, provenance: Mapping[str, Any]) -> xr.Dataset:
    """The unit as stored: the measured variables, and the step, path, sha256 and provenance of its checkpoint.

    Raises:
        ValueError: the data set breaks a rule of the schema.
    """
    check_row(measured)
    values = bookkeeping_of(provenance)
    return measured.reset_coords().assign(
        {name: xr.Variable((), values[name], variable.attrs) for name, variable in BOOKKEEPING.items()}
    )


def bookkeeping_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the record's own variables in one row, from the row's provenance."""
    checkpoint = provenance["checkpoint"]
    return {
        "step": np.int64(-1 if checkpoint["step"] is None else checkpoint["step"]),
        "path": utf8(str(checkpoint["path"])),
        "sha256": checkpoint["sha256"],
        "provenance": to_json(provenance),
    }


def utf8(text: str) -> str:
    """The text with bytes that are not UTF-8 spelt out as escapes.

    Paths and command lines may hold such bytes, which no reader would accept.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def check_row(measured: xr.Dataset) -> None:
    """Check that a data set can be a row of a group.

    Raises:
        ValueError: the data set breaks a rule of the schema.
    """
    if measured.attrs:
        raise ValueError("attributes of the whole data set belong into the provenance")
    dims = {str(dim) for dim in measured.dims}
    if taken := ({ROWS, *BOOKKEEPING} | {length_of(dim) for dim in dims}) & (dims | set(map(str, measured.variables))):
        raise ValueError(f"{min(taken)} is a name of the record's own")
    for name, variable in measured.variables.items():
        _check_variable(str(name), variable, dims)


def _check_variable(name: str, variable: xr.Variable, dims: set[str]) -> None:
    if name in dims and variable.dims != (name,):
        raise ValueError(f"{name}: only a dimension's own coordinate can have its name")
    if not {"units", "long_name"} <= variable.attrs.keys():
        raise ValueError(f"{name}: the attributes units and long_name are required")
    units = str(variable.attrs["units"])
    if units in _TIME_SPANS or " since " in units:
        raise ValueError(f"{name}: xarray takes the units {units!r} for times to decode; write s, min or h")


def length_of(dim: str) -> str:
    """Name of the variable with the true lengths of a dimension, which exists only if rows differ in the dimension."""
    return f"{dim}_length"


def layout_of(unit: xr.Dataset) -> Layout:
    """The layout of one unit in memory.

    Raises:
        ValueError: a variable has a type that not every reader could return.
    """
    described = {str(name): _describe(str(name), variable) for name, variable in unit.variables.items()}
    return Layout(
        {name: each for name, each in described.items() if name not in unit.dims},
        {name: (each, stored(unit.variables[name])) for name, each in described.items() if name in unit.dims},
    )


def _describe(name: str, variable: xr.Variable) -> Variable:
    values = stored(variable)
    code = TEXT if values.dtype == object else values.dtype.newbyteorder("<").str
    if code not in _NUMBERS and not (code == TEXT and all(isinstance(each, str) for each in values.flat)):
        raise ValueError(f"{name}: {variable.dtype} cannot be stored; use bool, integers, float32, float64 or strings")
    return Variable(tuple(map(str, variable.dims)), code, dict(variable.attrs))


def stored(variable: xr.Variable) -> NDArray[Any]:
    """The values as h5py takes them: strings as objects, numbers unchanged."""
    values = np.asarray(variable.values)
    return values.astype(object) if values.dtype.kind in "UT" else values
