"""How far shares of a spectral density depend on the samples, by a jackknife over groups of samples.

A share isn't linear in the matrix, and the noise of a finite set of samples widens the whole spectrum. The jackknife
(Efron 1982, "The jackknife, the bootstrap and other resampling plans", chapter 2) finds the bias and the variance from
the densities without one group each. All densities have common probes, so their differences come from the samples.

The jackknife takes the bias to fall with 1/n. Near the middle of a bulk of eigenvalues the bias falls more slowly, at
first about with 1/sqrt(n), and the jackknife then finds half of the bias. So the interval for the population covers
both: it reaches from the value without the jackknife's bias to the value without twice this bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import ndtr, stdtrit

from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.reporting.progress import Progress, part
from landscape.sampling.estimates import SampledEstimate
from landscape.sampling.groups import Groups
from landscape.spectrum.density import spectral_density
from landscape.spectrum.distribution import SpectralDensity
from landscape.spectrum.probes import standard_error

GROUPS = 8
"""Groups of the jackknife: each costs a density, and Student's t for 7 degrees of freedom is a fifth above normal."""


def sample_shares(
    problem: Problem,
    make: Callable[[Problem], SymmetricOperator],
    edges: np.ndarray,
    probes: int,
    steps: int,
    seed: int = 0,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[list[SampledEstimate], float]:
    """Estimate how far the shares of eigenvalues above some edges depend on the samples.

    Every density is smoothed with a Gaussian of one width, that of the density of all samples. The share above an edge
    is the share of the smoothed density.

    Args:
        problem: the problem on all its samples.
        make: function that makes the operator of a problem's matrix, such as `Problem.hessian`.
        edges: edges in the units of the eigenvalues, (e,).
        probes: number of random probes of each density, at least 2.
        steps: Lanczos steps of each probe's chain.
        seed: seed of the groups and the probes. Default: 0.
        progress: function that is called with the progress.

    Returns:
        The share above each edge, and the width of the Gaussian.

    Raises:
        InputError: the samples can't be taken apart, or an argument is out of range.
    """
    groups = Groups.of(problem, seed, GROUPS)
    tell, densities = progress or (lambda _: None), len(groups) + 1
    whole = spectral_density(make(problem), probes, steps, 0, seed, progress=part(tell, 0, 1 / densities))
    without = [
        shares(
            spectral_density(
                make(rest), probes, steps, 0, seed, progress=part(tell, number / densities, (number + 1) / densities)
            ),
            edges,
            whole.width,
        ).mean(0)
        for number, rest in enumerate(groups.without_each(problem), 1)
    ]
    by_probe = shares(whole, edges, whole.width)
    errors = standard_error(by_probe) * float(stdtrit(probes - 1, 0.975))
    g, left_out, value = len(groups), np.array(without), by_probe.mean(0)
    bias = (g - 1) * (left_out.mean(0) - value)
    variance = (g - 1) / g * np.square(left_out - left_out.mean(0)).sum(0)
    columns = zip(value, bias, variance, errors, strict=True)
    return [_estimate(float(v), float(b), float(s), float(e), g - 1) for v, b, s, e in columns], whole.width


def _estimate(value: float, bias: float, variance: float, error: float, freedom: int) -> SampledEstimate:
    """An estimate whose interval for the population covers a bias that falls with 1/n or with 1/sqrt(n)."""
    once = SampledEstimate.of(value, bias, variance, freedom, error)
    low, high = once.confidence
    return replace(once, confidence=(min(low, low - bias), max(high, high - bias)))


def shares(density: SpectralDensity, edges: np.ndarray, width: float) -> np.ndarray:
    """The shares (p, e) of each probe's density above the edges (e,), smoothed with a Gaussian of this width."""
    distance = density.nodes[:, :, None] - np.asarray(edges)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = ndtr(distance / width) if width else (distance > 0).astype(np.float64)
    return np.asarray((density.weights[:, :, None] * np.nan_to_num(above)).sum(1))
