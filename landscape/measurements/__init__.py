"""The measurements: what can be asked of a checkpoint, one module each.

Importing them imports neither torch nor xarray: a measurement imports what it computes with when it is made, so that
the command's ``--help`` is instant and a request loads the solvers that it needs.
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
from landscape.measurements.run import History, Run
from landscape.measurements.samples import Samples
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
    "RowData",
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
    "estimated",
    "of_other_packages",
    "registered",
    "trace_of",
    "variable",
]

# In the order in which they are made: what is cheap first, and what uses the rows of others after these.
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
    """What other packages add, by the parameters of their options; an option ``--name`` asks for the one of that name.

    A name that a measurement here has is left out.
    """
    own = {each.flag.parameter for each in BUILT_IN if each.flag is not None}
    found = {name.replace("-", "_"): entry for name, entry in added("landscape.measurements").items()}
    return {name: entry for name, entry in found.items() if name.isidentifier() and name not in own}


def registered(names: Iterable[str] = ()) -> list[type[Measurement]]:
    """The measurements of this package, and of those that others add the ones with these parameters.

    Raises:
        InputError: another package's can't be loaded.
    """
    others = of_other_packages()
    return [*BUILT_IN, *(load(others[name], _is_measurement) for name in names if name in others)]


def _is_measurement(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Measurement)
