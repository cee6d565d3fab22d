"""The checkpoints of a run, and the rows of a measurement that a record has already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from landscape.problem import Problem


def _nothing() -> None:
    """The row before the first one."""


def _empty(*_: Any) -> Any:
    raise LookupError("a run without checkpoints")


@dataclass(frozen=True)
class Run:
    """The checkpoints that are measured together, in the order of their steps.

    Attributes:
        steps: training step of each checkpoint; None where the file has no step.
        digests: sha256 of each checkpoint's file.
        load: function that reads the checkpoint at a position and returns the problem at its weights.
        stored: function that returns the row of a measurement (by name) at a position, or None if there is no row.
        load_with: function that returns the problem of another factory (by name) at the weights of the checkpoint at a
            position.
    """

    steps: tuple[int | None, ...] = ()
    digests: tuple[str, ...] = ()
    load: Callable[[int], Problem] = field(default=_empty, repr=False)
    stored: Callable[[str, int], xr.Dataset | None] = field(default=_empty, repr=False)
    load_with: Callable[[str, int], Problem] = field(default=_empty, repr=False)

    def __len__(self) -> int:
        """Number of checkpoints."""
        return len(self.digests)

    @property
    def digest(self) -> str:
        """Identity of the run: sha256 of the checkpoints' digests, joined in order."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    @property
    def positions(self) -> np.ndarray:
        """Position of each checkpoint on an axis: its step, or its index if any step is unknown."""
        known = None not in self.steps
        return np.array(self.steps if known else range(len(self)), dtype=np.int64)

    def refuse_disorder(self, least: int, what: str) -> None:
        """Raise InputError where there are too few checkpoints, or two checkpoints have one step.

        Args:
            least: smallest number of checkpoints.
            what: subject and verb of the message, such as "dynamics are".
        """
        if len(self) < least:
            raise InputError(f"{what} measured over a run: name at least {least} checkpoints of the run")
        if not (np.diff(self.positions) > 0).all():
            raise InputError(
                f"{what} measured over one run, and two of these checkpoints have the same step: name each step once, "
                "and measure another run into a record of its own (-o)"
            )

    def problems(self) -> Iterator[Problem]:
        """The problem at each checkpoint, loaded one at a time."""
        return map(self.load, range(len(self)))

    def rows(self, measurement: str) -> list[xr.Dataset]:
        """The rows of a measurement, in the order of the checkpoints.

        Raises:
            InputError: a checkpoint has no row.
        """
        rows = [row for position in range(len(self)) if (row := self.stored(measurement, position)) is not None]
        if len(rows) < len(self):
            raise InputError(
                f"this measurement uses the rows of {measurement}: measure {measurement} at every checkpoint of the "
                "run too"
            )
        return rows


@dataclass(frozen=True)
class History:
    """The rows of a measurement that the record has already, and the run.

    Attributes:
        choices: provenance of the measurement's first row, whose choices all rows follow; None without a row.
        before: reads the row of the checkpoint before; see `previous`.
        digest: sha256 of the checkpoint that is being measured, or the digest of the run.
        run: the checkpoints that are measured together.
    """

    choices: Mapping[str, Any] | None = None
    before: Callable[[], xr.Dataset | None] = field(default=_nothing, repr=False)
    digest: str = ""
    run: Run = field(default_factory=Run)

    @cached_property
    def previous(self) -> xr.Dataset | None:
        """Row of the checkpoint before, read when it is first used; None for the first checkpoint."""
        return self.before()

    def of_checkpoint(self, measurement: str) -> xr.Dataset | None:
        """The record's row of another measurement (by name) at this checkpoint, or None if there is no row."""
        places = [position for position, digest in enumerate(self.run.digests) if digest == self.digest]
        return self.run.stored(measurement, places[0]) if places else None
