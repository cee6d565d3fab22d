"""Tables for the screen and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import rich.table
from scipy.stats import beta


@dataclass(frozen=True)
class Table:
    """A table of text, its first column the name of the row."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def rich(self) -> rich.table.Table:
        """The table for a terminal."""
        table = rich.table.Table(title=self.title, title_justify="left")
        for index, name in enumerate(self.header):
            table.add_column(name, justify="right" if index else "left", no_wrap=not index)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """The table for a Markdown document, with its title in bold above."""
        rule = ("---", *("---:" for _ in self.header[1:]))
        lines = "".join(f"| {' | '.join(line)} |\n" for line in (self.header, rule, *self.rows))
        return f"**{self.title}**\n\n{lines}"


def share_of(count: int, total: int) -> str:
    """A share in percent with the 95 % interval of Clopper and Pearson (1934)."""
    low = beta.ppf(0.025, count, total - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, total - count) if count < total else 1.0
    return f"{count / total:.1%} [{low:.1%}, {high:.1%}]"
