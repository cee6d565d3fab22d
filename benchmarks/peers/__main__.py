"""``python -m benchmarks.peers``: products, eigenpairs, planes and memory, compared with other libraries."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Literal

from cyclopts import App
from rich.console import Console

from benchmarks.support.plan import FULL, QUICK
from landscape.errors import InputError

app = App(name="python -m benchmarks.peers", version_flags=[])


@app.default
def main(*rows: str, device: Literal["cpu", "cuda"] = "cpu", quick: bool = False, write: bool = False) -> int:
    """Compare libraries on several models with one thread; models that aren't shipped are trained first.

    Args:
        rows: Names of models; default: all of the plan.
        device: Device of all libraries; CUDA_VISIBLE_DEVICES chooses the GPU.
        quick: Use one small model, little data and one seed. This shows that everything runs; the figures mean nothing.
        write: Write each model's figures, once measured, into docs/performance.md, its JSON file and its picture.
    """
    plan = QUICK if quick else FULL
    known = [row.case for row in plan.rows]
    wrong = [row for row in rows if row not in known]
    if quick and write:
        print("error: the figures of --quick mean nothing: leave out --write", file=sys.stderr)
        return 2
    if wrong:
        print(f"error: there is no model {wrong[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    # NumPy's and SciPy's libraries read these variables when they are imported, which is below.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    from benchmarks.peers.report import measure, store
    from landscape.machine.device import available_device

    try:
        console = Console(highlight=False)
        for row in plan.rows:
            if rows and row.case not in rows:
                continue
            report = measure(replace(plan, rows=(row,)), available_device(device))
            console.print(str(report.machine))
            for table in report.tables():
                console.print(table.rich())
            if write:
                store(report)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; of the model that was being measured nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    app()
