"""Join several records into one: records of jobs that each measured some checkpoints of a run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from landscape.errors import InputError
from landscape.record.hdf5 import survey
from landscape.record.merge import merge, size_of_merged
from landscape.record.order import place_in_run
from landscape.record.parts import Parts, followed, replacing
from landscape.record.request import Request, Unit
from landscape.record.salvage import Readable, Salvage
from landscape.reporting.messages import counted, listed


def join_records(
    records: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    on_loss: Callable[[str], None] | None = None,
) -> Path:
    """Join finished records of one problem and equal settings, with the rows in the order of their steps.

    A row that is in two records is taken from the first.

    Args:
        records: paths of the records.
        out: path of the record to make.
        overwrite: replace an existing record; False by default.
        on_loss: called with a line for each row that can't be read. The other rows are then saved as an unfinished
            record, in which the command that measured it measures the lost rows again. By default, a damaged record is
            refused.

    Returns:
        Path of the record that was made; for an unfinished record, the folder of its parts.

    Raises:
        InputError: a file is no finished record or damaged, settings or problems differ, or the disk doesn't take the
            record. Likewise if ``out`` is one of the records, exists already, is no record or is being measured.
    """
    if not records:
        raise InputError("no record given; name the records to join")
    path = followed(Path(out))
    _refuse_target(path, records, overwrite)
    with tempfile.TemporaryDirectory(prefix="landscape-record-") as folder:
        salvage = Salvage(Path(folder))
        first, *others = map(Path, records)
        readable = _finished(first, salvage)
        request, rows, checkpoints = readable.request, readable.rows, readable.told
        for record in others:
            more = _finished(record, salvage)
            try:
                request = request.union(more.request)
            except InputError as error:
                raise InputError(f"{record} can't be joined with {first}: {error}") from error
            for unit in more.rows.keys() - rows.keys():
                rows[unit], checkpoints[unit] = more.rows[unit], more.told[unit]
        if lost := [unit for unit in request.units if unit not in rows]:
            whose = listed(records)
            if on_loss is None or not rows:
                which = f"{len(lost)} of {counted(len(request.units), 'row')} cannot be read"
                hint = "restore it, or save the other rows with --merge" if rows else "restore or remove it"
                raise InputError(f"{whose}: damaged; {which}: {hint}")
            for name, sha in lost:
                on_loss(f"{name} of the checkpoint {sha[:12]} cannot be read in {whose}")
        ordered = request if lost else _by_step(request, checkpoints)
        parts = Parts.of(path)
        parts.lock()
        try:
            if lost:
                parts.prepare(ordered)
                for unit, row in rows.items():
                    parts.write(unit, 0, partial(merge, request=ordered, rows={unit: row}))
                return parts.folder
            with replacing(path, parts.folder, size_of_merged(rows)) as temporary:
                merge(temporary, ordered, rows)
            parts.remove()  # including leftovers of an earlier run that was killed
            return path
        finally:
            parts.release()


def _refuse_target(path: Path, records: Sequence[str | Path], overwrite: bool) -> None:
    if os.path.realpath(path) in map(os.path.realpath, records):
        raise InputError(f"{path} is one of the records to join; name another file (-o)")
    if Parts.of(path).request() is not None:
        raise InputError(f"{path} is being measured, or was left unfinished; name another file (-o)")
    if not path.exists():
        return
    if not overwrite:
        raise InputError(f"{path} exists already; name another file (-o), or pass --overwrite to replace it")
    survey(path)  # raises if the file is no record, which is then not replaced


def _finished(record: Path, salvage: Salvage) -> Readable:
    readable = salvage.read(record)
    if not readable.damaged and (missing := [unit for unit in readable.request.units if unit not in readable.rows]):
        raise InputError(f"{record} is unfinished: it lacks {counted(len(missing), 'row')}; finish the record first")
    return readable


def _by_step(request: Request, told: Mapping[Unit, Mapping[str, Any]]) -> Request:
    """The request with the checkpoints of each measurement in the order of the run."""
    places = {unit: place_in_run(each["step"], each["path"]) for unit, each in told.items()}
    ordered = {
        name: tuple(sha for _, sha in sorted(((name, sha) for sha in checkpoints), key=places.__getitem__))
        for name, checkpoints in request.checkpoints.items()
    }
    return replace(request, checkpoints=ordered)
