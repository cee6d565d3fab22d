"""How far numbers depend on the samples: errors of curvature and of the gradient over a population of samples."""

from landscape.sampling.curvature import CurvatureSampling, sample_curvature
from landscape.sampling.estimates import SampledEstimate
from landscape.sampling.gradient import GradientNoise, gradient_noise
from landscape.sampling.groups import Groups
from landscape.sampling.shares import sample_shares

__all__ = [
    "CurvatureSampling",
    "GradientNoise",
    "Groups",
    "SampledEstimate",
    "gradient_noise",
    "sample_curvature",
    "sample_shares",
]
