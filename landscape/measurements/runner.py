"""Runs measurements over checkpoints into a record; what the command and the notebooks call."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.errors import InputError
from landscape.measurements import History, Loss, Measurement, RowData
from landscape.measurements.checkpoints import Checkpoints
from landscape.measurements.preparation import prepare
from landscape.measurements.shortage import with_less
from landscape.measurements.threads import threads_that_pay
from landscape.reporting.deprecation import APPENDED, renamed_members, superfluous_argument
from landscape.reporting.messages import cause, counted
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import torch
    import xarray as xr

    from landscape.checkpoint import Checkpoint
    from landscape.loading.source import Source
    from landscape.problem import Problem
    from landscape.record import RecordWriter, Request

SUFFIX = ".landscape.h5"


@renamed_members(shortfalls="unmet_goals")
@dataclass(frozen=True)
class Row:
    """The measurements of one checkpoint, or of a whole run, as they stand in the record.

    Attributes:
        path: of the checkpoint; of a run, its first and its last.
        step: of training, or None; of a run, its last.
        sha256: of the checkpoint's file; of a run, of its checkpoints in their order.
        data: the variables of each measurement, by its name, without the checkpoint dimension.
        unmet_goals: what did not converge or stayed undecided, a line each.
        notes: what was decided or changed on the user's behalf, a line each.
    """

    path: str
    step: int | None
    sha256: str
    data: dict[str, xr.Dataset]
    unmet_goals: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Result:
    """The record of a run, and the rows that were asked for.

    Attributes:
        path: of the record.
        rows: one for each checkpoint, and one for the run where something was asked of it.
        measured: how many units were measured now; the others were in the record or its parts before.
        threads: how many threads torch used for them.
    """

    path: Path
    rows: list[Row]
    measured: int
    threads: int


@superfluous_argument("probe", "append", APPENDED)
def probe(
    checkpoints: str | Path | Sequence[str | Path],
    measurements: Sequence[Measurement],
    out: str | Path | None = None,
    *,
    source: Source | None = None,
    overwrite: bool = False,
    at: Sequence[int] = (),
    command: str = "landscape.probe",
    bar: ProgressBar | None = None,
    on_row: Callable[[Row], None] | None = None,
    adapt_threads: bool = False,
) -> Result:
    """Measure checkpoints into a record, and return the rows that were asked for.

    What the record has already isn't measured again: a second call may ask for more or for less. A call that was ended
    goes on from the last finished unit. Everything that can be refused is refused before anything is measured or
    written.

    Args:
        checkpoints: a file or files of one run, of one problem, or the folder of a run of transformers' Trainer;
            measured in the order of their stored steps, then of their names.
        measurements: what to measure on each.
        out: the record; default: ``<stem of the earliest checkpoint>.landscape.h5`` in the working directory.
        source: how checkpoints become problems.
        overwrite: measure anew, and replace the record.
        at: the steps of the checkpoints at which slices, valleys and rises in neighbourhoods are measured, -1 for the
            last; none for all.
        command: as it goes into the record.
        bar: where to show progress; default: a new one.
        on_row: called with each row as soon as its measurements are finished, in the first process alone.
        adapt_threads: have torch use no more threads than pay for this model, until the call returns. The command does
            this, unless OMP_NUM_THREADS or MKL_NUM_THREADS is set.

    Raises:
        InputError: one line that says what can't be used and what to do.
    """
    import torch

    from landscape.record import RecordWriter

    prepared = prepare(checkpoints, measurements, source=source, at=at)
    run, request, asked = prepared.run, prepared.request, prepared.asked
    path = _record(out, run.files[0].path)
    processes = run.source.processes
    writer = processes.in_order(lambda: RecordWriter(path, request, overwrite=overwrite, follows=not processes.first))
    rows: list[Row] = []
    with writer, threads_that_pay(run.problem) if adapt_threads else nullcontext():
        threads = torch.get_num_threads()
        with bar or ProgressBar(shown=processes.first) as shown:
            probing = _Probing(run, request, writer, shown, command, asked)
            probing.refuse_replaced()
            probing.check_unchanged()
            for unit in (*run.files, run.whole):
                if not asked[unit.sha256]:
                    continue
                probing.measure(unit)
                rows.append(probing.row(unit))
                if on_row is not None and processes.first:
                    with shown.paused():
                        on_row(rows[-1])
        processes.in_order(writer.close)
    return Result(path, rows, probing.measured, threads)


class _Probing:
    """Measures what a record still lacks."""

    def __init__(
        self,
        run: Checkpoints,
        request: Request,
        writer: RecordWriter,
        bar: ProgressBar,
        command: str,
        asked: Mapping[str, Sequence[Measurement]],
    ) -> None:
        self.run, self.request, self.writer, self.bar, self.command = run, request, writer, bar, command
        self.asked = asked
        self.seen = run.known(writer)
        self.routes_hold = True  # the ways in which products were made before
        self.measured = 0
        self.missing = [m.name for unit in (*run.files, run.whole) for m in self._missing(unit)]

    def _missing(self, unit: Checkpoint) -> list[Measurement]:
        return [m for m in self.asked[unit.sha256] if not self.writer.done(m.name, unit.sha256)]

    def measure(self, unit: Checkpoint) -> None:
        """Measure what the record lacks of a checkpoint, or of the run."""
        missing = self._missing(unit)
        if not missing:
            return
        problem = self.run.load(unit)
        for measurement in missing:
            later = self.missing[self.measured + 1 :]
            with self.bar.unit(measurement.name, unit.path.name, self.measured + 1, later):
                started = time.monotonic()
                try:
                    measured, problem = self._measured(measurement, unit, problem)
                except InputError as error:
                    raise InputError(f"{unit.path}: {error}") from error
                provenance = self.provenance(problem, unit, measurement) | measured.choices
                provenance["notes"] += measured.notes
                provenance["seconds"] = round(time.monotonic() - started, 3)
                self._add(measurement.name, measured.dataset, provenance)
            self.measured += 1

    def row(self, unit: Checkpoint) -> Row:
        """The stored row of every measurement that was asked of a checkpoint or of the run."""
        measurements, whole = self.asked[unit.sha256], unit is self.run.whole
        data = {m.name: self.writer.shown(m.name, unit.sha256) for m in measurements}
        provenance = [json.loads(str(row.provenance.values)) for row in data.values()]
        return Row(
            path=f"run of {counted(len(self.run.files), 'checkpoint')} up to {unit.path}" if whole else str(unit.path),
            step=unit.step,
            sha256=unit.sha256,
            data=data,
            unmet_goals=[line for m in measurements for line in m.unmet_goals(data[m.name])],
            notes=list(dict.fromkeys(note for each in provenance for note in each["notes"])),
        )

    def _measured(self, measurement: Measurement, unit: Checkpoint, problem: Problem) -> tuple[RowData, Problem]:
        """A measurement of a problem, or of the same one in smaller batches if memory runs out; and which it was."""
        from landscape.machine.memory import ran_out

        while True:
            try:
                return measurement.measure(problem, self.bar, self.history(measurement.name, unit.sha256)), problem
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                why = cause(error)
            # Not above, where the traceback still holds what was made.
            self.run.problem, self.routes_hold = with_less(self.run.problem, why), False
            problem = self.run.load(unit)

    def _add(self, measurement: str, measured: xr.Dataset, told: dict[str, Any]) -> None:
        self.run.source.processes.in_order(lambda: self.writer.add(measurement, measured, told))

    def refuse_replaced(self) -> None:
        """Refuse a file that held another checkpoint of its step when the record's row was made.

        Raises:
            InputError: a training wrote over the file, and the record would have two checkpoints of one name.
        """
        now = {(str(each.path), each.step) for each in self.run.files}
        for there in self.writer.others():
            if "run" not in there and (there["path"], there["step"]) in now:
                step = "" if there["step"] is None else f" at step {there['step']}"
                raise InputError(
                    f"{self.writer.path} has a row of {there['path']}{step} as the file was before it was replaced; "
                    "name another record (-o), or pass --overwrite to measure all anew"
                )

    def check_unchanged(self) -> None:
        """Hold the loss at one checkpoint to what the record has of it, where it has something.

        The request knows data and settings, and the model and the loss as they print; an edit of their code shows in
        the numbers alone.

        Raises:
            InputError: loss or gradient are other numbers now, by more than rounding on another machine explains.
        """
        import torch

        from landscape.record import readable

        loss = Loss()
        for checkpoint in self.run.files:
            there = self.writer.stored(loss.name, checkpoint.sha256)
            if there is None:
                continue
            measured, problem = self._measured(loss, checkpoint, self.run.load(checkpoint))
            here = measured.dataset
            tolerance = math.sqrt(torch.finfo(problem.dtype).eps)
            for name, allowed in (("loss", tolerance), ("gradient_norm", 100 * tolerance)):
                with readable(self.writer.path):
                    before = float(there[name])
                now = float(here[name])
                if abs(now - before) > allowed * max(abs(now), abs(before)) + allowed**2:
                    raise InputError(
                        f"{self.writer.path} has the {name.replace('_', ' ')} {before:.6g} of {checkpoint.path}, which "
                        f"is {now:.6g} now: the code of the model or of the loss has changed, or is random; name "
                        f"another file (-o), or remove {self.writer.path} and {self.writer.path}.parts"
                    )
            return

    def history(self, measurement: str, sha256: str) -> History:
        """The record's rows of this measurement before this checkpoint, without routes that took too much memory."""
        choices = self.writer.earlier(measurement) if self.routes_hold else None
        return History(choices, lambda: self.writer.previous(measurement, sha256), sha256, self.seen)

    def provenance(self, problem: Problem, checkpoint: Checkpoint, measurement: Measurement) -> dict[str, Any]:
        """How a row comes to be."""
        import torch

        from landscape.problem.penalty import name_of

        return (
            dict(self.request.common)
            | {
                "command": self.command,
                "versions": versions(),
                "device": device_name(problem.device),
                "threads": torch.get_num_threads(),
                "processes": self.run.source.processes.size,
                "settings": measurement.settings,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "notes": list(problem.notes),
                "checkpoint": {
                    "path": str(checkpoint.path),
                    "sha256": checkpoint.sha256,
                    "step": checkpoint.step,
                    "format": checkpoint.format,
                }
                | ({"run": list(self.seen.digests)} if measurement.over_run else {}),
            }
            | ({} if problem.penalty is None else {"penalty": name_of(problem.penalty)})
        )


def _record(out: str | Path | None, checkpoint: Path) -> Path:
    path = Path(checkpoint.absolute().stem + SUFFIX if out is None else out)
    try:
        folder = path.is_dir()
    except OSError as error:
        raise InputError(f"{path} cannot be the record ({error.strerror}); name another file") from error
    if folder:
        raise InputError(f"{path} is a folder; name the record's file, such as {path / (checkpoint.stem + SUFFIX)}")
    return path


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide numbers."""
    packages = {name: version(name) for name in ("landscape-probe", "torch", "numpy", "scipy")}
    return packages | {"python": platform.python_version()}


def device_name(device: torch.device) -> str:
    """A device with its hardware, as it goes into the provenance."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"
