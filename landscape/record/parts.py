"""The folder of an unfinished record: its parts, which are records of one row or of many, and mostly the request."""

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

REQUEST = "request.json"
_LONGEST = 10**9  # bytes of a request, enough for a million checkpoints
_WRITER = "writer.json"


class Parts:
    """The folder `<OUT>.parts`, which exists during a run, and after a run that left finished units."""

    def __init__(self, folder: Path) -> None:
        """Store the path; nothing is read or locked yet."""
        self.folder = folder
        self._hold = Hold(folder / _WRITER)

    @classmethod
    def of(cls, record: Path) -> Parts:
        """The parts of the record at ``record``, which may not exist yet."""
        return cls(record.with_name(record.name + ".parts"))

    def request(self) -> Request | None:
        """The request of the unfinished run; None if there is none.

        If the request has no file of its own, the request is that of all parts together.

        Raises:
            InputError: the folder is something else, or no request can be read from it.
        """
        if self._is_empty():
            return None
        return self._stated_request() or self._joint_contents()[0]

    def contents(self) -> tuple[Request, dict[Unit, RowPlace]] | None:
        """The request of the unfinished run and the finished units; None if there is no such run.

        A part that cannot be read, or has other settings, does not count.

        Raises:
            InputError: see `request`.
        """
        if self._is_empty():
            return None
        if (request := self._stated_request()) is None:
            return self._joint_contents()
        finished: dict[Unit, RowPlace] = {}
        for made_for, rows in self._surveys():
            finished |= {} if request.conflicts(made_for) else rows
        asked = set(request.units)
        return request, {unit: row for unit, row in finished.items() if unit in asked}

    def rows(self) -> dict[Unit, RowPlace]:
        """The finished units of the request; see `contents`."""
        return {} if (found := self.contents()) is None else found[1]

    def _is_empty(self) -> bool:
        """Whether there is no folder, or one whose run ended before it stored anything."""
        return not os.path.lexists(self.folder) or (
            self.folder.is_dir()
            and all(each.suffix == ".tmp" or each.name == _WRITER for each in self.folder.iterdir())
        )

    def _stated_request(self) -> Request | None:
        """The request in its own file; None if there is no such file."""
        if self.folder.is_dir() and not os.path.lexists(self.folder / REQUEST):
            return None
        try:
            stored = json.loads(_text(self.folder / REQUEST))
            check_header(self.folder, stored)
            refuse_older(self.folder, stored)
            return Request.from_plain(stored["request"])
        except InputError:
            raise
        except Exception as error:  # something else can raise nearly every type of exception
            raise InputError(
                f"{self.folder} is not the folder of an unfinished record; move it to another place"
            ) from error

    def _joint_contents(self) -> tuple[Request, dict[Unit, RowPlace]]:
        """The request of all parts together, and their rows."""
        finished: dict[Unit, RowPlace] = {}

        def requests() -> Iterator[Request]:
            for request, rows in self._surveys():
                finished.update(rows)
                yield request

        try:
            return Request.joint(requests()), finished
        except InputError as error:
            why = "its parts belong to different requests" if finished else "no readable part states the request"
            raise InputError(
                f"{self.folder} is not the folder of an unfinished record: it has no {REQUEST}, and {why}; move it "
                "to another place to measure anew"
            ) from error

    def _surveys(self) -> Iterator[tuple[Request, dict[Unit, RowPlace]]]:
        """The request and the rows of each part that can be read."""
        for path in sorted(self.folder.glob("*.h5")):
            with suppress(InputError):
                yield survey(path)

    def writer(self) -> str | None:
        """Description of another run that writes here at the moment; None if there is none."""
        return self._hold.other()

    def lock(self) -> None:
        """Keep other runs out until `release`, or until this process ends.

        Raises:
            InputError: another run writes here, the folder is something else, or the disk doesn't take it.
        """
        if self._hold.mine:
            return
        self.request()  # raises if the folder is something else, into which nothing is put
        try:
            other = self._hold.take()
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({error.strerror}); name another file") from error
        if other is not None:
            raise InputError(self.held_by(other))

    def held_by(self, other: str) -> str:
        """The error message for a second run."""
        return f"{self.folder.with_suffix('')} is being written by {other}; wait for it or name another file (-o)"

    def release(self) -> None:
        """Let other runs in, and remove the folder if nothing was stored in it."""
        self._hold.release()

    def prepare(self, request: Request) -> None:
        """Lock the folder, and write the request into it.

        Raises:
            InputError: another run writes there or has done so meanwhile, or the disk doesn't take it.
        """
        self.lock()
        there = self.request()
        same = there is not None and there.fingerprint == request.fingerprint
        if there is not None and not same and (there.conflicts(request) or not set(self.rows()) <= set(request.units)):
            self.release()
            raise InputError(f"{self.folder} has parts of another run by now; name another file")
        if not (same and (self.folder / REQUEST).exists()):  # it isn't there yet, was lost, or asked for less
            with replacing(self.folder / REQUEST, self.folder) as temporary:
                sync_folder(self.folder.parent)
                temporary.write_text(to_json(header(request) | {"request": request.plain()}), encoding="utf-8")

    def write(self, unit: Unit, size: int, write: Callable[[Path], None]) -> RowPlace:
        """Write one part of about ``size`` bytes, which appears complete or not at all."""
        row = self.row(unit)
        with replacing(row.path, self.folder, size) as temporary:
            write(temporary)
        return row

    def row(self, unit: Unit) -> RowPlace:
        """Place of a unit's part, whether it exists or not."""
        return RowPlace(self.folder / f"{'-'.join(unit)}.h5", 0)

    def remove(self) -> None:
        """Remove the files of the record, the request last.

        A run that ends in between leaves the request with fewer parts, which can be continued.

        Raises:
            InputError: another run writes here.
        """
        self.lock()
        self.clear()
        self.release()  # also removes the folder, unless it has other files

    def clear(self) -> None:
        """Remove the files of the record, the newest part first and the request last; the lock stays."""
        self.remove_leftovers()
        for path in sorted(self.folder.glob("*.h5"), reverse=True):
            path.unlink()
        (self.folder / REQUEST).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove the temporary files of runs that were ended."""
        for path in self.folder.glob("*.tmp"):
            path.unlink()


def _text(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > _LONGEST:  # a pipe or a device may never end
        raise ValueError(f"{path} is not a file of a request")
    return path.read_text(encoding="utf-8")


def followed(path: Path) -> Path:
    """The path at which a record is written: the target of a link, or the path itself.

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
    """A temporary file in ``folder`` that replaces ``path``, complete and on disk, when the block ends well.

    Args:
        path: path of the file to make.
        folder: folder of the temporary file, on the file system of ``path``.
        size: estimated size in bytes, which is allocated first to try the disk; 0, the default, tries nothing.

    Raises:
        InputError: the disk does not take the file; nothing is left of it.
    """
    temporary = folder / f"{os.getpid()}.tmp"
    try:
        with writing(path):
            _try_space(temporary, size)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the disk into an `InputError` of one line.

    Raises:
        InputError: the block raised such an error.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py raises either when a disk is full
        raise InputError(f"{path} cannot be written ({first_line(error)}); results finished before are kept") from error


def _try_space(path: Path, size: int) -> None:
    """Allocate ``size`` bytes, which the writer of the file will truncate.

    HDF5 cannot close a file properly on a full disk. Allocation also meets quotas, which the free space of a disk does
    not show.
    """
    if not size or not hasattr(os, "posix_fallocate"):
        return
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can allocate
                raise


def sync_folder(folder: Path) -> None:
    """Write the folder's entries to disk; a renamed file is safe only after that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
