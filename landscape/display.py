"""What results look like on a screen and in a notebook."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


def eigenvalue_table(eigenvalues: np.ndarray, residuals: np.ndarray, converged: np.ndarray, rounding: float) -> Table:
    """Eigenvalues with their errors: residual and rounding together bound the distance to the nearest eigenvalue."""
    table = Table("#", "eigenvalue", "±", "relative residual", "converged", title_justify="left")
    for column in table.columns[:4]:
        column.justify = "right"
    for i, (value, residual, good) in enumerate(zip(eigenvalues, residuals, converged, strict=True), 1):
        relative = f"{residual / abs(value):.1e}" if value else "-"
        table.add_row(
            str(i), f"{value:.6g}", f"{residual + rounding:.1e}", relative, "yes" if good else "[bold red]NO[/]"
        )
    return table


def mimebundle(renderable: Any) -> dict[str, str]:
    """A rich renderable as plain text and as HTML, for a notebook."""
    console = Console(record=True, file=io.StringIO(), width=100)
    console.print(renderable)
    html = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>", clear=False)
    return {"text/plain": console.export_text(), "text/html": html}
