"""Measurements within a training: `landscape.watch` and its instruments."""

from landscape.live.begin import watch
from landscape.live.critical import CriticalAlongUpdate
from landscape.live.crossings import FloorCrossings
from landscape.live.eigenvalues import StabilityAlong, TrackedEigenvalues
from landscape.live.events import EVENTS, Event
from landscape.live.instrument import Instrument, Measured, Turn
from landscape.live.named import every
from landscape.live.plateau import Plateau
from landscape.live.steps import Moment
from landscape.live.undisturbed import measuring
from landscape.live.watching import Watch

__all__ = [
    "EVENTS",
    "CriticalAlongUpdate",
    "Event",
    "FloorCrossings",
    "Instrument",
    "Measured",
    "Moment",
    "Plateau",
    "StabilityAlong",
    "TrackedEigenvalues",
    "Turn",
    "Watch",
    "every",
    "measuring",
    "watch",
]
