"""Slices of the loss: along lines and over planes through a point of parameter space."""

from landscape.slices.directions import (
    Direction,
    gaussian,
    gradient_direction,
    normalised,
    orthogonalised,
    toward,
    towards,
    unit,
)
from landscape.slices.extent import Extent, find_extent, natural_scale
from landscape.slices.lines import Line, line
from landscape.slices.path import Path, Principal, principal_components, project, random_walk_shares
from landscape.slices.planes import Plane, plane

__all__ = [
    "Direction",
    "Extent",
    "Line",
    "Path",
    "Plane",
    "Principal",
    "find_extent",
    "gaussian",
    "gradient_direction",
    "line",
    "natural_scale",
    "normalised",
    "orthogonalised",
    "plane",
    "principal_components",
    "project",
    "random_walk_shares",
    "toward",
    "towards",
    "unit",
]
