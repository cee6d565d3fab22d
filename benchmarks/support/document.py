"""The tables of benchmarks in the documentation: between two markers, the first of which names the command."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.support.cases import ROOT
from benchmarks.support.machine import Machine
from benchmarks.support.tables import Table
from landscape.errors import InputError
from models.settings import replace_text

DOCUMENT = ROOT / "docs" / "performance.md"
END = "<!-- end -->\n"


def begin(command: str) -> str:
    """The marker above the tables of a command."""
    return f"<!-- begin: {command} -->\n"


def insert(document: str, command: str, machine: Machine, tables: Iterable[Table]) -> str:
    """The document with machine and tables in place of the text between a command's markers.

    Raises:
        InputError: a marker is missing.
    """
    before, marker, rest = document.partition(begin(command))
    _, end, after = rest.partition(END)
    if not marker or not end:
        raise InputError(
            f"{DOCUMENT.name} has no place for the tables: put {begin(command).strip()} and {END.strip()} into it"
        )
    shown = "\n".join(table.markdown() for table in tables)
    return f"{before}{marker}\n{machine}\n\n{shown}\n{END}{after}"


def write(command: str, machine: Machine, tables: Iterable[Table]) -> None:
    """Write the tables of a command into docs/performance.md.

    Raises:
        InputError: the document has no markers for this command.
    """
    replace_text(DOCUMENT, insert(DOCUMENT.read_text(encoding="utf-8"), command, machine, tables))
