"""``python -m benchmarks.accuracy.phases``: how often phases are found in curves with phases and in curves without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from cyclopts import App
from numpy.random import Generator
from scipy.stats import beta

from benchmarks.support.tables import Table
from landscape.dynamics import phases
from landscape.dynamics.phase_search import THREE_PHASES, Label

Curve = Callable[[Generator, int], np.ndarray]
POINTS = (10, 14, 20, 35)
NO_PHASES: tuple[Label, ...] = ("level", "monotone", "undecided")


def _wandering(rng: Generator, m: int) -> np.ndarray:
    return rng.standard_normal(m).cumsum()


def _autoregressive(share: float) -> Curve:
    """Stationary autoregressive noise of first order, with this coefficient."""

    def drawn(rng: Generator, m: int) -> np.ndarray:
        values = rng.standard_normal(m)
        values[0] /= np.sqrt(1 - share**2)
        for i in range(1, m):
            values[i] += share * values[i - 1]
        return values

    return drawn


def _drifting(drift: float) -> Curve:
    return lambda rng, m: (drift + rng.standard_normal(m)).cumsum()


def _three(rng: Generator, m: int) -> np.ndarray:
    return np.interp(np.arange(m), [0, m // 4, 3 * m // 5, m], [1, 0, 0.7, 0.7]) + 0.03 * rng.standard_normal(m)


def _turning(rng: Generator, m: int) -> np.ndarray:
    return np.interp(np.arange(m), [0, 2 * m // 5, m], [1, 0, 0.7]) + 0.03 * rng.standard_normal(m)


WANDERING = "walk of correlated steps, 0.7"
"""A curve that turns as phases do: the only curve whose rate of false alarms may exceed 5 %."""
WITHOUT: dict[str, Curve] = {
    "noise": lambda rng, m: rng.standard_normal(m),
    "line": lambda rng, m: np.arange(m) / m + 0.1 * rng.standard_normal(m),
    "decay": lambda rng, m: np.exp(-5 * np.arange(m) / m) + 0.03 * rng.standard_normal(m),
    "logistic": lambda rng, m: 1 / (1 + np.exp((m / 2 - np.arange(m)) / (m / 12))) + 0.03 * rng.standard_normal(m),
    "smooth decay": lambda rng, m: np.exp(-rng.uniform(1, 8) * np.arange(m) / m),
    "constant": lambda rng, m: np.full(m, 3.0),
    "random walk": _wandering,
    "noisy random walk": lambda rng, m: _wandering(rng, m) + rng.standard_normal(m),
    "random walk with drift 0.2": _drifting(0.2),
    "random walk with drift 0.5": _drifting(0.5),
    "autoregressive, 0.8": _autoregressive(0.8),
    "autoregressive, 0.9": _autoregressive(0.9),
    "autoregressive, 0.95": _autoregressive(0.95),
    WANDERING: lambda rng, m: _autoregressive(0.7)(rng, m).cumsum(),
}
WITH: dict[str, tuple[Curve, Label]] = {
    "fall, rise, level": (_three, THREE_PHASES),
    "fall, rise": (_turning, "fall, rise"),
}


def labels(curve: Curve, points: int, seeds: int) -> Counter[Label]:
    """Number of times each label is found in a curve, over seeds of its noise."""
    found = Counter[Label]()
    for seed in range(seeds):
        found[phases(np.arange(points), curve(np.random.default_rng(seed), points), seed=seed).label] += 1
    return found


def alarms(name: str, points: int, seeds: int) -> int:
    """Number of seeds at which phases are found in a curve that has none."""
    found = labels(WITHOUT[name], points, seeds)
    return sum(count for label, count in found.items() if label not in NO_PHASES)


app = App(name="python -m benchmarks.accuracy.phases", version_flags=[])


@app.default
def main(*, seeds: int = 100) -> int:
    """Print, as Markdown, how often phases are found: a quarter of an hour.

    Args:
        seeds: Number of seeds of the noise.
    """
    rows = [(name, *(f"{alarms(name, m, seeds) / seeds:.0%}" for m in POINTS)) for name in WITHOUT]
    head = ("curve", *(f"{m} points" for m in POINTS))
    least = beta.ppf(0.95, 1, seeds)
    print(Table(f"False alarms, {seeds} seeds (0 means at most {least:.1%})", head, rows).markdown())
    rows = []
    for name, (curve, label) in WITH.items():
        found = [labels(curve, m, seeds) for m in POINTS]
        rows.append(
            (name, *(f"{each[label] / seeds:.0%} ({each['undecided'] / seeds:.0%} undecided)" for each in found))
        )
    print(Table(f"Found as what they are, noise 3 % of the fall, {seeds} seeds", head, rows).markdown())
    return 0


if __name__ == "__main__":
    app()
