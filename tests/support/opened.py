"""The files that a piece of code opens, from the kernel: libraries in C++ and Rust open files without Python."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OPEN, _IS_DIRECTORY = 0x20, 0x40000000  # linux/inotify.h
_listening: list[set[Path]] = []
_hooked: list[bool] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and event == "open" and isinstance(arguments[0], str | bytes):
        _listening[-1].add(Path(os.fsdecode(arguments[0])).absolute())


@contextmanager
def opened_below(root: Path) -> Iterator[set[Path]]:
    """The files below a folder that are opened in a block, with links resolved; needs Linux."""
    libc, found = ctypes.CDLL(None, use_errno=True), set[Path]()
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    assert watcher >= 0, os.strerror(ctypes.get_errno())
    folders = {
        libc.inotify_add_watch(watcher, os.fsencode(folder), _OPEN): folder
        for folder in (root, *(each for each in root.rglob("*") if each.is_dir() and not each.is_symlink()))
    }
    try:
        yield found
        while True:
            try:
                events = os.read(watcher, 2**20)
            except BlockingIOError:
                break
            while events:
                watch, mask, _, length = struct.unpack_from("iIII", events)
                name, events = events[16 : 16 + length].rstrip(b"\0"), events[16 + length :]
                if not mask & _IS_DIRECTORY:
                    found.add((folders[watch] / os.fsdecode(name)).resolve())
    finally:
        os.close(watcher)


@contextmanager
def opened_by_python() -> Iterator[set[Path]]:
    """The files anywhere that Python opens in a block; files that libraries in other languages open are missed."""
    if not _hooked:  # a hook can't be removed
        sys.addaudithook(_hear)
        _hooked.append(True)
    _listening.append(set())
    try:
        yield _listening[-1]
    finally:
        _listening.pop()
