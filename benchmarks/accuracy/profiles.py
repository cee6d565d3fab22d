"""Profiles of known shape with known noise, for checks of `landscape.valley.classify_profile`.

The signal-to-noise ratio ``snr`` is the depth of the profile divided by the standard error of the mean over 256
samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from landscape.valley import classify_profile
from landscape.valley.profile import Label

Profile = Callable[[np.ndarray], np.ndarray]
Noise = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]

T = np.linspace(-1, 1, 51)
SAMPLES = 256


def huber(kink: float) -> Profile:
    """A Huber profile: t^2 / (2 kink) up to the kink, |t| - kink / 2 beyond."""
    return lambda t: np.where(abs(t) < kink, t * t / (2 * kink), abs(t) - kink / 2)


def unequal(profile: Profile) -> Profile:
    """A profile whose right wall is three times as high as its left wall."""
    return lambda t: np.where(t < 0, 1, 3) * profile(t)


SHAPES: dict[str, tuple[Profile, Label]] = {
    "t^2": (lambda t: t**2, "U"),
    "abs(t)": (abs, "V"),
    "t^2, walls 1 to 3": (unequal(lambda t: t**2), "U"),
    "abs(t), walls 1 to 3": (unequal(abs), "V"),
    "Huber, kink at 0.05": (huber(0.05), "V"),
    "Huber, kink at 0.15": (huber(0.15), "V"),
    "Huber, kink at 2": (huber(2.0), "U"),
    "t^4": (lambda t: t**4, "U"),
    "flat floor, straight walls": (lambda t: np.maximum(abs(t) - 0.4, 0), "U"),
    "flat floor, round walls": (lambda t: np.maximum(abs(t) - 0.3, 0) ** 2, "U"),
    "abs(t)^1.5": (lambda t: abs(t) ** 1.5, "undecided"),
    "one-sided": (lambda t: np.maximum(t, 0), "no valley"),
    "one-sided, round": (lambda t: np.maximum(t, 0) ** 2, "no valley"),
    "linear": (lambda t: t, "no valley"),
    "exponential": (lambda t: np.exp(2 * t), "no valley"),
}
# Ten profiles have a round floor below walls that flatten as they rise, so they are no V at any height. The last two
# profiles are a V at the floor, and then flatten.
FLATTENING: dict[str, Profile] = {
    "1 - exp(-t^2 / 0.1)": lambda t: 1 - np.exp(-(t**2) / 0.1),
    "1 - exp(-t^2 / 0.25)": lambda t: 1 - np.exp(-(t**2) / 0.25),
    "1 - exp(-t^2 / 0.5)": lambda t: 1 - np.exp(-(t**2) / 0.5),
    "log(1 + 25 t^2)": lambda t: np.log1p(25 * t**2),
    "log(1 + 8 t^2)": lambda t: np.log1p(8 * t**2),
    "t^2 / (0.3 + t^2)": lambda t: t**2 / (0.3 + t**2),
    "tanh(4 t^2)": lambda t: np.tanh(4 * t**2),
    "min(t^2, 0.25)": lambda t: np.minimum(t**2, 0.25),
    "1 - exp(-(t - 0.4)^2 / 0.1)": lambda t: 1 - np.exp(-((t - 0.4) ** 2) / 0.1),
    "1 - exp(-t^2 / 0.1) to the left, 3 t^2 to the right": lambda t: np.where(
        t < 0, 1 - np.exp(-(t**2) / 0.1), 3 * t**2
    ),
    "abs(t)^0.5": lambda t: abs(t) ** 0.5,
    "1 - exp(-abs(t) / 0.3)": lambda t: 1 - np.exp(-abs(t) / 0.3),
}
NOTHING = "nothing but noise"
PROFILES: dict[str, Profile] = {
    **{name: profile for name, (profile, _) in SHAPES.items()}, **FLATTENING, NOTHING: np.zeros_like
}  # fmt: skip
OPPOSITE: dict[Label, Label] = {"U": "V", "V": "U"}


def independent(profile: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Samples (256, m) of a profile with independent normal noise at every point, of standard error depth / snr."""
    depth = np.ptp(profile) or 1.0
    return np.asarray(profile + rng.standard_normal((SAMPLES, len(profile))) * depth / snr * math.sqrt(SAMPLES))


def smooth(profile: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Samples (256, m) of a profile with smooth noise, like that of a network's samples.

    Each sample adds a random level, slope and curvature along the line.
    """
    depth = np.ptp(profile) or 1.0
    own = rng.standard_normal((SAMPLES, 3)) @ np.vander(T, 3).T / math.sqrt(3)
    return np.asarray(profile + own * depth / snr * math.sqrt(SAMPLES))


def labels(name: str, snr: float, seeds: int, noise: Noise = independent) -> Counter[Label]:
    """Number of times that each label is given to a known profile, over seeds of the noise."""
    profile = PROFILES[name](T)
    rngs = (np.random.default_rng([seed, 7]) for seed in range(seeds))
    return Counter(
        classify_profile(T, noise(profile, snr, rng), resamples=200, seed=seed).label for seed, rng in enumerate(rngs)
    )
