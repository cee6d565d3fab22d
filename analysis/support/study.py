"""Studies: a study first does units of work, and then writes a report of their results."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import xarray as xr
from matplotlib.figure import Figure

from analysis.support.units import Unit, results_of, seconds_of
from landscape.figures import styled
from models.settings import replace_text

T = TypeVar("T")
Results = Mapping[str, Any]
"""The results of units, by the units' names."""

Stage = Sequence[Unit] | Callable[[Results], Sequence[Unit]]
"""Units of work, or a function that makes units from the results of earlier stages."""


@dataclass(frozen=True)
class Scale:
    """The scale of a study, and its folders.

    Attributes:
        quick: few seeds and short runs, for tests: minutes instead of an hour. The results say nothing about the
            question.
        runs: folder of the training runs and of the results of units.
        results: folder of ``NAME.md``, ``NAME.h5`` and ``NAME-FIGURE.png`` of every study.
    """

    quick: bool
    runs: Path
    results: Path

    def pick(self, full: T, quick: T) -> T:
        """``quick`` at the quick scale, else ``full``."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Report:
    """The findings of a study.

    Attributes:
        text: text in Markdown, without the heading.
        data: numbers of every seed.
        figures: figures by name.
    """

    text: str
    data: xr.Dataset
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A question, and the work that answers it.

    Attributes:
        name: name of the study on the command line.
        question: question in one line.
        stages: function that returns the stages of work at a scale. They are done one after the other, so a stage may
            use files of earlier stages.
        report: function that makes the report from the scale and the results of all units.
    """

    name: str
    question: str
    stages: Callable[[Scale], Sequence[Stage]]
    report: Callable[[Scale, Results], Report]


def run_study(study: Study, scale: Scale, workers: int) -> Path:
    """Do the units that aren't done yet, and write the study's numbers, table and figures.

    Args:
        study: study to run.
        scale: scale and folders.
        workers: number of processes at a time.

    Returns:
        The path of the table, a Markdown file.
    """
    started, results = time.monotonic(), scale.results
    kept = scale.runs / "units" / study.name
    found: dict[str, Any] = {}
    spent = 0.0
    for stage in study.stages(scale):
        units = stage(found) if callable(stage) else stage
        found |= results_of(units, kept, workers, study.name)
        spent += seconds_of(units, kept)
    with styled("paper"):
        report = study.report(scale, found)
        command = f"python -m analysis {study.name}{' --quick' * scale.quick}"
        told = {
            "command": command,
            "question": study.question,
            "unit_seconds": spent,
            "versions": ", ".join(f"{name} {version(name)}" for name in ("landscape-probe", "torch", "numpy", "scipy")),
            "machine": f"{platform.machine()}, {platform.system()}",
        }
        results.mkdir(parents=True, exist_ok=True)
        for name, figure in report.figures.items():
            figure.savefig(results / f"{study.name}-{name}.png", dpi=200, metadata={"Source": command})
    report.data.assign_attrs(told).to_netcdf(results / f"{study.name}.h5", engine="h5netcdf")
    table = results / f"{study.name}.md"
    pictures = "\n".join(f"![{name}]({study.name}-{name}.png)\n" for name in report.figures)
    replace_text(table, f"""# {study.question}

Made by `{command}`: {spent / 60:.0f} minutes of processor time (what was found measured counts
as nothing), with --workers {workers},
{told["machine"]}; {told["versions"]}.
Brackets are 95 % intervals over seeds (Student's t); differences are paired by seed.

{report.text.strip()}

{pictures}""".rstrip() + "\n")  # fmt: skip
    print(f"{table} ({time.monotonic() - started:.0f} s now)")
    return table


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with the first column aligned left and all others aligned right."""
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
