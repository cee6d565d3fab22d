"""The schema of a record: names, types, padding, and what makes two units fit into one group.

A record and every part of it have this same layout, so that merging is joining records. docs/record.md is its prose.
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
SCHEMA_VERSION = 2  # the major number: goes up where older programs would misread a record
SCHEMA_MINOR = 0  # goes up where something is added that older programs may pass over
# Of version 1, and what they are called since.
OLD_GROUPS = {"hessian": "eigenpairs"}
OLD_VARIABLES = {"missed": "miss_probability"}
ROWS = "checkpoint"

_BOOKKEEPING = {
    "step": "training step of the checkpoint, -1 if unknown",
    "path": "file of the checkpoint when it was measured",
    "sha256": "sha256 of the checkpoint's file",
    "provenance": "how this row came to be, as JSON",
}
_TEXT = "text"
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
        """The type in the file."""
        return h5py.string_dtype() if self.dtype == _TEXT else np.dtype(self.dtype)

    @property
    def padding(self) -> Any:
        """What fills rows that are shorter than others; None is HDF5's own default, for text the empty string."""
        if self.dtype == _TEXT:
            return None
        dtype = np.dtype(self.dtype)
        return np.iinfo(dtype).max if dtype.kind == "u" else {"f": np.nan, "i": -1, "b": False}[dtype.kind]


@dataclass(frozen=True)
class Layout:
    """What the units of one group share.

    Attributes:
        variables: by name, without the coordinates of dimensions.
        coordinates: for each dimension that has one, the coordinate and its values.
    """

    variables: dict[str, Variable]
    coordinates: dict[str, tuple[Variable, NDArray[Any]]]

    def join(self, other: Layout) -> Layout:
        """The layout of both, with the longer coordinates.

        Raises:
            InputError: they do not fit into one group; the message begins with the variable's name.
        """
        if other is self:
            return self
        mine, others = self._described, other._described
        if changed := sorted(name for name in mine.keys() | others.keys() if mine.get(name) != others.get(name)):
            raise InputError(f"{changed[0]} has another type, other dimensions or other attributes, or is not in both")
        coordinates = {dim: _longer(dim, self, other) for dim in self.coordinates}
        if all(each is self.coordinates[dim] for dim, each in coordinates.items()):
            return self  # with its description, which thousands of others may be held to
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
    """The unit as it is stored: what was measured, and the variables that tell how it came to be.

    Raises:
        ValueError: the data set breaks a rule of the schema.
    """
    _check(measured)
    checkpoint = provenance["checkpoint"]
    values = {
        "step": np.int64(-1 if checkpoint["step"] is None else checkpoint["step"]),
        "path": utf8(str(checkpoint["path"])),
        "sha256": checkpoint["sha256"],
        "provenance": to_json(provenance),
    }
    told = {
        name: xr.Variable((), value, {"units": "1" if name == "step" else "", "long_name": _BOOKKEEPING[name]})
        for name, value in values.items()
    }
    return measured.reset_coords().assign(told)


def utf8(text: str) -> str:
    """Paths and command lines may hold bytes that are not UTF-8, which no reader would take back: spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _check(measured: xr.Dataset) -> None:
    if measured.attrs:
        raise ValueError("attributes of the whole data set belong into the provenance")
    dims = {str(dim) for dim in measured.dims}
    if taken := ({ROWS, *_BOOKKEEPING} | {length_of(dim) for dim in dims}) & (dims | set(map(str, measured.variables))):
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
    """The variable with the true lengths of a dimension, there only when the rows differ in it."""
    return f"{dim}_length"


def layout_of(unit: xr.Dataset) -> Layout:
    """The layout of one unit in memory.

    Raises:
        ValueError: a variable has a type that not every reader could give back.
    """
    described = {str(name): _describe(str(name), variable) for name, variable in unit.variables.items()}
    return Layout(
        {name: each for name, each in described.items() if name not in unit.dims},
        {name: (each, stored(unit.variables[name])) for name, each in described.items() if name in unit.dims},
    )


def _describe(name: str, variable: xr.Variable) -> Variable:
    values = stored(variable)
    code = _TEXT if values.dtype == object else values.dtype.newbyteorder("<").str
    if code not in _NUMBERS and not (code == _TEXT and all(isinstance(each, str) for each in values.flat)):
        raise ValueError(f"{name}: {variable.dtype} cannot be stored; use bool, integers, float32, float64 or strings")
    return Variable(tuple(map(str, variable.dims)), code, dict(variable.attrs))


def stored(variable: xr.Variable) -> NDArray[Any]:
    """The values as h5py takes them: strings as objects, numbers as they are."""
    values = np.asarray(variable.values)
    return values.astype(object) if values.dtype.kind in "UT" else values
