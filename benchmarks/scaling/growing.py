"""``python -m benchmarks.scaling.growing``: the time that a record takes while it grows with a training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import xarray as xr
from cyclopts import App

from benchmarks.support.machine import this_machine
from benchmarks.support.tables import Table
from benchmarks.support.timing import Spread
from landscape.record import GrowingRecord, open_record

app = App(help="Time the growth of a record: rows, flushes, reading, resuming and finishing.", version_flags=[])

ATTRS = {"units": "1", "long_name": "something measured"}
PROVENANCE = {"command": "train.py", "seed": 0, "versions": {"torch": "2.13", "numpy": "2.4"}, "seconds": 0.5}
COMMON = {"problem": "benchmark"}
ADD = "add a row"


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def a_row(step: int, scalars: int) -> xr.Dataset:
    """A row of scalars."""
    return xr.Dataset({f"scalar{number}": ((), float(step + number), ATTRS) for number in range(scalars)})


def grow(out: Path, rows: int, groups: int, rows_in_part: int, scalars: int) -> dict[str, list[float]]:
    """The seconds of each call while a record grows to this number of rows."""
    record = GrowingRecord(out, COMMON)
    names = [f"group{number}" for number in range(groups)]
    for name in names:
        record.declare(name, {})
    adds, flushes = [], []
    for step in range(rows // groups):
        row = a_row(step, scalars)
        for name in names:
            adds.append(seconds(partial(record.add, name, row, step, PROVENANCE)))
        if (step + 1) % (rows_in_part // groups) == 0:
            flushes.append(seconds(record.flush))
    reading = seconds(lambda: open_record(out).close())
    finishing = seconds(record.finish)
    resumed = GrowingRecord(out, COMMON)
    resuming = seconds(lambda: resumed.resume(rows // groups - 1))
    resumed.close()
    # Some flushes also merge small parts and take longer. Only the mean shows them.
    mean = sum(flushes) / len(flushes)
    return {
        ADD: adds,
        "flush, median": flushes,
        "flush, mean of all": [mean],
        "open the unfinished record": [reading],
        "finish": [finishing],
        "resume from the finished record": [resuming],
    }


@app.default
def main(*, groups: int = 5, rows_in_part: int = 100, scalars: int = 10) -> None:
    """Print, as Markdown, a line for each call and a column for each number of rows.

    Args:
        groups: Number of groups.
        rows_in_part: Number of rows between two flushes, of all groups together.
        scalars: Number of scalars in a row.
    """
    counts = (1000, 10_000, 40_000)
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in counts:
            taken.append(grow(Path(folder) / f"{rows}.h5", rows, groups, rows_in_part, scalars))
    rows_of_table = [
        (name, *(Spread.of(1e3 * each for each in one[name]).show(".2f" if name == ADD else ".0f") for one in taken))
        for name in taken[0]
    ]
    table = Table("Milliseconds of each call", ("", *(f"{rows} rows" for rows in counts)), rows_of_table)
    print(f"{this_machine(torch.device('cpu'))}\n\n{table.markdown()}")


if __name__ == "__main__":
    app()
