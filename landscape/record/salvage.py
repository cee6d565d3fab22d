"""What can still be read of a damaged record."""

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
_END_OF_FILE = slice(40, 48)  # where the superblock has the length that the file should have


@dataclass(frozen=True)
class Readable:
    """What can be read of a record.

    Attributes:
        request: what it was asked for.
        rows: that can be read to the last number.
        told: of the checkpoint of each row: path, step and so on.
        damaged: whether others can't be read.
    """

    request: Request
    rows: dict[Unit, RowPlace]
    told: dict[Unit, dict[str, Any]]
    damaged: bool


class Salvage:
    """Reads what can still be read of records, of which one may be damaged and thousands be of one layout."""

    def __init__(self, folder: Path) -> None:
        """Keep copies of files that were cut off in a folder, which has to last as long as the rows."""
        self._folder = folder
        self._layouts: dict[bytes, Layout] = {}
        self._writable: set[tuple[bytes | int, ...]] = set()

    def read(self, record: Path) -> Readable:
        """What a record was asked for, and its rows.

        What can't be seen is a number that reads well and isn't what was written: there are no checksums.

        Raises:
            InputError: it is no record, of a newer or an older schema, or nothing of it can be read.
        """
        cut_off = h5py.is_hdf5(record) and not _opens(record)
        source = _filled_up(record, self._folder) if cut_off else record
        rows: dict[Unit, RowPlace] = {}
        told: dict[Unit, dict[str, Any]] = {}
        try:
            with opened(source) as file:
                refuse_older(record, file.attrs)
                request = Request.from_plain(json.loads(file.attrs["request"]))
                size, damaged = record.stat().st_size, cut_off
                for name in request.settings:
                    try:
                        found = self._group(file, name, size) if name in file else []
                    except _DAMAGE:
                        damaged = True
                        continue
                    for position, (contents, checkpoint) in enumerate(found):
                        if checkpoint is None:
                            damaged = True
                        else:
                            unit = name, str(checkpoint["sha256"])
                            rows[unit], told[unit] = RowPlace(source, position, contents), checkpoint
        except InputError:
            raise
        except _DAMAGE as error:
            raise InputError(f"{record} is damaged, nothing can be read of it ({first_line(error)})") from error
        return Readable(request, rows, told, damaged)

    def _group(self, file: h5py.File, name: str, size: int) -> list[tuple[Contents, dict[str, Any] | None]]:
        """For each row what its group is made of, and of which checkpoint it is; None where the row can't be read.

        A row is within the bytes of the file that are there, and all of it can be read and written again.

        Args:
            file: opened.
            name: of the group.
            size: bytes of the file that are there.
        """
        members = check_group(file, name)
        contents = contents_of(members)
        layout = contents.layout
        key = pickle.dumps((layout.variables, layout.coordinates))  # compared, and never loaded
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
                told: dict[str, Any] = parsed_provenance(members.variables["provenance"].asstr()[position])[
                    "checkpoint"
                ]
                return told if told["sha256"] == members.variables["sha256"].asstr()[position] else None
            except _DAMAGE:
                return None

        return [(contents, read(position)) for position in range(len(members.variables["sha256"]))]

    def _try_writing(self, key: bytes, layout: Layout, lengths: dict[str, int]) -> None:
        """Whether all this can be written, tried in memory, once for rows of one layout and lengths."""
        if (key, *lengths.values()) not in self._writable:
            with h5py.File("scratch", "w", driver="core", backing_store=False) as scratch:
                create_group(scratch, "rows", layout, lengths, 1)
            self._writable.add((key, *lengths.values()))


def _start(data: h5py.Dataset) -> int | None:
    """Where in the file the data begin; None where they are in pieces, or not stored."""
    start: int | None = data.id.get_offset()
    return start


def _opens(record: Path) -> bool:
    try:
        with h5py.File(record, "r"):
            return True
    except OSError:
        return False


def _filled_up(record: Path, folder: Path) -> Path:
    """A copy as long as it should be, for HDF5 opens no file that is shorter.

    What is missing begins with ones in every bit, which no structure of HDF5 goes on with: on zeros it reads for ever.
    """
    copy = Path(tempfile.mkdtemp(dir=folder)) / record.name
    try:
        with record.open("rb") as file:
            length = int.from_bytes(file.read(_END_OF_FILE.stop)[_END_OF_FILE], "little")
        missing = length - record.stat().st_size
        if not 0 < missing <= MOST_UNPACKED * record.stat().st_size:
            raise InputError(f"{record} is damaged, nothing can be read of it (HDF5 cannot open it)")
        shutil.copyfile(record, copy)
        with copy.open("ab") as file:
            file.write(b"\xff" * min(missing, 2**20))
            file.truncate(length)
    except OSError as error:
        raise InputError(f"{record} is damaged, and there is no space for a copy ({error.strerror})") from error
    return copy
