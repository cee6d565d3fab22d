"""The measurements: what can be asked of a checkpoint, one module each."""

from landscape.measurements.base import Measured, Measurement
from landscape.measurements.density import Density, density_of
from landscape.measurements.dynamics import LEADING, Dynamics
from landscape.measurements.eigenpairs import TopEigenpairs, eigenpairs_of
from landscape.measurements.functions import EffectiveDimension, LogDet
from landscape.measurements.hops import ValleyHops
from landscape.measurements.layers import Layers
from landscape.measurements.learning import Learning
from landscape.measurements.loops import Loops
from landscape.measurements.loss import Loss
from landscape.measurements.matrix import Matrix
from landscape.measurements.run import History, Run
from landscape.measurements.samples import Samples
from landscape.measurements.selfcheck import SelfCheck
from landscape.measurements.slices_1d import Slices1D
from landscape.measurements.slices_2d import Slices2D
from landscape.measurements.spectrum import Spectrum
from landscape.measurements.stability import Stability
from landscape.measurements.trace import Trace, trace_of
from landscape.measurements.valley import Valley

__all__ = [
    "LEADING",
    "Density",
    "Dynamics",
    "EffectiveDimension",
    "History",
    "Layers",
    "Learning",
    "LogDet",
    "Loops",
    "Loss",
    "Matrix",
    "Measured",
    "Measurement",
    "Run",
    "Samples",
    "SelfCheck",
    "Slices1D",
    "Slices2D",
    "Spectrum",
    "Stability",
    "TopEigenpairs",
    "Trace",
    "Valley",
    "ValleyHops",
    "density_of",
    "eigenpairs_of",
    "trace_of",
]
