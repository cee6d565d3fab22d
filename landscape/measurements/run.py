"""The checkpoints that are measured together, and what a record has of a measurement already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from landscape.problem import Problem


def _empty(*_: Any) -> Any:
    raise LookupError("a run without checkpoints")


@dataclass(frozen=True)
class Run:
    """The checkpoints that are measured together, in the order of their steps.

    Attributes:
        steps: of training; None where a file doesn't say.
        digests: the sha256 of each file.
        load: the problem at the weights of the checkpoint at a position, read anew.
        stored: the row of a measurement (by name) at a position; None where there is none.
    """

    steps: tuple[int | None, ...] = ()
    digests: tuple[str, ...] = ()
    load: Callable[[int], Problem] = field(default=_empty, repr=False)
    stored: Callable[[str, int], xr.Dataset | None] = field(default=_empty, repr=False)

    def __len__(self) -> int:
        """How many checkpoints."""
        return len(self.digests)

    @property
    def digest(self) -> str:
        """A sha256 of the checkpoints in their order, by which the run is known."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    @property
    def positions(self) -> np.ndarray:
        """Where each checkpoint is on an axis: its step, or where one isn't known the place of each in the order."""
        known = None not in self.steps
        return np.array(self.steps if known else range(len(self)), dtype=np.int64)

    def refuse_disorder(self, least: int, what: str) -> None:
        """Raise InputError where there are too few checkpoints, or two of them of one step.

        Args:
            least: how many there have to be.
            what: "dynamics are", for the message.
        """
        if len(self) < least:
            raise InputError(f"{what} of a run: name at least {least} of its checkpoints")
        if not (np.diff(self.positions) > 0).all():
            raise InputError(
                f"{what} of one run, and two of these checkpoints are of the same step: name each step once, and "
                "measure another run into a record of its own (-o)"
            )

    def problems(self) -> Iterator[Problem]:
        """The problem at each checkpoint, one at a time."""
        return map(self.load, range(len(self)))

    def rows(self, measurement: str) -> list[xr.Dataset]:
        """The rows of a measurement, in the order of the checkpoints.

        Raises:
            InputError: one isn't there.
        """
        found = [row for position in range(len(self)) if (row := self.stored(measurement, position)) is not None]
        if len(found) < len(self):
            raise InputError(
                f"this is made of the rows of {measurement}: measure it of every checkpoint of the run too"
            )
        return found


@dataclass(frozen=True)
class History:
    """What the record has already of a measurement, and the run it is of.

    Attributes:
        choices: the provenance of its first row, whose choices hold for all; None where there is no row.
        previous: the row of the checkpoint before, as it was measured; None for the first.
        digest: the sha256 of the checkpoint that is measured now, or of the run.
        run: the checkpoints that are measured together.
    """

    choices: Mapping[str, Any] | None = None
    previous: xr.Dataset | None = None
    digest: str = ""
    run: Run = field(default_factory=Run)

    def of_checkpoint(self, measurement: str) -> xr.Dataset | None:
        """The row that the record has of another measurement at this checkpoint; None where there is none."""
        places = [position for position, digest in enumerate(self.run.digests) if digest == self.digest]
        return self.run.stored(measurement, places[0]) if places else None
