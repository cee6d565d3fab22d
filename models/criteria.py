"""The criterion without a measurement, for comparison with those of `landscape.dynamics.plateau`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class AtEpoch:
    """A criterion that fires after a fixed number of epochs.

    Attributes:
        epoch: number of epochs before the switch.
        seen: number of epochs so far.
    """

    epoch: int
    seen: int = 0

    def watch(self, values: Mapping[str, float]) -> bool:
        """Count an epoch and return whether to switch now; ``values`` aren't used."""
        self.seen += 1
        return self.seen >= self.epoch

    @property
    def evidence(self) -> dict[str, Any]:
        """The number of epochs before the switch."""
        return {"switch_epoch": self.epoch}
