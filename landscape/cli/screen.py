"""What ``landscape-probe`` prints: tables for a person, JSON for a program."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

from landscape.reporting.messages import amount, counted, duration, printable

if TYPE_CHECKING:
    import xarray as xr

    from landscape.checks.closed_forms import Compared
    from landscape.checks.pyhessian import CrossCheck
    from landscape.measurements import Measurement as Asked
    from landscape.measurements.plan import Plan
    from landscape.measurements.runner import Result, Row


_WIDTH_OF_FILES = 120  # where there is no terminal to ask, so that names of layers aren't folded


class _Screen(Console):
    """Standard output: what is printed is text, not markup, and words are whole.

    In a notebook too, where rich would show each line as a result of its own.
    """

    def __init__(self) -> None:
        self._read_by_a_person = sys.stdout.isatty()
        width = None if self._read_by_a_person else _WIDTH_OF_FILES
        super().__init__(highlight=False, markup=False, emoji=False, width=width, force_jupyter=False)

    def line_of(self, text: str, style: str | None = None) -> None:
        """A line that is never broken, so that it can be copied: a path, JSON."""
        self.print(printable(text), style=style, soft_wrap=True)

    def sentence(self, text: str, style: str | None = None) -> None:
        """A line that is broken between words at a terminal's width, which would break it within them."""
        width = self.width if self._read_by_a_person else sys.maxsize
        for line in printable(text).split("\n"):
            for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]:
                self.line_of(part, style)

    def table(self, table: Table) -> None:
        """A table that breaks its cells between words alone; without a frame, and past the edge, where it must be."""
        cells = [[self._size(cell) for cell in (column.header, *column.cells)] for column in table.columns]
        whole = [max(cell.maximum for cell in column) for column in cells]
        for column, sizes in zip(table.columns, cells, strict=True):
            column.width = max(cell.minimum for cell in sizes)
        if self._size(table).minimum > self.width:
            table.box, table.padding, table.pad_edge = None, (0, 1, 0, 0), False
        for _ in range(self.width - self._size(table).minimum):  # to the columns that lack most
            lacking, column = max(
                ((most - (column.width or 0), column) for most, column in zip(whole, table.columns, strict=True)),
                key=lambda each: each[0],
            )
            column.width = (column.width or 0) + (lacking > 0)
        table.width = self._size(table).minimum
        self.print(table, crop=False)

    def _size(self, item: RenderableType) -> Measurement:
        """The width of the longest word of an item, and of all of it on one line, however wide the screen is."""
        return self.measure(item, options=self.options.update(width=sys.maxsize))

    def on_broken_pipe(self) -> None:
        """Leave it to whoever prints; rich would end the process."""
        raise  # noqa: PLE0704 - called while it is handled


def print_row(row: Row, measurements: Sequence[Asked], peer: CrossCheck | None = None) -> None:
    """The block of one checkpoint."""
    screen = _Screen()
    items = [item for m in measurements if m.name in row.data for item in m.show(row.data[m.name])]
    step = "" if row.step is None else f", step {row.step}"
    screen.line_of(f"\n{row.path}{step}", "bold")
    for note in row.notes:
        screen.sentence(f"note: {note}", "dim")
    for item in items:
        if isinstance(item, Table):
            screen.table(item)
        else:
            screen.sentence(str(item))
    if peer is not None:
        screen.table(_crosscheck_table(row.data["eigenpairs"], peer))
    for line in row.unmet_goals:
        screen.sentence(f"NOT CONVERGED: {line}", "bold red")


def print_record(result: Result, measurements: Sequence[Asked]) -> None:
    """Where the record is."""
    screen = _Screen()
    on = counted(result.threads, "thread")
    stored = f"measured on {on}" if result.measured else "complete already, nothing measured"
    screen.line_of(f"\nRecord: {result.path} ({stored})")
    if len(measurements) == 1:
        screen.sentence(
            "Other measurements: --hessian (top eigenvalues), --density, --trace; see landscape-probe --help"
        )


