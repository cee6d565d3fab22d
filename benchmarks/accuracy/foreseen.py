"""``python -m benchmarks.accuracy.foreseen [MODEL...]``: what ``--plan`` says, against what the measurements took.

Each measurement is planned and made on each model, in one process: products, the time as a ratio in this run, and for
eigenpairs the memory that the solve recorded.
"""

from __future__ import annotations

import sys
import time

import torch
from cyclopts import App

from benchmarks.support.cases import CASES
from benchmarks.support.machine import this_machine
from benchmarks.support.tables import Table
from landscape.measurements import Density, History, Measurement, Spectrum, TopEigenpairs, Trace
from landscape.measurements.plan import planned_at
from landscape.problem import Problem
from landscape.reporting.progress_bar import ProgressBar

MODELS = ("toy", "looped-66k", "looped-270k", "gpt-900k", "resnet-20")
MEASUREMENTS = (TopEigenpairs(), Trace(probes=50), Density(probes=2, steps=30), Spectrum())
SMALL = 2000  # most parameters for a full spectrum here
app = App(help="Compare the plan with what measurements take.", version_flags=[])


def row(name: str, problem: Problem, measurement: Measurement) -> tuple[str, ...]:
    """One line of the table."""
    asked = measurement.resolve(problem, 1)
    started = time.perf_counter()
    problem.evaluate()
    planned = planned_at(problem, asked, 1, time.perf_counter() - started)
    assert planned.cost is not None
    started = time.perf_counter()
    made = asked.measure(problem, ProgressBar(shown=False), History())
    seconds = time.perf_counter() - started
    taken = made.choices.get("memory")
    return (
        name,
        asked.name,
        f"{planned.cost.certainty} {planned.cost.products:,}",
        f"{int(made.dataset.products):,}",
        f"{planned.seconds / seconds:.2f}",
        f"{planned.memory / taken:.2f}" if taken else "",
    )


@app.default
def main(*models: str) -> int:
    """Print, as Markdown, a line for each model and measurement."""
    torch.set_num_threads(1)
    rows = []
    for name in models or MODELS:
        problem = CASES[name][1]()
        for measurement in MEASUREMENTS:
            if not isinstance(measurement, Spectrum) or problem.layout.dim <= SMALL:
                rows.append(row(name, problem.to(), measurement))
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)  # the larger models take minutes
    header = ("", "measurement", "products planned", "made", "time planned / taken", "memory planned / taken")
    title = "What --plan says against what a measurement takes, one thread"
    print(f"{this_machine(torch.device('cpu'))}\n\n{Table(title, header, rows).markdown()}")
    return 0


if __name__ == "__main__":
    sys.exit(app())
