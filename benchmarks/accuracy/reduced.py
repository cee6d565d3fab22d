"""``python -m benchmarks.accuracy.reduced``: the time that products in bfloat16 save, and their loss of accuracy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from cyclopts import App
from rich.console import Console

from benchmarks.support.cases import CASES
from benchmarks.support.document import write as put
from benchmarks.support.machine import this_machine
from benchmarks.support.tables import Table
from benchmarks.support.timing import Spread, alternate
from landscape.curvature.hessian import Hessian
from landscape.curvature.reduced import ReducedHessian
from landscape.errors import InputError
from landscape.machine.device import available_device
from landscape.problem import Problem
from landscape.spectrum.eigenpairs import top_eigenpairs

app = App(name="python -m benchmarks.accuracy.reduced", version_flags=[])

_CASES = ("toy", "looped-66k", "looped-270k", "gpt-900k", "resnet-20")
_K, _ROUNDS = 10, 5
_HEADER = (
    "", "a product", "off by", "top 10", "products", "widest ± by eigenvalue", "largest error by it", "all within ±",
)  # fmt: skip


@app.default
def main(*cases: str, device: Literal["cpu", "cuda"] = "cpu", write: bool = False) -> int:
    """Compare products and top 10 eigenpairs in bfloat16 with those in float32, with one thread.

    Args:
        cases: Names of models; default: toy, looped-66k, looped-270k, gpt-900k and resnet-20.
        device: Device of all computations; CUDA_VISIBLE_DEVICES chooses the GPU.
        write: Write the table into docs/performance.md.
    """
    torch.set_num_threads(1)
    if wrong := [case for case in cases if case not in CASES]:
        print(f"error: there is no model {wrong[0]!r}; there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    try:
        place = available_device(device)
        rows = [_row(case, CASES[case][1]().to(place)) for case in cases or _CASES]
        table, machine = Table("In bfloat16, by float32; median (range)", _HEADER, rows), this_machine(place)
        Console(highlight=False).print(str(machine), table.rich(), sep="\n")
        if write:
            put(
                f"python -m benchmarks.accuracy.reduced --write{' --device cuda' * (device == 'cuda')}",
                machine,
                [table],
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _row(case: str, problem: Problem) -> tuple[str, ...]:
    full, reduced = Hessian(problem, route="cached"), ReducedHessian(problem, route="cached")
    vector = torch.randn(problem.layout.dim, generator=torch.Generator().manual_seed(0)).to(problem.vector)
    product = _ratio(partial(reduced.matvec, vector), partial(full.matvec, vector), _ROUNDS, problem.device)
    solve = _ratio(partial(top_eigenpairs, reduced, _K), partial(top_eigenpairs, full, _K), 3, problem.device)
    found, exact = top_eigenpairs(reduced, _K), top_eigenpairs(full, _K, tol=1e-4).eigenvalues
    size, off = np.abs(exact), np.abs(found.eigenvalues - exact)
    widths = found.intervals[:, 1] - found.eigenvalues
    return (
        case,
        product.show(".2f"),
        f"{reduced.error:.1%}",
        solve.show(".2f"),
        f"{found.products}, {top_eigenpairs(full, _K).products}",
        f"{(widths / size).max():.1%}",
        f"{(off / size).max():.2%}",
        "yes" if (off <= widths).all() else "NO",
    )


def _ratio(one: Callable[[], object], other: Callable[[], object], rounds: int, device: torch.device) -> Spread:
    """The time of one action divided by the time of the other, over rounds in which both run in turn."""
    return Spread.of(row["one"] / row["other"] for row in alternate({"one": one, "other": other}, rounds, device))


if __name__ == "__main__":
    app()
