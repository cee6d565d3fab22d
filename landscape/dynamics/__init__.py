"""What a run of checkpoints says. Arrays in, numbers with their errors and nulls out; NumPy and SciPy alone.

`spectra` sums one spectrum up, `stability` tells how far an optimiser's steps are from instability, `hops` and
`displacement` where a run's steps go.
"""

from landscape.dynamics.displacement import PARTS, Displacement, displacement
from landscape.dynamics.hops import Hops, fewest_updates, hops
from landscape.dynamics.spectra import Overlap, SpectrumMeasures, overlap, spectrum_measures
from landscape.dynamics.stability import Stability, stability

__all__ = [
    "PARTS",
    "Displacement",
    "Hops",
    "Overlap",
    "SpectrumMeasures",
    "Stability",
    "displacement",
    "fewest_updates",
    "hops",
    "overlap",
    "spectrum_measures",
    "stability",
]
