"""The instruments by name, and those of a watch that names none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from torch.optim import Optimizer

from landscape.dynamics import stability
from landscape.errors import InputError, refuse_fractions
from landscape.live.critical import CriticalAlongUpdate
from landscape.live.crossings import FloorCrossings
from landscape.live.eigenvalues import StabilityAlong, TrackedEigenvalues
from landscape.live.instrument import Instrument, Measured
from landscape.live.plateau import Plateau
from landscape.measurements import Measurement, of_other_packages, registered
from landscape.problem import Problem
from landscape.reporting.messages import listed

_logger = logging.getLogger("landscape")
OWN: Mapping[str, Callable[[], Instrument]] = {
    "top_eigenvalues": TrackedEigenvalues,
    "stability": StabilityAlong,
    "critical_sharpness": CriticalAlongUpdate,
    "crossings": FloorCrossings,
    "plateau": Plateau,
}
DEFAULT = ("loss", "top_eigenvalues", "stability", "critical_sharpness", "noise_scale")


def instruments_of(
    wanted: Iterable[Any] | None, problem: Problem, optimizer: Optimizer, other_data: Problem | None = None
) -> list[Instrument]:
    """The instruments of a watch, with their settings decided.

    Args:
        wanted: instruments, measurements of checkpoints, or names of either; None for those of the default that can
            measure here.
        problem: the model on the evaluation set.
        optimizer: of the training.
        other_data: the model on a second evaluation set, for the relative critical sharpness.

    Raises:
        InputError: a name isn't known, two instruments write one group of the record, or one can't measure here.
    """
    found = [_instrument(each) for each in (DEFAULT if wanted is None else wanted)]
    if not found:
        raise InputError(f"no instrument is given: name some of {listed(_names(), 40)}")
    if other_data is not None:
        found.append(CriticalAlongUpdate(other_data=other_data))
    tracked = next((each for each in found if isinstance(each, TrackedEigenvalues)), None)
    if tracked is not None and not stability(optimizer.state_dict()).preconditioned:
        alone = [each for each in found if isinstance(each, StabilityAlong)]
        found = [each for each in found if each not in alone]
        tracked.gives_stability = bool(alone)  # both are of the Hessian itself
    usable = []
    for each in found:
        if isinstance(each, FloorCrossings):
            each.tracked = tracked
        try:
            each.resolve(problem)
        except InputError as error:
            if wanted is not None or each.name not in DEFAULT:
                raise
            _logger.warning("no %s in this training: %s", each.name, error)
        else:
            usable.append(each)
    groups = [group for each in usable for group in each.settings]
    if twice := [group for group in groups if groups.count(group) > 1]:
        raise InputError(f"two instruments write the group {twice[0]}: give one of them")
    return usable


def every(steps: int, instrument: Any) -> Instrument:
    """An instrument with a turn at every ``steps``-th step of the optimiser, from the first on, whatever the budget.

    Its work is taken from the income of the other instruments.

    Args:
        steps: steps from one turn to the next.
        instrument: an instrument, a measurement of checkpoints, or the name of either.

    Raises:
        InputError: ``steps`` isn't a whole number above 0, or there is no such instrument.
    """
    refuse_fractions(steps=steps)
    if steps < 1:
        raise InputError(f"an instrument has its turn every so many steps, at least 1, not {steps}")
    found = _instrument(instrument)
    found.every = steps
    return found


def _measurements() -> dict[str, type[Measurement]]:
    """The measurements of one checkpoint that need no setting, by the group of the record."""
    classes = [each for each in registered(of_other_packages()) if not each.over_run]
    optional = [each for each in classes if not any(_required(field) for field in fields(each))]  # type: ignore[arg-type]
    return {str(each().name): each for each in optional}


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _names() -> list[str]:
    return sorted({*OWN, *_measurements()})


def _instrument(wanted: Any) -> Instrument:
    if isinstance(wanted, Instrument):
        return wanted
    if isinstance(wanted, Measurement):
        return Measured(wanted)
    if not isinstance(wanted, str):
        raise InputError(f"an instrument is given by its name, as a measurement or as an Instrument, not {wanted!r}")
    name = wanted.replace("-", "_")
    if name in OWN:
        return OWN[name]()
    measurements = _measurements()
    if name in measurements:
        return Measured(measurements[name]())
    raise InputError(f"there is no instrument {wanted!r}; there are {listed(_names(), 40)}")
