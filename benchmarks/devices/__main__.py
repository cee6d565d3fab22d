"""``python -m benchmarks.devices``: whether another device gives the CPU's numbers, and at what cost."""

from __future__ import annotations

import sys

import torch
from cyclopts import App
from rich.console import Console

from benchmarks.devices.agreement import Agreement, agreements
from benchmarks.devices.rates import orthogonalisation_rate, product_rate
from benchmarks.peers.products import operator_cost
from benchmarks.support.cases import gpt2_small, pose, untrained_gpt
from benchmarks.support.machine import this_machine
from benchmarks.support.plan import SMALL
from benchmarks.support.tables import Table
from landscape.errors import InputError
from landscape.machine.device import available_device
from landscape.problem import Problem

app = App(name="python -m benchmarks.devices", version_flags=[])


@app.default
def main(*, device: str = "cuda", samples: int = 256) -> int:
    """Compare all kinds of curvature on a device and on the CPU, in float32 and float64.

    The exit status is 1 if they disagree.

    Args:
        device: The device, such as cuda or cuda:1; cpu compares the CPU with itself.
        samples: Number of sequences of 32 predicted tokens in the data.
    """
    try:
        place = available_device(device)
        problems = {SMALL: pose(SMALL, samples), "untrained LoopedGPT": untrained_gpt(samples)}
        rows = [row for name, problem in problems.items() for row in agreements(name, problem, place)]
        console = Console(highlight=False)
        console.print(str(this_machine(place)))
        console.print(_agreement_table(rows, place).rich())
        console.print(_cost_table(problems, place).rich())
        console.print(_rates_table(problems, place).rich())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    disagreeing = [row for row in rows if not row.agrees]
    console.print(f"{len(rows) - len(disagreeing)} of {len(rows)} agree within the error")
    return int(bool(disagreeing))


def _agreement_table(rows: list[Agreement], device: torch.device) -> Table:
    cells = [
        (
            row.problem,
            row.dtype,
            row.quantity,
            f"{row.difference:.1e}",
            f"{row.allowed:.1e}",
            "yes" if row.agrees else "NO",
        )
        for row in rows
    ]
    header = ("problem", "dtype", "quantity", "relative difference", "error", "agrees")
    return Table(f"{device} against cpu", header, cells)


def _cost_table(problems: dict[str, Problem], device: torch.device) -> Table:
    cells = []
    for name, problem in problems.items():
        for dtype in (torch.float32, torch.float64):
            gradient_ms, product = operator_cost(problem.to(device, dtype), rounds=5)
            cells.append((name, _name(dtype), gradient_ms.show(".2f"), product.show(".2f")))
    header = ("problem", "dtype", "gradient, ms", "cached product, in gradients")
    return Table(f"Cost on {device}; median (range)", header, cells)


def _rates_table(problems: dict[str, Problem], device: torch.device) -> Table:
    """The table of rates on models that fill the device: on a GPU, GPT-2 small with 124 million parameters."""
    cpu = device.type == "cpu"
    side, cells = (1024, []) if cpu else (8192, [])
    problems = problems if cpu else {"GPT-2 small": gpt2_small(8, 512)}
    for name, problem in problems.items():
        there = problem.to(device, torch.float32)
        with there.evaluating():  # no TF32 in the plain matrix product either
            for rate in (product_rate(there, side, rounds=5), orthogonalisation_rate(there, rounds=5)):
                rates = (f"{each.show('.1f')} {rate.unit}" for each in (rate.reached, rate.most))
                cells.append((f"{name}, {rate.what}", *rates, f"{rate.share:.0%}"))
    per = " a second of processor time" if cpu else ""
    return Table(
        f"Rates on {device} in float32{per}; median (range)", ("", "reached", "of a plain one", "share"), cells
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    app()