def print_json(result: Result, peers: Sequence[CrossCheck]) -> None:
    """One object with a row for each checkpoint."""
    rows = [
        {
            "checkpoint": {"path": row.path, "step": row.step, "sha256": row.sha256},
            "notes": row.notes,
            "unmet_goals": row.unmet_goals,
        }
        | {name: _numbers(data) for name, data in row.data.items()}
        | ({} if peer is None else {"pyhessian": peer.plain()})
        for row, peer in zip_longest(result.rows, peers)
    ]
    content = _without_nan({"record": str(result.path), "rows": rows})
    _Screen().line_of(json.dumps(content, indent=1, allow_nan=False))


def print_plan(plan: Plan) -> None:
    """A row for each measurement, and the time of all."""
    table = Table("measurement", "checkpoints", "products of each", "losses of each", "time of each")
    for column in table.columns[1:]:
        column.justify = "right"
    for each in plan.measurements:
        if each.cost is None:
            table.add_row(each.measurement, str(each.units), "unknown", "", "")
            continue
        word = "" if each.cost.certainty == "exactly" else f"{each.cost.certainty} "
        table.add_row(
            each.measurement,
            str(each.units),
            f"{word}{each.cost.products:,}" if each.cost.products else "0",
            f"{each.cost.losses:,}",
            duration(each.seconds),
        )
    screen = _Screen()
    screen.table(table)
    total = sum(each.units * each.seconds for each in plan.measurements if each.cost is not None)
    screen.sentence(
        f"Planned: {duration(total)} for the measurements with a known cost, from the time of one loss and one "
        f"product on this machine; {amount(plan.memory)} of memory beyond model and data. Nothing was measured or "
        "written."
    )


def print_plan_json(plan: Plan) -> None:
    """One object with an entry for each measurement."""
    entries = [
        {
            "measurement": each.measurement,
            "checkpoints": each.units,
            "products": each.cost and each.cost.products,
            "certainty": each.cost and each.cost.certainty,
            "losses": each.cost and each.cost.losses,
            "seconds": each.seconds,
        }
        for each in plan.measurements
    ]
    _Screen().line_of(json.dumps(_without_nan({"plan": entries, "memory": plan.memory}), indent=1, allow_nan=False))


def print_compared(compared: Sequence[Compared]) -> None:
    """A row for each quantity that is known in closed form."""
    table = Table("problem", "quantity", "error", "allowed", "right")
    for each in compared:
        table.add_row(
            each.case, each.quantity, f"{each.error:.1e}", f"{each.allowed:.1e}", "yes" if each.right else "NO"
        )
    screen = _Screen()
    screen.table(table)
    wrong = sum(not each.right for each in compared)
    screen.line_of(
        f"{wrong} of {len(compared)} results are WRONG on this machine"
        if wrong
        else "all results agree with their closed forms"
    )


def _numbers(row: xr.Dataset) -> dict[str, Any]:
    """The variables of a row that were measured."""
    left_out = {"step", "path", "sha256", "provenance", "checkpoint"}
    return {str(name): row[name].values.tolist() for name in row.variables if name not in left_out}


def _without_nan(value: Any) -> Any:
    """NaN and infinity as null, for JSON has neither."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _crosscheck_table(row: xr.Dataset, peer: CrossCheck) -> Table:
    table = Table(
        "#", "eigenvalue", "residual", "PyHessian", "residual", title="Comparison with PyHessian at its defaults"
    )
    for column in table.columns:
        column.justify = "right"
    ours = zip(row.eigenvalues.values, row.residuals.values, strict=True)
    theirs = zip(peer.eigenvalues, peer.residuals, strict=True)
    for i, ((value, residual), (their_value, their_residual)) in enumerate(zip(ours, theirs, strict=True), 1):
        table.add_row(str(i), f"{value:.6g}", f"{residual:.1e}", f"{their_value:.6g}", f"{their_residual:.1e}")
    seconds = json.loads(str(row.provenance.values))["seconds"]
    table.add_section()
    table.add_row(
        "", f"{int(row.products)} products", f"{seconds:.2f} s", f"{peer.products} products", f"{peer.seconds:.2f} s"
    )
    return table
