"""The layers of the package: imports run only downwards."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import subprocess

import pytest

import landscape
from tests.conftest import ROOT
from tests.structure import Source, circles, counts, functions, imports

# The layers from top to bottom. A module imports from layers below its own, and from its own package. Parts on one line
# don't import each other.
LAYERS = [
    ["cli"],
    ["figures", "live"],
    ["measurements"],
    ["checks", "groups", "loops", "sampling", "sharpness", "slices"],
    ["spectrum", "curvature", "loading"],
    ["problem"],
    ["operator", "checkpoint", "record", "dynamics", "valley"],
    ["machine", "plugins"],
    ["reporting"],
    ["errors"],
]

# The only import upwards: methods of a Problem import the curvature's classes when they are called.
EXCEPTIONS = {("problem", "curvature")}

# Parts that must not import torch. Without torch, records are read and --help is shown at once.
FREE_OF_TORCH = {"record", "cli", "reporting", "errors"}

LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
SOURCE = Source.read(ROOT / "landscape")
OTHERS = ("models", "data", "analysis", "benchmarks", "tests")


def test_every_part_has_its_place():
    assert SOURCE.parts().keys() == LEVEL.keys()


@pytest.mark.parametrize("module", SOURCE.files)
def test_imports_run_downwards(module):
    here = SOURCE.part(module)
    assert not [found.name for found in imports(SOURCE.files[module]) if found.name.partition(".")[0] in OTHERS]
    for other in SOURCE.modules[module] if here else ():
        there = SOURCE.part(other)
        if there not in (here, None) and (here, there) not in EXCEPTIONS:
            assert LEVEL[there] > LEVEL[here], f"{module} imports {other}, which isn't below it"


@pytest.mark.parametrize("module", [name for name in SOURCE.files if SOURCE.part(name) in FREE_OF_TORCH])
def test_what_is_free_of_torch(module):
    assert not [found for found in imports(SOURCE.files[module]) if found.name.partition(".")[0] == "torch"]


def test_training_libraries_are_imported_by_their_callbacks_alone():
    libraries = {"lightning", "pytorch_lightning", "transformers"}
    users = {
        name for name, path in SOURCE.files.items() if libraries & {x.name.partition(".")[0] for x in imports(path)}
    }
    assert users == {"landscape.live.lightning", "landscape.live.trainer"}
    assert [name for name, others in SOURCE.modules.items() if others & users] == []


def test_the_exception_is_the_only_circle():
    assert circles(SOURCE.parts()) == [{"curvature", "problem"}]
    for here, there in EXCEPTIONS:
        names = {name for name in SOURCE.files if SOURCE.part(name) == here}
        assert any(SOURCE.part(other) == there for name in names for other in SOURCE.modules[name])
    without = {
        name: {other for other in others if (SOURCE.part(name), SOURCE.part(other)) not in EXCEPTIONS}
        for name, others in SOURCE.modules.items()
    }
    assert circles(without) == []


def test_modules_and_functions_can_be_read_in_one_sitting():
    long = [name for name, path in SOURCE.files.items() if len(path.read_text(encoding="utf-8").splitlines()) > 400]
    assert long == []
    assert [each for path in SOURCE.files.values() for each in functions(path) if each.lines > 60] == []


def test_the_counts_are_of_this_source(tmp_path):
    """The counts are right for a package of known layout."""
    texts = {
        "__init__": "",
        "a": "from package.b.c import f",
        "b/__init__": "",
        "b/c": "from package.b import d\n\ndef f():\n    return d",
        "b/d": "import torch\n\ndef g():\n    from package import a\n    return a",
        "e": "import package.a",
    }
    for name, text in texts.items():
        (tmp_path / "package" / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / f"{name}.py").write_text(text)
    found = counts(Source.read(tmp_path / "package"))
    assert found["modules at the root"] == "2"
    assert found["parts"] == "3"
    assert found["layers"] == "2"
    assert found["imports from part to part"] == "3"
    assert found["circles of parts"] == "a, b"
    assert found["circles of modules"] == "package.a, package.b.c, package.b.d"


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


def test_data_classes_are_frozen():
    """Results and settings are passed on without copies; only a count of work grows."""
    found = {}
    for module in pkgutil.walk_packages(landscape.__path__, "landscape."):
        if not module.name.endswith("__main__"):
            for name, made in vars(importlib.import_module(module.name)).items():
                if dataclasses.is_dataclass(made) and isinstance(made, type) and made.__module__ == module.name:
                    found[name] = made.__dataclass_params__.frozen
    assert len(found) > 80
    assert [name for name, frozen in found.items() if not frozen] == ["Work"]
