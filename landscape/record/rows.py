"""Rows in memory, and a record of many rows that is written variable by variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from landscape.record.hdf5 import Contents, create_group, write_common, write_header
from landscape.record.merge import OVERHEAD_BYTES, blocks, write_lengths
from landscape.record.request import Request, to_json
from landscape.record.schema import BOOKKEEPING, TEXT, Layout, Variable, bookkeeping_of, stored


@dataclass(frozen=True)
class Row:
    """One row of a group in memory: a copy of its values, and the true length of each dimension.

    Attributes:
        values: values of each variable, those of the record's own variables too, without coordinates of dimensions.
        lengths: length of each dimension in this row.
    """

    values: dict[str, Any]
    lengths: dict[str, int]

    @classmethod
    def of(cls, measured: xr.Dataset, provenance: Mapping[str, Any]) -> Row:
        """Copy a checked data set; `provenance` is that of `RecordWriter.add`."""
        dims = measured.dims
        values = {str(name): np.array(stored(each)) for name, each in measured.variables.items() if name not in dims}
        return cls(values | bookkeeping_of(provenance), {str(dim): size for dim, size in measured.sizes.items()})


@dataclass(frozen=True)
class GroupRows:
    """Rows of one group, and the layout that they share, with the record's own variables."""

    layout: Layout
    rows: Sequence[Row]

    @property
    def contents(self) -> Contents:
        """Layout and lengths as a file with these rows has them."""
        lengths = {dim: np.array([row.lengths[dim] for row in self.rows]) for dim in self.rows[0].lengths}
        shorter = {dim: each for dim, each in lengths.items() if each.min() < each.max()}
        return Contents(self.layout, {dim: int(each.max()) for dim, each in lengths.items()}, shorter)


def with_bookkeeping(measured: Layout) -> Layout:
    """The layout of a row as stored, from the layout of its measured variables."""
    return Layout(measured.variables | BOOKKEEPING, measured.coordinates)


def with_own_coordinates(layout: Layout) -> Layout:
    """The layout with copies of its coordinates, whose arrays may be the caller's."""
    return Layout(layout.variables, {dim: (each, values.copy()) for dim, (each, values) in layout.coordinates.items()})


def without_bookkeeping(stored_layout: Layout) -> Layout:
    """The layout of a row's measured variables, from the layout of a group in a file."""
    measured = {name: each for name, each in stored_layout.variables.items() if name not in BOOKKEEPING}
    return Layout(measured, stored_layout.coordinates)


def size_of_rows(request: Request, groups: Mapping[str, GroupRows]) -> int:
    """Estimated size in bytes of a record of these rows."""
    of_values = 0
    for group in groups.values():
        sizes = group.contents.sizes
        for name, variable in group.layout.variables.items():
            if variable.dtype == TEXT:
                of_values += sum(4 * len(str(text)) + 16 for row in group.rows for text in np.ravel(row.values[name]))
            else:
                cells = int(np.prod([sizes[dim] for dim in variable.dims], dtype=np.int64))
                of_values += len(group.rows) * cells * np.dtype(variable.dtype).itemsize
    return of_values + 2 * len(to_json(request.plain())) + OVERHEAD_BYTES * len(groups)


def write_rows(path: Path, request: Request, groups: Mapping[str, GroupRows]) -> None:
    """Write a record of these rows. Beside the rows, at most one block of one variable is in memory."""
    with h5py.File(path, "w") as file:
        write_header(file, request)
        for name, given in groups.items():
            contents = given.contents
            group = create_group(file, name, given.layout, contents.sizes, len(given.rows))
            for each, variable in given.layout.variables.items():
                _write_variable(group[each], variable, [row.values[each] for row in given.rows])
            for dim, lengths in contents.shorter.items():
                write_lengths(group, dim, lengths.tolist())
            write_common(group)


def _write_variable(target: h5py.Dataset, variable: Variable, values: Sequence[Any]) -> None:
    """Write the values of all rows, each padded at its end."""
    for block in blocks(target.shape, target.dtype.itemsize):
        shape = tuple(each.stop - each.start for each in block)
        padding = "" if variable.dtype == TEXT else variable.padding
        stacked = np.full(shape, padding, object if variable.dtype == TEXT else np.dtype(variable.dtype))
        for place, value in enumerate(values[block[0]]):
            own: tuple[int | slice, ...] = (place, *(slice(size) for size in np.shape(value)))
            # an array of objects would take an array without dimensions as one object
            stacked[own] = value if np.ndim(value) else np.asarray(value).item()
        target[block] = stacked
