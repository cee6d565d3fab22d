"""Recover the rows of a damaged record that can still be read."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py

from landscape.errors import InputError
from landscape.record.hdf5 import (
    MOST_UNPACKED,
    Contents,
    RowPlace,
    check_group,
    contents_of,
    create_group,
    first_line,
    opened,
    parsed_provenance,
    refuse_older,
)
from landscape.record.merge import blocks
from landscape.record.request import Request, Unit
from landscape.record.schema import Layout

_DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)
_END_OF_FILE = slice(40, 48)  # bytes of the superblock that hold the file's proper length


@dataclass(frozen=True)
class Readable:
    """The readable part of a record.

    Attributes:
        request: request of the record.
        rows: places of the rows that can be read to the last number.
        told: checkpoint of each row: path, step and so on.
        damaged: whether other rows can't be read.
    """

    request: Request
    rows: dict[Unit, RowPlace]
    told: dict[Unit, dict[str, Any]]
    damaged: bool


class Salvage:
    """Find the readable rows of records, some of which may be damaged.

    Thousands of records may have one layout; their layout is stored once.
    """

    def __init__(self, folder: Path) -> None:
        """Store the folder for copies of files that were cut off; it has to last as long as the rows."""
        self._folder = folder
        self._layouts: dict[bytes, Layout] = {}
        self._writable: set[tuple[bytes | int, ...]] = set()

    def read(self, record: Path) -> Readable:
        """Read the request of a record, and find its readable rows.

        A number that reads well but isn't what was written goes unnoticed, because records have no checksums.

        Raises:
            InputError: the file is no record, follows a newer or an older schema, or nothing of it can be read.
        """
        cut_off = h5py.is_hdf5(record) and not _opens(record)
        source = _filled_up(record, self._folder) if cut_off else record
        rows: dict[Unit, RowPlace] = {}
        checkpoints: dict[Unit, dict[str, Any]] = {}
        try:
            with opened(source) as file:
                refuse_older(record, file.attrs)
                request = Request.from_plain(json.loads(file.attrs["request"]))
                size, damaged = record.stat().st_size, cut_off
                for name in request.settings:
                    try:
                        group_rows = self._group(file, name, size) if name in file else []
                    except _DAMAGE:
                        damaged = True
                        continue
                    for position, (contents, checkpoint) in enumerate(group_rows):
                        if checkpoint is None:
                            damaged = True
                        else:
                            unit = name, str(checkpoint["sha256"])
                            rows[unit], checkpoints[unit] = RowPlace(source, position, contents), checkpoint
        except InputError:
            raise
        except _DAMAGE as error:
            raise InputError(f"{record} is damaged, and nothing in it can be read ({first_line(error)})") from error
        return Readable(request, rows, checkpoints, damaged)

    def _group(self, file: h5py.File, name: str, size: int) -> list[tuple[Contents, dict[str, Any] | None]]:
        """Contents of the group and the checkpoint of each row; the checkpoint is None if the row can't be read.

        A readable row lies within the bytes that the file has, and can be read and written again as a whole.

        Args:
            file: the opened file.
            name: name of the group.
            size: number of bytes that the file has.
        """
        members = check_group(file, name)
        contents = contents_of(members)
        layout = contents.layout
        key = pickle.dumps((layout.variables, layout.coordinates))  # compared, and never unpickled
        contents = replace(contents, layout=self._layouts.setdefault(key, layout))
        described = all({"units", "long_name"} <= each.attrs.keys() for each in layout.variables.values())
        scales = [
            (start, each.id.get_storage_size())
            for each in members.scales.values()
            if (start := _start(each)) is not None
        ]
        whole = described and all(start + stored <= size for start, stored in scales)
        variables = [
            (start, each.id.get_storage_size() // len(each))
            for each in members.variables.values()
            if len(each) and (start := _start(each)) is not None
        ]

        def read(position: int) -> dict[str, Any] | None:
            if not whole or any(start + stored * (position + 1) > size for start, stored in variables):
                return None
            try:
                lengths = contents.lengths(position)
                for each, variable in layout.variables.items():
                    data = members.variables[each]
                    for block in blocks(tuple(lengths[dim] for dim in variable.dims), data.dtype.itemsize):
                        data[position, *block]
                self._try_writing(key, layout, lengths)
                checkpoint: dict[str, Any] = parsed_provenance(members.variables["provenance"].asstr()[position])[
                    "checkpoint"
                ]
                return checkpoint if checkpoint["sha256"] == members.variables["sha256"].asstr()[position] else None
            except _DAMAGE:
                return None

        return [(contents, read(position)) for position in range(len(members.variables["sha256"]))]

    def _try_writing(self, key: bytes, layout: Layout, lengths: dict[str, int]) -> None:
        """Try in memory to create a group of this layout and lengths, once for all rows that share both."""
        if (key, *lengths.values()) not in self._writable:
            with h5py.File("scratch", "w", driver="core", backing_store=False) as scratch:
                create_group(scratch, "rows", layout, lengths, 1)
            self._writable.add((key, *lengths.values()))


def _start(data: h5py.Dataset) -> int | None:
    """Offset of the data in the file, in bytes; None if the data are in pieces or not stored."""
    start: int | None = data.id.get_offset()
    return start


def _opens(record: Path) -> bool:
    try:
        with h5py.File(record, "r"):
            return True
    except OSError:
        return False


def _filled_up(record: Path, folder: Path) -> Path:
    """A copy of a truncated record, filled up to its proper length, because HDF5 opens no shorter file.

    The filling begins with bytes of ones, with which no structure of HDF5 continues. On zeros, HDF5 would read forever.

    Raises:
        InputError: the proper length is implausible, or there is no space for a copy.
    """
    copy = Path(tempfile.mkdtemp(dir=folder)) / record.name
    try:
        with record.open("rb") as file:
            length = int.from_bytes(file.read(_END_OF_FILE.stop)[_END_OF_FILE], "little")
        missing = length - record.stat().st_size
        if not 0 < missing <= MOST_UNPACKED * record.stat().st_size:
            raise InputError(f"{record} is damaged, and nothing in it can be read (HDF5 cannot open it)")
        shutil.copyfile(record, copy)
        with copy.open("ab") as file:
            file.write(b"\xff" * min(missing, 2**20))
            file.truncate(length)
    except OSError as error:
        raise InputError(
            f"{record} is damaged, and there is no space for a copy ({error.strerror}); free some space"
        ) from error
    return copy
