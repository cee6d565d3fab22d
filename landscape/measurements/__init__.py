"""The measurements of a checkpoint or of a run, one module each.

Importing this package loads neither torch nor xarray: a measurement imports its solvers when it runs. The command's
``--help`` therefore starts at once, and a request loads only the solvers that it needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint

from landscape.measurements.base import Flag, Measurement, RowData, estimated, variable
from landscape.measurements.density import Density, density_of
from landscape.measurements.diagonal import Diagonal
from landscape.measurements.dynamics import Dynamics
from landscape.measurements.eigenpairs import TopEigenpairs, eigenpairs_of
from landscape.measurements.functions import EffectiveDimension, LogDet
from landscape.measurements.hops import ValleyHops
from landscape.measurements.layers import Layers
from landscape.measurements.learning import Learning
from landscape.measurements.loops import Loops
from landscape.measurements.loss import Loss
from landscape.measurements.matrix import Matrix
from landscape.measurements.noise_scale import NoiseScale
from landscape.measurements.per_batch import PerBatch
from landscape.measurements.run import History, Run
from landscape.measurements.samples import Samples
from landscape.measurements.sampling_error import SamplingError
from landscape.measurements.selfcheck import SelfCheck
from landscape.measurements.slices_1d import Slices1D
from landscape.measurements.slices_2d import Slices2D
from landscape.measurements.spectrum import Spectrum
from landscape.measurements.stability import Stability
from landscape.measurements.trace import Trace, trace_of
from landscape.measurements.valley import Valley
from landscape.plugins import added, load

__all__ = [
    "BUILT_IN",
    "Density",
    "Diagonal",
    "Dynamics",
    "EffectiveDimension",
    "Flag",
    "History",
    "Layers",
    "Learning",
    "LogDet",
    "Loops",
    "Loss",
    "Matrix",
    "Measurement",
    "NoiseScale",
    "PerBatch",
    "RowData",
    "Run",
    "Samples",
    "SamplingError",
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
    "estimated",
    "of_other_packages",
    "registered",
    "trace_of",
    "variable",
]

# The order in which measurements run: cheap ones first, and those that read other measurements' rows after these.
BUILT_IN: tuple[type[Measurement], ...] = (
    Loss,
    SelfCheck,
    Samples,
    TopEigenpairs,
    Density,
    Trace,
    Diagonal,
    LogDet,
    EffectiveDimension,
    Spectrum,
    Layers,
    PerBatch,
    SamplingError,
    NoiseScale,
    Loops,
    Slices1D,
    Slices2D,
    Valley,
    Stability,
    Learning,
    Dynamics,
    ValleyHops,
)


def of_other_packages() -> dict[str, EntryPoint]:
    """Entry points of the measurements that other packages add, by the parameter of the command's option.

    The option ``--name`` asks for the measurement ``name``. A name that the option of a built-in measurement has is
    left out.
    """
    own = {each.flag.parameter for each in BUILT_IN if each.flag is not None}
    entries = {name.replace("-", "_"): entry for name, entry in added("landscape.measurements").items()}
    return {name: entry for name, entry in entries.items() if name.isidentifier() and name not in own}


def registered(names: Iterable[str] = ()) -> list[type[Measurement]]:
    """The classes of the built-in measurements, then those that other packages add under one of these names.

    Raises:
        InputError: a measurement of another package can't be loaded.
    """
    others = of_other_packages()
    return [*BUILT_IN, *(load(others[name], _is_measurement) for name in names if name in others)]


def _is_measurement(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Measurement)
