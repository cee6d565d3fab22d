"""The shape of the valleys at the end of training on algorithmic tasks: top eigenvalues, trace, and walls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import landscape
from analysis.support.runs import measuring_units
from analysis.support.study import Results, Scale
from analysis.support.units import Unit
from landscape.measurements.valley import HEIGHTS
from models.settings import TrainingSettings, checkpoints_of, step_of

STEPS = (1000,)
"""Steps at which curvature is measured, in addition to the last step.

The start is left out. The trace is near zero there, and a relative error of a tenth would take more products than all
other measurements.
"""


def shape_units(scale: Scale, arms: Mapping[str, TrainingSettings], seeds: int) -> list[Unit]:
    """Units that measure the shapes of all arms and seeds, named by ``shape``, arm and seed."""
    return measuring_units(
        scale.runs, dict(arms), seeds, "shape", measure, steps=scale.pick(STEPS, (4,)), directions=scale.pick(5, 1),
        k=scale.pick(10, 2),
    )  # fmt: skip


def measure(folder: str, steps: tuple[int, ...], directions: int, k: int) -> dict[str, Any]:
    """Measure the k largest eigenvalues and the trace at some steps and at the last, and the valley at the last."""
    *before, last = checkpoints_of(Path(folder))
    chosen = [*(path for path in before if step_of(path) in steps), last]
    pairs, trace = landscape.TopEigenpairs(k, "LA"), landscape.Trace(0.1)
    asked = [landscape.Loss(), pairs, trace, landscape.Valley(directions)]
    result = landscape.probe(chosen, asked, Path(folder) / f"shape-{directions}.landscape.h5", at=(-1,))
    rows = [row.data for row in result.rows]
    valley = rows[-1]["valley"]
    return {
        "steps": [step_of(path) for path in chosen],
        "eigenvalues": [each["eigenpairs"].eigenvalues.values.tolist() for each in rows],
        "effective_rank": [float(each["trace"].trace ** 2 / each["trace"].frobenius ** 2) for each in rows],
        "loss": [float(each["loss"].loss) for each in rows],
        "exponents": valley.exponent.values.tolist(),
        "labels": valley.label.values.tolist(),
    }


def shapes_of(found: Results, arms: Mapping[str, TrainingSettings], seeds: int) -> xr.Dataset:
    """All shapes by arm and seed; the variables' names begin with ``shape_``."""
    rows = [[found[f"shape-{arm}-{seed}"] for seed in range(seeds)] for arm in arms]
    dimensions = {
        "eigenvalues": ("measured", "rank"),
        "effective_rank": ("measured",),
        "loss": ("measured",),
        "exponents": ("direction", "height"),
        "labels": ("direction", "height"),
    }
    variables = {
        f"shape_{name}": (("shaped", "seed", *more), np.array([[each[name] for each in row] for row in rows]))
        for name, more in dimensions.items()
    }
    coordinates = {"shaped": list(arms), "measured": rows[0][0]["steps"], "height": list(HEIGHTS)}
    return xr.Dataset(variables, coordinates)
