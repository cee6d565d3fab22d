"""Everything that one run of the benchmark measured: as tables, as a section of the documentation and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch

from benchmarks.cases import ROOT, pose, train_if_missing
from benchmarks.machine import Machine, this_machine
from benchmarks.memory import GraphMemory, graph_memory
from benchmarks.plan import Plan
from benchmarks.products import ProductCosts, product_costs
from benchmarks.solvers import OFF, SolverSummary, compare_solvers
from benchmarks.tables import Table
from landscape.errors import InputError
from models.settings import replace_text

DOCUMENT, NUMBERS = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.json"
BEGIN, END = "<!-- begin: python -m benchmarks.eigenpairs --write -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Report:
    """What was measured where, and the plan it followed."""

    machine: Machine
    plan: Plan
    solvers: list[SolverSummary]
    costs: list[ProductCosts]
    memory: list[GraphMemory]

    def tables(self) -> list[Table]:
        """All of it, for a person."""
        data = f"{self.plan.checkpoint}, {self.plan.samples} sequences"
        tables = [_products_table(self.solvers, data), _accuracy_table(self.solvers, data)]
        tables += [_costs_table(costs) for costs in self.costs]
        return [*tables, _memory_table(self.memory)] if self.memory else tables


def measure(plan: Plan) -> Report:
    """Carry out a plan with one thread.

    Raises:
        InputError: a checkpoint is missing and could not be made.
    """
    torch.set_num_threads(1)
    train_if_missing(plan.checkpoint)
    memory = [graph_memory(checkpoint, plan.cost_samples) for checkpoint in plan.costs]
    return Report(
        machine=this_machine(torch.device("cpu")),
        plan=plan,
        costs=[product_costs(path, pose(path, plan.cost_samples), rounds) for path, rounds in plan.costs.items()],
        solvers=compare_solvers(pose(plan.checkpoint, plan.samples), plan.seeds, plan.pyhessian_seeds),
        memory=[measured for measured in memory if measured is not None],
    )


def store(report: Report) -> None:
    """Put the tables and the numbers into the documentation.

    Raises:
        InputError: the document has no place for the tables.
    """
    document = insert(DOCUMENT.read_text(encoding="utf-8"), report)
    replace_text(NUMBERS, json.dumps(asdict(report), indent=1) + "\n")
    replace_text(DOCUMENT, document)


def insert(document: str, report: Report) -> str:
    """A document with the tables between the two markers, in place of what stood there.

    Raises:
        InputError: a marker is missing.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{DOCUMENT.name} has no place for the tables: put {BEGIN.strip()} and {END.strip()} into it")
    tables = "\n".join(table.markdown() for table in report.tables())
    return f"{before}{BEGIN}\n{report.machine}\n\n{tables}\n{END}{after}"


def _products_table(solvers: list[SolverSummary], data: str) -> Table:
    rows = [
        (
            each.solver,
            str(each.seeds),
            each.products_search.show(".0f"),
            each.products_verification.show(".0f"),
            each.products.show(".0f"),
            each.seconds.show(".1f"),
        )
        for each in solvers
    ]
    header = ("solver", "seeds", "products to find", "to verify", "together", "seconds")
    return Table(f"Products: top 10 at 1e-3, {data}; median (range)", header, rows)


def _accuracy_table(solvers: list[SolverSummary], data: str) -> Table:
    rows = [
        (
            each.solver,
            each.relative_residual.show(".1e"),
            "yes" if each.meets_tolerance else "NO",
            each.error.show(".0e"),
            each.off.show(".0f"),
            each.out_of_order.show(".0f"),
        )
        for each in solvers
    ]
    header = ("solver", "worst relative residual", "all within 1e-3", "worst error", f"off by > {OFF:.0%}", "misplaced")
    return Table(f"Accuracy of the ten eigenvalues of a run, {data}; median (range)", header, rows)


def _costs_table(costs: ProductCosts) -> Table:
    unit = f"one is {costs.gradient_ms.show('.1f')} ms"
    title = f"In gradients: {costs.problem}, {costs.parameters} parameters, {costs.samples} sequences; {unit}"
    return Table(title, ("", "gradients"), [(cost.what, cost.gradients.show(".2f")) for cost in costs.costs])


def _memory_table(memory: list[GraphMemory]) -> Table:
    rows = [
        (f"{each.problem}, {each.samples} sequences", *(f"{n / 1e6:.0f}" for n in (each.counted, each.held, each.peak)))
        for each in memory
    ]
    return Table("Memory of the kept graphs, MB", ("", "counted before", "held", "at the peak"), rows)
