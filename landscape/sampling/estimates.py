"""A number over a population of samples, with its confidence interval and its prediction interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from landscape.reporting.display import to_error


@dataclass(frozen=True)
class SampledEstimate:
    """A number on a set of samples, seen as an estimate of the number on the population.

    Attributes:
        value: the number on these samples.
        bias: by how much numbers on sets of this size exceed the population's number on average; 0 for a number that is
            linear in the matrix.
        standard_error: standard deviation of the number over sets of this size.
        confidence: 95 % interval of the population's number: ``value - bias`` with Student's t.
        prediction: 95 % interval of the number on another set of this size.
    """

    value: float
    bias: float
    standard_error: float
    confidence: tuple[float, float]
    prediction: tuple[float, float]

    @classmethod
    def of(
        cls,
        value: float,
        bias: float,
        variance: float,
        freedom: int,
        error: float = 0.0,
        variance_of_best: float | None = None,
    ) -> SampledEstimate:
        """An estimate with Student's intervals.

        Another set's number differs from this one by two independent errors, and its bias is the same on average. So
        the prediction interval is around ``value``, and sqrt(2) times as wide.

        Args:
            value: the number on these samples.
            bias: see `SampledEstimate`.
            variance: variance of the number over sets of this size.
            freedom: degrees of freedom of the variance.
            error: 95 % half-width of the number's other errors (of a solve, of random probes); added to the half-width
                of the sampling in the mean square.
            variance_of_best: variance of ``value - bias`` over sets of this size, where the bias too varies from set
                to set. Default: ``variance``.
        """
        deviation, t = math.sqrt(variance), float(stdtrit(freedom, 0.975))
        of_best = deviation if variance_of_best is None else math.sqrt(variance_of_best)
        near, far = (math.hypot(t * each, error) for each in (of_best, math.sqrt(2.0) * deviation))
        best = value - bias
        return cls(value, bias, deviation, (best - near, best + near), (value - far, value + far))

    def root(self) -> SampledEstimate:
        """The square root of an estimated square; ends of intervals below zero become zero."""

        def root(square: float) -> float:
            return math.sqrt(max(square, 0.0))

        value = root(self.value)
        (low, high), (below, above) = self.confidence, self.prediction
        return SampledEstimate(
            value,
            value - root(self.value - self.bias),
            self.standard_error / (2 * value) if value else 0.0,
            (root(low), root(high)),
            (root(below), root(above)),
        )

    def __str__(self) -> str:
        """The value with both intervals, to as many digits as the errors justify."""
        half = (self.confidence[1] - self.confidence[0]) / 2
        ends = [to_error(each, half) for each in (self.value, *self.confidence, *self.prediction)]
        return "{}; population {} to {}; another set of this size {} to {}".format(*ends)


def variance_of_sum(parts: np.ndarray) -> np.ndarray:
    """The variance of a sum of independent parts (g, ...) over the first axis, from the parts' spread.

    The parts are deviations of a ratio's linearisation, and so add up to about zero; see
    `landscape.problem.samples.SampleSums.estimate`.
    """
    groups = len(parts)
    return np.asarray(np.square(parts - parts.mean(0)).sum(0) * groups / (groups - 1))
