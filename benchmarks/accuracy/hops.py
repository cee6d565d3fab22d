"""``python -m benchmarks.accuracy.hops``: how often `hops` finds hops of iterates that are at rest, or that do hop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cyclopts import App
from numpy.random import Generator
from scipy.signal import lfilter

from benchmarks.support.tables import Table, share_of
from landscape.dynamics import hops

DIRECTIONS = 10
STEPS = (100, 400)
AT_REST = (0.1, 0.3, 0.5, 0.8, 0.9, 0.99)
BEYOND = (1.5, 1.9)
_SPACE = 20  # parameters; `hops` tests ten directions, and its random directions span all twenty
_SETTLED = 300  # steps before the window, after which an iterate no longer depends on its start

Noise = Callable[[Generator, tuple[int, ...]], np.ndarray]
Walk = Callable[[Generator, int, float], np.ndarray]


def normal(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal noise."""
    return rng.standard_normal(shape)


def heavy_tailed(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise with Student's t distribution of two degrees of freedom, which has no finite variance."""
    return rng.standard_t(2, shape)


def skewed(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Exponentially distributed noise, centred at its mean."""
    return rng.exponential(size=shape) - 1


def falling(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal noise that falls by a factor of ten every 100 steps."""
    return 10 ** (-np.arange(shape[0])[:, None] / 100) * rng.standard_normal(shape)


def without_replacement(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of eight batches in a new order in every epoch; the noise of an epoch sums to zero."""
    batches = rng.standard_normal((8, shape[1]))
    epochs = [rng.permutation(batches - batches.mean(axis=0)) for _ in range(-(-shape[0] // 8))]
    return np.concatenate(epochs)[: shape[0]]


@dataclass(frozen=True)
class Descent:
    """Stationary gradient descent with heavy-ball momentum on a quadratic with one curvature in all directions.

    Attributes:
        momentum: momentum b. Adam with frozen second moments is this descent with b = beta_1.
        noise: noise of the gradient.
        drift: movement of the floor in 100 steps, in standard deviations of the iterate.
    """

    momentum: float = 0.0
    noise: Noise = normal
    drift: float = 0.0

    def __call__(self, rng: Generator, steps: int, share: float) -> np.ndarray:
        """Updates (steps, 20) with eta lambda = share (1 + b).

        At a share of 1 eta lambda is half of the stability threshold, where hops begin.
        """
        b = self.momentum
        noise = self.noise(rng, (_SETTLED + steps + 1, _SPACE))
        positions = lfilter([1], [1, -(1 + b) * (1 - share), b], noise, axis=0)[_SETTLED:]
        floor = self.drift * positions.std() * np.arange(len(positions))[:, None] / 100
        return np.diff(positions + floor, axis=0)


def one_of_ten(rng: Generator, steps: int, share: float) -> np.ndarray:
    """Updates of descent without momentum: at this share along the first direction, and at 0.1 along the others."""
    updates = Descent()(rng, steps, 0.1)
    updates[:, 0] = Descent()(rng, steps, share)[:, 0]
    return updates


KINDS: dict[str, Walk] = {
    "plain": Descent(),
    "momentum 0.9": Descent(momentum=0.9),
    "noise without variance": Descent(noise=heavy_tailed),
    "skewed noise": Descent(noise=skewed),
    "noise falls tenfold in 100 steps": Descent(noise=falling),
    "eight batches without replacement": Descent(noise=without_replacement),
    "floor drifts by 5 deviations in 100 steps": Descent(drift=5.0),
}


def told(walk: Walk, steps: int, share: float, runs: int, directions: int = DIRECTIONS) -> tuple[int, int]:
    """Count the verdicts ``hops`` among the first directions of all runs.

    Returns:
        The number of directions with this verdict, and the number of runs with such a direction.
    """
    found = []
    for seed in range(runs):
        updates = walk(np.random.default_rng([seed, steps]), steps, share)
        verdicts = hops(updates, np.eye(_SPACE)[:, :DIRECTIONS], seed=seed).verdicts[:directions]
        found.append(verdicts.count("hops"))
    return sum(found), sum(each > 0 for each in found)


def alarms(runs: int, steps: int) -> Table:
    """The table of false alarms: runs at rest with the verdict ``hops`` along any of ten directions."""
    rows = [
        (name, *(share_of(told(walk, steps, share, runs)[1], runs) for share in AT_REST))
        for name, walk in KINDS.items()
    ]
    title = f"Runs of {steps} steps at rest with 'hops' along any of ten directions, {runs} runs"
    return Table(title, ("iterate", *(f"{share:g}" for share in AT_REST)), rows)


def power(runs: int) -> Table:
    """The table of found hops: directions beyond half of the stability threshold with the verdict ``hops``."""
    columns = [(share, steps) for share in BEYOND for steps in STEPS]
    rows = [
        (f"{name}, all of ten", *(_found(walk, steps, share, runs, DIRECTIONS) for share, steps in columns))
        for name, walk in KINDS.items()
    ]
    rows.append(("plain, one of ten", *(_found(one_of_ten, steps, share, runs, 1) for share, steps in columns)))
    head = ("iterate", *(f"{share:g}, {steps} steps" for share, steps in columns))
    return Table(f"Directions beyond half of the threshold that are said to hop, {runs} runs", head, rows)


def _found(walk: Walk, steps: int, share: float, runs: int, directions: int) -> str:
    count, _ = told(walk, steps, share, runs, directions)
    return f"{count / (runs * directions):.1%}" if directions > 1 else share_of(count, runs)


app = App(name="python -m benchmarks.accuracy.hops", version_flags=[])


@app.default
def main(*, runs: int = 200) -> int:
    """Print, as Markdown, how often hops are found in iterates at rest and in hopping ones: some twelve minutes.

    Args:
        runs: Number of runs of each kind of iterate.
    """
    for steps in STEPS:
        print(alarms(runs, steps).markdown())
    print(power(runs).markdown())
    return 0


if __name__ == "__main__":
    app()
