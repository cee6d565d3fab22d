"""Events of a watched training, each with its criterion.

- ``not finite``: the training's loss, or the weights at a step with a turn, are NaN or infinite.
- ``loss jumped``: the rise of the training's loss, the logarithm of its ratio to the median of the 10 losses before,
  exceeds 0.05, and exceeds the median of the 50 rises before by more than 6 of their standard deviations. The standard
  deviation is robust: 1.4826 times the median of the absolute deviations from the median. After a jump the next 50
  steps give none. Of a loss that isn't positive, the rise is the difference by the median's magnitude.
- ``threshold crossed``: the ratio of the largest eigenvalue to the optimiser's threshold of stability is above 1 by
  more than its error, and was below 1 by more than its error at the last certain turn.
- ``plateau``: the SHIFT Criterion with Patience fired, see `landscape.live.plateau`.
- ``instrument failed``: an instrument raised an error, and rests from then on.
- ``over budget``: the watch took more than twice the time that was asked for, and instruments without fixed steps rest.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, get_args

EventName = Literal["not finite", "loss jumped", "threshold crossed", "plateau", "instrument failed", "over budget"]
EVENTS: tuple[EventName, ...] = get_args(EventName)

RECENT = 10  # losses before a step, above whose median a loss rises
WINDOW = 50  # rises before a step, among which its own is judged
_SIGMAS = 6.0  # of normal noise, one step in 10^9 lies above
_SMALL = 0.05  # a smaller rise is no jump, even where losses have no noise
_LEAST = 10  # fewest rises before, for a judgement


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
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._rises: deque[float] = deque(maxlen=WINDOW)
        self._calm = 0  # steps until the next jump may be told
        self._finite = True

    def judge(self, step: int, loss: float) -> Event | None:
        """The event at this step, if there is one; the loss joins those before the next step."""
        if not math.isfinite(loss):
            first, self._finite = self._finite, False
            return Event(step, "not finite", f"the training's loss is {loss}", loss) if first else None
        self._finite = True
        jump = self._jump(step, loss) if len(self._recent) == RECENT else None
        self._calm = WINDOW if jump else max(0, self._calm - 1)
        self._recent.append(loss)
        return jump

    def _jump(self, step: int, loss: float) -> Event | None:
        middle = median(self._recent)
        rise, before = _rise(loss, middle), list(self._rises)
        self._rises.append(rise)
        if rise <= _SMALL or self._calm or len(before) < _LEAST:
            return None
        usual = median(before)
        deviation = 1.4826 * median([abs(each - usual) for each in before])
        if rise <= usual + _SIGMAS * deviation:
            return None
        sigmas = (rise - usual) / deviation if deviation else math.inf
        message = f"the training's loss is {loss:.4g} after {middle:.4g}, a rise of {sigmas:.3g} standard deviations"
        return Event(step, "loss jumped", message, loss)

    def state_dict(self) -> dict[str, Any]:
        """The losses and rises before, and the state of the judgement."""
        return {
            "recent": list(self._recent), "rises": list(self._rises), "calm": self._calm, "finite": self._finite
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self._recent, self._rises = deque(state["recent"], maxlen=RECENT), deque(state["rises"], maxlen=WINDOW)
        self._calm, self._finite = state["calm"], state["finite"]


def _rise(loss: float, middle: float) -> float:
    """Logarithm of the ratio of two losses; their difference by the other's magnitude where one isn't positive."""
    if loss > 0 and middle > 0:
        return math.log(loss / middle)
    return (loss - middle) / max(abs(middle), sys.float_info.min)


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
