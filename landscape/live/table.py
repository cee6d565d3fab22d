"""The latest numbers of a watch as a table that follows the training, in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from rich.console import Console
from rich.live import Live
from rich.table import Table


class LiveTable:
    """A table with a line for each number: its name, the step of its latest value, the value and the one before."""

    def __init__(self, console: Console | None = None) -> None:
        """Show nothing yet.

        Args:
            console: where to draw; default: the standard error.
        """
        self._latest: dict[str, tuple[int, float, float | None]] = {}
        self._live = Live(console=console or Console(stderr=True), auto_refresh=False, transient=False)

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of a step, and draw the table anew."""
        for name, value in numbers.items():
            before = self._latest.get(name)
            self._latest[name] = step, value, None if before is None else before[1]
        with suppress(OSError):  # a terminal that is gone is no reason to end a training
            self._live.start()
            self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """The table of the latest numbers."""
        table = Table("number", "step", "value", "before")
        for column in table.columns[1:]:
            column.justify = "right"
        for name, (step, value, before) in self._latest.items():
            table.add_row(name, str(step), f"{value:.5g}", "" if before is None else f"{before:.5g}")
        return table

    def close(self) -> None:
        """Leave the last table on the screen, and stop drawing."""
        with suppress(OSError):
            self._live.stop()
