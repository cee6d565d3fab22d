"""What can still be read of a damaged record."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import h5py

from landscape.errors import InputError
from landscape.record.hdf5 import (
    MOST_UNPACKED,
    Row,
    check_group,
    create_group,
    first_line,
    is_scale,
    layout_in,
    lengths_in,
    opened,
    provenance_in,
)
from landscape.record.merge import blocks
from landscape.record.request import Request, Unit

_DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)
_END_OF_FILE = slice(40, 48)  # where the superblock has the length that the file should have


def readable_rows(record: Path, folder: Path) -> tuple[Request, dict[Unit, Row], bool]:
    """What a record was asked for, its rows that can be read to the last number, and whether others can't.

    What can't be seen is a number that reads well and isn't what was written: there are no checksums.

    Args:
        record: a file.
        folder: for the copy in which a file that was cut off is read; it has to last as long as the rows.

    Raises:
        InputError: it is no record or of a newer schema, or nothing of it can be read.
    """
    cut_off = h5py.is_hdf5(record) and not _opens(record)
    source = _filled_up(record, folder) if cut_off else record
    rows: dict[Unit, Row] = {}
    try:
        with opened(source) as file:
            request = Request.from_plain(json.loads(file.attrs["request"]))
            size, damaged = record.stat().st_size, cut_off
            for name in request.settings:
                try:
                    if name in file:
                        check_group(file, name)
                    known = list(file[name]["sha256"].asstr()[:]) if name in file else []
                except _DAMAGE:
                    damaged = True
                    continue
                for position, sha in enumerate(known):
                    if _reads(file, name, position, size):
                        rows[name, sha] = Row(source, position)
                    else:
                        damaged = True
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{record} is damaged, nothing can be read of it ({first_line(error)})") from error
    return request, rows, damaged


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


def _reads(file: h5py.File, name: str, position: int, size: int) -> bool:
    """Whether a row is within the bytes of the file that are there, and all of it can be read."""
    try:
        group = file[name]
        lengths, layout = lengths_in(group, position), layout_in(group)
        for data in group.values():
            start, stored = data.id.get_offset(), data.id.get_storage_size()
            if (
                start is not None
                and start + (stored if is_scale(data) else stored // len(data) * (position + 1)) > size
            ):
                return False
        for each, variable in layout.variables.items():
            if not {"units", "long_name"} <= variable.attrs.keys():
                return False
            data = group[each]
            for block in blocks(tuple(lengths[dim] for dim in variable.dims), data.dtype.itemsize):
                data[position, *block]
        with h5py.File(name, "w", driver="core", backing_store=False) as scratch:  # in memory: can all this be written?
            create_group(scratch, name, layout, lengths, 1)
        told = provenance_in(group, position)["checkpoint"]
        return bool(told["sha256"] == group["sha256"].asstr()[position])
    except _DAMAGE:
        return False
