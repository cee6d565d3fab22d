"""landscape-probe: loss-landscape analysis for PyTorch.

    problem = landscape.load_problem("checkpoint.pt")
    pairs = landscape.top_eigenpairs(problem.hessian(), k=10)

Names are imported when they are first used, so that ``import landscape`` and ``landscape-probe --help`` don't wait for
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landscape.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
    from landscape.curvature.hessian import Hessian
    from landscape.errors import InputError
    from landscape.measure import load_problem, probe
    from landscape.measurements import HessianEigenpairs, Loss, Measurement
    from landscape.operator import MatrixOperator, SymmetricOperator
    from landscape.problem import LossEstimate, Problem
    from landscape.progress import ProgressBar
    from landscape.record import open_record
    from landscape.spectrum.eigenpairs import Eigenpairs, top_eigenpairs
    from landscape.spectrum.lanczos import LanczosDecomposition, lanczos

_HOMES = {
    "landscape.checkpoint": ["Checkpoint", "read_checkpoint", "save_checkpoint"],
    "landscape.curvature.hessian": ["Hessian"],
    "landscape.errors": ["InputError"],
    "landscape.measure": ["load_problem", "probe"],
    "landscape.measurements": ["HessianEigenpairs", "Loss", "Measurement"],
    "landscape.operator": ["MatrixOperator", "SymmetricOperator"],
    "landscape.problem": ["LossEstimate", "Problem"],
    "landscape.progress": ["ProgressBar"],
    "landscape.record": ["open_record"],
    "landscape.spectrum.eigenpairs": ["Eigenpairs", "top_eigenpairs"],
    "landscape.spectrum.lanczos": ["LanczosDecomposition", "lanczos"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Checkpoint",
    "Eigenpairs",
    "Hessian",
    "HessianEigenpairs",
    "InputError",
    "LanczosDecomposition",
    "Loss",
    "LossEstimate",
    "MatrixOperator",
    "Measurement",
    "Problem",
    "ProgressBar",
    "SymmetricOperator",
    "lanczos",
    "load_problem",
    "open_record",
    "probe",
    "read_checkpoint",
    "save_checkpoint",
    "top_eigenpairs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
