"""The shape of a valley of the loss: U or V. Arrays in, verdicts out; needs only NumPy.

Three tests are independent of each other and never combined. `profile` reads the geometry along a direction.
`spectral` applies the definition by eigenvalues of Gong, Teng and Liu (2025). `spectrum_shape` measures how unequal the
eigenvalues are.
"""

from landscape.valley.profile import ProfileVerdict, classify_profile
from landscape.valley.spectral import KappaMap, kappa_map, thresholds
from landscape.valley.spectrum_shape import Anisotropy, anisotropy, noise_floor

__all__ = [
    "Anisotropy",
    "KappaMap",
    "ProfileVerdict",
    "anisotropy",
    "classify_profile",
    "kappa_map",
    "noise_floor",
    "thresholds",
]
