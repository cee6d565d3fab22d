"""The rows of a watched training: into the record where there is one, with what is known of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from landscape.errors import InputError
from landscape.live.events import Event
from landscape.live.instrument import Instrument
from landscape.measurements import RowData, variable
from landscape.measurements.runner import device_name, versions
from landscape.problem import Problem
from landscape.record import GrowingRecord

if TYPE_CHECKING:
    import xarray as xr

EVENTS = "events"
_MOST_WAITING = 256  # rows in memory before they are written


class Rows:
    """Rows in the order of the training's steps; kept in the record, or nowhere without one."""

    def __init__(
        self,
        path: str | Path | None,
        problem: Problem,
        instruments: Collection[Instrument],
        budget: float,
        *,
        overwrite: bool,
    ) -> None:
        """Look for a record that is there already; nothing is written yet.

        Raises:
            InputError: the record can't be written, or another record is there.
        """
        self._notes = problem.notes
        self._settings = {group: each for one in instruments for group, each in one.settings.items()} | {EVENTS: {}}
        self._made = {
            "command": "landscape.watch",
            "versions": versions(),
            "device": device_name(problem.device),
            "threads": torch.get_num_threads(),
            "processes": problem.processes.size,
        }
        self._in_order = problem.processes.in_order
        self._waiting, self._refused = 0, False
        self._record: GrowingRecord | None = None
        if path is None:
            return
        common = {
            "problem": problem.description,
            "data": problem.data_sha256,
            "dtype": str(problem.dtype).removeprefix("torch."),
            "training_mode": problem.training,
            "budget": budget,
            "every": {each.name: each.every for each in instruments if each.every is not None},
        }
        self._record = GrowingRecord(path, common, overwrite=overwrite, follows=not problem.processes.first)
        for group, settings in self._settings.items():
            self._record.declare(group, settings)

    def add(self, rows: Mapping[str, RowData], step: int, seconds: float) -> None:
        """Keep the rows of one turn."""
        for group, row in rows.items():
            more = {"notes": [*self._notes, *row.notes], "seconds": round(seconds, 4)}
            self._add(group, row.dataset, step, row.choices | more)

    def add_events(self, step: int, events: Sequence[Event]) -> None:
        """Keep the events of one step."""
        if not events:
            return
        row = RowData(  # not along "event": a variable of its dimension's name is one coordinate of all rows
            {
                "event": variable("event_number", [each.name for each in events], "kind of the event", ""),
                "message": variable("event_number", [each.message for each in events], "what was seen", ""),
                "value": variable(
                    "event_number", [each.value for each in events], "the criterion's number; NaN without", ""
                ),
            }
        )
        self._add(EVENTS, row.dataset, step, {})

    def _add(self, group: str, row: xr.Dataset, step: int, more: Mapping[str, Any]) -> None:
        if self._record is not None:
            made = {**self._made, "settings": self._settings[group], "started": _now(), "notes": list(self._notes)}
            self._record.add(group, row, step, made | dict(more))
            self._waiting += 1

    def begin(self) -> None:
        """Keep other runs out of the record, before the first row.

        Raises:
            InputError: a record is there already.
        """
        if self._record is not None:
            self._in_order(self._record.begin)

    def resume(self, step: int) -> None:
        """Drop the rows of this step and later ones, which an ended run has made; see `GrowingRecord.resume`."""
        if self._record is not None:
            self._in_order(partial(self._record.resume, step))

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows of each group; empty without a record."""
        return {} if self._record is None else self._record.counts

    def flush(self) -> None:
        """Write all rows so far to disk.

        Raises:
            InputError: the disk doesn't take the rows, which stay in memory.
        """
        if self._record is not None:
            self._record.flush()
            self._waiting = 0

    def flush_many(self) -> str:
        """Write all rows if many wait; the reason if the disk doesn't take them, which is told only once.

        A full disk is no reason to end a training: the rows stay in memory.
        """
        if self._waiting < _MOST_WAITING or self._refused:
            return ""
        try:
            self.flush()
        except InputError as error:
            self._refused = True
            return str(error)
        return ""

    def finish(self) -> None:
        """Make the record of all rows."""
        if self._record is not None:
            self._in_order(self._record.finish)

    def end(self) -> None:
        """Write all rows so far, and let other processes write; the record stays unfinished."""
        if self._record is not None:
            self._record.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
