"""The noise of the gradient over samples: noise scale, norm and signal-to-noise ratio.

With the gradient G of the population and the covariance S of the gradients of single samples, the simple noise scale is
tr S / |G|^2 (McCandlish, Kaplan, Amodei and the OpenAI Dota Team 2018, arXiv:1812.06162, equation 2.9). It is the
number of samples at which a mini-batch's gradient is half noise.

On n samples the mean gradient g has E |g|^2 = |G|^2 + tr S / n. Let V be the estimate of tr S / n from the spread
between groups of samples, and q = V / |g|^2 the share of noise. Then |G|^2 = |g|^2 - V, and the noise scale is
n q / (1 - q).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit

from landscape.problem import Problem
from landscape.reporting.display import HasSummary
from landscape.reporting.messages import counted
from landscape.reporting.progress import Progress
from landscape.sampling.groups import Groups


@dataclass(frozen=True)
class GradientNoise(HasSummary):
    """The gradient over samples, for all parameters or for a layer's.

    The intervals have 95 %, from the spread between groups of samples. On data of the training they are conditional on
    the weights.

    Attributes:
        noise_scale: noise scale in samples; infinite where the gradient can't be distinguished from 0.
        noise_scale_interval: its 95 % interval; the upper end may be infinite.
        gradient_norm: |G|, without the part of the noise; 0 where the noise explains the whole gradient.
        gradient_norm_interval: its 95 % interval.
        signal_to_noise: |G|^2 / (tr S / n), the ratio for the mean over all n samples: n / noise_scale.
        signal_to_noise_interval: its 95 % interval.
        variance: tr S, the summed variance of the gradient of a single sample.
        samples: number n of samples.
        groups: number of groups.
    """

    noise_scale: float
    noise_scale_interval: tuple[float, float]
    gradient_norm: float
    gradient_norm_interval: tuple[float, float]
    signal_to_noise: float
    signal_to_noise_interval: tuple[float, float]
    variance: float
    samples: int
    groups: int

    @property
    def summary(self) -> list[str]:
        """See `HasSummary`."""
        scale, norm, ratio = (
            f"{value:.3g} (95 %: {low:.3g} to {high:.3g})"
            for value, (low, high) in (
                (self.noise_scale, self.noise_scale_interval),
                (self.gradient_norm, self.gradient_norm_interval),
                (self.signal_to_noise, self.signal_to_noise_interval),
            )
        )
        return [
            f"gradient noise scale {scale} samples, from {counted(self.samples, 'sample')} in {self.groups} groups",
            f"gradient norm without noise {norm}; signal-to-noise ratio over all samples {ratio}",
        ]

    @classmethod
    def of(cls, norm: float, along: np.ndarray, squares: np.ndarray, samples: int) -> GradientNoise:
        """The noise from inner products of the groups' errors d_h = w_h (g_h - g), with w_h the groups' shares.

        The share q = V / |g|^2 has an interval on a logarithmic scale, from the linearisation of V = sum |d_h|^2 and of
        |g|^2, whose first derivative along d_h is 2 g . d_h.

        Args:
            norm: |g|^2 on all samples.
            along: g . d_h, (h,).
            squares: |d_h|^2, (h,).
            samples: number of samples.
        """
        groups = len(squares)
        factor, t = groups / (groups - 1), float(stdtrit(groups - 1, 0.975))
        noise = float(squares.sum()) * factor
        of_norm = np.square(2 * (along - along.mean())).sum() * factor
        radius = t * float(np.sqrt(of_norm))
        signals = (norm - noise, norm - noise - radius, norm - noise + radius)
        value, low, high = (float(np.sqrt(max(each, 0.0))) for each in signals)
        if noise == 0 or norm == 0:  # equal gradients, or none
            share, ends = (0.0, (0.0, 0.0)) if norm else (1.0, (1.0, 1.0))
        else:
            share = noise / norm
            relative = factor * (squares - squares.mean()) / noise - 2 * (along - along.mean()) / norm
            spread = t * float(np.sqrt(np.square(relative).sum() * factor))
            ends = share * np.exp(-spread), share * np.exp(spread)
        scale, lowest, highest = (_of_share(each, samples) for each in (share, *ends))
        return cls(
            scale, (lowest, highest), value, (low, high), _over(samples, scale),
            (_over(samples, highest), _over(samples, lowest)), noise * samples, samples, groups,
        )  # fmt: skip


def gradient_noise(
    problem: Problem,
    layers: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, GradientNoise]:
    """Estimate the noise of the gradient over samples, by one gradient of all samples and one of each group.

    Args:
        problem: the problem on all its samples.
        layers: names of the parameters of each layer. Default: none.
        seed: seed of the groups. Default: 0.
        progress: function that is called with the progress.

    Returns:
        The noise of each layer's gradient, and that of the whole gradient under the name ``all``.

    Raises:
        InputError: the samples can't be taken apart.
    """
    groups, tell = Groups.of(problem, seed), progress or (lambda _: None)
    chosen = {"all": problem.layout.names} | {name: tuple(names) for name, names in (layers or {}).items()}
    whole = problem.gradient().double()
    parts = problem.layout.unflatten(whole)
    along, squares = [], []
    for number, (share, of_group) in enumerate(zip(groups.shares, groups.problems(problem), strict=True), 1):
        errors = problem.layout.unflatten(float(share) * (of_group.gradient().double() - whole))
        along.append([_sum(parts, errors, names) for names in chosen.values()])
        squares.append([_sum(errors, errors, names) for names in chosen.values()])
        tell(Progress("gradients", number, np.empty(0), number / len(groups), "groups"))
    columns = zip(chosen.items(), np.array(along).T, np.array(squares).T, strict=True)
    return {
        name: GradientNoise.of(_sum(parts, parts, names), inner, own, groups.samples)
        for (name, names), inner, own in columns
    }


def _sum(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], names: Sequence[str]) -> float:
    """The inner product of two vectors, over the parameters of these names."""
    return float(sum(float((one[name] * other[name]).sum()) for name in names))


def _of_share(share: float, samples: int) -> float:
    """The noise scale of a share of noise in |g|^2."""
    return float(samples * share / (1 - share)) if share < 1 else float("inf")


def _over(samples: int, scale: float) -> float:
    return samples / scale if scale else float("inf")
