"""A number with its error: Student's interval from independent samples, and sampling until the error meets a goal."""

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
        standard_error: standard error of the value over the probes; 0 if the value isn't from probes.
        low: lower end of the 95 % interval, widened by the rounding.
        high: upper end of the 95 % interval, widened by the rounding.
    """

    value: float
    standard_error: float
    low: float
    high: float

    def __str__(self) -> str:
        """The value with its interval, to as many digits as the error justifies."""
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
    """The square root of an estimated square.

    The root is monotone, so its interval holds as often as the interval of the square.

    Args:
        square: the estimated square.
        least: a certain lower bound on the square.
        error: an additional error of the root, by which the root's interval is widened.
    """
    value = math.sqrt(square.value)
    low, high = math.sqrt(max(square.low, least)), math.sqrt(square.high)
    error_of_root = square.standard_error / (2 * value) if value else 0.0
    return Estimate(value, error_of_root, max(0.0, low - error), high + error)


Found = TypeVar("Found")


class Sampling(ABC, Generic[Found]):
    """Add probes until the estimate's error meets the goal, or until the exact number is cheaper.

    Each check of the goal is a chance to stop too early, so there are few checks. The next check comes at the number of
    probes that the goal seems to take, but at no more than twice the present number.
    """

    @abstractmethod
    def draw(self, wanted: int) -> None:
        """Add probes until there are ``wanted`` probes."""

    @abstractmethod
    def estimate(self) -> Found:
        """The estimate from all probes so far."""

    @abstractmethod
    def needed(self, found: Found) -> int:
        """The number of probes that the goal takes, judged from the spread of the probes so far."""

    @abstractmethod
    def room(self) -> int:
        """The number of further probes that the limit on products allows."""

    @abstractmethod
    def exact_instead(self, found: Found, more: int) -> Found | None:
        """The exact number if it costs less than ``more`` further probes, otherwise None."""

    @abstractmethod
    def converged(self, found: Found) -> bool:
        """Whether the goal is reached."""

    @abstractmethod
    def hopeless(self, found: Found) -> bool:
        """Whether no number of probes reaches the goal."""

    def sample(self, first: int) -> Found:
        """Make ``first`` probes, then more until the goal is reached or can't be reached."""
        wanted = first
        while True:
            self.draw(wanted)
            estimate = self.estimate()
            if self.converged(estimate):
                return estimate
            room, needed = self.room(), self.needed(estimate)
            exact = self.exact_instead(estimate, min(needed - wanted, room))
            if exact is not None:
                return exact
            if room <= 0 or self.hopeless(estimate):
                return estimate
            wanted = min(2 * wanted, needed, wanted + room)
