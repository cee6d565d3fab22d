"""Whether a step crosses the valley's floor: the loss's slope along a direction changes its sign within the step.

On a quadratic the slope along an eigenvector v of eigenvalue lambda is lambda times the offset from the floor along v.
So the slopes at both ends of a step have different signs if, and only if, the step crosses the floor along v. Along the
step itself, different signs mean that the step went beyond the minimum of the loss on its line (Xing, Arpit,
Tsirigotis and Bengio 2018, "A walk with SGD", arXiv:1802.08770, call this bouncing between walls).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.live.eigenvalues import TrackedEigenvalues
from landscape.live.instrument import Instrument, Turn
from landscape.live.steps import Moment
from landscape.measurements import RowData, variable
from landscape.measurements.cost import Cost
from landscape.problem import Problem
from landscape.sampling.groups import Groups

_SLOPE = "loss / parameter"
_CERTAIN = 2.0  # standard errors that a slope needs for a certain sign


class FloorCrossings(Instrument):
    """Slopes of the loss at both ends of a step, along the step and along tracked eigenvectors.

    Attributes:
        tracked: instrument whose eigenvectors are used; None for the step alone.
    """

    name = "crossings"
    unit = "groups"

    def __init__(self, seed: int = 0) -> None:
        """Choose the seed of the groups of samples that give the standard errors. Default: 0."""
        self.seed = seed
        self.tracked: TrackedEigenvalues | None = None
        self._shares, self._parts = np.empty(0), list[Problem]()

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """See `Instrument.settings`."""
        return {self.name: {"seed": self.seed}}

    def resolve(self, problem: Problem) -> None:
        """Group the samples, once for all turns; refuse samples that can't be taken apart."""
        groups = Groups.of(problem, self.seed)
        self._shares, self._parts = groups.shares, list(groups.problems(problem))

    def cost(self, problem: Problem) -> Cost:
        """See `Instrument.cost`: a gradient of each group of samples at both ends."""
        return Cost(losses=6, groups=2)

    def measure(self, moment: Moment) -> Turn:
        """See `Instrument.measure`."""
        if moment.after is None:
            raise InputError("the weights after the step are NaN or infinite")
        step = moment.after.to(torch.float64) - moment.before.vector.to(torch.float64)
        vectors = None if self.tracked is None else self.tracked.eigenvectors
        directions = (step / torch.linalg.vector_norm(step).clamp_min(torch.finfo(torch.float64).tiny)).unsqueeze(1)
        if vectors is not None:
            directions = torch.cat([directions, vectors.to(step)], dim=1)
        before, before_error = self._slopes(moment.before, directions)
        after, after_error = self._slopes(moment.before.at(moment.after), directions)
        certain = (np.abs(before) > _CERTAIN * before_error) & (np.abs(after) > _CERTAIN * after_error)
        dims = "direction"
        row = RowData(
            {
                "slope_before": variable(dims, before, "at theta_t, along the step and each eigenvector", _SLOPE),
                "slope_before_error": variable(dims, before_error, "its standard error, over samples", _SLOPE),
                "slope_after": variable(dims, after, "at theta_{t+1}", _SLOPE),
                "slope_after_error": variable(dims, after_error, "its standard error, over samples", _SLOPE),
                "crossed": variable(dims, before * after < 0, "the slopes have different signs"),
                "certain": variable(dims, certain, "both slopes are beyond two standard errors from 0"),
            }
        )
        return Turn({self.name: row}, units=2)

    def _slopes(self, problem: Problem, directions: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Slopes along columns (n, m) and their standard errors from the spread between groups, (m,) each."""
        shares, tensors = self._shares, problem.tensors()
        gradients = (part.with_state(tensors).gradient() for part in self._parts)
        each = np.array([(directions.T @ gradient.to(directions)).cpu().numpy() for gradient in gradients])
        slopes = shares @ each
        spread = np.square(shares[:, None] * (each - slopes)).sum(axis=0) * len(shares) / (len(shares) - 1)
        return slopes, np.sqrt(spread)
