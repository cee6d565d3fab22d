"""The command ``python -m tests.mutants``: the share of small faults in the source that the test suite finds.

A fault is one change of one node of the source by an operator of mutmut: ``<`` becomes ``<=``, an argument is left out,
or a number is one more. The same number of lines is drawn in each package, with one fault on each line. Every test that
runs a fault's statement is run with this fault, including tests that run the statement in a process that they start.
First the suite runs once without faults, to find these tests. The result is kept in ``mutants/reach`` for later calls.
"""

from __future__ import annotations

import difflib
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import libcst
import pytest
from coverage import CoverageData
from cyclopts import App
from libcst.matchers import Name, matches
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).parents[1]
MADE = ROOT / "mutants"
PACKAGES = ("slices", "dynamics", "record", "checkpoint", "figures", "measurements")
# A process that a test starts records its coverage for this test. pytest sets the test's name in the environment.
REACH = """[run]
source = landscape
parallel = true
patch = subprocess
data_file = {data}
context = ${{PYTEST_CURRENT_TEST-}}
disable_warnings = no-data-collected,context-conflict
"""
app = App(help="Try a sample of faults; those that no test finds are listed.", version_flags=[])


@dataclass(frozen=True)
class Fault:
    """One replaced node of a module, and the lines of the statement that contains the node."""

    path: Path
    line: int
    statement: range
    module: libcst.Module
    node: libcst.CSTNode
    other: libcst.CSTNode

    def code(self) -> str:
        """The source of the module with the fault."""
        return libcst.ensure_type(self.module.deep_replace(self.node, self.other), libcst.Module).code

    def __str__(self) -> str:
        rows = difflib.unified_diff(self.module.code.splitlines(), self.code().splitlines(), n=0, lineterm="")
        return "\n".join([f"{self.path.relative_to(ROOT)}:{self.line}", *list(rows)[3:]])


class _Nodes(libcst.CSTVisitor):
    """A visitor that collects every node of code with its line and its statement.

    Annotations, imports and texts for people are left out.
    """

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, range, libcst.CSTNode]] = []
        self.statements: list[tuple[libcst.CSTNode, range]] = []

    def on_visit(self, node: libcst.CSTNode) -> bool:
        if isinstance(node, libcst.Annotation | libcst.Import | libcst.ImportFrom | libcst.FormattedString):
            return isinstance(node, libcst.FormattedString)  # its expressions are visited
        if isinstance(node, libcst.SimpleString) and " " in node.value:
            return False
        if isinstance(node, libcst.Assign) and matches(node.targets[0].target, Name("__all__")):
            return False  # the linter checks __all__
        place = self.get_metadata(PositionProvider, node, None)
        if place is None:
            return True
        if isinstance(node, libcst.SimpleStatementLine | libcst.BaseCompoundStatement):
            last = place.end.line
            if isinstance(node, libcst.BaseCompoundStatement):  # only its head: its body has statements of its own
                last = self.get_metadata(PositionProvider, node.body).start.line - 1 if hasattr(node, "body") else 0
            self.statements.append((node, range(place.start.line, max(last, place.start.line) + 1)))
        if self.statements:
            self.found.append((place.start.line, self.statements[-1][1], node))
        return True

    def on_leave(self, original_node: libcst.CSTNode) -> None:
        if self.statements and self.statements[-1][0] is original_node:
            self.statements.pop()


def faults(path: Path) -> dict[int, list[Fault]]:
    """All faults of a module, by line."""
    module = libcst.parse_module(path.read_text())
    nodes = _Nodes()
    MetadataWrapper(module, unsafe_skip_copy=True).visit(nodes)
    made: dict[int, list[Fault]] = {}
    for line, statement, node in nodes.found:
        for kind, operator in mutation_operators:
            for other in operator(node) if isinstance(node, kind) else ():
                if isinstance(other, libcst.SimpleString) and "XX" not in other.value:
                    continue  # other operators change a string's case, which tests find no better than XX around it
                made.setdefault(line, []).append(Fault(path, line, statement, module, node, other))
    return made


def drawn(package: str, count: int, seed: int) -> list[Fault]:
    """Draw ``count`` lines of a package without repetition, and one fault on each line."""
    chance = random.Random(f"{package} {seed}")
    made = [found for path in sorted((ROOT / "landscape" / package).rglob("*.py")) for found in faults(path).values()]
    return [chance.choice(found) for found in chance.sample(made, min(count, len(made)))]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hook of pytest, with this module as a plugin: write each test's fixtures of session scope into a file."""
    kept = {
        item.nodeid: [
            name
            for name, made in item._fixtureinfo.name2fixturedefs.items()
            if made[-1].scope == "session" and not made[-1].func.__module__.startswith("_pytest")
        ]
        for item in session.items
        if isinstance(item, pytest.Function)
    }
    Path(os.environ["SESSION_FIXTURES"]).write_text(json.dumps({test: names for test, names in kept.items() if names}))


