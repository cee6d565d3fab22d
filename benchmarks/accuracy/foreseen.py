"""``python -m benchmarks.accuracy.foreseen [MODEL...]``: plans by ``--plan`` against what the measurements took.

Each plan and each measurement runs in a process of its own, since a process's memory grows only once. The table has the
products that were planned and made, and the ratio of planned to taken time. For eigenpairs the table has the ratio of
planned to recorded memory too.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import torch
from cyclopts import App

from benchmarks.support.cases import CASES
from benchmarks.support.machine import this_machine
from benchmarks.support.tables import Table
from landscape.measurements import Density, History, Measurement, Spectrum, TopEigenpairs, Trace
from landscape.measurements.plan import Plan, plan_at
from landscape.problem import Problem
from landscape.reporting.progress_bar import ProgressBar

MODELS = ("toy", "looped-66k", "looped-270k", "gpt-900k", "resnet-20")
MEASUREMENTS: tuple[Measurement, ...] = (
    TopEigenpairs(), Trace(probes=50), Density(probes=2, steps=30), Spectrum()
)  # fmt: skip
SMALL = 2000  # most parameters for a full spectrum here
app = App(help="Compare the plan with what measurements take.", version_flags=[])


def posed(name: str, measurement: Measurement) -> tuple[Problem, Measurement]:
    """A model's problem, and the measurement with all its settings resolved for this problem."""
    torch.set_num_threads(1)
    problem = CASES[name][1]()
    return problem, measurement.resolve(problem, 1)


def planned(name: str, measurement: Measurement) -> Plan:
    """The plan of a measurement, without the function that makes the operator: this function can't be pickled."""
    problem, asked = posed(name, measurement)
    plan = plan_at(problem, [(asked, 1)])
    cost = plan.measurements[0].cost
    assert cost is not None
    object.__setattr__(cost, "operator", None)
    return plan


def taken(name: str, measurement: Measurement) -> tuple[int, float, float | None]:
    """Products and seconds of a measurement, and its recorded bytes beyond model and data (None if not recorded)."""
    problem, asked = posed(name, measurement)
    started = time.perf_counter()
    made = asked.measure(problem, ProgressBar(shown=False), History())
    return int(made.dataset.products), time.perf_counter() - started, made.choices.get("memory")


def row(name: str, measurement: Measurement) -> tuple[str, ...]:
    """The row of one model and one measurement."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        plan = pool.submit(planned, name, measurement).result()
        products, seconds, memory = pool.submit(taken, name, measurement).result()
    (entry,) = plan.measurements
    assert entry.cost is not None
    return (
        name,
        entry.measurement,
        f"{entry.cost.certainty} {entry.cost.products:,}",
        f"{products:,}",
        f"{entry.seconds / seconds:.2f}",
        f"{plan.memory / memory:.2f}" if memory else "",
    )


@app.default
def main(*models: str) -> int:
    """Print, as Markdown, a row for each model and measurement.

    Args:
        models: Names of models; default: toy, looped-66k, looped-270k, gpt-900k and resnet-20.
    """
    rows = []
    for name in models or MODELS:
        small = CASES[name][1]().layout.dim <= SMALL
        for measurement in MEASUREMENTS:
            if small or not isinstance(measurement, Spectrum):
                rows.append(row(name, measurement))
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)  # the larger models take minutes
    header = ("", "measurement", "products planned", "made", "time planned / taken", "memory planned / taken")
    title = "What --plan says against what a measurement takes, one thread"
    print(f"{this_machine(torch.device('cpu'))}\n\n{Table(title, header, rows).markdown()}")
    return 0


if __name__ == "__main__":
    sys.exit(app())
