"""The largest eigenvalues, followed from turn to turn, as instruments: of the Hessian, and of what the steps see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from landscape.errors import InputError
from landscape.live.events import Event, ThresholdCriterion
from landscape.live.instrument import Instrument, Turn
from landscape.live.steps import Moment
from landscape.measurements import RowData, variable
from landscape.measurements.cost import Cost, hessian, of_solve
from landscape.measurements.stability import SeenByOptimizer, seen_by_optimizer
from landscape.problem import Problem
from landscape.spectrum.tracking import EigenvalueTracker, Tracked

_CURVATURE = "loss / parameter^2"
_MOST = 3  # eigenvalues, where no number is given


class _Tracking(Instrument):
    """An instrument around a tracker."""

    group: str
    unit = "product"

    def __init__(self, k: int, tol: float, certify_every: int, seed: int) -> None:
        self._settings: dict[str, Any] = {"tol": tol, "certify_every": certify_every, "seed": seed}
        self._threshold = ThresholdCriterion()
        self._track(k)

    def _track(self, k: int) -> None:
        self._k = k
        self._settings = {**self._settings, "k": k}
        self.tracker = EigenvalueTracker(**self._settings)

    @property
    def name(self) -> str:
        """See `Instrument.name`."""
        return self.group

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """See `Instrument.settings`."""
        return {self.group: self._settings}

    def resolve(self, problem: Problem) -> None:
        """Refuse more eigenvalues than there are parameters."""
        if self._k > problem.layout.dim:
            raise InputError(f"k must be at most the number of parameters, {problem.layout.dim}")

    def cost(self, problem: Problem) -> Cost:
        """See `Instrument.cost`: a solve, as at the first turn."""
        return Cost(of_solve(self._k), certainty="about", operator=hessian)

    def state_dict(self) -> dict[str, Any]:
        """See `Instrument.state_dict`."""
        return {"tracker": self.tracker.state_dict(), "threshold": self._threshold.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Instrument.load_state_dict`."""
        self.tracker.load_state_dict(state["tracker"])
        self._threshold.load_state_dict(state["threshold"])

    @property
    def _following(self) -> float:
        """Products of the next turn, about: tracking's least and one more."""
        return self._k + 3

    def _stability(self, seen: SeenByOptimizer, found: Tracked, step: int) -> tuple[RowData, list[Event]]:
        """The row of the largest eigenvalue beside the threshold, and the event where the threshold was crossed."""
        low, high = found.intervals[0]
        value = float(found.eigenvalues[0])
        row = seen.row(value, max(value - float(low), float(high) - value), bool(found.converged))
        event = self._threshold.judge(step, float(row.dataset.ratio), float(row.dataset.ratio_error))
        return row, [] if event is None else [event]


