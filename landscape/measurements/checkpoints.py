"""The checkpoints of a request in their order, each to be had as a problem."""

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
    """The checkpoints of a request in their order, each to be had as a problem.

    Attributes:
        files: the checkpoints, without their weights: together these may exceed memory.
        whole: what stands for all of them together: the last one, under the digest of the run.
    """

    def __init__(self, source: Source, problem: Problem, files: Sequence[Checkpoint]) -> None:
        self.source, self.problem, self.files = source, problem, files
        digests = tuple(each.sha256 for each in files)
        self.whole = replace(files[-1], sha256=Run((), digests).digest)

    def known(self, writer: RecordWriter | None = None) -> Run:
        """What measurements see of the run, with the rows of a writer."""

        def stored(measurement: str, position: int) -> xr.Dataset | None:
            return None if writer is None else writer.stored(measurement, self.files[position].sha256)

        return Run(
            tuple(each.step for each in self.files),
            tuple(each.sha256 for each in self.files),
            lambda position: self.load(self.files[position]),
            stored,
        )

    def units_of(self, measurement: Measurement, at: Sequence[int]) -> tuple[Checkpoint, ...]:
        """Of what a measurement is made: of each checkpoint, of some, or of the whole run."""
        if measurement.over_run:
            return (self.whole,)
        if not (measurement.selective and at):
            return tuple(self.files)
        known = {each.step: each for each in self.files} | {-1: self.files[-1]}
        if unknown := [step for step in at if step not in known]:
            steps = listed(each.step for each in self.files if each.step is not None)
            raise InputError(f"no checkpoint is of step {unknown[0]}; there are {steps or 'none with a step'}")
        return tuple(each for each in self.files if each in [known[step] for step in at])

    def load(self, checkpoint: Checkpoint) -> Problem:
        """The problem at a checkpoint, its weights read anew.

        Raises:
            InputError: the file isn't what it was when it was first read.
        """
        from landscape.loading.source import at_checkpoint

        read = self.source.read(checkpoint.path)
        if read.sha256 != (self.files[-1] if checkpoint is self.whole else checkpoint).sha256:
            raise InputError(f"{checkpoint.path} changed while it was being measured; run again when it is complete")
        return at_checkpoint(self.problem, read)
