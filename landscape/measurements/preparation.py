"""A request, checked: everything that can be refused is refused here, before anything is measured or written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from landscape.errors import InputError
from landscape.measurements.base import Measurement
from landscape.measurements.checkpoints import Checkpoints
from landscape.measurements.directions import is_checkpoint
from landscape.measurements.dynamics import without_too_large
from landscape.reporting.messages import cause

if TYPE_CHECKING:
    from landscape.checkpoint import Checkpoint
    from landscape.loading.source import Source
    from landscape.problem import Problem
    from landscape.record import Request


@dataclass(frozen=True)
class Prepared:
    """A request that nothing stands against.

    Attributes:
        run: the checkpoints.
        request: what the record is to answer.
        asked: the measurements of each checkpoint and of the run, with every setting decided, by sha256.
    """

    run: Checkpoints
    request: Request
    asked: dict[str, list[Measurement]]


def prepare(
    checkpoints: str | Path | Sequence[str | Path],
    measurements: Sequence[Measurement],
    *,
    source: Source | None = None,
    at: Sequence[int] = (),
) -> Prepared:
    """Read the checkpoints, and refuse what can't be measured; arguments as in `probe`.

    Raises:
        InputError: one line that says what can't be used and what to do.
    """
    from landscape.checks.slope import slope_notes
    from landscape.loading.source import Source, at_checkpoint, in_runs
    from landscape.record.order import place_in_run

    source = source or Source()
    if isinstance(checkpoints, str | Path):
        checkpoints = [checkpoints]
    checkpoints = in_runs(checkpoints)
    if not checkpoints:
        raise InputError("no checkpoint given; name at least one file (see --help)")
    if len({measurement.name for measurement in measurements}) < len(measurements) or not measurements:
        raise InputError(
            "a record has each measurement of a matrix once: give at least one measurement, and none twice"
        )
    _refuse_other_weights(source, measurements)
    first = source.read(checkpoints[0])
    factory = source.factory(first)
    problem = source.pose(factory, first)
    measurements, left_out = without_too_large(measurements, problem.layout.dim)
    problem = problem.noted(*left_out)
    known: dict[str, Checkpoint] = {}
    for checkpoint in chain([first], map(source.read, checkpoints[1:])):  # together their weights may exceed memory
        _check_same_problem(first, checkpoint)
        if checkpoint.tokenizer not in (None, first.tokenizer):
            _check_same_data(first, problem, checkpoint, source.pose(factory, checkpoint))
        there = at_checkpoint(problem, checkpoint)
        measurements = _resolved(measurements, there, len(checkpoints))
        if not known:
            problem = problem.noted(*slope_notes(there))
        known.setdefault(checkpoint.sha256, replace(checkpoint, state={}, optimizer=None, model=None))
    run = Checkpoints(source, problem, sorted(known.values(), key=lambda each: place_in_run(each.step, each.path)))
    units = {measurement.name: run.units_of(measurement, at) for measurement in measurements}
    measurements = [m.of_run(run.known(), [unit.sha256 for unit in units[m.name]]) for m in measurements]
    request = _request(source, factory.label, first, problem, measurements, run, units)
    asked = {unit.sha256: [m for m in measurements if unit in units[m.name]] for unit in (*run.files, run.whole)}
    return Prepared(run, request, asked)


def _request(
    source: Source,
    label: str,
    first: Checkpoint,
    problem: Problem,
    measurements: Sequence[Measurement],
    run: Checkpoints,
    units: Mapping[str, Sequence[Checkpoint]],
) -> Request:
    """What a record is the answer to: the settings, the checkpoints of each measurement, and the problem."""
    from landscape.record import Request

    return Request(
        {m.name: m.settings | ({"run": run.whole.sha256} if m.depends_on_run else {}) for m in measurements},
        {name: tuple(unit.sha256 for unit in found) for name, found in units.items()},
        {
            "problem": label,
            "arguments": first.arguments,
            "model_sha256": hashlib.sha256(problem.description.encode()).hexdigest(),
            "data_sha256": problem.data_sha256,
            "dtype": str(problem.dtype).removeprefix("torch."),
            "device": problem.device.type,
            "batch_size": source.batch_size,
            "params": list(source.params),
        }
        | ({} if source.weight_decay is None else {"weight_decay": source.weight_decay}),
    )


def _resolved(measurements: Sequence[Measurement], problem: Problem, checkpoints: int) -> list[Measurement]:
    """Measurements that a problem allows, before anything is measured.

    Raises:
        InputError: one of them can't be made of it.
    """
    from landscape.machine.memory import ran_out

    try:
        return [measurement.resolve(problem, checkpoints) for measurement in measurements]
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise InputError(
            f"memory ran out before anything was measured ({cause(error)}): give a --batch-size"
        ) from error


def _refuse_other_weights(source: Source, measurements: Sequence[Measurement]) -> None:
    """Refuse lines to checkpoints where weights are taken from an unusual place: there the usual ones would be read."""
    if source.weights is None and source.strip_prefix is None:
        return
    for name in (name for each in measurements for name in getattr(each, "directions", ())):
        if is_checkpoint(name):
            raise InputError(
                f"{name}: --weights and --strip-prefix don't apply to the file of a direction; save the weights of "
                "that direction as a file of their own"
            )


def _check_same_problem(first: Checkpoint, other: Checkpoint) -> None:
    if (first.problem, first.arguments) != (other.problem, other.arguments):
        raise InputError(
            f"{other.path} belongs to another problem or model than {first.path} (see the arguments stored in them); "
            "measure it into a record of its own"
        )


def _check_same_data(first: Checkpoint, posed: Problem, other: Checkpoint, there: Problem) -> None:
    """Refuse a checkpoint whose tokenizer makes other data of the texts."""
    if there.data_sha256 != posed.data_sha256:
        raise InputError(
            f"{other.path}: its tokenizer makes other tokens of the data than the tokenizer of {first.path}; measure "
            "it into a record of its own"
        )
