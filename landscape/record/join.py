"""One record of several: of jobs that each measured some checkpoints of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from landscape.errors import InputError
from landscape.record.hdf5 import Row, opened, provenance_in, readable, survey
from landscape.record.merge import merge, size_of_merged
from landscape.record.order import place_in_run
from landscape.record.parts import Parts, followed, replacing
from landscape.record.request import Request, Unit
from landscape.wording import counted


def join_records(records: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> Path:
    """Join finished records of one problem and equal settings, with the rows in the order of their steps.

    What two records both have is taken from the first.

    Args:
        records: files.
        out: the record to make.
        overwrite: replace a file that is there.

    Returns:
        The record that was made.

    Raises:
        InputError: a file is no finished record or damaged, settings or problems differ, ``out`` is one of them, is
            there already, is no record or is being measured, or the disk doesn't take it.
    """
    if not records:
        raise InputError("no record given; name those to be joined")
    path = followed(Path(out))
    _refuse_target(path, records, overwrite)
    first, *others = map(Path, records)
    request, rows = _finished(first)
    for record in others:
        more, theirs = _finished(record)
        try:
            request = request.union(more)
        except InputError as error:
            raise InputError(f"{record} doesn't go together with {first}: {error}") from error
        rows = theirs | rows
    ordered = _by_step(request, rows)
    with replacing(path, path.parent, size_of_merged(rows)) as temporary:
        merge(temporary, ordered, rows)
    return path


def _refuse_target(path: Path, records: Sequence[str | Path], overwrite: bool) -> None:
    if os.path.realpath(path) in map(os.path.realpath, records):
        raise InputError(f"{path} is one of the records to be joined; name another file (-o)")
    if Parts.of(path).request() is not None:
        raise InputError(f"{path} is being measured, or was left unfinished; name another file (-o)")
    if not path.exists():
        return
    if not overwrite:
        raise InputError(f"{path} is there already; name another file (-o), or pass --overwrite to replace it")
    survey(path)  # what is no record isn't replaced


def _finished(record: Path) -> tuple[Request, dict[Unit, Row]]:
    request, rows = survey(record)
    if missing := [unit for unit in request.units if unit not in rows]:
        raise InputError(f"{record} is unfinished: {counted(len(missing), 'row')} are missing; finish it first")
    return request, rows


def _by_step(request: Request, rows: dict[Unit, Row]) -> Request:
    """With the checkpoints of each measurement in their order in the run."""
    places: dict[Unit, Any] = {}
    for (name, sha), row in rows.items():
        with opened(row.path) as file, readable(row.path):
            told = provenance_in(file[name], row.position)["checkpoint"]
            places[name, sha] = place_in_run(told["step"], told["path"])
    ordered = {
        name: tuple(sha for _, sha in sorted(((name, sha) for sha in checkpoints), key=places.__getitem__))
        for name, checkpoints in request.checkpoints.items()
    }
    return replace(request, checkpoints=ordered)
