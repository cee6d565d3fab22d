"""The largest rise of the loss in a neighbourhood of the weights: in a ball, an adaptive ball and a box.

All three neighbourhoods are {d : ||d / s|| <= rho} with a positive scale s_i for each weight w_i and a norm:

- ball: s_i = 1 and the Euclidean norm (SAM; Foret, Kleiner, Mobahi and Neyshabur 2021, equation 1).
- adaptive ball: s_i = |w_i| and the Euclidean norm (ASAM; Kwon, Kim, Park and Choi 2021, section 3, the element-wise
  operator T_w). Weights that are 0 don't move. ASAM's published code adds eta = 0.01 to |w_i| and leaves biases at
  scale 1. Neither is done here, because both break the invariance of the measure.
- box: s_i = |w_i| + 1 and the maximum norm (Keskar et al. 2017, metric 2.1 with A the identity).

In the coordinates z = d / s the gradient is s g, and each neighbourhood is a norm ball of radius rho.

The search is a projected gradient ascent with decreasing step lengths. A step of infinite length goes to the point of
the neighbourhood that is farthest along the gradient. Where the loss is convex, each such step raises the loss
(Journée, Nesterov, Richtárik and Sepulchre 2010, section 3). It is also SAM's step, if it starts at the weights. Any
rise that is found belongs to a point of the neighbourhood. So the largest rise found is a lower bound of the maximum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.problem.samples import LossEstimate
from landscape.reporting.progress import Progress
from landscape.sharpness.rises import Rises
from landscape.spectrum.probes import probe

Name = Literal["ball", "adaptive", "box"]
NAMES: tuple[Name, ...] = ("ball", "adaptive", "box")
SETTLED = 1e-4
"""An ascent ends after two steps in a row that gain no more than this share of the rise."""
_TRIALS = 8  # step lengths, each a quarter of the one before
_ASIDE = 0.1  # of the radius: how far a start moves in a random direction


@dataclass(frozen=True, eq=False)
class Region:
    """The shape of a neighbourhood in the coordinates z = d / scale; see the module's docstring.

    Attributes:
        name: ``ball``, ``adaptive`` or ``box``.
        scale: scale s of each weight, (dim,) float64.
    """

    name: Name
    scale: Tensor

    @classmethod
    def of(cls, name: Name, vector: Tensor) -> Region:
        """The neighbourhood of a name around weights (dim,) float64."""
        size = vector.abs()
        return cls(name, {"ball": torch.ones_like(size), "adaptive": size, "box": size + 1}[name])

    def farthest(self, along: Tensor, radius: float) -> Tensor:
        """The z (dim,) of the neighbourhood with the largest inner product with ``along``; 0 where that is 0."""
        if self.name == "box":
            return radius * along.sign()
        largest = along.abs().max()
        if not largest > 0:
            return torch.zeros_like(along)
        scaled = along / largest  # squares of small numbers would underflow
        return scaled * (radius / torch.linalg.vector_norm(scaled))

    def projected(self, z: Tensor, radius: float) -> Tensor:
        """The z (dim,) of the neighbourhood that is nearest in the Euclidean norm."""
        if self.name == "box":
            return z.clamp(-radius, radius)
        return z * min(1.0, radius / max(float(torch.linalg.vector_norm(z)), radius))

    def reach(self, radius: float) -> float:
        """The largest Euclidean norm of a z of the neighbourhood."""
        return radius * math.sqrt(len(self.scale)) if self.name == "box" else radius


@dataclass(frozen=True)
class WorstCase:
    """The largest rises found in neighbourhoods of one shape, for radii (r,).

    Attributes:
        rises: the largest rise found within each radius, (r,); a lower bound of the maximum.
        standard_errors: standard error of each rise over samples, for the step that was found, (r,).
        one_step: the rise at SAM's step, the point that is farthest along the gradient, (r,); may be non-finite.
        settled: whether the ascent ended by itself and not by the limit on its steps, (r,). A settled ascent may still
            have missed the maximum.
        skipped: number of points without a finite loss, which the search left out, (r,).
    """

    rises: np.ndarray
    standard_errors: np.ndarray
    one_step: np.ndarray
    settled: np.ndarray
    skipped: np.ndarray


def worst_case(
    rises: Rises,
    name: Name,
    radii: Sequence[float],
    *,
    directions: Sequence[Tensor] = (),
    steps: int = 100,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> WorstCase:
    """Search neighbourhoods of one shape for the largest rise of the loss.

    For each radius, the ascent starts at the best of several points: SAM's step, and on both sides the points farthest
    along the best step of the radius before, along ``directions`` and along a random direction. A start moves aside by
    a tenth of the radius in a random direction. Otherwise a gradient without any component along an eigenvector would
    hide that eigenvector. The points of a radius lie in the neighbourhoods of all larger radii, so the rises that are
    found don't decrease with the radius.

    Args:
        rises: the rises of the loss around the weights.
        name: shape of the neighbourhoods.
        radii: radii of the neighbourhoods, ascending and positive.
        directions: directions d (dim,) of parameter space, such as the eigenvector of the largest eigenvalue.
        steps: largest number of steps of an ascent.
        seed: seed of the random direction.
        progress: function that is called after each radius.
    """
    search = _Search(rises, Region.of(name, rises.vector), steps)
    random = probe(len(rises.vector), seed, 0, "gaussian").to(rises.vector)
    guesses = [search.region.scale * each.to(rises.vector) for each in directions] + [random]
    best, found = search.point(torch.zeros_like(random)), []
    for index, radius in enumerate(radii):
        search.skipped = 0
        first = search.point(search.region.farthest(search.region.scale * rises.gradient, radius))
        both = (search.region.farthest(sign * each, radius) for each in (best.z, *guesses) for sign in (1, -1))
        start = max([best, first, *map(search.point, both)], key=_Point.height)
        ends = []
        for each in (start,) if start is first else (start, first):
            aside = each.z + _ASIDE * search.region.farthest(random, radius)
            ends.append(search.ascend(search.point(search.region.projected(aside, radius)), radius))
        best = max(start, *(end for end, _ in ends), key=_Point.height)
        settled = all(ended for _, ended in ends)
        found.append((best.rise.loss, best.rise.standard_error, first.rise.loss, settled, search.skipped))
        if progress is not None:
            progress(Progress(f"searching the {name}", index + 1, np.empty(0), (index + 1) / len(radii), "radii"))
    return WorstCase(*map(np.array, zip(*found, strict=True)))


@dataclass(frozen=True, eq=False)
class _Point:
    """A point z of a neighbourhood with the rise of the loss there."""

    z: Tensor
    rise: LossEstimate

    def height(self) -> float:
        """The rise, or minus infinity where it isn't finite."""
        return self.rise.loss if math.isfinite(self.rise.loss) else -math.inf


