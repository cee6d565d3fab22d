"""Timing on a machine that runs other processes too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True)
class Spread:
    """The median of some values and their range."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The spread of at least one value."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def show(self, form: str) -> str:
        """``median (least to most)``, each number in format ``form``; the median alone where least and most agree."""
        median, least, most = (f"{value:{form}}" for value in (self.median, self.least, self.most))
        return median if least == most else f"{median} ({least} to {most})"


def alternate(actions: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> list[dict[str, float]]:
    """The seconds of each action in every round; the actions of a round run one after the other.

    An action runs twice in a round, and the second run counts. The first run leaves the memory allocator and the caches
    in the state that this action leaves, instead of the state that the action before leaves. On a CPU the seconds are
    processor time of all threads together, which other processes disturb least.
    """
    return [{name: _second_run(action, device) for name, action in actions.items()} for _ in range(rounds)]


def _second_run(action: Callable[[], object], device: torch.device) -> float:
    action()
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    _synchronise(device)
    started = clock()
    action()
    _synchronise(device)
    return clock() - started


def _synchronise(device: torch.device) -> None:
    """Wait for the device, whose computations may still run when a call returns."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
