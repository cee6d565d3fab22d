"""The mean rise of the loss under Gaussian noise on the weights.

The noise is d = rho s x / sqrt(m), with x standard normal, a scale s_i for each weight, and m the number of positive
scales. So E ||d / s||^2 = rho^2 over the weights of positive scale. Isotropic noise has s_i = 1, adaptive noise
s_i = |w_i|. To leading order, the mean rise of isotropic noise is rho^2 tr(H) / (2 dim).

Each draw x gives an antithetic pair, the mean of the rises at d and -d, in which all odd powers of rho cancel. The
draws are those of one seed at every radius, for both kinds of noise and at every checkpoint (common random numbers), so
differences between the means have smaller errors than the means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from landscape.reporting.progress import Progress
from landscape.sharpness.neighbourhood import Name, Region
from landscape.sharpness.rises import Rises
from landscape.spectrum.estimate import Estimate, interval
from landscape.spectrum.probes import probe

NOISES: dict[str, Name] = {"isotropic": "ball", "adaptive": "adaptive"}
"""The kinds of noise, with the neighbourhood whose scale each has."""


@dataclass(frozen=True)
class AverageCase:
    """Mean rises under Gaussian noise of one kind, for radii (r,).

    Attributes:
        estimates: the mean rise at each radius; its standard error and 95 % interval are over the pairs, and the
            interval is widened by the rounding.
        sample_errors: standard error of each mean over samples, for the noise that was drawn, (r,).
        pairs: each pair's mean rise, (r, pairs).
    """

    estimates: list[Estimate]
    sample_errors: np.ndarray
    pairs: np.ndarray


def average_case(
    rises: Rises,
    noise: str,
    radii: Sequence[float],
    *,
    pairs: int = 10,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> AverageCase:
    """Estimate the mean rise of the loss under Gaussian noise.

    Args:
        rises: the rises of the loss around the weights.
        noise: kind of the noise, a key of `NOISES`.
        radii: root mean square of ||d / s||, for each mean.
        pairs: number of antithetic pairs, at least 2.
        seed: seed of the noise.
        progress: function that is called after each pair.
    """
    scale = Region.of(NOISES[noise], rises.vector).scale
    scale = scale / math.sqrt(max(1, int((scale > 0).sum())))
    total = torch.zeros(len(radii), len(rises.base.losses), dtype=torch.float64, device=rises.vector.device)
    means = np.empty((len(radii), pairs))
    for index in range(pairs):
        draw = scale * probe(len(scale), seed, index, "gaussian").to(scale)
        for place, radius in enumerate(radii):
            pair = (rises.by_sample(radius * draw) + rises.by_sample(-radius * draw)) / 2
            means[place, index] = rises.estimate(pair).loss
            total[place] += pair / pairs
        if progress is not None:
            progress(Progress(f"averaging {noise} noise", index + 1, np.empty(0), (index + 1) / pairs, "pairs"))
    return AverageCase(
        [interval(each, rises.rounding) for each in means],
        np.array([rises.estimate(each).standard_error for each in total]),
        means,
    )
