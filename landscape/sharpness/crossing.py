"""The search for the learning rate at which the loss crosses its value before the step.

The ratio r(eta) = (L(theta - eta u) - L(theta)) / eta has the sign of the change of the loss. On a quadratic, r is a
straight line in eta. The line starts at r(0) = -g^T u.

The search starts near the root of the quadratic model, with a step no longer than the weights. While the loss is lower,
the learning rate at most doubles. Then the search narrows a bracket: the loss is lower at the lower end, and higher at
the upper end. Each new point lies beside an estimate of the root of r from three points, on the wider side. Two points
beside the root close the bracket. If a point leaves more than half of the bracket, the next point is its geometric
mean.

The ends of a bracket should lie where the change differs from 0 by two deviations. So the bracket isn't narrowed below
four deviations over the slope of the change.
"""

from __future__ import annotations

import math

_MOST = 60  # losses along the update
_DOUBLINGS = 20  # of the first learning rate, where the loss stays lower
_SHRINK = 4  # largest factor from one learning rate down to the next, as long as the loss is higher at all of them
_DEVIATIONS = 2  # by which the change of the loss at an end of the bracket differs from 0
BESIDE = 0.45  # distance of a new point from the root of the chord, as a share of the goal for the bracket's width


class CrossingSearch:
    """The search for a crossing; `next` gives the learning rate to evaluate, `take` receives the change there.

    Attributes:
        low, high: ends of the bracket; ``high`` is infinite until the loss has risen.
        reason: why the search ended without a crossing; empty otherwise.
        converged: see `landscape.sharpness.critical.CriticalLearningRate`.
    """

    def __init__(self, descent: float, first: float, tol: float, rounding: float) -> None:
        """Begin a search.

        Args:
            descent: minus the slope of the loss at a learning rate of 0, positive.
            first: first learning rate to evaluate.
            tol: goal for the bracket's width, as a share of its upper end.
            rounding: standard deviation of the rounding in a change of the loss.
        """
        self.low, self.high, self.reason, self.converged = 0.0, math.inf, "", True
        self._descent, self._ratios = descent, [-descent, math.nan]  # r at both ends
        self._first, self._tol, self._rounding = first, tol, rounding
        self._replaced = (0.0, -descent)  # the latest point that was an end of the bracket
        self._ceiling, self._taken, self._halved = math.inf, 0, True

    @property
    def root(self) -> float:
        """The root of the chord of r."""
        low, high = self._ratios
        return self.low - low * (self.high - self.low) / (high - low)

    @property
    def _estimate(self) -> float:
        """The root of r by inverse quadratic interpolation of three points, where it lies inside; else the chord's."""
        (x, a), (y, b), (z, c) = (self.low, self._ratios[0]), (self.high, self._ratios[1]), self._replaced
        if len({a, b, c}) == 3:
            root = x * b * c / ((a - b) * (a - c)) + y * a * c / ((b - a) * (b - c)) + z * a * b / ((c - a) * (c - b))
            if self.low < root < self.high:
                return root
        return self.root

    @property
    def slope(self) -> float:
        """The slope of the change in the learning rate at the root, by the chord of r."""
        low, high = self._ratios
        return self.root * (high - low) / (self.high - self.low)

    @property
    def width_by_rounding(self) -> float:
        """The smallest meaningful width of the bracket."""
        return 2 * _DEVIATIONS * self._rounding / self.slope

    def next(self) -> float | None:
        """The learning rate to evaluate next; None at the end of the search."""
        if self._taken == _MOST:
            self.reason, self.converged = f"no bracket was found within {_MOST} losses", False
        elif self.high < math.inf:
            return self._inside()
        elif self._ceiling < math.inf:
            if self._ceiling - self.low > self._tol * self._ceiling:
                return (self.low + self._ceiling) / 2
            self.reason = f"the loss is NaN or infinite at a learning rate of {self._ceiling:.3g}, and lower before"
        elif self.low == 0:
            return self._first
        elif self.low < self._first * 2**_DOUBLINGS:
            return min(2 * self.low, self._extrapolated)
        else:
            self.reason = f"the loss stays lower than before the step up to a learning rate of {self.low:.3g}"
        return None

    @property
    def _extrapolated(self) -> float:
        """A point above the root of the chord from 0 to the first point, as long as the loss is lower; else infinite.

        Points that creep up to a crossing from below would take many losses, so later points double the learning rate.
        """
        bend = (self._ratios[0] + self._descent) / self.low
        return self._descent / bend * (1 + BESIDE * self._tol) if bend > 0 and self._taken == 1 else math.inf

    def _inside(self) -> float | None:
        """A point within the bracket; None where the bracket is narrow enough."""
        width = self.high - self.low
        if self.width_by_rounding > self.high / 2:
            self.reason, self.converged = "the change of the loss is below its rounding up to the crossing", False
            return None
        if width <= max(self._tol * self.high, self.width_by_rounding):
            self.converged = width <= self._tol * self.high
            return None
        if not self._halved:
            return math.sqrt(self.low * self.high) if self.low else self.high / _SHRINK
        root = self._estimate if self.low else max(self._estimate, self.high / _SHRINK)
        beside = BESIDE * max(self._tol * root, self.width_by_rounding)
        return root - beside if root - self.low > self.high - root else root + beside

    def take(self, rate: float, change: float) -> None:
        """Take in the change of the loss at a learning rate."""
        before, self._taken = self.high - self.low, self._taken + 1
        replaced = (self.high, self._ratios[1]) if change > 0 else (self.low, self._ratios[0])
        self._replaced = replaced if math.isfinite(replaced[0]) else (0.0, -self._descent)
        if not math.isfinite(change):
            self._ceiling, self.high = rate, math.inf
        elif change > 0:
            self.high, self._ratios[1] = rate, change / rate
        else:
            self.low, self._ratios[0] = rate, change / rate
        self._halved = math.isinf(before) or self.high - self.low <= before / 2
