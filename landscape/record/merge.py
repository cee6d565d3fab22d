"""Merge units from many files into the rows of one record, of any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

from landscape.record.hdf5 import (
    Contents,
    RowPlace,
    contents_of,
    create_group,
    create_variable,
    members_of,
    opened,
    readable,
    write_common,
    write_header,
)
from landscape.record.request import Request, Unit, to_json
from landscape.record.schema import Layout, Variable, layout_of, length_of, stored

_BLOCK_BYTES = 2**26  # bytes of a variable in memory at a time
OVERHEAD_BYTES = 2**17  # for headers, scales and attributes; a part without its data has about 16 KiB


def size_of_unit(request: Request, unit: xr.Dataset) -> int:
    """Estimated size in bytes of a record of one unit, rather too large than too small."""
    return unit.nbytes + 2 * len(to_json(request.plain())) + OVERHEAD_BYTES


def size_of_merged(rows: Mapping[Unit, RowPlace]) -> int:
    """Estimated size in bytes of the merged record, without padding."""
    return sum(path.stat().st_size for path in {row.path for row in rows.values()}) + OVERHEAD_BYTES


def write_unit(path: Path, request: Request, measurement: str, unit: xr.Dataset) -> None:
    """Write a record of one unit."""
    layout = layout_of(unit)
    with h5py.File(path, "w") as file:
        write_header(file, request)
        group = create_group(file, measurement, layout, {str(dim): size for dim, size in unit.sizes.items()}, 1)
        for name in layout.variables:
            group[name][0] = stored(unit.variables[name])
        write_common(group)


def merge(path: Path, request: Request, rows: Mapping[Unit, RowPlace]) -> None:
    """Write a record of all given units, in the order of the request. Only one block of one variable is in memory.

    Raises:
        InputError: a file cannot be read, or units do not fit into one group.
    """
    with h5py.File(path, "w") as file:
        write_header(file, request)
        for name, checkpoints in request.checkpoints.items():
            if at_hand := [rows[name, sha] for sha in checkpoints if (name, sha) in rows]:
                _merge_group(file, name, at_hand)


def _merge_group(file: h5py.File, name: str, rows: Sequence[RowPlace]) -> None:
    layout, lengths = _inspect(name, rows)
    sizes = {dim: max(each[dim] for each in lengths) for dim in lengths[0]}
    group = create_group(file, name, layout, sizes, len(rows))
    targets = {variable: group[variable] for variable in layout.variables}
    for path, places in _by_file(rows).items():
        with opened(path) as source:
            for variable, target in targets.items():
                with readable(path):
                    data = source[name][variable]
                dims = layout.variables[variable].dims
                for index, count in _runs(places, rows):
                    longest = tuple(max(each[dim] for each in lengths[index : index + count]) for dim in dims)
                    first = rows[index].position
                    for (start, stop), inner in _row_blocks(count, longest, data.dtype.itemsize):
                        with readable(path):
                            values = data[first + start : first + stop, *inner]
                        target[index + start : index + stop, *inner] = values
    for dim in sizes:
        write_lengths(group, dim, [each[dim] for each in lengths])
    write_common(group)


def _inspect(name: str, rows: Sequence[RowPlace]) -> tuple[Layout, list[dict[str, int]]]:
    """The joint layout of all rows, and the lengths of each row."""
    layout: Layout | None = None
    lengths: dict[int, dict[str, int]] = {}
    for path, places in _by_file(rows).items():
        contents = rows[places[0]].contents or _contents(path, name)
        with readable(path):
            lengths |= {index: contents.lengths(rows[index].position) for index in places}
        layout = contents.layout if layout is None else layout.join(contents.layout)
    assert layout is not None, "there are rows"
    return layout, [lengths[index] for index in range(len(rows))]


def _contents(path: Path, name: str) -> Contents:
    with opened(path) as source, readable(path):
        return contents_of(members_of(source[name]))


def _by_file(rows: Sequence[RowPlace]) -> dict[Path, list[int]]:
    """Positions of the rows from each file, so that a file is opened once for all of its rows."""
    positions: dict[Path, list[int]] = {}
    for index, row in enumerate(rows):
        positions.setdefault(row.path, []).append(index)
    return positions


def _runs(places: Sequence[int], rows: Sequence[RowPlace]) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each run that follow one another in the source as in the merged group.

    A run is copied as one array, because a call of HDF5 for each row takes a hundred times as long. Padding is copied
    too: a shorter row has equal padding in both files.
    """
    start = 0
    for end in range(1, len(places) + 1):
        last = places[end - 1]
        if end == len(places) or places[end] != last + 1 or rows[places[end]].position != rows[last].position + 1:
            yield places[start], end - start
            start = end


def _row_blocks(
    rows: int, shape: tuple[int, ...], itemsize: int
) -> Iterator[tuple[tuple[int, int], tuple[slice, ...]]]:
    """First and last row, and slices within a row, of blocks that cover rows of equal shape once."""
    size = itemsize * int(np.prod(shape, dtype=np.int64))
    step = max(1, _BLOCK_BYTES // max(1, size))
    for start in range(0, rows, step):
        for inner in blocks(shape, itemsize):
            yield (start, min(start + step, rows)), inner


def blocks(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Slices along the first axis that cover an array once, each of at most 64 MiB if one index along it fits."""
    if not shape:
        yield ()
        return
    slab = itemsize * int(np.prod(shape[1:]))
    step = max(1, _BLOCK_BYTES // max(1, slab))
    for start in range(0, shape[0], step):
        yield (slice(start, min(start + step, shape[0])), *(slice(0, size) for size in shape[1:]))


def write_lengths(group: h5py.Group, dim: str, lengths: Sequence[int]) -> None:
    """Write the true length of a dimension in each row, unless all rows have one length."""
    if len(set(lengths)) > 1:
        attrs = {"units": "1", "long_name": f"length of {dim} in this row; what follows is padding"}
        create_variable(group, length_of(dim), Variable((), "<i8", attrs))[:] = lengths
