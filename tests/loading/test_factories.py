"""Problem factories: they are found where the user named them, and every failure gives an error of one line."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from landscape.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from landscape.errors import InputError
from landscape.loading.factories import Factory, build, find_project, resolve
from landscape.loading.importing import import_file
from landscape.problem import Problem

GOOD = """
import torch
from landscape.problem import Problem

def markov(checkpoint, *, width=1):
    model = torch.nn.Linear(width, 1, bias=False)
    batches = [(torch.ones(4, width), torch.ones(4, 1))]
    return Problem(model, torch.nn.MSELoss(), batches)

default = markov
number = 3
"""


@pytest.fixture(autouse=True)
def _clean_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose working directory is one of its inner folders."""
    folder = tmp_path / "project"
    (folder / "code").mkdir(parents=True)
    (folder / "runs").mkdir()
    (folder / "code" / "problems.py").write_text(GOOD)
    (folder / "pyproject.toml").write_text(
        '[tool.landscape.problems]\nmarkov = "code/problems.py:markov"\nby_module = "code_of_mine.problems:markov"\n'
    )
    (folder / "code_of_mine").mkdir()
    (folder / "code_of_mine" / "problems.py").write_text(GOOD)
    monkeypatch.chdir(folder / "runs")
    return folder


def checkpoint(**fields):
    return Checkpoint(path=Path("run/a.pt"), state={}, format="landscape", sha256="", **fields)


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text)
    return path


def made_by(text, folder, **arguments):
    """The result of ``build`` for a factory ``make`` in a file with this text."""
    path = written(folder, text)
    source = checkpoint(arguments=arguments)
    message = refusal(build, resolve(f"{path}:make", source, None), source)
    assert f"{path}:make" in message
    return message


# --- the project


def test_the_project_is_found_upwards(project):
    assert find_project() == project
    assert find_project(project / "code") == project
    assert find_project(project) == project


def test_a_pyproject_without_the_table_is_passed_over(project):
    (project / "runs" / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    assert find_project() == project


def test_no_project(tmp_path):
    assert find_project(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "says"), [("[tool", "as TOML"), ("tool.landscape.problems = 3", "is not a table"), (b"\xff", "as TOML")]
)
def test_a_broken_pyproject(tmp_path, text, says):
    (tmp_path / "pyproject.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(find_project, tmp_path)
    assert says in message
    assert str(tmp_path / "pyproject.toml") in message


# --- resolving


@pytest.mark.parametrize("name", ["markov", "by_module"])
def test_a_name_on_the_command_line_or_in_the_checkpoint(project, name):
    for spec, source in ((name, checkpoint()), (None, checkpoint(problem=name)), (name, checkpoint(problem="other"))):
        factory = resolve(spec, source, project)
        assert factory.function.__name__ == "markov"
        assert factory.label.endswith("problems.py:markov" if name == "markov" else "code_of_mine.problems:markov")
        assert isinstance(build(factory, source), Problem)


def test_a_checkpoint_without_a_name_takes_default(project):
    (project / "pyproject.toml").write_text('[tool.landscape.problems]\ndefault = "code/problems.py:default"\n')
    assert resolve(None, checkpoint(), project).label == "code/problems.py:default"


def test_a_file_on_the_command_line_is_found_from_the_working_directory(project):
    assert resolve("../code/problems.py:markov", checkpoint(), project).function.__name__ == "markov"
    assert "no such file" in refusal(resolve, "code/problems.py:markov", checkpoint(), project)


def test_a_module_on_the_command_line_is_found_in_the_project(project):
    assert resolve("code_of_mine.problems:markov", checkpoint(), project).function.__name__ == "markov"
    assert sys.path[0] == str(project)


def test_a_module_is_found_in_the_working_directory_without_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, GOOD, "alone_here.py")
    assert resolve("alone_here:markov", checkpoint(), None).function.__name__ == "markov"


def test_a_file_imports_its_neighbours(tmp_path):
    written(tmp_path, "value = 5\n", "neighbour_of_mine.py")
    path = written(tmp_path, "import neighbour_of_mine\ndef make(c): return neighbour_of_mine.value\n")
    assert resolve(f"{path}:make", checkpoint(), None).function(None) == 5


