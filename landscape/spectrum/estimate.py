"""A number with its error: Student's interval of independent samples, and sampling until an interval is narrow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from scipy.special import stdtrit

from landscape.reporting.display import to_error
from landscape.spectrum.probes import standard_error

FEWEST_PROBES = 10


@dataclass(frozen=True)
class Estimate:
    """A number with its error.

    Attributes:
        value: the estimate.
        standard_error: of the value, from the spread of the probes; 0 where it isn't from probes.
        low: lower end of the 95 % interval: Student's t, widened by the rounding.
        high: its upper end.
    """

    value: float
    standard_error: float
    low: float
    high: float

    def __str__(self) -> str:
        """To the digits that its error leaves it, with its interval."""
        value, low, high = (to_error(each, self.half_width) for each in (self.value, self.low, self.high))
        how = f"standard error {self.standard_error:.2g}" if self.standard_error else "exact up to rounding"
        return f"{value}, 95 % interval {low} to {high} ({how})"

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


def interval(samples: np.ndarray, rounding: float) -> Estimate:
    """The mean of independent samples (m,) with its standard error and Student's 95 % interval, widened by rounding."""
    error, mean = float(standard_error(samples)), float(samples.mean())
    radius = float(stdtrit(len(samples) - 1, 0.975)) * error + rounding
    return Estimate(mean, error, mean - radius, mean + radius)


def root(square: Estimate, least: float, error: float) -> Estimate:
    """The root of an estimated square which is at least ``least`` for certain; ``error`` is one of the root's own.

    The root is monotone, so its interval holds as often as that of the square.
    """
    value = math.sqrt(square.value)
    low, high = math.sqrt(max(square.low, least)), math.sqrt(square.high)
    error_of_root = square.standard_error / (2 * value) if value else 0.0
    return Estimate(value, error_of_root, max(0.0, low - error), high + error)


Found = TypeVar("Found")


class Sampling(ABC, Generic[Found]):
    """Probes that are added until the estimate is as narrow as asked for, or something exact is cheaper.

    Each look at the estimate is a chance to stop too early, so the number of probes is at most doubled between looks.
    """

    @abstractmethod
    def draw(self, wanted: int) -> None:
        """Add probes until there are so many."""

    @abstractmethod
    def estimate(self) -> Found:
        """What the probes say."""

    @abstractmethod
    def needed(self, found: Found) -> int:
        """How many probes the goal takes if their spread is what it seems."""

    @abstractmethod
    def room(self) -> int:
        """How many more probes may be made."""

    @abstractmethod
    def exact_instead(self, found: Found, more: int) -> Found | None:
        """The exact number, where it costs less than so many more probes."""

    @abstractmethod
    def converged(self, found: Found) -> bool:
        """Whether the goal is reached."""

    @abstractmethod
    def hopeless(self, found: Found) -> bool:
        """Whether no number of probes reaches the goal."""

    def sample(self, first: int) -> Found:
        """Look at ``first`` probes, and then at more until the goal is reached, or can't be."""
        made = first
        while True:
            self.draw(made)
            found = self.estimate()
            if self.converged(found):
                return found
            room, needed = self.room(), self.needed(found)
            exact = self.exact_instead(found, min(needed - made, room))
            if exact is not None:
                return exact
            if room <= 0 or self.hopeless(found):
                return found
            made = min(2 * made, needed, made + room)
