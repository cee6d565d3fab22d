"""Two processes against one: ``torchrun --standalone --nproc-per-node 2 -m benchmarks.scaling.processes``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from cyclopts import App
from torch import Tensor

from benchmarks.support import document
from benchmarks.support.cases import CASES
from benchmarks.support.machine import this_machine
from benchmarks.support.tables import Table
from benchmarks.support.timing import Spread
from landscape import Hessian, Problem, top_eigenpairs
from landscape.machine.processes import Processes, process_group

COMMAND = "torchrun --standalone --nproc-per-node 2 -m benchmarks.scaling.processes --write"
CASE = "looped-66k"
ENOUGH, CONTROL = 1.7, 1.8
"""Speed-up that two processes must reach, and the speed-up of two processes that exchange nothing.

If the latter isn't reached the machine was busy, and a missed speed-up says nothing.
"""


@dataclass(frozen=True)
class Times:
    """Seconds of a Hessian product, in each round.

    Attributes:
        one: time of one process, while the other waits.
        both: time of both processes, each with half of the data, with the sum over the processes.
        apart: time of the slower process, each with half of the data, without the sum.
        total: time of the sum alone.
    """

    one: list[float]
    both: list[float]
    apart: list[float]
    total: list[float]

    @property
    def speed_up(self) -> float:
        """Speed-up by two processes, from the shortest times of all rounds."""
        return min(self.one) / min(self.both)

    @property
    def control(self) -> float:
        """Speed-up without the sum over the processes, which is the most that the machine allows."""
        return min(self.one) / min(self.apart)

    @property
    def share(self) -> float:
        """Time of the sum as a fraction of the time of a product by both processes."""
        return min(self.total) / min(self.both)

    @property
    def verdict(self) -> str:
        """Whether the speed-up is reached, missed, or can't be judged because the machine was busy."""
        if self.speed_up >= ENOUGH:
            return "reached"
        return "missed" if self.control >= CONTROL else "inconclusive: the machine was busy"

    def table(self, case: str) -> Table:
        """The table of all times and ratios."""
        times = {"one process": self.one, "two processes": self.both,
                 "the same with nothing summed up": self.apart, "the sum alone": self.total}  # fmt: skip
        rows = [(what, Spread.of(1e3 * each for each in seconds).show(".1f")) for what, seconds in times.items()]
        rows += [
            ("speed-up", f"{self.speed_up:.2f}"),
            ("speed-up with nothing summed up", f"{self.control:.2f}"),
            ("the sum's share of a product", f"{self.share:.1%}"),
            (f"a speed-up of {ENOUGH}", self.verdict),
        ]
        title = f"A product of {case}, {len(self.one)} rounds, ms: median (range); ratios of the least"
        return Table(title, ("", ""), rows)


def times(problem: Problem, processes: Processes, rounds: int) -> Times:
    """Measure all times in turn; every process must call this function."""
    split = problem.distributed_over(processes)
    alone = split.local_shard().distributed_over(Processes())
    whole, part, half = (Hessian(each, route="cached") for each in (problem, split, alone))
    vector, sums = problem.vector, torch.zeros(problem.layout.dim, 1, dtype=torch.float64)
    found: dict[str, list[float]] = {name: [] for name in Times.__dataclass_fields__}
    actions: dict[str, Callable[[], object]] = {
        "one": lambda: whole.matvec(vector) if processes.first else None,
        "both": lambda: part.matvec(vector),
        "apart": lambda: half.matvec(vector),
        "total": lambda: processes.total(sums),
    }
    for _ in range(rounds):
        for name, action in actions.items():
            found[name].append(_longest(action, processes))
    return Times(**found)


def _longest(action: Callable[[], object], processes: Processes) -> float:
    """Wall-clock seconds of the slower process in the second of two runs; the processes begin a run together."""
    for _ in range(2):
        processes.total(torch.zeros(1))
        started = time.perf_counter()
        action()
        seconds = time.perf_counter() - started
    every = torch.zeros(processes.size, dtype=torch.float64)
    every[processes.rank] = seconds
    return float(processes.total(every).max())


def differences(problem: Problem, processes: Processes, k: int) -> dict[str, float]:
    """Differences of the results of all processes from those of one process, relative in the 2-norm."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        one = problem.to(dtype=dtype)
        split = one.distributed_over(processes)
        name = str(dtype).removeprefix("torch.")
        pairs = [top_eigenpairs(Hessian(each, route="cached"), k).eigenvalues for each in (one, split)]
        products = [Hessian(each, route="cached").matvec(one.vector) for each in (one, split)]
        found[f"a product, {name}"] = _apart(*products)
        found[f"top {k}, {name}"] = _apart(*map(torch.as_tensor, pairs))
    return found


def _apart(one: Tensor, several: Tensor) -> float:
    return float(torch.linalg.vector_norm(several - one) / torch.linalg.vector_norm(one))


app = App(name="python -m benchmarks.scaling.processes", version_flags=[])


@app.default
def main(*, case: str = CASE, rounds: int = 15, write: bool = False) -> int:
    """Compare two processes of one thread each with one process, on an idle machine.

    Args:
        case: Name of a model in benchmarks/support/cases.py.
        rounds: Number of rounds of timing.
        write: Write the tables into docs/performance.md.
    """
    if case not in CASES:
        print(f"error: there is no model {case!r}; there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    with process_group() as processes:
        if processes.size != 2:
            print(f"error: two processes are compared with one; start it by {COMMAND}", file=sys.stderr)
            return 2
        problem = processes.in_order(CASES[case][1])  # the first process may have to train the model
        taken = times(problem, processes, rounds)
        off = differences(problem, processes, 10)
        if processes.first:
            machine = this_machine(torch.device("cpu"))
            header = ("relative to one process", "difference")
            agreement = Table("Two processes agree with one", header, [(n, f"{v:.1e}") for n, v in off.items()])
            tables = [taken.table(case), agreement]
            print(machine)
            for table in tables:
                print(table.markdown())
            if write:
                document.write(COMMAND, machine, tables)
    return 0


if __name__ == "__main__":
    sys.exit(app())
