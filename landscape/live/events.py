"""Events of a watched training, each with its criterion.

- ``not finite``: the training's loss, or the weights at a step with a turn, are NaN or infinite.
- ``loss jumped``: the logarithm of the training's loss exceeds the median of the 50 steps before by more than 6 of
  their standard deviations, and the loss by more than 1 %. The standard deviation is robust: 1.4826 times the median of
  the absolute deviations from the median. After a jump the next 50 steps give none. Where a loss isn't positive, the
  losses themselves are judged, not their logarithms.
- ``threshold crossed``: the ratio of the largest eigenvalue to the optimiser's threshold of stability is above 1 by
  more than its error, and was below 1 by more than its error at the last certain turn.
- ``plateau``: the SHIFT Criterion with Patience fired, see `landscape.live.plateau`.
- ``instrument failed``: an instrument raised an error, and rests from then on.
- ``over budget``: the watch took more than twice the time that was asked for, and instruments without fixed steps rest.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, get_args

EventName = Literal["not finite", "loss jumped", "threshold crossed", "plateau", "instrument failed", "over budget"]
EVENTS: tuple[EventName, ...] = get_args(EventName)

WINDOW = 50  # steps before a step, among which its loss is judged
_SIGMAS = 6.0  # of normal noise, one step in 10^9 lies above
_SMALL = 0.01  # of the median (of a logarithm, 0.01); the rounding of a loss that stands still is no jump
_LEAST = 10  # fewest steps before, for a judgement


@dataclass(frozen=True)
class Event:
    """Something that happened at a step of the training.

    Attributes:
        step: number of the step.
        name: kind of the event, see `EVENTS`.
        message: what was seen, in one line.
        value: number that fulfilled the criterion; NaN without one.
    """

    step: int
    name: EventName
    message: str
    value: float


class JumpCriterion:
    """Judges each loss of the training by the losses before it."""

    def __init__(self) -> None:
        self._before: deque[float] = deque()
        self._ordered: list[float] = []  # the losses before, ascending
        self._calm = 0  # steps until the next jump may be told
        self._finite = True

    def judge(self, step: int, loss: float) -> Event | None:
        """The event at this step, if there is one; the loss joins those before the next step."""
        if not math.isfinite(loss):
            first, self._finite = self._finite, False
            return Event(step, "not finite", f"the training's loss is {loss}", loss) if first else None
        self._finite = True
        event = None if self._calm else self._jump(step, loss)
        self._calm = WINDOW if event else max(0, self._calm - 1)
        self._join(loss)
        return event

    def _join(self, loss: float) -> None:
        if len(self._before) == WINDOW:
            del self._ordered[bisect_left(self._ordered, self._before.popleft())]
        self._before.append(loss)
        insort(self._ordered, loss)

    def _jump(self, step: int, loss: float) -> Event | None:
        count = len(self._before)
        if count < _LEAST:
            return None
        before = self._ordered
        positive = before[0] > 0 and loss > 0
        scale = math.log if positive else float
        middle = (scale(before[(count - 1) // 2]) + scale(before[count // 2])) / 2
        above = scale(loss) - middle
        # The median of the deviations is at least the lesser distance of a quartile: most losses are no jump by this.
        nearer = min(middle - scale(before[count // 4]), scale(before[-1 - count // 4]) - middle)
        if above <= max(_SMALL * (1 if positive else abs(middle)), 1.4826 * _SIGMAS * nearer):
            return None
        deviation = 1.4826 * median([abs(scale(each) - middle) for each in before])
        if above <= _SIGMAS * deviation:
            return None
        sigmas, usual = above / deviation if deviation else math.inf, math.exp(middle) if positive else middle
        message = f"the training's loss is {loss:.4g}, {sigmas:.3g} standard deviations above {usual:.4g}"
        return Event(step, "loss jumped", message, loss)

    def state_dict(self) -> dict[str, Any]:
        """The losses before, and the state of the judgement."""
        return {"before": list(self._before), "calm": self._calm, "finite": self._finite}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self._before, self._ordered = deque(state["before"]), sorted(state["before"])
        self._calm, self._finite = state["calm"], state["finite"]


class ThresholdCriterion:
    """Judges whether the ratio of an eigenvalue to the threshold of stability has risen above 1."""

    def __init__(self) -> None:
        self._below = False  # at the last certain turn

    def judge(self, step: int, ratio: float, error: float) -> Event | None:
        """The event at this turn, if there is one.

        Args:
            step: number of the step.
            ratio: ratio of the eigenvalue to the threshold; NaN without a threshold.
            error: its error.
        """
        if ratio + error < 1:
            self._below = True
        elif ratio - error > 1 and self._below:
            self._below = False
            return Event(step, "threshold crossed", f"the ratio to the threshold of stability is {ratio:.4g}", ratio)
        return None

    def state_dict(self) -> dict[str, Any]:
        """The state of the judgement."""
        return {"below": self._below}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self._below = state["below"]
