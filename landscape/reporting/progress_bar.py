"""A progress bar for long solves, on a terminal (standard error) or in a notebook."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np
from rich import progress as bars
from rich.console import Console
from rich.table import Column

from landscape.reporting.progress import Progress


class ProgressBar:
    """Shows the number of products, the largest residual and the time left; called with each `Progress` of a solve.

        with landscape.ProgressBar() as bar:
            pairs = landscape.top_eigenpairs(problem.hessian(), 10, progress=bar)

    The fraction done is estimated from the fall of the residuals. So the time left is an estimate too, marked "about".
    Where standard error is neither a terminal nor a notebook's, nothing is shown.
    """

    def __init__(self, label: str = "", *, shown: bool = True) -> None:
        """Prepare a bar with a label in front; with ``shown=False`` the bar stays silent."""
        console = Console(stderr=True)
        self._bar = bars.Progress(
            # No markup: a file may be called "a[/b].pt". The widths add up to less than 80 columns.
            bars.TextColumn("{task.description}", markup=False, table_column=Column(max_width=20, no_wrap=True)),
            bars.BarColumn(bar_width=8),
            bars.TextColumn("{task.fields[detail]}", markup=False),
            bars.TextColumn("about"),
            bars.TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not (shown and (console.is_terminal or console.is_jupyter)),
        )
        self._task = self._bar.add_task(label, total=1.0, detail="")

    def label(self, text: str) -> None:
        """Begin another piece of work under another label."""
        with suppress(OSError):  # a closed terminal must not end the work
            self._bar.reset(self._task, description=text, detail="", total=1.0)

    def __call__(self, progress: Progress) -> None:
        """Show the progress of a solve."""
        worst = f", residual {np.max(progress.residuals):.0e}" if len(progress.residuals) else ""
        detail = f"{progress.phase} {progress.products} {progress.counted}{worst}"
        with suppress(OSError):
            self._bar.update(self._task, completed=progress.fraction, detail=detail)

    def __enter__(self) -> Self:
        """Start drawing."""
        with suppress(OSError):
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bar."""
        if not self._bar.disable:  # rich before 15 ends even a hidden bar with an empty line
            with suppress(OSError):
                self._bar.stop()