class TrackedEigenvalues(_Tracking):
    """The k largest eigenvalues of the Hessian, and the step's components along their eigenvectors.

    The components split the update into the valley, the span of the tracked eigenvectors, and the rest. A random
    direction has the share k / n of its squared length in a space of k dimensions, and its share is distributed as
    Beta(k / 2, (n - k) / 2).

    Attributes:
        gives_stability: whether the row of the group ``stability`` is made too, from the same eigenvalue.
        eigenvectors: eigenvectors of the latest turn, (n, k); None before the first.
    """

    group = "top_eigenvalues"

    def __init__(self, k: int | None = None, tol: float = 0.02, certify_every: int = 50, seed: int = 0) -> None:
        """Choose the settings.

        Args:
            k: number of eigenvalues. Default: 3, or as many as there are parameters.
            tol: goal for the relative half-width of the largest eigenvalue's interval. Default: 0.02.
            certify_every: turns from one certified solve to the next. Default: 50.
            seed: seed of the random vectors. Default: 0.

        Raises:
            InputError: a setting is out of range.
        """
        super().__init__(_MOST if k is None else k, tol, certify_every, seed)
        self._chosen = k is not None
        self.gives_stability = False
        self.eigenvectors: Tensor | None = None

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """See `Instrument.settings`."""
        more = {"stability": {"tol": self._settings["tol"]}} if self.gives_stability else {}
        return {**super().settings, **more}

    def resolve(self, problem: Problem) -> None:
        """Track fewer eigenvalues where there are fewer parameters; refuse them where their number was given."""
        if not self._chosen:
            self._track(min(_MOST, problem.layout.dim))
        super().resolve(problem)

    def measure(self, moment: Moment) -> Turn:
        """See `Instrument.measure`."""
        seen = seen_by_optimizer(moment.problem) if self.gives_stability else None
        operator = moment.before.hessian() if seen is None else seen.operator
        found = self.tracker.update(operator)
        self.eigenvectors = found.eigenvectors
        variables = _of_eigenvalues(found) | _of_update(moment, found.eigenvectors)
        rows, events = {self.group: RowData(variables)}, list[Event]()
        if seen is not None:
            rows["stability"], events = self._stability(seen, found, moment.step)
        return Turn(rows, found.products, events, self._following)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Instrument.load_state_dict`."""
        super().load_state_dict(state)
        self.eigenvectors = self.tracker.eigenvectors


class StabilityAlong(_Tracking):
    """The largest eigenvalue of what the optimiser's steps see, beside its threshold of stability.

    For Adam this is the Hessian preconditioned by the live second moments, see `landscape.dynamics.stability`. For
    optimisers that don't precondition, `TrackedEigenvalues` gives the row.
    """

    group = "stability"

    def __init__(self, tol: float = 0.02, certify_every: int = 50, seed: int = 0) -> None:
        """Choose the settings, as of `TrackedEigenvalues`.

        Raises:
            InputError: a setting is out of range.
        """
        super().__init__(1, tol, certify_every, seed)

    def measure(self, moment: Moment) -> Turn:
        """See `Instrument.measure`."""
        seen = seen_by_optimizer(moment.problem)
        found = self.tracker.update(seen.operator)
        row, events = self._stability(seen, found, moment.step)
        return Turn({self.group: row}, found.products, events, self._following)


def _of_eigenvalues(found: Tracked) -> dict[str, Any]:
    hits, certificates = found.held
    return {
        "eigenvalue": variable("eigenvalue_number", found.eigenvalues, "k largest eigenvalues", _CURVATURE),
        "interval": variable(("eigenvalue_number", "bound"), found.intervals, "interval of each", _CURVATURE),
        "residual": variable("eigenvalue_number", found.residuals, "residual norm of each", _CURVATURE),
        "overlap": variable("eigenvalue_number", found.overlaps, "of each eigenvector with the last turn's vectors"),
        "largest": variable((), found.eigenvalues[0], "the largest eigenvalue", _CURVATURE),
        "converged": variable((), found.converged, "the largest eigenvalue's interval is as narrow as asked for"),
        "certified": variable((), found.certified, "the interval is that of a certified solve"),
        "miss_probability": variable((), found.miss_probability, "of the certified solve; NaN without"),
        "since_certificate": variable((), found.turns_since_certificate, "turns since the last certified solve"),
        "held": variable((), hits, "certified solves whose eigenvalue lay in the interval known without them"),
        "certificates": variable((), certificates, "certified solves that were compared so"),
        "products": variable((), found.products, "products of this turn"),
    }


def _of_update(moment: Moment, vectors: Tensor) -> dict[str, Any]:
    """The step theta_{t+1} - theta_t along the eigenvectors, with the share of a random direction."""
    n, k = vectors.shape
    components, norm, share = np.full(k, np.nan), np.nan, np.nan
    if moment.after is not None:
        step = moment.after.to(torch.float64) - moment.before.vector.to(torch.float64)
        components = (vectors.to(torch.float64).T @ step).cpu().numpy()
        norm = float(torch.linalg.vector_norm(step))
        share = float(np.square(components).sum()) / norm**2 if norm else np.nan
    ends = [1.0, 1.0] if k == n else betaincinv(k / 2, (n - k) / 2, [0.025, 0.975])
    return {
        "step_component": variable("eigenvalue_number", components, "the step along each eigenvector", "parameter"),
        "step_norm": variable((), norm, "length of the step", "parameter"),
        "valley_share": variable((), share, "of the step's squared length in the span of the eigenvectors"),
        "valley_share_random": variable((), k / n, "expected share of a random direction"),
        "valley_share_random_interval": variable("bound", ends, "95 % interval of a random direction's share"),
    }