class _Search:
    """Finds points of large rise in a neighbourhood.

    Attributes:
        region: shape of the neighbourhood.
        skipped: number of points without a finite loss so far.
    """

    def __init__(self, rises: Rises, region: Region, steps: int) -> None:
        self.region, self.skipped = region, 0
        self._rises, self._steps = rises, steps

    def point(self, z: Tensor) -> _Point:
        """The point at coordinates z (dim,)."""
        rise = self._rises.at(self.region.scale * z)
        self.skipped += not math.isfinite(rise.loss)
        return _Point(z, rise)

    def ascend(self, here: _Point, radius: float) -> tuple[_Point, bool]:
        """The end of a projected gradient ascent, and whether it ended before its largest number of steps."""
        length, small = math.inf, 0
        for _ in range(self._steps):
            gradient = self.region.scale * self._rises.gradient_at(self.region.scale * here.z)
            if not gradient.isfinite().all():
                return here, False
            for tried in self._lengths(length, gradient, radius):
                after = self.point(self._moved(here.z, gradient, tried, radius))
                if after.height() > here.height():
                    break
            else:
                return here, True
            length = 2 * tried
            gain, here = after.height() - here.height(), after
            small = small + 1 if gain <= SETTLED * abs(here.height()) else 0
            if small == 2:
                return here, True
        return here, False

    def _lengths(self, length: float, gradient: Tensor, radius: float) -> Iterator[float]:
        """The step lengths to try: the given one, then ever shorter ones."""
        yield length
        if math.isinf(length):
            size = float(torch.linalg.vector_norm(gradient))
            length = 8 * self.region.reach(radius) / size if size else 0.0
        for trial in range(1, _TRIALS + 1):
            yield length / 4**trial

    def _moved(self, z: Tensor, gradient: Tensor, length: float, radius: float) -> Tensor:
        if math.isinf(length):
            return self.region.farthest(gradient, radius)
        return self.region.projected(z + length * gradient, radius)
