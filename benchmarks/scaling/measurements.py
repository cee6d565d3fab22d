"""``python -m benchmarks.scaling.measurements``: what each measurement costs beside ten eigenpairs.

With its default settings, every measurement of one checkpoint is made in turn, in one process. Its processor time is
divided by that of the ten eigenpairs of the same round.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from cyclopts import App

from benchmarks.support.cases import ROOT
from benchmarks.support.machine import this_machine
from benchmarks.support.tables import Table
from benchmarks.support.timing import Spread
from landscape.loading.source import load_problem
from landscape.measurements import (
    Density,
    Diagonal,
    EffectiveDimension,
    History,
    Layers,
    LogDet,
    Loops,
    Measurement,
    NoiseScale,
    PerBatch,
    Samples,
    SamplingError,
    SelfCheck,
    Slices1D,
    Slices2D,
    Spectrum,
    TopEigenpairs,
    Trace,
    Valley,
)
from landscape.problem import Problem
from landscape.reporting.progress_bar import ProgressBar

UNIT = "--hessian"
MEASUREMENTS: dict[str, Measurement] = {
    UNIT: TopEigenpairs(),
    "--self-check": SelfCheck(),
    "--samples": Samples(),
    "--trace": Trace(),
    "--diagonal": Diagonal(),
    "--log-det 1": LogDet(alpha=1.0),
    "--effective-dimension 1": EffectiveDimension(alpha=1.0),
    "--per-layer": Layers(),
    "--per-batch 32": PerBatch(size=32),
    "--sampling-error": SamplingError(),
    "--noise-scale": NoiseScale(),
    "--loops": Loops(),
    "--slice 1d": Slices1D(),
    "--slice 2d": Slices2D(),
    "--valley": Valley(),
    "--density": Density(),
    "--spectrum": Spectrum(),
}
app = App(help="Compare the cost of each measurement with that of ten eigenpairs.", version_flags=[])


def taken(problem: Problem, measurement: Measurement) -> tuple[float, str]:
    """Seconds of the processor, and the products where the measurement counts them."""
    asked = measurement.resolve(problem, 1)
    started = time.process_time()
    made = asked.measure(problem, ProgressBar(shown=False), History()).dataset
    seconds = time.process_time() - started
    return seconds, f"{int(made.products):,}" if "products" in made and not made.products.ndim else ""


@app.default
def main(checkpoint: Path = ROOT / "data" / "looped.pt", *, rounds: int = 3) -> None:
    """Print, as Markdown, a line for each measurement.

    Args:
        checkpoint: What is measured.
        rounds: How often.
    """
    torch.set_num_threads(1)
    problem = load_problem(checkpoint)
    seconds: dict[str, list[float]] = {name: [] for name in MEASUREMENTS}
    products = dict.fromkeys(MEASUREMENTS, "")
    for _ in range(rounds):
        for name, measurement in MEASUREMENTS.items():
            once, products[name] = taken(problem, measurement)
            seconds[name].append(once)
    rows = []
    for name, found in seconds.items():
        ratios = Spread.of(one / unit for one, unit in zip(found, seconds[UNIT], strict=True))
        rows.append((f"`{name}`", products[name], Spread.of(found).show(".2f"), ratios.show(".1f")))
    header = ("", "products", "seconds of the processor", "times the ten eigenpairs")
    table = Table(f"Measurements of {checkpoint.name} with their default settings", header, rows)
    print(f"{this_machine(torch.device('cpu'))}\n\n{table.markdown()}")


if __name__ == "__main__":
    app()
