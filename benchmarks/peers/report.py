"""All measurements of the benchmark: as tables, as a picture, in the documentation and as JSON.

All measurements of one model are made in one run. Different models may be measured in different runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from cattrs import structure, unstructure
from matplotlib.figure import Figure

from benchmarks.peers.memory import Memory, memory_of
from benchmarks.peers.products import ProductCosts, product_costs
from benchmarks.peers.slices import PlaneCosts, plane_costs
from benchmarks.peers.solvers import OFF, SolverSummary, compare_solvers
from benchmarks.support import document
from benchmarks.support.cases import CASES, ROOT
from benchmarks.support.machine import Machine, this_machine, today
from benchmarks.support.plan import Plan, Row
from benchmarks.support.tables import Table
from landscape.figures import COLOURS, styled
from models.settings import replace_text

COMMAND = "python -m benchmarks.peers --write"
ON_GPU = f"{COMMAND} --device cuda"
FOLDER = ROOT / "docs" / "figures"


@dataclass(frozen=True)
class RowReport:
    """The measurements of one model.

    Attributes:
        case: name of the model's case.
        date: date in UTC.
        processor: name of the processor.
        costs: costs of products.
        solvers: all solvers for each number of eigenpairs.
        plane: costs of a plane; None if the plan has none.
        memory: memory of the case; None where memory can't be measured.
    """

    case: str
    date: str
    processor: str
    costs: ProductCosts
    solvers: list[SolverSummary]
    plane: PlaneCosts | None
    memory: Memory | None


@dataclass(frozen=True)
class Report:
    """The measurements of several models on one machine."""

    machine: Machine
    rows: list[RowReport]

    def beside(self, earlier: Report) -> Report:
        """This report with the other models of an earlier report, if versions and device are equal.

        All ratios and products of one model are of one run. Each model has the processor of its run.
        """
        if (earlier.machine.device, earlier.machine.versions) != (self.machine.device, self.machine.versions):
            return self
        known = {row.case: row for row in (*earlier.rows, *self.rows)}
        return replace(self, rows=[known[case] for case in CASES if case in known])

    def tables(self) -> list[Table]:
        """All tables of the report."""
        tables = [
            _products_table(self.rows),
            *(_solvers_table(row) for row in self.rows),
        ]
        planes = [row.plane for row in self.rows if row.plane]
        memory = [row.memory for row in self.rows if row.memory]
        where = "" if self.machine.device == "cpu" else ", of the GPU alone"
        return tables + ([_planes_table(planes)] if planes else []) + ([_memory_table(memory, where)] if memory else [])

    def figure(self) -> Figure:
        """A figure of the seconds that every solver takes for ten eigenpairs, or for the nearest number.

        Solvers whose residuals exceed the tolerance are pale.
        """
        with styled("paper"):
            figure = Figure(figsize=(6.9, 2.8), layout="constrained")
            axes = figure.subplots()
            names = list(dict.fromkeys(each.solver for row in self.rows for each in row.solvers))
            for place, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
                for at, row in enumerate(self.rows):
                    k = min({each.k for each in row.solvers}, key=lambda each: abs(each - 10))
                    for each in row.solvers:
                        if (each.solver, each.k) == (name, k):
                            taken = each.seconds
                            style: dict[str, Any] = {"color": colour, "alpha": 1.0 if each.meets_tolerance else 0.4}
                            style |= {"fmt": "o", "label": name if at == 0 else None}
                            reach = [[taken.median - taken.least], [taken.most - taken.median]]
                            axes.errorbar(at + 0.13 * (place - 2.5), taken.median, reach, **style)
            axes.set(yscale="log", ylabel="seconds to ten eigenpairs", xticks=range(len(self.rows)))
            axes.set_xticklabels([row.case for row in self.rows])
            axes.set_xlim(-0.5, len(self.rows) - 0.5)
            figure.legend(loc="outside right center", title="pale: residuals above 1e-3", fontsize="small")
        return figure


def measure(plan: Plan, device: torch.device) -> Report:
    """Carry out a plan, on the CPU with one thread.

    Raises:
        InputError: a checkpoint is missing and could not be made.
    """
    torch.set_num_threads(1)
    machine = this_machine(device)
    return Report(machine, [_measured(row, plan.seeds, device, machine.processor) for row in plan.rows])


def _measured(row: Row, seeds: int, device: torch.device, processor: str) -> RowReport:
    problem = CASES[row.case][1]().to(device)
    return RowReport(
        case=row.case,
        date=today(),
        processor=processor,
        costs=product_costs(row.case, problem, row.rounds),
        solvers=[each for k in row.ks for each in compare_solvers(problem, k, seeds, row.reaching and k == 10)],
        plane=plane_costs(row.case, problem, row.points, 3) if row.points else None,
        memory=memory_of(row.case, 10 if 10 in row.ks else row.ks[-1], device),
    )


def store(report: Report) -> None:
    """Write tables, numbers and picture into the documentation, beside those of other models.

    Raises:
        InputError: the document has no place for the tables.
    """
    on = "" if report.machine.device == "cpu" else "-gpu"
    command, numbers = ON_GPU if on else COMMAND, ROOT / "docs" / f"performance{on}.json"
    if numbers.exists():
        report = report.beside(structure(json.loads(numbers.read_text(encoding="utf-8")), Report))
    document.write(command, report.machine, report.tables())
    replace_text(numbers, json.dumps(unstructure(report), indent=1) + "\n")
    report.figure().savefig(FOLDER / f"performance{on}.png", dpi=200, metadata={"Source": command})


def _products_table(measured: list[RowReport]) -> Table:
    """The table of costs: a column for each model, a row for each computation."""
    costs = [row.costs for row in measured]
    ways = list(dict.fromkeys(cost.what for each in costs for cost in each.costs))
    found = [{cost.what: cost.gradients.show(".2f") for cost in each.costs} for each in costs]
    seconds = list(dict.fromkeys(route for each in costs for route in each.set_up_seconds))
    rows = [
        ("measured", *(f"{row.date}, {row.processor}" for row in measured)),
        ("parameters", *(f"{each.parameters:,}" for each in costs)),
        ("samples", *(str(each.samples) for each in costs)),
        ("a plain gradient, ms", *(each.gradient_ms.show(".1f") for each in costs)),
        *((way, *(each.get(way, "none") for each in found)) for way in ways),
        *(
            (f"route {route}, set-up, s", *(f"{each.set_up_seconds.get(route, float('nan')):.1f}" for each in costs))
            for route in seconds
        ),
    ]
    return Table("Costs in gradients; median (range)", ("", *(each.case for each in costs)), rows)


def _solvers_table(row: RowReport) -> Table:
    rows = [
        (
            f"top {each.k}, {each.solver}",
            each.products.show(".0f"),
            each.products_verification.show(".0f"),
            each.seconds.show(".1f"),
            each.set_up.show(".1f"),
            each.relative_residual.show(".1e"),
            "yes" if each.meets_tolerance else "NO",
            each.error.show(".0e"),
            each.off.show(".0f"),
            each.out_of_order.show(".0f"),
        )
        for each in row.solvers
    ]
    header = (
        "", "products", "of them to verify", "seconds", "of them set-up", "worst relative residual", "all within 1e-3",
        "worst error", f"off by > {OFF:.0%}", "misplaced",
    )  # fmt: skip
    return Table(f"{row.case}: {CASES[row.case][0]}; median (range) over seeds", header, rows)


def _planes_table(planes: list[PlaneCosts]) -> Table:
    ways = list(planes[0].ratios)
    rows = [
        (
            f"{each.case}, {each.points} x {each.points}",
            each.seconds.show(".2f"),
            *(each.ratios[way].show(".3f") for way in ways),
        )
        for each in planes
    ]
    header = ("", "bare forward passes, s", *(f"{way}, by these" for way in ways))
    return Table("A plane of the loss beside as many bare forward passes; median (range)", header, rows)


def _memory_table(memory: list[Memory], where: str) -> Table:
    solvers = list(memory[0].solves)
    rows = [
        (each.case, *(f"{n / 1e6:.0f}" for n in (each.counted, each.held, each.products, *each.solves.values())))
        for each in memory
    ]
    header = ("", "graphs, counted", "held", "at the peak", *(f"a solve, {name}" for name in solvers))
    return Table(f"Memory beyond model and data, MB{where}", header, rows)
