"""Display of results on a screen and in a notebook."""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from decimal import ROUND_CEILING, Context
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Frames of tables are closed only in a monospaced font, with lines that touch.
_FRAME = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',Consolas,'Courier New',monospace\">{code}</pre>"
)


class HasSummary(ABC):
    """A result with a summary of a few lines, for a screen and a notebook; its repr has all its numbers."""

    @property
    @abstractmethod
    def summary(self) -> list[str]:
        """Lines of the summary, errors included."""

    def __str__(self) -> str:
        """The summary, as ``print`` shows it."""
        return "\n".join(self.summary)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The summary, as a notebook shows it."""
        return {"text/plain": str(self)}


def eigenvalue_table(
    eigenvalues: np.ndarray, intervals: np.ndarray, residuals: np.ndarray, converged: np.ndarray, arithmetic: str
) -> Table:
    """Table of eigenvalues (k,) with their intervals (k, 2) and residual norms (k,); see `landscape.Eigenpairs`."""
    caption = f"±: the matrix {arithmetic} has an eigenvalue this close"
    table = Table("#", "eigenvalue", "±", "relative residual", "converged", caption=caption, caption_justify="left")
    for column in table.columns[:4]:
        column.justify = "right"
    radii = np.abs(intervals - eigenvalues[:, None]).max(axis=1)
    for i, (value, radius, residual, good) in enumerate(zip(eigenvalues, radii, residuals, converged, strict=True), 1):
        relative = f"{residual / abs(value):.1e}" if value else "-"
        table.add_row(
            str(i), to_error(value, radius), f"{radius:.1e}", relative, "yes" if good else Text("NO", "bold red")
        )
    return table


def to_error(value: float, error: float) -> str:
    """A number to the digit of its error: rounding adds less than half the error; six digits if it is unknown."""
    digits = 6
    if value and 0 < error < math.inf:
        digits = min(max(3, math.ceil(math.log10(abs(value) / error)) + 1), 17)
    return f"{value:#.{digits}g}".rstrip(".")


def rounded_up(bound: float, digits: int) -> str:
    """An upper bound to ``digits`` digits, rounded up so that it is still a bound."""
    upwards = Context(prec=digits, rounding=ROUND_CEILING)
    return f"{float(upwards.create_decimal_from_float(float(bound))):.{digits - 1}e}"


def mimebundle(renderable: Any) -> dict[str, str]:
    """A rich renderable as plain text and as HTML, for a notebook."""
    # In a notebook rich would by itself display the printed text at once, and so show it twice.
    console = Console(record=True, file=io.StringIO(), width=100, force_jupyter=False)
    console.print(renderable)
    html = console.export_html(inline_styles=True, code_format=_FRAME, clear=False)
    return {"text/plain": console.export_text(), "text/html": html}