def test_a_file_does_not_take_the_place_of_a_module_of_its_name(tmp_path):
    import random

    path = written(tmp_path, "def make(c): return 1\n", "random.py")
    assert resolve(f"{path}:make", checkpoint(), None).function(None) == 1
    assert sys.modules["random"] is random


def test_a_file_is_read_again(tmp_path):
    path = written(tmp_path, "def make(c): return 1\n")
    first = resolve(f"{path}:make", checkpoint(), None)
    path.write_text("def make(c): return 'another length'\n")
    assert (first.function(None), resolve(f"{path}:make", checkpoint(), None).function(None)) == (1, "another length")


def test_a_dataclass_in_the_file(tmp_path):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    path = written(tmp_path, text + "@dataclass\nclass make:\n    c: object\n")
    assert callable(resolve(f"{path}:make", checkpoint(), None).function)


@pytest.mark.parametrize(
    "name",
    [
        "code/problems.py:markov",
        "code_of_mine.problems:markov",
        "problems.py",
        "../x",
        "a.b",
        "a\nb",
        "",
        "/etc/passwd",
    ],
)
def test_a_checkpoint_cannot_name_code(project, name):
    (project / "code" / "problems.py").write_text("raise RuntimeError('this ran')")
    (project / "code_of_mine" / "problems.py").write_text("raise RuntimeError('this ran')")
    message = refusal(resolve, None, checkpoint(problem=name), project)
    assert "may not say what code to run" in message
    assert "run/a.pt" in message


def test_an_unknown_name_prints_the_line_to_add(project):
    for arguments in (("shift", checkpoint()), (None, checkpoint(problem="shift"))):
        message = refusal(resolve, *arguments, project)
        assert 'add the line `shift = "path/to/file.py:function"` under [tool.landscape.problems]' in message
        assert str(project / "pyproject.toml") in message
        assert "it has markov, by_module" in message


def test_a_name_without_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(resolve, None, checkpoint(), None)
    assert 'add the line `default = "path/to/file.py:function"`' in message
    assert str(tmp_path / "pyproject.toml") in message


def test_a_project_folder_without_the_table(tmp_path):
    assert "it has none" in refusal(resolve, "markov", checkpoint(), tmp_path)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mine.py", "does not name a function"),
        ("mine.py:", "does not name a function"),
        ("mine.py:a b", "does not name a function"),
        ("folder/mine", "does not name a function"),
        ("absent.py:make", "no such file"),
        (".:make", "cannot be imported"),
        (":make", "cannot be imported"),
        ("absent_module:make", "ModuleNotFoundError: No module named 'absent_module'"),
        ("absent_package.module:make", "ModuleNotFoundError: No module named 'absent_package'"),
        ("mine.txt/x:make", "no such file"),
    ],
)
def test_places_that_are_not_there(tmp_path, monkeypatch, spec, says):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, GOOD)
    assert says in refusal(resolve, spec, checkpoint(), None)


@pytest.mark.parametrize("entry", ['"code/problems.py"', "3", '["a:b"]', '"name"'])
def test_entries_of_the_table_that_name_no_function(project, entry):
    (project / "pyproject.toml").write_text(f"[tool.landscape.problems]\nmarkov = {entry}\n")
    message = refusal(resolve, "markov", checkpoint(), project)
    assert "does not name a function" in message
    assert f"{project / 'pyproject.toml'}: markov" in message


def test_a_file_that_is_not_python(tmp_path):
    written(tmp_path, GOOD, "mine.txt")
    assert "ends in .py" in refusal(resolve, f"{tmp_path / 'mine.txt'}:make", checkpoint(), None)


def test_a_missing_attribute_with_close_matches(project):
    message = refusal(resolve, "../code/problems.py:markow", checkpoint(), project)
    assert "has no 'markow'; did you mean markov?" in message
    assert "check its name" in refusal(resolve, "../code/problems.py:zzz", checkpoint(), project)


