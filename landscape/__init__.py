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
    from landscape.checks.slope import Slope, check_slopes
    from landscape.curvature.fisher import EmpiricalFisher, ExactFisher, MonteCarloFisher
    from landscape.curvature.gauss_newton import GaussNewton
    from landscape.curvature.hessian import Hessian
    from landscape.curvature.kinds import matrix
    from landscape.curvature.preconditioned import Preconditioned, adam_diagonal
    from landscape.errors import InputError
    from landscape.groups import GroupComparison, compare_groups
    from landscape.live import Watch, measuring, watch
    from landscape.loading.source import Source, load_problem
    from landscape.loops import LoopCurvature, loop_curvature
    from landscape.loops.untied import Loop, untied
    from landscape.measurements import (
        CriticalSharpness,
        Density,
        Diagonal,
        Dynamics,
        EffectiveDimension,
        Layers,
        Learning,
        LogDet,
        Loops,
        Loss,
        Matrix,
        Measurement,
        Neighbourhood,
        NoiseScale,
        PerBatch,
        Samples,
        SamplingError,
        SelfCheck,
        Slices1D,
        Slices2D,
        Spectrum,
        Stability,
        TopEigenpairs,
        Trace,
        Valley,
        ValleyHops,
        density_of,
        eigenpairs_of,
        trace_of,
    )
    from landscape.measurements.runner import probe
    from landscape.operator import MatrixOperator, SymmetricOperator
    from landscape.problem import Problem
    from landscape.problem.penalty import WeightDecay
    from landscape.problem.samples import LossEstimate
    from landscape.record import join_records, open_record
    from landscape.reporting.progress_bar import ProgressBar
    from landscape.spectrum.density import spectral_density
    from landscape.spectrum.diagonal import DiagonalEstimate, estimate_diagonal
    from landscape.spectrum.distribution import SpectralDensity
    from landscape.spectrum.eigenpairs import Eigenpairs, top_eigenpairs
    from landscape.spectrum.full import FullSpectrum, full_spectrum
    from landscape.spectrum.functions import NotDefiniteError, effective_dimension, log_det
    from landscape.spectrum.lanczos import LanczosDecomposition, lanczos
    from landscape.spectrum.trace import TraceEstimate, estimate_trace

_HOMES = {
    "landscape.checkpoint": ["Checkpoint", "read_checkpoint", "save_checkpoint"],
    "landscape.curvature.fisher": ["EmpiricalFisher", "ExactFisher", "MonteCarloFisher"],
    "landscape.curvature.gauss_newton": ["GaussNewton"],
    "landscape.curvature.hessian": ["Hessian"],
    "landscape.curvature.kinds": ["matrix"],
    "landscape.curvature.preconditioned": ["Preconditioned", "adam_diagonal"],
    "landscape.loops.untied": ["Loop", "untied"],
    "landscape.errors": ["InputError"],
    "landscape.groups": ["GroupComparison", "compare_groups"],
    "landscape.loops": ["LoopCurvature", "loop_curvature"],
    "landscape.measurements.runner": ["probe"],
    "landscape.measurements": [
        "CriticalSharpness",
        "Density",
        "Diagonal",
        "Dynamics",
        "EffectiveDimension",
        "Layers",
        "Learning",
        "LogDet",
        "Loops",
        "Loss",
        "Matrix",
        "Measurement",
        "NoiseScale",
        "Neighbourhood",
        "PerBatch",
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
        "trace_of",
    ],
    "landscape.operator": ["MatrixOperator", "SymmetricOperator"],
    "landscape.problem.penalty": ["WeightDecay"],
    "landscape.problem": ["Problem"],
    "landscape.reporting.progress_bar": ["ProgressBar"],
    "landscape.record": ["join_records", "open_record"],
    "landscape.problem.samples": ["LossEstimate"],
    "landscape.checks.slope": ["Slope", "check_slopes"],
    "landscape.live": ["Watch", "measuring", "watch"],
    "landscape.loading.source": ["Source", "load_problem"],
    "landscape.spectrum.density": ["spectral_density"],
    "landscape.spectrum.diagonal": ["DiagonalEstimate", "estimate_diagonal"],
    "landscape.spectrum.distribution": ["SpectralDensity"],
    "landscape.spectrum.eigenpairs": ["Eigenpairs", "top_eigenpairs"],
    "landscape.spectrum.full": ["FullSpectrum", "full_spectrum"],
    "landscape.spectrum.functions": ["NotDefiniteError", "effective_dimension", "log_det"],
    "landscape.spectrum.lanczos": ["LanczosDecomposition", "lanczos"],
    "landscape.spectrum.trace": ["TraceEstimate", "estimate_trace"],
}
_PACKAGES = ["dynamics", "live", "sampling", "slices", "valley"]
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Checkpoint",
    "CriticalSharpness",
    "Density",
    "Diagonal",
    "DiagonalEstimate",
    "Dynamics",
    "EffectiveDimension",
    "Eigenpairs",
    "EmpiricalFisher",
    "ExactFisher",
    "FullSpectrum",
    "GaussNewton",
    "GroupComparison",
    "Hessian",
    "InputError",
    "LanczosDecomposition",
    "Layers",
    "Learning",
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
    "Neighbourhood",
    "NoiseScale",
    "NotDefiniteError",
    "PerBatch",
    "Preconditioned",
    "Problem",
    "ProgressBar",
    "Samples",
    "SamplingError",
    "SelfCheck",
    "Slices1D",
    "Slices2D",
    "Slope",
    "Source",
    "SpectralDensity",
    "Spectrum",
    "Stability",
    "SymmetricOperator",
    "TopEigenpairs",
    "Trace",
    "TraceEstimate",
    "Valley",
    "ValleyHops",
    "Watch",
    "WeightDecay",
    "adam_diagonal",
    "check_slopes",
    "compare_groups",
    "density_of",
    "dynamics",
    "effective_dimension",
    "eigenpairs_of",
    "estimate_diagonal",
    "estimate_trace",
    "full_spectrum",
    "join_records",
    "lanczos",
    "live",
    "load_problem",
    "log_det",
    "loop_curvature",
    "matrix",
    "measuring",
    "open_record",
    "probe",
    "read_checkpoint",
    "sampling",
    "save_checkpoint",
    "slices",
    "spectral_density",
    "top_eigenpairs",
    "trace_of",
    "untied",
    "valley",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"landscape.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
