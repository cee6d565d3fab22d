"""Analysis of a run of checkpoints: arrays in, numbers with their errors and nulls out, by NumPy and SciPy only.

`spectra` summarises one spectrum, and `information` compares two. `stability` measures how far an optimiser's steps are
from instability, and `crossing` finds when they first come there. `hops` and `displacement` find where a run's steps
go. `phases` classifies the course of a curve, and `learning` finds when samples are learnt. `inference` compares
several runs with several others.
"""

from landscape.dynamics.displacements import PARTS, Displacement, displacement
from landscape.dynamics.edge_of_stability import Stability, stability
from landscape.dynamics.hopping import Hops, fewest_updates, hops, verdicts
from landscape.dynamics.inference import Difference, MeanOfRuns, difference_of_means, holm, mean_of_runs
from landscape.dynamics.information import Information, joint_information, rank_paired_information
from landscape.dynamics.learning import (
    GroupCurves,
    Grouping,
    HalfSteps,
    Milestones,
    group_curves,
    half_steps,
    half_way,
    milestones,
)
from landscape.dynamics.phase_search import Phases, phases
from landscape.dynamics.spectra import Overlap, SpectrumMeasures, overlap, spectrum_measures
from landscape.dynamics.threshold_crossing import Crossing, crossing

__all__ = [
    "PARTS",
    "Crossing",
    "Difference",
    "Displacement",
    "GroupCurves",
    "Grouping",
    "HalfSteps",
    "Hops",
    "Information",
    "MeanOfRuns",
    "Milestones",
    "Overlap",
    "Phases",
    "SpectrumMeasures",
    "Stability",
    "crossing",
    "difference_of_means",
    "displacement",
    "fewest_updates",
    "group_curves",
    "half_steps",
    "half_way",
    "holm",
    "hops",
    "joint_information",
    "mean_of_runs",
    "milestones",
    "overlap",
    "phases",
    "rank_paired_information",
    "spectrum_measures",
    "stability",
    "verdicts",
]
