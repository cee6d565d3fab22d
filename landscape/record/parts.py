"""The folder of an unfinished record: one small record for each finished unit, beside the request."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from landscape.errors import InputError
from landscape.record.hdf5 import RowPlace, check_header, first_line, header, refuse_older, survey
from landscape.record.hold import Hold
from landscape.record.request import Request, Unit, to_json

_REQUEST = "request.json"
_LONGEST = 10**9  # bytes of a request: a million checkpoints
_WRITER = "writer.json"


class Parts:
    """The folder `<OUT>.parts`; it is there while a run is going on, and after one that has left finished units."""

    def __init__(self, folder: Path) -> None:
        """Look at nothing yet."""
        self.folder = folder
        self._hold = Hold(folder / _WRITER)

    @classmethod
    def of(cls, record: Path) -> Parts:
        """The parts of the record that is to become this file."""
        return cls(record.with_name(record.name + ".parts"))

    def request(self) -> Request | None:
        """What the unfinished run was asked for; None if there is none. Each part has it too, if its own file is lost.

        Raises:
            InputError: something else has this name, or nothing here tells what was asked for.
        """
        if not os.path.lexists(self.folder):
            return None
        if self.folder.is_dir() and all(
            each.suffix == ".tmp" or each.name == _WRITER for each in self.folder.iterdir()
        ):
            return None  # its request isn't written yet, or it ended before
        if self.folder.is_dir() and not os.path.lexists(self.folder / _REQUEST):
            return self._request_of_parts()
        try:
            stored = json.loads(_text(self.folder / _REQUEST))
            check_header(self.folder, stored)
            refuse_older(self.folder, stored)
            return Request.from_plain(stored["request"])
        except InputError:
            raise
        except Exception as error:  # as many types as there are ways to be something else
            raise InputError(f"{self.folder} is no folder of an unfinished record; move it out of the way") from error

    def _request_of_parts(self) -> Request:
        whole: Request | None = None
        why = "no part can be read that tells what was asked for"
        for path in sorted(self.folder.glob("*.h5")):
            with suppress(InputError):
                request, _ = survey(path)
                if whole is not None and whole.conflicts(request):
                    whole, why = None, "parts are of several requests"
                    break
                whole = request if whole is None else whole.union(request)
        if whole is None:
            raise InputError(
                f"{self.folder} is no folder of an unfinished record: it has no {_REQUEST}, and {why}; move it out of "
                "the way to measure anew"
            )
        return whole

    def rows(self) -> dict[Unit, RowPlace]:
        """The finished units of the request. A part that cannot be read, or has other settings, does not count."""
        finished: dict[Unit, RowPlace] = {}
        if (request := self.request()) is None:
            return finished
        for path in sorted(self.folder.glob("*.h5")):
            with suppress(InputError):
                made_for, rows = survey(path)
                finished |= {} if request.conflicts(made_for) else rows
        return {unit: row for unit, row in finished.items() if unit in request.units}

    def writer(self) -> str | None:
        """Which other run writes here at the moment, in words; None if none does."""
        return self._hold.other()

    def lock(self) -> None:
        """Keep other runs out until `release`, or until this process ends.

        Raises:
            InputError: another run writes here, the folder is somebody else's, or the disk doesn't take it.
        """
        self.request()  # nothing is put into a folder of somebody else
        try:
            other = self._hold.take()
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({error.strerror}); name another file") from error
        if other is not None:
            raise InputError(self.held_by(other))

    def held_by(self, other: str) -> str:
        """What is said to a second run."""
        return f"{self.folder.with_suffix('')} is being written by {other}; wait for it or name another file (-o)"

    def release(self) -> None:
        """Let other runs in; a folder in which nothing was stored goes."""
        self._hold.release()

    def prepare(self, request: Request) -> None:
        """Hold the folder, with the request in it.

        Raises:
            InputError: another run writes there or has done so meanwhile, or the disk doesn't take it.
        """
        self.lock()
        there = self.request()
        same = there is not None and there.fingerprint == request.fingerprint
        if there is not None and not same and (there.conflicts(request) or not set(self.rows()) <= set(request.units)):
            self.release()
            raise InputError(f"{self.folder} has parts of another run meanwhile; name another file")
        if not (same and (self.folder / _REQUEST).exists()):  # it isn't there yet, was lost, or asked for less
            with replacing(self.folder / _REQUEST, self.folder) as temporary:
                _sync_folder(self.folder.parent)
                temporary.write_text(to_json(header(request) | {"request": request.plain()}), encoding="utf-8")

    def write(self, unit: Unit, size: int, write: Callable[[Path], None]) -> RowPlace:
        """One part of about so many bytes, which is there as a whole or not at all."""
        row = self.row(unit)
        with replacing(row.path, self.folder, size) as temporary:
            write(temporary)
        return row

    def row(self, unit: Unit) -> RowPlace:
        """Where a unit's part is, or will be."""
        return RowPlace(self.folder / f"{'-'.join(unit)}.h5", 0)

    def remove(self) -> None:
        """Remove what is a record's, the request last: an end in between leaves fewer parts, not a riddle.

        Raises:
            InputError: another run writes here.
        """
        self.lock()
        for pattern in ("*.tmp", "*.h5", _REQUEST):
            for path in self.folder.glob(pattern):
                path.unlink()
        self.release()  # and the folder, unless somebody keeps files of their own there


def _text(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > _LONGEST:  # a pipe or a device may never come to an end
        raise ValueError(f"{path} is not a file of a request")
    return path.read_text(encoding="utf-8")


def followed(path: Path) -> Path:
    """Where a record is written that is named by a link.

    Raises:
        InputError: the link leads back to itself.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise InputError(f"{path} is a link that leads back to itself; name another file")
    return target


@contextmanager
def replacing(path: Path, folder: Path, size: int = 0) -> Iterator[Path]:
    """A temporary file in the folder that becomes `path` as a whole when the block ends well, and is on disk then.

    Args:
        path: the file to make.
        folder: on the same file system.
        size: about how many bytes it will have; whether the disk has them is tried first.

    Raises:
        InputError: the disk does not take it; nothing is left of it.
    """
    temporary = folder / f"{os.getpid()}.tmp"
    try:
        _try_space(temporary, size)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # h5py raises either when a disk is full
        raise InputError(f"{path} cannot be written ({first_line(error)}); what was finished before is kept") from error
    finally:
        temporary.unlink(missing_ok=True)


def _try_space(path: Path, size: int) -> None:
    """Allocate so much, to be truncated by whoever writes the file: HDF5 cannot close a file on a full disk in order.

    Allocation also meets quotas, which the free space of a disk does not tell.
    """
    if not size or not hasattr(os, "posix_fallocate"):
        return
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can tell
                raise


def _sync_folder(folder: Path) -> None:
    """Put the names of the folder on disk: a renamed file is safe only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
