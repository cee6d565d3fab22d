"""A record that grows row by row while a training runs, and that a resumed training goes on with."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from landscape.errors import InputError
from landscape.record.hdf5 import opened
from landscape.record.merge import merge, size_of_merged
from landscape.record.parts import Parts, followed, replacing, writing
from landscape.record.request import Request, to_json
from landscape.record.rows import GroupRows, Row, with_bookkeeping, with_own_coordinates, without_bookkeeping
from landscape.record.schema import Layout, check_row, layout_of
from landscape.record.sequence import Part, PartSequence


class GrowingRecord:
    """Collect the rows of a training in memory, in part files in `<OUT>.parts`, and at last in OUT.

    `flush` writes the rows that are in memory as one part. `finish` merges the parts into OUT. After a training was
    ended in whatever way, `resume` keeps the rows before the step from which the training goes on.

    The first call of `begin`, `add` or `resume` locks the record, and `finish` or `close` unlocks it.

    Attributes:
        path: path of the record, OUT.
        common: settings that all rows share.
        follows: whether another process writes.
    """

    def __init__(
        self, path: str | Path, common: Mapping[str, Any], *, overwrite: bool = False, follows: bool = False
    ) -> None:
        """Store the settings; nothing is read or written yet.

        Args:
            path: the record to make.
            common: settings that all rows share: problem, its arguments, data, dtype. Must be JSON-able.
            overwrite: let a fresh training replace a record or parts that are there, when its first rows are written.
                A resumed training keeps its rows all the same.
            follows: write nothing, as another process writes equal rows. `begin`, `resume` and `finish` are called
                after that process has returned from them (`Processes.in_order`).

        Raises:
            InputError: the path is a link that leads back to itself.
            TypeError: `common` isn't JSON-able.
        """
        self.path = followed(Path(path))
        self.common = common
        self.follows = follows
        self._common_text = to_json(common)
        self._overwrite = overwrite
        self._parts = Parts.of(self.path)
        self._sequence = PartSequence(self._parts.folder)
        self._groups: dict[str, _Group] = {}
        self._begun = False
        self._closed = False
        self._replaces = False

    def declare(self, measurement: str, settings: Mapping[str, Any]) -> None:
        """State the settings of a group, before the group's first row.

        Raises:
            InputError: the group has other settings already.
            ValueError: the name can't be a group's name.
        """
        new = Request({measurement: settings}, {measurement: ()}, self.common)
        if conflicts := self._declared().conflicts(new):
            raise InputError(f"{self.path} has rows of other settings ({'; '.join(conflicts)}); name another file")
        self._groups.setdefault(measurement, _Group(settings))

    def _declared(self) -> Request:
        settings = {name: group.settings for name, group in self._groups.items()}
        return Request(settings, dict.fromkeys(settings, ()), self.common)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows of each declared group, on disk and in memory.

        A training's checkpoint may store the counts. After `resume`, equal counts show that no row was lost.
        """
        return {name: group.stored + len(group.rows) for name, group in self._groups.items()}

    def begin(self) -> None:
        """Begin a fresh record, unless the record has begun or was resumed.

        Raises:
            InputError: there are a record or parts at this path, and `overwrite` is false; or they are something else
                than a record; or another run writes the record; or the folder can't be written.
            ValueError: the record is finished or closed.
        """
        if self._closed:
            raise ValueError(f"{self.path} is finished or closed; resume it before rows are added")
        if self._begun:
            return
        if not self.follows:
            self._parts.lock()
            try:
                self._replaces = self._is_occupied()
                self._parts.remove_leftovers()
            except BaseException:
                self._parts.release()
                raise
        self._begun = True

    def _is_occupied(self) -> bool:
        """Whether a record or parts are there that may be replaced."""
        finished = self.path.exists()
        if not finished and self._parts.request() is None:
            return False
        if not self._overwrite:
            raise InputError(
                f"{self.path if finished else self._parts.folder} exists already; pass overwrite=True to replace it, "
                "or load the training's checkpoint to go on with it"
            )
        if finished:
            with opened(self.path):  # raises if the file is no record, which is then not replaced
                pass
        return True

    def add(self, measurement: str, row: xr.Dataset, step: int, provenance: Mapping[str, Any]) -> None:
        """Keep one row in memory until the next `flush`.

        Args:
            measurement: name of a declared group.
            row: variables of the row, without the dimension `checkpoint`, each with `units` and `long_name`. Values
                are copied.
            step: training step of the weights, at least 0, later than that of the group's last row.
            provenance: how the row came to be, JSON-able. `landscape-plot` needs `command` and `versions`. The record
                adds `checkpoint`, with `path`, `sha256` and `step`.

        Raises:
            InputError: the row doesn't fit the group's earlier rows; or see `begin`.
            ValueError: the group isn't declared, has a row of this step or a later one, or the data set breaks a rule
                of the schema.
        """
        self.begin()
        if (group := self._groups.get(measurement)) is None:
            raise ValueError(f"{measurement} isn't declared")
        step = operator.index(step)
        if step <= group.last:
            raise ValueError(
                f"{measurement} of step {step} can't follow step {group.last}" if step >= 0 else f"{step} is no step"
            )
        check_row(row)
        layout = layout_of(row)
        try:
            joint = layout if group.layout is None else group.layout.join(layout)
        except InputError as error:
            raise InputError(
                f"{measurement} of step {step} doesn't fit the earlier rows of {self.path}: {error}; store it in "
                "another group, or in a record of its own"
            ) from error
        made = Row.of(row, {**provenance, "checkpoint": self._identity(step)})
        group.layout = joint if joint is group.layout else with_own_coordinates(joint)
        group.rows.append(made)
        group.last = step

    def _identity(self, step: int) -> dict[str, Any]:
        """The bookkeeping of a row: its digest is that of the canonical JSON of the common settings and the step."""
        digest = hashlib.sha256(f"[{self._common_text},{step}]".encode()).hexdigest()
        return {"path": f"step {step} of a watched training", "sha256": digest, "step": step}

    def flush(self) -> None:
        """Write the rows that are in memory as one part, which is on disk when the method returns.

        Raises:
            InputError: the disk does not take the part; the rows stay in memory for the next call.
        """
        filled = {name: group for name, group in self._groups.items() if group.rows}
        if filled and not self.follows:
            request = Request(
                {name: group.settings for name, group in filled.items()},
                {name: tuple(row.values["sha256"] for row in group.rows) for name, group in filled.items()},
                self.common,
            )
            if self._replaces:
                self._remove_old()
            self._sequence.append(request, {name: group.in_memory for name, group in filled.items()})
        for group in filled.values():
            group.stored += len(group.rows)
            group.rows = []

    def _remove_old(self) -> None:
        with writing(self.path):
            self._parts.clear()
            self.path.unlink(missing_ok=True)
        self._replaces = False

    def resume(self, step: int) -> None:
        """Go on with the record of an ended training, whose rows at this step and later ones are dropped.

        The training makes the dropped rows again. A finished record becomes an unfinished one. Without a record, the
        record begins. Within a training that goes back to an earlier step, the method drops rows likewise.

        Args:
            step: the first step whose rows will be added.

        Raises:
            InputError: the record is of other common settings, has a group of other settings, is damaged, or is
                written by another run; or the disk doesn't take it.
        """
        self.flush()
        begun, self._begun = self._begun, True
        try:
            if not self.follows:
                self._parts.lock()
                self._take_up()
            self._sequence.read()
            self._refuse_conflicts([part.request for part in self._sequence.parts])
            if not self.follows:
                self._sequence.keep_before(step)
        except BaseException:
            self._begun = begun
            if not begun:
                self._parts.release()
            raise
        self._replaces = self._closed = False
        self._regroup()

    def _take_up(self) -> None:
        """Remove leftovers of an ended run, and make a finished record the first part of this one."""
        if (found := self._parts.request()) is not None:
            self._refuse_conflicts([found])
        finished = Part.read(self.path) if self.path.exists() else None
        if finished is not None:
            self._refuse_conflicts([finished.request])
            if not self._parts.rows().keys() <= finished.rows.keys():
                raise InputError(f"{self._parts.folder} has rows that {self.path} lacks; move one of them away")
            self._sequence.take(self.path)
        self._parts.remove_leftovers()

    def _refuse_conflicts(self, found: list[Request]) -> None:
        declared = self._declared()
        for request in found:
            if conflicts := request.conflicts(declared):
                raise InputError(
                    f"{self.path} is the record of another training ({'; '.join(conflicts)}); name another file"
                )

    def _regroup(self) -> None:
        """Set each group's layout, number of rows and last step to those of the parts."""
        groups = {name: _Group(group.settings) for name, group in self._groups.items()}
        for part in self._sequence.parts:
            for name, contents in part.contents().items():
                group = groups.setdefault(name, _Group(part.request.settings[name]))
                layout = without_bookkeeping(contents.layout)
                group.layout = layout if group.layout is None else group.layout.join(layout)
            for (name, _), step in part.steps.items():
                groups[name].stored += 1
                groups[name].last = max(groups[name].last, step)
        self._groups = groups

    def finish(self) -> Path:
        """Write all rows into OUT, remove the parts, and unlock the record. Without any row, there is no OUT.

        Returns:
            The path of OUT.

        Raises:
            InputError: the disk does not take the record; the parts are kept.
        """
        self.flush()
        if self._sequence.parts and not self.follows:
            rows = self._sequence.rows
            with replacing(self.path, self._parts.folder, size_of_merged(rows)) as temporary:
                merge(temporary, self._sequence.request, rows)
            self._parts.remove()
        self.close()
        return self.path

    def close(self) -> None:
        """Write the rows that are in memory, and unlock the record. Unfinished, it can be resumed.

        Raises:
            InputError: the disk does not take the rows.
        """
        self.flush()
        self._parts.release()
        self._closed = True


class _Group:
    """The state of one group: settings, layout of the measured variables, rows in memory, and rows on disk."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.layout: Layout | None = None
        self.rows: list[Row] = []
        self.stored = 0
        self.last = -1

    @property
    def in_memory(self) -> GroupRows:
        assert self.layout is not None, "there are rows"
        return GroupRows(with_bookkeeping(self.layout), self.rows)
