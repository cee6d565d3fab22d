"""The checkpoints of a request in their order, and the problem at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from landscape.errors import InputError
from landscape.measurements.base import Measurement
from landscape.measurements.run import Run
from landscape.reporting.messages import listed

if TYPE_CHECKING:
    import xarray as xr

    from landscape.checkpoint import Checkpoint
    from landscape.loading.source import Source
    from landscape.problem import Problem
    from landscape.record import RecordWriter


class Checkpoints:
    """The checkpoints of a request in their order; `load` makes the problem at one of them.

    Attributes:
        files: the checkpoints without their weights, which may exceed memory together.
        whole: stand-in for the whole run: the last checkpoint, with the run's digest as its sha256.
    """

    def __init__(self, source: Source, problem: Problem, files: Sequence[Checkpoint]) -> None:
        self.source, self.problem, self.files = source, problem, files
        digests = tuple(each.sha256 for each in files)
        self.whole = replace(files[-1], sha256=Run((), digests).digest)

    def known(self, writer: RecordWriter | None = None) -> Run:
        """The run as measurements see it, with the rows that the writer has stored, if there is a writer."""

        def stored(measurement: str, position: int) -> xr.Dataset | None:
            return None if writer is None else writer.stored(measurement, self.files[position].sha256)

        return Run(
            tuple(each.step for each in self.files),
            tuple(each.sha256 for each in self.files),
            lambda position: self.load(self.files[position]),
            stored,
            lambda factory, position: replace(self.source, problem=factory).load(self.files[position].path),
        )

    def units_of(self, measurement: Measurement, at: Sequence[int]) -> tuple[Checkpoint, ...]:
        """The checkpoints that get a row of a measurement: all, those of the steps ``at``, or the whole run's stand-in.

        Raises:
            InputError: no checkpoint has one of the steps.
        """
        if measurement.over_run:
            return (self.whole,)
        if not (measurement.selective and at):
            return tuple(self.files)
        known = {each.step: each for each in self.files} | {-1: self.files[-1]}
        if unknown := [step for step in at if step not in known]:
            steps = listed(each.step for each in self.files if each.step is not None)
            raise InputError(f"no checkpoint has the step {unknown[0]}; the steps are {steps or 'unknown'}")
        return tuple(each for each in self.files if each in [known[step] for step in at])

    def load(self, checkpoint: Checkpoint) -> Problem:
        """Read a checkpoint's weights from its file again, and pose the problem there.

        Raises:
            InputError: the file has changed since it was first read.
        """
        from landscape.loading.source import at_checkpoint

        read = self.source.read(checkpoint.path)
        if read.sha256 != (self.files[-1] if checkpoint is self.whole else checkpoint).sha256:
            raise InputError(f"{checkpoint.path} changed while it was being measured; run again when it is complete")
        return at_checkpoint(self.problem, read)
