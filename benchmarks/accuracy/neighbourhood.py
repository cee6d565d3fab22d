"""``python -m benchmarks.accuracy.neighbourhood``: how near the maximum ascents end, how often intervals hold the mean.

The maximum of a quadratic in a ball comes from its secular equation, that of a convex quadratic in a box from all
corners. The mean rise of a quadratic under noise is known too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from cyclopts import App
from torch import Tensor, nn

from benchmarks.support.tables import Table, share_of
from landscape import Problem
from landscape.sharpness.neighbourhood import Name, worst_case
from landscape.sharpness.rises import Rises
from landscape.spectrum.estimate import interval

NEAR = (0.999, 0.99, 0.9)
RADII = (0.1, 1.0)
PAIRS = (10, 30)
app = App(help="Measure how near the maximum ascents end, and how often intervals hold the mean.", version_flags=[])


class Quadratic(nn.Module):
    """The function g.w + w.H w / 2 of its parameters w, for every sample."""

    gradient: Tensor
    hessian: Tensor

    def __init__(self, gradient: np.ndarray, hessian: np.ndarray, at: np.ndarray) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(at))
        self.register_buffer("gradient", torch.as_tensor(gradient))
        self.register_buffer("hessian", torch.as_tensor(hessian))

    def forward(self, x: Tensor) -> Tensor:
        """The value of the function, once for each row of x."""
        return (self.gradient @ self.w + self.w @ self.hessian @ self.w / 2).expand(len(x))


def found(
    name: Name, gradient: np.ndarray, hessian: np.ndarray, at: np.ndarray, top: np.ndarray | None = None
) -> np.ndarray:
    """The largest rises found around a point for each of `RADII`, with or without the top eigenvector as a start."""
    batch = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    model = Quadratic(gradient, hessian, at)
    problem = Problem(model, lambda output, target: output - target, [batch], dtype=torch.float64)
    directions = [] if top is None else [torch.as_tensor(top)]
    return worst_case(Rises(problem), name, RADII, directions=directions).rises


def largest_in_ball(g: np.ndarray, hessian: np.ndarray, radius: float) -> float:
    """The maximum of g.d + d.H d / 2 over ||d|| <= radius, by bisection of the secular equation.

    The multiplier mu is at least the largest eigenvalue, and at least 0. If mu = max(largest eigenvalue, 0) gives a
    step within the ball, the step is filled up along the top eigenvector where the eigenvalue isn't negative (the hard
    case; Conn, Gould and Toint 2000, section 7.3).
    """
    values, vectors = np.linalg.eigh(hessian)
    along, top = vectors.T @ g, max(values[-1], 0.0)
    along[np.abs(along) < 1e-9 * np.linalg.norm(along)] = 0.0  # rounding of an orthogonal gradient

    def step(multiplier: float) -> np.ndarray:
        return np.divide(along, multiplier - values, out=np.zeros_like(along), where=multiplier > values)

    d = step(top)
    inside = np.linalg.norm(d) <= radius
    if inside and values[-1] < 0:
        return float(along @ d + values @ d**2 / 2)
    if inside and along[-1] == 0:
        d[-1] = np.sqrt(radius**2 - d @ d)
        return float(along @ d + values @ d**2 / 2)
    low, high = top, top + np.linalg.norm(along) / radius
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(step(middle)) > radius else (low, middle)
    d = step(high)
    return float(along @ d + values @ d**2 / 2)


def in_balls(draws: int, hard: bool, known: bool = False) -> Iterator[float]:
    """Rise found by the maximum in a ball, for random quadratics.

    Args:
        draws: number of quadratics.
        hard: whether the gradient is orthogonal to the top eigenvector.
        known: whether the ascents may start along the top eigenvector.
    """
    rng = np.random.default_rng(1)
    for _ in range(draws):
        n = int(rng.integers(2, 6))
        square, g = rng.standard_normal((n, n)), rng.standard_normal(n) * 10 ** rng.uniform(-2, 1)
        hessian = (square + square.T) / 2
        top = np.linalg.eigh(hessian)[1][:, -1]
        if hard:
            g -= top * (top @ g)
        rises = found("ball", g, hessian, np.zeros(n), top if known else None)
        for radius, rise in zip(RADII, rises, strict=True):
            yield rise / largest_in_ball(g, hessian, radius)


def in_boxes(draws: int) -> Iterator[float]:
    """Rise found by the maximum in a box, for random convex quadratics."""
    rng = np.random.default_rng(2)
    for _ in range(draws):
        n = int(rng.integers(2, 6))
        square, g, w = rng.standard_normal((n, n)), rng.standard_normal(n), rng.standard_normal(n)
        hessian = square @ square.T
        for radius, rise in zip(RADII, found("box", g, hessian, w), strict=True):
            corners = radius * (np.abs(w) + 1) * np.array(list(itertools.product((-1, 1), repeat=n)))
            heights = corners @ (g + hessian @ w) + np.einsum("ci,ij,cj->c", corners, hessian, corners) / 2
            yield rise / heights.max()


def shares(name: str, ratios: Iterator[float]) -> tuple[str, ...]:
    """A line of the table of ascents; a ratio above 1 by more than rounding would be an error of this program."""
    values = np.array(list(ratios))
    if values.max() > 1 + 1e-9:
        raise AssertionError(f"a rise of {values.max()} times the maximum")
    return name, *(f"{np.mean(values >= near):.1%}" for near in NEAR), f"{values.min():.3f}"


SPECTRA = {
    "100 equal eigenvalues": np.ones(100),
    "1/i, i = 1 to 1,000": 1 / np.arange(1, 1001),
    "one eigenvalue has half of the trace, 100 the rest": np.r_[100, np.ones(100)],
    "one eigenvalue has the whole trace": np.r_[1.0, np.zeros(99)],
}


def held(values: np.ndarray, pairs: int, draws: int) -> str:
    """How often the 95 % interval of the mean of x.H x holds tr(H), for a diagonal H; see `average_case`."""
    rng, count = np.random.default_rng(3), 0
    for _ in range(draws):
        forms = rng.standard_normal((pairs, len(values))) ** 2 @ values
        estimate = interval(forms, 0.0)
        count += estimate.low <= values.sum() <= estimate.high
    return share_of(count, draws)


@app.default
def main(*, draws: int = 200, intervals: int = 4000) -> None:
    """Print both tables as Markdown.

    Args:
        draws: Number of quadratics of each kind.
        intervals: Number of intervals of each kind.
    """
    rows = [
        shares("ball, gradient in any direction", in_balls(draws, False)),
        shares("ball, gradient orthogonal to the top eigenvector", in_balls(draws, True)),
        shares("the same gradients, with a start along this eigenvector", in_balls(draws, True, True)),
        shares("box, convex", in_boxes(draws)),
    ]
    header = ("quadratics of 2 to 5 weights", *(f"≥ {near:g}" for near in NEAR), "smallest")
    print(Table(f"Largest rise found by the maximum, {draws} quadratics, radii 0.1 and 1", header, rows).markdown())
    rows = [(name, *(held(values, pairs, intervals) for pairs in PAIRS)) for name, values in SPECTRA.items()]
    header = ("eigenvalues of the Hessian", *(f"{pairs} pairs" for pairs in PAIRS))
    print(Table("95 % intervals that hold the mean rise, with their 95 % interval", header, rows).markdown())


if __name__ == "__main__":
    app()
