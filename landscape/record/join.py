"""One record of several: of jobs that each measured some checkpoints of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from landscape.errors import InputError
from landscape.record.hdf5 import Row, opened, provenance_in, survey
from landscape.record.merge import merge, size_of_merged
from landscape.record.parts import replacing
from landscape.record.request import Request, Unit


def join_records(records: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> Path:
    """Join finished records of one problem and equal settings, with the rows in the order of their steps.

    What two records both have is taken from the first. The records stay as they are.

    Args:
        records: files.
        out: the record to make.
        overwrite: replace a file that is there.

    Returns:
        The record that was made.

    Raises:
        InputError: a file is no finished record, settings or problems differ, ``out`` is there, or the disk doesn't
            take it.
    """
    path = Path(out)
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already; name another file (-o), or pass --overwrite to replace it")
    if not records:
        raise InputError("no record given; name those to be joined")
    first, *others = map(Path, records)
    request, rows = survey(first)
    for record in others:
        more, theirs = survey(record)
        try:
            request = request.union(more)
        except InputError as error:
            raise InputError(f"{record} doesn't go together with {first}: {error}") from error
        rows = theirs | rows
    with replacing(path, path.parent, size_of_merged(rows)) as temporary:
        merge(temporary, _by_step(request, rows), rows)
    return path


def _by_step(request: Request, rows: dict[Unit, Row]) -> Request:
    """With the checkpoints of each measurement in the order of their steps, those of unknown ones last."""
    steps: dict[Unit, float] = {}
    for (name, sha), row in rows.items():
        with opened(row.path) as file:
            step = provenance_in(file[name], row.position)["checkpoint"]["step"]
        steps[name, sha] = math.inf if step is None else step
    ordered = {
        name: tuple(sha for _, sha in sorted(((name, sha) for sha in checkpoints), key=steps.__getitem__))
        for name, checkpoints in request.checkpoints.items()
    }
    return replace(request, checkpoints=ordered)
