"""Write a record unit by unit; whatever ends the run costs at most one unit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xarray as xr

from landscape.errors import InputError
from landscape.record.hdf5 import contents_of, members_of, opened, provenance_in, readable, survey
from landscape.record.merge import merge, size_of_merged, size_of_unit, write_unit
from landscape.record.parts import Parts, followed, replacing
from landscape.record.read import read_row
from landscape.record.request import Request, Unit
from landscape.record.schema import Layout, layout_of, unit_of


class RecordWriter:
    """Collect the units of a request in `<OUT>.parts`, and merge them into OUT.

    As a context manager, the writer keeps other runs out. If the block ends without an exception, a complete record is
    finished. An incomplete record stays as parts, from which the next run with an equal request continues.

    Attributes:
        path: path of the record, OUT.
        request: the request.
        follows: whether another process writes.
        finished: whether OUT has everything that was asked for, so that nothing is left to measure.
    """

    def __init__(
        self,
        path: str | Path,
        request: Request,
        *,
        overwrite: bool = False,
        follows: bool = False,
    ) -> None:
        """Look for a record and parts that exist already.

        Before the first unit, nothing is written and only leftovers are removed. The folder of a finished record need
        not be writable; leftovers then stay there.

        Args:
            path: the record to make.
            request: what is asked for.
            overwrite: replace a record that is there when the new one is complete; drop the parts of an unfinished one.
            follows: write nothing, as another process writes the same; each call here is made after its own.

        Raises:
            InputError: the folder is missing or not writable; another run writes OUT; OUT is not a landscape record;
                OUT or its parts have a measurement with other settings, or are of another problem.
        """
        self.path = followed(Path(path))
        self.request = request
        self.follows = follows
        self._parts = Parts.of(self.path)
        unwritable = _unwritable(self.path, self._parts.folder)
        if unwritable is not None and not os.path.isfile(self.path):
            raise unwritable
        other = None if follows else self._parts.writer()  # first, or it might finish while this looks around
        there, rows = survey(self.path) if self.path.exists() else (None, {})
        kept, self._rows = (None, {}) if overwrite else (there, rows)
        self._target = self._join(kept)
        self.finished = kept is not None and kept.fingerprint == self._target.fingerprint
        if unwritable is not None:
            if not self.finished:
                raise unwritable
        elif other is None:
            self._take_up_parts(kept, overwrite)
        elif not self.finished:
            raise InputError(self._parts.held_by(other))
        self._added: dict[Unit, xr.Dataset] = {}
        self._layouts: dict[str, Layout] = {}
        for name, file in dict.fromkeys((unit[0], row.path) for unit, row in self._rows.items()):
            self._fit(name, _layout_at(file, name), file)

    def _join(self, there: Request | None) -> Request:
        """What OUT will be the answer to: what it has already, and what is asked for."""
        if there is None:
            return self.request
        if conflicts := there.conflicts(self.request):
            raise InputError(
                f"{self.path} is the record of another request ({'; '.join(conflicts)}); "
                "name another file (-o), or pass --overwrite to replace it"
            )
        return there.union(self.request)

    def _take_up_parts(self, kept: Request | None, overwrite: bool) -> None:
        unfinished = self._parts.request()
        if unfinished is None:
            if self.finished and self._parts.folder.is_dir():
                self._parts.remove()  # a run was ended when only the folder was left
        elif overwrite and unfinished.fingerprint != self.request.fingerprint:
            self._parts.remove()
        elif kept is not None and kept.covers(unfinished):
            self._parts.remove()  # merged by a run that was ended before it could remove them
        elif not self.finished:
            if conflicts := unfinished.conflicts(self._target):
                raise InputError(
                    f"{self._parts.folder} is the unfinished record of another request ({'; '.join(conflicts)}); "
                    "finish or remove that record, or pass --overwrite to start anew"
                )
            stored = self._parts.rows()
            self.request = self.request.union(unfinished.only(stored))
            self._target, self._rows = self._target.union(self.request), stored | self._rows

    def done(self, measurement: str, sha256: str) -> bool:
        """Whether this measurement of this checkpoint is stored already."""
        return (measurement, sha256) in self._rows

    def earlier(self, measurement: str) -> dict[str, Any] | None:
        """The provenance of the first stored row of this measurement, whose choices hold for the rest; None if none."""
        stored = [unit for unit in self._target.units if unit[0] == measurement and unit in self._rows]
        if not stored:
            return None
        row = self._rows[stored[0]]
        with opened(row.path) as file, readable(row.path):
            return provenance_in(file[measurement], row.position)

    def others(self) -> list[dict[str, Any]]:
        """The provenance's entry ``checkpoint`` of each checkpoint or run that has a row but isn't in this request."""
        asked = {sha256 for _, sha256 in self.request.units}
        found = {}
        for (measurement, sha256), row in self._rows.items():
            if sha256 not in asked and sha256 not in found:
                with opened(row.path) as file, readable(row.path):
                    found[sha256] = provenance_in(file[measurement], row.position)["checkpoint"]
        return list(found.values())

    def previous(self, measurement: str, sha256: str) -> xr.Dataset | None:
        """The row of this measurement for the checkpoint before this one; None if there is none."""
        order = list(self._target.checkpoints[measurement])
        position = order.index(sha256)
        return self.stored(measurement, order[position - 1]) if position else None

    def stored(self, measurement: str, sha256: str) -> xr.Dataset | None:
        """The row of this measurement of this checkpoint; None if there is none."""
        row = self._rows.get((measurement, sha256))
        if row is None:
            return None
        return read_row(row.path, measurement, row.position)

    def shown(self, measurement: str, sha256: str) -> xr.Dataset:
        """A stored row without the variables that have a value for each parameter; see `Measurement.show`.

        A row that was added here is given as it went to the disk, and only once: reading takes longer than the work of
        a small measurement.
        """
        if (added := self._added.pop((measurement, sha256), None)) is not None:
            return added
        row = self._rows[measurement, sha256]
        return read_row(row.path, measurement, row.position, large=False)

    def add(self, measurement: str, measured: xr.Dataset, provenance: Mapping[str, Any]) -> None:
        """Store one unit; the unit is on disk when the method returns.

        Args:
            measurement: name of a measurement in the request.
            measured: variables of the unit, without the checkpoint dimension, each with `units` and `long_name`.
            provenance: how the unit came to be, JSON-able; `provenance["checkpoint"]` has `path`, `sha256` and `step`
                (None if unknown).

        Raises:
            InputError: the disk does not take the unit, or the unit does not fit the other checkpoints' units.
            ValueError: the unit was not asked for or is there already, or the data set breaks a rule of the schema.
        """
        unit = (measurement, str(provenance["checkpoint"]["sha256"]))
        if unit not in self.request.units or self.done(*unit):
            raise ValueError(f"{measurement} of {unit[1]} was not asked for, or is there already")
        dataset = unit_of(measured, provenance)
        self._fit(measurement, layout_of(dataset), provenance["checkpoint"]["path"])
        self._added[unit] = _without_large(dataset)
        if self.follows:
            self._rows[unit] = self._parts.row(unit)
            return
        self._parts.prepare(self.request)
        self._rows[unit] = self._parts.write(
            unit,
            size_of_unit(self.request, dataset),
            lambda path: write_unit(path, self.request, measurement, dataset),
        )

    def _fit(self, measurement: str, layout: Layout, source: str | Path) -> None:
        try:
            self._layouts[measurement] = self._layouts.get(measurement, layout).join(layout)
        except InputError as error:
            raise InputError(
                f"{measurement} of {source} does not fit the other checkpoints' rows: {error}; measure it into a "
                "record of its own (-o)"
            ) from error

    def finish(self) -> Path:
        """Merge all units into OUT and remove the parts.

        Returns:
            The path of OUT.

        Raises:
            InputError: the disk does not take the record; the parts are kept.
            RuntimeError: a unit is missing.
        """
        if self.finished:
            return self.path
        if missing := [unit for unit in self._target.units if unit not in self._rows]:
            raise RuntimeError(f"{len(missing)} units are missing, the first is {missing[0]}")
        if not self.follows:
            self._parts.prepare(self.request)
            with replacing(self.path, self._parts.folder, size_of_merged(self._rows)) as temporary:
                merge(temporary, self._target, self._rows)
            self._parts.remove()
        self.finished = True
        return self.path

    def __enter__(self) -> Self:
        """Keep other runs out, and return the writer.

        Raises:
            InputError: another run has begun to write.
        """
        if not (self.finished or self.follows):
            self._parts.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish the record if it is complete and no exception was raised, and let other runs in."""
        try:
            if kind is None:
                self.close()
        finally:
            self._parts.release()

    def close(self) -> None:
        """Finish the record if it is complete."""
        if all(unit in self._rows for unit in self._target.units):
            self.finish()


def _without_large(rows: xr.Dataset) -> xr.Dataset:
    """Rows without the variables that have a value for each parameter."""
    return rows.drop_vars([name for name, variable in rows.variables.items() if "parameter" in variable.dims])


def _unwritable(record: Path, parts: Path) -> InputError | None:
    """The error to raise if the record cannot be written; None if it can.

    Writing is tried, because permissions show neither a read-only file system nor the rights of the superuser.
    """
    try:
        for folder in [record.parent, parts] if parts.is_dir() else [record.parent]:
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        return InputError(
            f"{record} cannot be written ({error.strerror}); make its folder writable or name another file"
        )
    return None


def _layout_at(path: Path, measurement: str) -> Layout:
    with opened(path) as file, readable(path):
        return contents_of(members_of(file[measurement])).layout
