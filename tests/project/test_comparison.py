"""docs/comparison.md: a command shows every yes of this package, and every claim about another package has a source."""

import re
import shlex

import h5py
import numpy as np
import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
TABLES = re.findall(r"^\| \| this \|(.*)\n\| ---.*\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
COMMANDS = {
    number: (line, int(status or 0), group, variables.split(", "))
    for number, line, status, group, variables in re.findall(
        r"^\| (\d+) \| `landscape-probe (.*?)`(?: \(exit status (\d)\))? \| `/(\w+)`: (.*) \|$",
        PAGE,
        flags=re.MULTILINE,
    )
}
SNIPPETS = dict(re.findall(r"^```python\n# ([\d, ]+): (.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
SLOW = {"12"}


def rows(table):
    """The cells of each row of a table, without the first and last bar."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]


OURS = [ours for _, table in TABLES for _, ours, *_ in rows(table)]
THEIRS = [
    (package.strip(), quantity, cell)
    for header, table in TABLES
    for quantity, _, *cells in rows(table)
    for package, cell in zip(header.rstrip("|").split("|"), cells, strict=True)
]


def test_every_yes_of_ours_names_a_command_and_every_command_is_named():
    assert len(TABLES) == 3
    assert not [cell for cell in OURS if not re.fullmatch(r"yes \d+(: .+)?|(no|partly)(: .+)?", cell)]
    named = {cell.split(":")[0].removeprefix("yes ") for cell in OURS if cell.startswith("yes")}
    assert named == set(COMMANDS) | {number for numbers in SNIPPETS for number in numbers.split(", ")}


def test_what_is_said_of_another_package_has_its_source_on_the_page():
    sources = set(re.findall(r"^- \[([A-Z]\d+)\]", PAGE, flags=re.MULTILINE))
    cited = [(package, cell, re.findall(r"\[([A-Z]\d+)\]", cell)) for package, _, cell in THEIRS]
    assert not [cell for _, _, cell in THEIRS if not re.match(r"(yes|no|partly|not tried)\b", cell)]
    assert not [cell for _, cell, names in cited if cell.startswith(("yes", "partly")) and not names]
    assert not [cell for package, cell, names in cited for name in names if name[0] != package]
    assert {name for _, _, names in cited for name in names} == sources


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in sorted(COMMANDS, key=int)]
)
def test_a_command_of_the_page_measures_what_it_says(number, command, tmp_path, monkeypatch):
    line, status, group, variables = COMMANDS[number]
    record = tmp_path / f"{number}.h5"
    *arguments, out, there = shlex.split(line)
    assert (out, there) == ("-o", f"{number}.landscape.h5")
    monkeypatch.chdir(ROOT)
    ran = command(*arguments, "-o", record)
    assert ran.status == status, ran.err + ran.out
    with h5py.File(record) as file:
        assert not [name for name in variables if name not in file[group]]
        numbers = [file[group][name][:] for name in variables if file[group][name].dtype.kind == "f"]
    assert all(np.isfinite(values).all() for values in numbers)


@pytest.mark.parametrize("numbers", sorted(SNIPPETS, key=lambda numbers: int(numbers.split(",")[0])))
def test_a_snippet_of_the_page_runs(numbers, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = r'"(\d+[.-](?:pt|npy|gpt2|lora|landscape\.h5))"'
    code = re.sub(file, rf'"{tmp_path}/\1"', f"# {numbers}: {SNIPPETS[numbers]}")
    exec(compile(code, "docs/comparison.md", "exec"), {})