class Suite:
    """The lines that each test of the suite runs, and the seconds of each test."""

    def __init__(self, folder: Path) -> None:
        self.data = CoverageData(str(folder / "data"))
        self.data.read()
        self.files = {name.rpartition("/landscape/")[2]: name for name in self.data.measured_files()}
        self.session: dict[str, list[str]] = json.loads((folder / "session.json").read_text())
        self.seconds: dict[str, float] = {}
        for case in ElementTree.parse(folder / "suite.xml").iter("testcase"):
            if not len(case):  # a test that fails or is skipped without a fault can't find faults
                module, _, inside = case.attrib["classname"].partition(".Test")
                name = "::".join([f"{module.replace('.', '/')}.py", *([f"Test{inside}"] if inside else [])])
                self.seconds[f"{name}::{case.attrib['name']}"] = float(case.attrib["time"])

    def reaching(self, fault: Fault) -> list[str]:
        """The tests that run a fault's statement: first the quickest case of each test function, then all others."""
        contexts = self.data.contexts_by_lineno(self.files[str(fault.path.relative_to(ROOT / "landscape"))])
        met = {context for line in fault.statement for context in contexts.get(line, ())}
        if not any(met):  # the statement runs when the module is imported
            met = {context for found in contexts.values() for context in found}
        tests = {re.sub(r"(\|| \()(setup|run|call|teardown)\)?$", "", context) for context in met}
        # A fixture for several tests is recorded with the first of these tests only.
        first = {re.sub(r"(\||\s\()setup\)?$", "", context) for context in met if re.search(r"setup\)?$", context)}
        shared = {each for test in first for each in (test.partition("::")[0], *self.session.get(test, ()))}
        chosen = [
            test
            for test in self.seconds
            if test in tests or shared.intersection([test.partition("::")[0], *self.session.get(test, ())])
        ]
        chosen.sort(key=lambda test: self.seconds[test])
        one_of_each = {test.partition("[")[0]: test for test in reversed(chosen)}  # the quickest case of each function
        return sorted(chosen, key=lambda test: one_of_each[test.partition("[")[0]] != test)


def copy(folder: Path) -> Path:
    """Copy the repository's files into a folder, where they can be damaged."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def run(folder: Path, *arguments: str, seconds: float | None = None) -> str:
    """Run tests in a copy of the repository, and return the verdict on the fault: survived, or found."""
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a session's processes can be killed together
    ) as process:
        try:
            return "survived" if process.wait(seconds) == 0 else "found"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "found, by its time"


def learn(folder: Path, processes: int) -> None:
    """Run the suite once without a fault, and record the lines that each test runs."""
    shutil.rmtree(folder, ignore_errors=True)
    where = copy(folder / "copy")
    (folder / "rc").write_text(REACH.format(data=folder / "data"))
    os.environ["SESSION_FIXTURES"] = str(folder / "session.json")
    run(where, "-p", "tests.mutants", "--collect-only")
    run(where, f"--junitxml={folder / 'suite.xml'}", "--cov=landscape", "--cov-context=test", "--cov-report=",
           f"--cov-config={folder / 'rc'}", "--numprocesses", str(processes), "--dist", "loadfile")  # fmt: skip


@app.default
def main(packages: tuple[str, ...] = PACKAGES, /, *, count: int = 35, seed: int = 20261130, processes: int = 2) -> int:
    """Try a sample of faults. Verdicts are kept in ``mutants/verdicts.jsonl``, from which a stopped call continues.

    Args:
        packages: Names of packages in landscape/; default: `PACKAGES`.
        count: Number of faults in each package.
        seed: Seed of the sample.
        processes: Number of processes at a time.
    """
    if not (MADE / "reach" / "suite.xml").exists():
        learn(MADE / "reach", processes)
    suite, kept = Suite(MADE / "reach"), MADE / "verdicts.jsonl"
    known: dict[str, str] = dict(map(json.loads, kept.read_text().splitlines())) if kept.exists() else {}
    copies: queue.Queue[Path] = queue.Queue()
    for number in range(processes):
        shutil.rmtree(MADE / f"copy-{number}", ignore_errors=True)
        copies.put(copy(MADE / f"copy-{number}"))

    def verdict(fault: Fault) -> str:
        if said := known.get(str(fault)):
            return said
        tests = suite.reaching(fault)
        if not tests:
            return "met by no test"
        folder = copies.get()
        damaged = folder / fault.path.relative_to(ROOT)
        chosen = folder.with_suffix(".tests")
        chosen.write_text("\n".join(tests))
        damaged.write_text(fault.code())
        try:
            limit = 120 + 5 * sum(suite.seconds[test] for test in tests)
            return run(folder, "--exitfirst", f"@{chosen}", seconds=limit)
        finally:
            shutil.copy2(ROOT / damaged.relative_to(folder), damaged)
            copies.put(folder)

    sample = [each for row in zip(*(drawn(package, count, seed) for package in packages), strict=True) for each in row]
    with ThreadPoolExecutor(processes) as pool, kept.open("a") as file:
        for fault, said in zip(sample, pool.map(verdict, sample), strict=True):
            if str(fault) not in known:
                file.write(json.dumps([str(fault), said]) + "\n")
                file.flush()
            known[str(fault)] = said
    left = [fault for fault in sample if not known[str(fault)].startswith("found")]
    for package in packages:
        of = [str(fault.path.parent).endswith(package) for fault in sample]
        print(f"{package}: {sum(of)} faults, {sum(str(each.path.parent).endswith(package) for each in left)} not found")
    print(f"{len(sample) - len(left)} of {len(sample)} faults found, seed {seed}; the others:")
    for fault in left:
        print(f"\n{known[str(fault)]}: {fault}")
    return 0


if __name__ == "__main__":
    sys.exit(app())
