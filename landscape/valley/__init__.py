"""U or V: what shape a valley of the loss has. Arrays in, verdicts out; NumPy and SciPy alone.

Three tests that are independent of each other and never blended: `profile` reads the geometry along a direction,
`spectral` is the paper's definition by eigenvalues, and `anisotropy` says how unequal these are.
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
