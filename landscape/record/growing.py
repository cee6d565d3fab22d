"""A record that grows row by row while a training runs.

Rows wait in memory until `flush` writes them as a part: a record of many rows, in the folder `<OUT>.parts`. `finish`
merges the parts into OUT. A training that was ended goes on from a checkpoint of its own: `resume` keeps the rows
before that checkpoint's step, and drops the later ones, which the training makes again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from landscape.errors import InputError
from landscape.record.hdf5 import RowPlace, opened, readable, survey
from landscape.record.merge import merge, size_of_merged
from landscape.record.parts import Parts, followed, replacing
from landscape.record.request import Request, Unit, to_json
from landscape.record.rows import GroupRows, Row, size_of_rows, with_bookkeeping, write_rows
from landscape.record.schema import Layout, check_row, layout_of

_MOST_PARTS = 64  # parts before they are merged into one
_MOST_ROWS = 256  # rows in memory before they are written


class GrowingRecord:
    """Rows of a watched training, by group and step.

    Attributes:
        path: path of the record, OUT.
        follows: whether another process writes, so that nothing is written here.
    """

    def __init__(
        self, path: str | Path, common: Mapping[str, Any], *, overwrite: bool = False, follows: bool = False
    ) -> None:
        """Look for a record and parts that exist already; nothing is written.

        Args:
            path: the record to make.
            common: settings of all rows, JSON-able.
            overwrite: replace what is there.
            follows: write nothing, as another process writes the same.

        Raises:
            InputError: the folder is missing, or the path leads to something else than a record.
        """
        self.path, self.follows = followed(Path(path)), follows
        if not self.path.parent.is_dir():
            raise InputError(f"{self.path} can't be written: there is no folder {self.path.parent}")
        self._parts, self._overwrite, self._begun = Parts.of(self.path), overwrite, follows
        self._common = dict(common)
        self._settings: dict[str, Mapping[str, Any]] = {}
        self._layouts: dict[str, Layout] = {}
        self._waiting: dict[str, list[Row]] = {}
        self._seen: set[tuple[str, int]] = set()

    def declare(self, measurement: str, settings: Mapping[str, Any]) -> None:
        """Give the settings of a group, before its rows."""
        self._settings[measurement] = settings
        self._request()  # refuses a name that can't be a group's

    def begin(self) -> None:
        """Keep other runs out, before the first row; `resume` does this too.

        Raises:
            InputError: a record or an unfinished one is there, or another run writes it.
        """
        if self._begun:
            return
        there = [each for each in (self.path, self._parts.folder) if each.exists()]
        if there and not self._overwrite:
            raise InputError(
                f"{there[0]} is there already: give another file, go on with the state of the training's checkpoint "
                "(watch.load_state_dict), or pass overwrite=True to replace it"
            )
        self._parts.lock()
        for file in self._files():
            file.unlink()
        self._begun = True

    def resume(self, step: int) -> None:
        """Go on at a step: earlier rows of the record that is there are kept, and those of this step and later dropped.

        Raises:
            InputError: another run writes the record, or the record is of other settings.
        """
        if self.follows:
            return
        self._parts.lock()
        places = self._kept(step)
        if places:
            self._replace_parts(places)
        else:
            for file in self._files():
                file.unlink()
        self._begun = True

    def _kept(self, step: int) -> dict[Unit, RowPlace]:
        """The places of rows before a step, in the finished record and in the parts, in the order of steps."""
        found: dict[tuple[int, str], tuple[Unit, RowPlace]] = {}
        for path in [self.path, *self._files()] if self.path.exists() else self._files():
            request, rows = survey(path)
            if conflicts := request.conflicts(self._request()):
                raise InputError(
                    f"{path} is of another training ({'; '.join(conflicts)}); give another file, or pass "
                    "overwrite=True to replace it"
                )
            with opened(path) as file, readable(path):
                steps = {name: file[name]["step"][:] for name in file}
            for unit, place in rows.items():
                of_row = int(steps[unit[0]][place.position])
                if of_row < step:
                    found[of_row, unit[0]] = unit, place
        self._seen = {(name, of_row) for of_row, name in found}
        return {unit: place for _, (unit, place) in sorted(found.items(), key=lambda each: each[0])}

    def add(self, measurement: str, row: xr.Dataset, step: int, provenance: Mapping[str, Any]) -> None:
        """Take a row; it is on disk after the next `flush`.

        Args:
            measurement: a declared group.
            row: variables of the row, each with `units` and `long_name`.
            step: step of the training.
            provenance: how the row came to be, JSON-able, without the entry ``checkpoint``.

        Raises:
            InputError: the row doesn't fit the group's other rows.
            ValueError: the group wasn't declared, has a row of this step already, or the row breaks a rule of the
                schema.
        """
        if measurement not in self._settings or (measurement, step) in self._seen:
            raise ValueError(f"{measurement} wasn't declared, or has a row of step {step} already")
        check_row(row)
        layout = with_bookkeeping(layout_of(row))
        try:
            self._layouts[measurement] = self._layouts.get(measurement, layout).join(layout)
        except InputError as error:
            raise InputError(f"{measurement} of step {step} does not fit the earlier rows: {error}") from error
        checkpoint = {"path": f"step {step} of a watched training", "sha256": self._digest(step), "step": step}
        self._seen.add((measurement, step))
        self._waiting.setdefault(measurement, []).append(Row.of(row, {**provenance, "checkpoint": checkpoint}))
        if sum(map(len, self._waiting.values())) >= _MOST_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write all rows that wait, as one part that appears complete or not at all.

        Raises:
            InputError: the disk doesn't take the part; the rows still wait.
        """
        if self.follows:
            self._waiting.clear()
        if not self._waiting:
            return
        self.begin()
        groups = {name: GroupRows(self._layouts[name], rows) for name, rows in self._waiting.items()}
        request = self._request({name: [row.values["sha256"] for row in rows] for name, rows in self._waiting.items()})
        self._write(size_of_rows(request, groups), lambda path: write_rows(path, request, groups))
        self._waiting = {}
        if len(self._files()) > _MOST_PARTS:
            self._replace_parts(self._parts.rows())

    def finish(self) -> None:
        """Merge all rows into OUT, and remove the parts.

        Raises:
            InputError: the disk doesn't take the record; the parts are kept.
        """
        self.flush()
        request = None if self.follows else self._parts.request()
        if request is not None:
            rows = self._parts.rows()
            with replacing(self.path, self._parts.folder, size_of_merged(rows)) as temporary:
                merge(temporary, request, rows)
            self._parts.remove()
        self.release()

    def release(self) -> None:
        """Let other runs in; rows that were written stay as parts."""
        if not self.follows:
            self._parts.release()

    def _replace_parts(self, rows: Mapping[Unit, RowPlace]) -> None:
        """Make one part of these rows, and remove the others. A run that ends in between leaves rows twice, equal."""
        checkpoints: dict[str, list[str]] = {}
        for name, sha256 in rows:
            checkpoints.setdefault(name, []).append(sha256)
        before, request = self._files(), self._request(checkpoints)
        self._write(size_of_merged(rows), lambda path: merge(path, request, rows))
        for file in before:
            file.unlink()

    def _write(self, size: int, write: Callable[[Path], None]) -> None:
        numbers = [int(match[1]) for file in self._files() if (match := re.fullmatch(r"rows-(\d+)", file.stem))]
        target = self._parts.folder / f"rows-{max(numbers, default=0) + 1:06d}.h5"
        with replacing(target, self._parts.folder, size) as temporary:
            write(temporary)

    def _files(self) -> list[Path]:
        return sorted(self._parts.folder.glob("*.h5"))

    def _request(self, checkpoints: Mapping[str, list[str]] | None = None) -> Request:
        """The request of these rows; by default, of no row of every declared group."""
        chosen = {name: list[str]() for name in self._settings} if checkpoints is None else checkpoints
        return Request(
            {name: self._settings[name] for name in chosen},
            {name: tuple(each) for name, each in chosen.items()},
            self._common,
        )

    def _digest(self, step: int) -> str:
        return hashlib.sha256(f"{to_json(self._common)}:{step}".encode()).hexdigest()
