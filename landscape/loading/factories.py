"""Find and call the factory that builds a Problem from a checkpoint.

A factory is ``factory(checkpoint, **arguments) -> Problem``. Only a person names its place in the code, on the command
line or in the project's pyproject.toml. A checkpoint only has a name to look up there.

    [tool.landscape.problems]
    markov = "models.problems:markov"
"""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.checkpoint import Checkpoint, is_problem_name
from landscape.errors import InputError
from landscape.loading.importing import import_file, import_module, raised_by
from landscape.reporting.messages import cause, listed, one_line

if TYPE_CHECKING:
    from landscape.problem import Problem

TABLE = "[tool.landscape.problems]"
_LONGEST, _LONGEST_LINE = 10**6, 10**4  # bytes of a pyproject.toml, and of one of its lines


@dataclass(frozen=True)
class Factory:
    """A function that builds a Problem from a checkpoint.

    Attributes:
        function: The function, called with the checkpoint and the checkpoint's arguments as keywords.
        label: The function's place, ``path/to/file.py:name`` or ``package.module:name``, for messages and records.
    """

    function: Callable[..., Problem]
    label: str


def find_project(start: Path | None = None) -> Path | None:
    """The nearest folder upwards whose pyproject.toml has the table ``[tool.landscape.problems]``.

    Args:
        start: Folder to begin with; the working directory by default.

    Raises:
        InputError: A pyproject.toml on the way cannot be read.
    """
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if _problems(folder) is not None), None)


def resolve(spec: str | None, checkpoint: Checkpoint, project: Path | None) -> Factory:
    """The factory that ``spec`` names, or that the checkpoint names if ``spec`` is None.

    Args:
        spec: ``path/to/file.py:name`` (from the working directory), ``package.module:name``, or a name in the project's
            pyproject.toml. None takes the checkpoint's name, or ``default`` if the checkpoint has none.
        checkpoint: The checkpoint; its name is looked up in pyproject.toml and is never taken for a path.
        project: The folder of that pyproject.toml, as ``find_project`` returns it. A ``package.module`` is imported
            with this folder on ``sys.path``, or with the working directory if ``project`` is None.

    Raises:
        InputError: The name is not in the table, or the named function cannot be imported or is no function.
    """
    if spec is not None and (":" in spec or _is_file(spec)):
        return _load(spec, Path.cwd(), project, "--problem")
    if spec is None and checkpoint.problem is not None and not is_problem_name(checkpoint.problem):
        raise InputError(
            f"{checkpoint.path}: names the problem {one_line(repr(checkpoint.problem), 80)}, not a plain name; "
            "a checkpoint may not say what code to run, so pass --problem path/to/file.py:name"
        )
    name = spec or checkpoint.problem or "default"
    if project is None:
        raise InputError(
            f"{checkpoint.path}: its problem {one_line(repr(name), 80)} is unknown, as no pyproject.toml "
            f"from here upwards has {TABLE}; {_remedy(name, Path.cwd())}"
        )
    problems = _problems(project) or {}
    if name not in problems:
        known = f"it has {listed(problems)}" if problems else "it has none"
        raise InputError(
            f"{project / 'pyproject.toml'}: no problem {one_line(repr(name), 80)} under {TABLE} ({known}); "
            f"{_remedy(name, project)}"
        )
    return _load(problems[name], project, project, f"{project / 'pyproject.toml'}: {name}")


def build(factory: Factory, checkpoint: Checkpoint) -> Problem:
    """Call the factory with the checkpoint and the arguments stored in it.

    Raises:
        InputError: The factory does not take these arguments, raises an exception, or returns something other than a
            Problem. An ``InputError`` of the factory itself passes unchanged.
    """
    from landscape.problem import Problem

    _check_arguments(factory, checkpoint)
    try:
        problem = factory.function(checkpoint, **checkpoint.arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{factory.label}: raised {raised_by(error)} for {checkpoint.path}; run with --debug for the traceback"
        ) from error
    if not isinstance(problem, Problem):
        raise InputError(
            f"{factory.label}: returned a {type(problem).__qualname__}, not a landscape.problem.Problem; "
            "end it with `return Problem(model, loss, batches)`"
        )
    return problem


def _check_arguments(factory: Factory, checkpoint: Checkpoint) -> None:
    try:
        signature = inspect.signature(factory.function)
    except ValueError:  # some C functions have no signature; the call will show whether the arguments fit
        return
    try:
        signature.bind(checkpoint, **checkpoint.arguments)
    except TypeError as error:
        names = listed(("the checkpoint", *checkpoint.arguments), 10)
        raise InputError(
            f"{factory.label}: {one_line(error)}: it takes {one_line(signature)}, and {checkpoint.path} gives {names}; "
            "change the function or the checkpoint's arguments"
        ) from error


def _problems(project: Path) -> Mapping[str, Any] | None:
    """The table of problems in a folder's pyproject.toml; None if there is none."""
    path = project / "pyproject.toml"
    if not path.is_file():
        return None
    try:
        content = tomllib.loads(_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as TOML ({cause(error)}); correct it") from error
    table: Any = content
    for key in ("tool", "landscape", "problems"):
        table = table.get(key) if isinstance(table, dict) else None
    if table is not None and not isinstance(table, dict):
        raise InputError(f"{path}: tool.landscape.problems is not a table; write {TABLE}")
    return table


def _text(path: Path) -> str:
    """The text of a settings file. Long files are refused: tomllib's time grows as the square of a name's length."""
    with path.open("rb") as file:
        content = file.read(_LONGEST + 1)
    if len(content) > _LONGEST or max(map(len, content.splitlines()), default=0) > _LONGEST_LINE:
        raise ValueError(f"it has more than {_LONGEST:,} bytes, or {_LONGEST_LINE:,} in one line")
    return content.decode("utf-8")


def _remedy(name: str, project: Path) -> str:
    if not is_problem_name(name):
        return "pass --problem path/to/file.py:name"
    line = f'{name} = "path/to/file.py:function"'
    return (
        f"add the line `{line}` under {TABLE} in {project / 'pyproject.toml'}, or pass --problem path/to/file.py:name"
    )


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


def _load(place: Any, folder: Path, project: Path | None, named_in: str) -> Factory:
    """Import ``file.py:name`` (from ``folder``) or ``package.module:name`` (from the project)."""
    source, colon, name = place.rpartition(":") if isinstance(place, str) else ("", "", "")
    if not colon or not name.isidentifier():
        raise InputError(
            f"{named_in}: {one_line(repr(place), 120)} does not name a function; "
            "write path/to/file.py:name or package.module:name"
        )
    label = f"{source}:{name}"
    if _is_file(source):
        module = import_file(folder / Path(source).expanduser(), named_in)
    else:
        module = import_module(source, project or Path.cwd(), named_in)
    function = getattr(module, name, None)
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, [key for key, value in vars(module).items() if callable(value)])
        hint = f"did you mean {listed(close)}?" if close else "check its name"
        raise InputError(f"{named_in}: {source} has no {name!r}; {hint}")
    if not callable(function):
        raise InputError(
            f"{label}: is a {type(function).__name__}, not a function; name a function (checkpoint) -> Problem"
        )
    return Factory(function, label)
