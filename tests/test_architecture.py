"""The order of the modules: imports run downwards only."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the top to the bottom. A module imports from lines below its own, and within its own package; modules on one line
# don't know each other.
LAYERS = [
    ["cli"],
    ["figures", "measure"],
    ["measurements", "crosscheck"],
    ["loops", "slices"],
    ["record", "progress", "closed_forms"],
    ["spectrum", "curvature"],
    ["source", "shortage", "slope"],
    ["factories", "optimizer"],
    ["pretrained"],
    ["problem", "checkpoint"],
    ["leaks"],
    ["samples", "audit", "penalty"],
    ["forms", "loaders"],
    ["batches", "losses"],
    ["switches", "swap"],
    ["embeddings"],
    ["operator", "parameters", "place", "cross_entropy", "importing", "display", "dynamics", "valley", "recomputed"],
    ["parallel", "widened"],
    ["memory"],
    ["wording"],
    ["errors"],
]

# The one import upwards: a Problem knows its curvature by name, when it is asked for it.
EXCEPTIONS = {("problem", "curvature")}

# What only some may import of what isn't ours. Without torch a record is read, and --help shown, at once.
FREE_OF_TORCH = {"record", "cli", "display", "wording", "errors", "importing"}

LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(
    path for path in (ROOT / "landscape").rglob("*.py") if path.parent.name != "landscape" or path.stem[0] != "_"
)


def part_of(path: Path) -> str:
    """The layer's name of a module: its package directly under landscape, or itself."""
    return path.relative_to(ROOT / "landscape").parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module imported in a file, full names, and whether for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name, node in for_types) for name in (names if node.module == "landscape" else [node.module])]
    return found


def test_every_module_has_its_place():
    assert {part_of(path) for path in FILES} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path):
    here = part_of(path)
    for name, for_types in imports(path):
        top, _, rest = name.partition(".")
        assert top not in ("models", "data", "analysis", "benchmarks", "tests"), f"{path} imports {name}"
        there = rest.split(".")[0]
        if top != "landscape" or there == here or (here, there) in EXCEPTIONS:
            continue
        assert LEVEL[there] > LEVEL[here], f"{here} imports {there}, which isn't below it{' (types)' * for_types}"


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) in FREE_OF_TORCH], ids=str)
def test_what_is_free_of_torch(path):
    assert not [name for name, for_types in imports(path) if name.split(".")[0] == "torch"]


def test_the_exceptions_are_used():
    used = {
        (part_of(path), name.split(".")[1]) for path in FILES for name, _ in imports(path) if name[:10] == "landscape."
    }
    assert used >= EXCEPTIONS


def test_no_file_holds_a_path_of_somebodys_machine():
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a checkout")
    pattern = re.compile(r"(?<![\w.~-])/(work|tmp|home|root|Users|scratch)/")
    found = []
    for name in listed.stdout.decode().splitlines():
        content = (ROOT / name).read_bytes()
        if b"\0" in content[:4096] or name.startswith("tests/"):
            continue
        found += [f"{name}: {line.strip()}" for line in content.decode().splitlines() if pattern.search(line)]
    assert found == []
