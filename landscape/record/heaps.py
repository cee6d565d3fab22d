"""Check the global heaps of an HDF5 file, which hold its texts, before the HDF5 library reads them.

The library steps through the objects of a heap by their sizes. Free space of size 0, as in a partly zeroed file, makes
the library loop forever. Only the end of the process stops the loop.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

# HDF5 file format specification, version 3.0, section III.E: a global heap's signature, its version and three zeros.
_BEGINNING = b"GCOL\x01\0\0\0"
_HEADER, _OBJECT = 16, struct.Struct("<HHIQ")  # an object's index, reference count, unused bytes and size
_MOST = 2**30  # bytes of a file that are searched, half of them at each end, where texts are written


def has_endless_heap(path: Path) -> bool:
    """Whether a heap in the file would make the HDF5 library loop forever.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            parts = [(0, size)] if size <= _MOST else [(0, _MOST // 2), (size - _MOST // 2, size)]
            return any(_in_part(content, *part) for part in parts)


def _in_part(content: mmap.mmap, start: int, stop: int) -> bool:
    while (start := content.find(_BEGINNING, start, stop)) >= 0:
        if _is_endless(content, start):
            return True
        start += len(_BEGINNING)
    return False


def _is_endless(content: mmap.mmap, start: int) -> bool:
    """Whether the heap at ``start`` has free space of size 0 before its end."""
    if start + _HEADER > len(content):
        return False
    place, end = start + _HEADER, start + int.from_bytes(content[start + 8 : start + _HEADER], "little")
    while place + _OBJECT.size <= min(end, len(content)):
        index, _, _, size = _OBJECT.unpack_from(content, place)
        if not index and not size:
            return True
        place += size if not index else _OBJECT.size + (size + 7) // 8 * 8
    return False
