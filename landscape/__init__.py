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
    from landscape.curvature.fisher import EmpiricalFisher, ExactFisher, MonteCarloFisher
    from landscape.curvature.gauss_newton import GaussNewton
    from landscape.curvature.hessian import Hessian
    from landscape.curvature.preconditioned import Preconditioned, adam_diagonal
    from landscape.curvature.untied import Loop, untied
    from landscape.errors import InputError
    from landscape.loops import LoopCurvature, loop_curvature
    from landscape.measure import Source, load_problem, probe
    from landscape.measurements import (
        Density,
        EffectiveDimension,
        Layers,
        LogDet,
        Loops,
        Loss,
        Matrix,
        Measurement,
        Spectrum,
        TopEigenpairs,
        Trace,
        density_of,
    )
    from landscape.operator import MatrixOperator, SymmetricOperator
    from landscape.problem import LossEstimate, Problem
    from landscape.progress import ProgressBar
    from landscape.record import open_record
    from landscape.spectrum.density import SpectralDensity, spectral_density
    from landscape.spectrum.eigenpairs import Eigenpairs, top_eigenpairs
    from landscape.spectrum.full import FullSpectrum, full_spectrum
    from landscape.spectrum.functions import effective_dimension, log_det
    from landscape.spectrum.lanczos import LanczosDecomposition, lanczos
    from landscape.spectrum.trace import TraceEstimate, estimate_trace

_HOMES = {
    "landscape.checkpoint": ["Checkpoint", "read_checkpoint", "save_checkpoint"],
    "landscape.curvature.fisher": ["EmpiricalFisher", "ExactFisher", "MonteCarloFisher"],
    "landscape.curvature.gauss_newton": ["GaussNewton"],
    "landscape.curvature.hessian": ["Hessian"],
    "landscape.curvature.preconditioned": ["Preconditioned", "adam_diagonal"],
    "landscape.curvature.untied": ["Loop", "untied"],
    "landscape.errors": ["InputError"],
    "landscape.loops": ["LoopCurvature", "loop_curvature"],
    "landscape.measure": ["Source", "load_problem", "probe"],
    "landscape.measurements": [
        "Density",
        "EffectiveDimension",
        "Layers",
        "LogDet",
        "Loops",
        "Loss",
        "Matrix",
        "Measurement",
        "Spectrum",
        "TopEigenpairs",
        "Trace",
        "density_of",
    ],
    "landscape.operator": ["MatrixOperator", "SymmetricOperator"],
    "landscape.problem": ["LossEstimate", "Problem"],
    "landscape.progress": ["ProgressBar"],
    "landscape.record": ["open_record"],
    "landscape.spectrum.density": ["SpectralDensity", "spectral_density"],
    "landscape.spectrum.eigenpairs": ["Eigenpairs", "top_eigenpairs"],
    "landscape.spectrum.full": ["FullSpectrum", "full_spectrum"],
    "landscape.spectrum.functions": ["effective_dimension", "log_det"],
    "landscape.spectrum.lanczos": ["LanczosDecomposition", "lanczos"],
    "landscape.spectrum.trace": ["TraceEstimate", "estimate_trace"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Checkpoint",
    "Density",
    "EffectiveDimension",
    "Eigenpairs",
    "EmpiricalFisher",
    "ExactFisher",
    "FullSpectrum",
    "GaussNewton",
    "Hessian",
    "InputError",
    "LanczosDecomposition",
    "Layers",
    "LogDet",
    "Loop",
    "LoopCurvature",
    "Loops",
    "Loss",
    "LossEstimate",
    "Matrix",
    "MatrixOperator",
    "Measurement",
    "MonteCarloFisher",
    "Preconditioned",
    "Problem",
    "ProgressBar",
    "Source",
    "SpectralDensity",
    "Spectrum",
    "SymmetricOperator",
    "TopEigenpairs",
    "Trace",
    "TraceEstimate",
    "adam_diagonal",
    "density_of",
    "effective_dimension",
    "estimate_trace",
    "full_spectrum",
    "lanczos",
    "load_problem",
    "log_det",
    "loop_curvature",
    "open_record",
    "probe",
    "read_checkpoint",
    "save_checkpoint",
    "spectral_density",
    "top_eigenpairs",
    "untied",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
