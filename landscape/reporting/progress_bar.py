"""A progress bar for long solves, on a terminal (standard error) or in a notebook, and lines where there is neither."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

import numpy as np
from rich import progress as bars
from rich.console import Console
from rich.table import Column

from landscape.reporting.messages import duration
from landscape.reporting.progress import Progress

SILENT = 10.0  # seconds of a run before its first line


class ProgressBar:
    """Shows the number of products, the largest residual and the time left; called with each `Progress` of a solve.

        with landscape.ProgressBar() as bar:
            pairs = landscape.top_eigenpairs(problem.hessian(), 10, progress=bar)

    The part done is judged by how far the residuals have fallen, so the time left is an estimate, marked "about". The
    time that later measurements take is estimated from the measurements of the same name that are finished.
    Where standard error is neither a terminal nor a notebook's, nothing is shown, or a line for each finished
    measurement.
    """

    def __init__(self, label: str = "", *, shown: bool = True, lines: str = "") -> None:
        """Prepare a bar.

        Args:
            label: in front of the bar.
            shown: False makes a bar that stays silent.
            lines: where no bar can be drawn, print a line that begins with this word for each measurement that is
                finished later than `SILENT` seconds after the start; default: none.
        """
        console = Console(stderr=True)
        self._bar = bars.Progress(
            # No markup: a file may be called "a[/b].pt". The widths add up to less than 80 columns.
            bars.TextColumn("{task.description}", markup=False, table_column=Column(max_width=20, no_wrap=True)),
            bars.BarColumn(bar_width=4),
            bars.TextColumn("{task.fields[detail]}", markup=False),
            bars.TextColumn("about"),
            bars.TimeRemainingColumn(compact=True),
            bars.TextColumn("{task.fields[later]}", markup=False),
            console=console,
            transient=True,
            disable=not (shown and (console.is_terminal or console.is_jupyter)),
        )
        self._task = self._bar.add_task(label, total=1.0, detail="", later="")
        self._lines = lines if shown and self._bar.disable else ""
        self._begun = time.monotonic()
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def unit(self, measurement: str, checkpoint: str, number: int = 1, later: Sequence[str] = ()) -> Iterator[None]:
        """Show one measurement of one checkpoint, as long as the block runs.

        Args:
            measurement: its name.
            checkpoint: its name.
            number: of the measurement among all that are made.
            later: the names of the measurements that follow.
        """
        with suppress(OSError):  # a terminal that is gone is no reason to end
            self._bar.reset(
                self._task,
                description=f"{number}/{number + len(later)} {checkpoint} {measurement}",
                detail="",
                later=self._later(later, "+ "),
                total=1.0,
            )
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self._seconds.setdefault(measurement, []).append(seconds)
        if self._lines and time.monotonic() - self._begun > SILENT:
            done = f"{number} of {number + len(later)} measured: {measurement} of {checkpoint} in {duration(seconds)}"
            with suppress(OSError):
                print(f"{self._lines}: {done}{self._later(later, '; left: ')}", file=sys.stderr, flush=True)

    def _later(self, measurements: Sequence[str], prefix: str) -> str:
        """How long these measurements will take, where one of each name is finished."""
        known = [np.mean(self._seconds[name]) for name in measurements if name in self._seconds]
        if not known:
            return ""
        return f"{prefix}{'' if len(known) == len(measurements) else 'more than '}{duration(float(sum(known)))}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar off the screen while something else is printed."""
        drawn = self._bar.live.is_started
        if drawn:
            with suppress(OSError):
                self._bar.stop()
        yield
        if drawn:
            with suppress(OSError):
                self._bar.start()

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