def test_not_callable(project):
    assert "is a int, not a function" in refusal(resolve, "../code/problems.py:number", checkpoint(), project)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\nraise KeyError('lost')", "KeyError: 'lost' at {path}:3"),
        ("import no_such_package_at_all", "ModuleNotFoundError: No module named 'no_such_package_at_all' at {path}:1"),
        ("def make(c:\n", "SyntaxError: "),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("import sys\nsys.exit(2)", "ends the program when it is imported (SystemExit: 2 at {path}:2)"),
    ],
)
@pytest.mark.parametrize("as_module", [False, True])
def test_code_that_does_not_import(tmp_path, text, says, as_module):
    path = written(tmp_path, text, "does_not_import.py")
    spec = "does_not_import:make" if as_module else f"{path}:make"
    with pytest.raises(InputError) as caught:
        resolve(spec, checkpoint(), tmp_path)
    assert "\n" not in str(caught.value)
    assert says.format(path=path) in str(caught.value)
    assert caught.value.__cause__ is not None
    assert not any("does_not_import" in name for name in sys.modules)


# --- building


def test_arguments_of_the_checkpoint_reach_the_factory(project, tmp_path):
    path = save_checkpoint(tmp_path / "a.pt", {"weight": torch.ones(1, 3)}, problem="markov", arguments={"width": 3})
    source = read_checkpoint(path)
    problem = build(resolve(None, source, find_project()), source)
    assert isinstance(problem, Problem)
    assert problem.model.in_features == 3


def test_a_factory_that_raises(tmp_path):
    text = "def inner():\n    raise KeyError('lost')\n\ndef make(c):\n    return inner()\n"
    message = made_by(text, tmp_path)
    assert f"raised KeyError: 'lost' at {tmp_path / 'mine.py'}:2" in message
    assert "run/a.pt" in message


def test_the_line_named_is_the_users_own(tmp_path):
    """The exception comes from inside torch, but the error names the user's line that called torch."""
    text = "import torch\n\ndef make(c):\n    return torch.nn.Linear(2, 3)(torch.ones(5))\n"
    message = made_by(text, tmp_path)
    assert "RuntimeError" in message
    assert f"at {tmp_path / 'mine.py'}:4" in message


def test_the_original_exception_is_kept(tmp_path):
    path = written(tmp_path, "def make(c):\n    raise OSError('disk')\n")
    with pytest.raises(InputError) as caught:
        build(resolve(f"{path}:make", checkpoint(), None), checkpoint())
    assert isinstance(caught.value.__cause__, OSError)


def test_a_factory_that_exits(tmp_path):
    assert "SystemExit" in made_by("def make(c):\n    raise SystemExit\n", tmp_path)


def test_an_input_error_of_the_factory_passes_as_it_is():
    error = InputError("vocab must be at least 2")

    def make(_):
        raise error

    with pytest.raises(InputError) as caught:
        build(Factory(make, "m:make"), checkpoint())
    assert caught.value is error


@pytest.mark.parametrize(
    ("signature", "arguments", "says"),
    [
        ("c", {"vocab": 8}, "got an unexpected keyword argument 'vocab'"),
        ("", {}, "too many positional arguments"),
        ("c, vocab", {}, "missing a required argument: 'vocab'"),
        ("c", {"c": 1}, "multiple values for argument 'c'"),
    ],
)
def test_arguments_that_the_factory_does_not_take(tmp_path, signature, arguments, says):
    message = made_by(f"def make({signature}):\n    raise RuntimeError('this ran')\n", tmp_path, **arguments)
    assert says in message
    assert f"it takes ({signature})" in message
    assert f"gives {', '.join(['the checkpoint', *arguments])}" in message


@pytest.mark.parametrize(
    ("value", "kind"), [("None", "NoneType"), ("(1, 2)", "tuple"), ("__import__('torch').nn.Linear(1, 1)", "Linear")]
)
def test_a_factory_that_returns_something_else(tmp_path, value, kind):
    message = made_by(f"def make(c):\n    return {value}\n", tmp_path)
    assert f"returned a {kind}, not a landscape.problem.Problem" in message


def test_a_class_can_be_a_factory():
    class Make(Problem):
        def __init__(self, source, width):
            super().__init__(nn.Linear(width, 1), nn.MSELoss(), [(torch.ones(2, width), torch.ones(2, 1))])

    source = checkpoint(arguments={"width": 2})
    assert build(Factory(Make, "m:Make"), source).model.in_features == 2


def test_a_failure_within_this_package_is_told_by_the_line_that_called_it(tmp_path):
    """Modules of this package count as no code of a user, wherever they lie in the package."""
    path = tmp_path / "problem.py"
    path.write_text("from landscape.machine.memory import bytes_of\nbytes_of(None)\n")
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}:2"):
        import_file(path, "pyproject.toml")
