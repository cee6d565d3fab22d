"""The command ``python -m benchmarks.eigenpairs``: products, accuracy and time beside SciPy and PyHessian."""

from __future__ import annotations

import os
import sys

from cyclopts import App
from rich.console import Console

from benchmarks.plan import FULL, QUICK
from landscape.errors import InputError

app = App(name="python -m benchmarks.eigenpairs", version_flags=[])


@app.default
def main(*, quick: bool = False, write: bool = False) -> int:
    """Compare on a trained looped GPT with one thread: about six minutes of processor time.

    The GPT is trained first if it is missing, which takes another four.

    Args:
        quick: A small model, little data and two seeds: shows that everything runs, its figures mean nothing.
        write: Put the tables into docs/performance.md and the numbers into docs/performance.json.
    """
    if quick and write:
        print("error: the figures of --quick mean nothing: leave out --write", file=sys.stderr)
        return 2
    # Before NumPy and SciPy are imported, whose libraries read it then.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    from benchmarks.report import measure, store

    try:
        report = measure(QUICK if quick else FULL)
        console = Console(highlight=False)
        console.print(str(report.machine))
        for table in report.tables():
            console.print(table.rich())
        if write:
            store(report)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    app()
